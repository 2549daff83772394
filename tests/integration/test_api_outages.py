"""PostgreSQL or Redis away, at start and in the middle: nothing is accepted or lost, and all heals by itself."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from integration.tcp_proxy import TcpProxy, proxied
from pydantic import SecretStr
from sqlalchemy import func, select

from app.keys import HUB
from app.main import create_app
from app.storage.schema import JobRow
from harness import GUARD_S, SMALL_BODY, Service, eventually
from worker.standin.faults import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiohttp.test_utils import TestClient

    from app.settings import Settings
    from app.storage.database import Database
    from harness import StandinServer
    from worker.main import WorkerProcess

BASE = "/api/v1/generation-jobs"


@asynccontextmanager
async def server_behind_proxies(
    settings: Settings, aiohttp_client: Any
) -> AsyncIterator[tuple[TestClient[Any, Any], dict[str, TcpProxy]]]:
    """Serve through proxies before PostgreSQL and Redis, with short times."""
    changes: dict[str, Any] = {"database_timeout_seconds": 3.0, "redis_timeout_seconds": 2.0}
    proxies = {}
    async with AsyncExitStack() as stack:
        for name in ("database_url", "redis_url"):
            proxies[name], changes[name] = await stack.enter_async_context(proxied(getattr(settings, name)))
        client = await aiohttp_client(create_app(settings.model_copy(update=changes)))
        yield client, proxies
        # Before the proxies go, or the server logs what it misses.
        await client.close()


async def accepted(database: Database) -> int:
    """Count the rows of jobs."""
    async with database.transaction() as session:
        return await session.scalar(select(func.count()).select_from(JobRow)) or 0


async def post(client: TestClient[Any, Any], **changes: Any) -> Any:
    """Submit a small job, and return the answer."""
    async with asyncio.timeout(GUARD_S):
        return await client.post(f"{BASE}/", json=SMALL_BODY | changes)


async def expect_unavailable(answer: Any, code: str) -> None:
    """Check a 503."""
    text = await answer.text()
    assert (answer.status, answer.content_type) == (503, "application/problem+json"), text
    assert answer.headers["Retry-After"].isdecimal()
    assert (await answer.json())["code"] == code
    assert "Traceback" not in text
    assert "127.0.0.1" not in text


CODES = {"database_url": "database_unavailable", "redis_url": "redis_unavailable"}


@pytest.mark.parametrize("away", CODES)
async def test_away_in_the_middle_nothing_is_accepted_and_it_heals_by_itself(
    settings: Settings, aiohttp_client: Any, database: Database, away: str
) -> None:
    async with server_behind_proxies(settings, aiohttp_client) as (client, proxies):
        first = await (await post(client)).json()
        await proxies[away].cut()
        await expect_unavailable(await post(client), CODES[away])
        assert await accepted(database) == 1
        reading = await client.get(f"{BASE}/{first['job_id']}")
        if away == "database_url":
            await expect_unavailable(reading, CODES[away])
            await expect_unavailable(await client.get(f"{BASE}/"), CODES[away])
            await expect_unavailable(await client.post(f"{BASE}/{first['job_id']}/cancel"), CODES[away])
            # Of one that was just sent the present is known all the same.
            await expect_unavailable(await client.get(f"/ws/jobs/{first['job_id'] + 1}"), CODES[away])
            await expect_unavailable(await client.get("/api/v1/contents/1"), CODES[away])
        else:
            # What needs PostgreSQL alone is served all the same.
            assert (reading.status, (await client.get(f"{BASE}/")).status) == (200, 200)
            cancelled = await client.post(f"{BASE}/{first['job_id']}/cancel")
            assert (cancelled.status, (await cancelled.json())["status"]) == (200, "cancelled")
            retried = await client.post(f"{BASE}/{first['job_id']}/retry")
            assert (retried.status, (await retried.json())["attempt"]) == (200, 2)
        assert (await client.get("/health/live")).status == 200
        assert (await client.get("/health/ready")).status == 503
        await proxies[away].restore()

        async def healed() -> bool:
            return bool((await post(client)).status == 201)

        await eventually(healed)
        assert await accepted(database) == 2
        checks = (await (await client.get("/health/ready")).json())["checks"]
        assert [checks[name]["status"] for name in ("postgresql", "redis")] == ["ok", "ok"]


@pytest.mark.parametrize("away", CODES)
async def test_away_at_the_start_the_server_starts_and_waits(
    settings: Settings, aiohttp_client: Any, database: Database, away: str
) -> None:
    proxy, through = await TcpProxy.before(getattr(settings, away).get_secret_value())
    await proxy.cut()
    changes = {away: SecretStr(through), "database_timeout_seconds": 3.0, "redis_timeout_seconds": 2.0}
    client = await aiohttp_client(create_app(settings.model_copy(update=changes)))
    await expect_unavailable(await post(client), CODES[away])
    assert await accepted(database) == 0
    await proxy.restore()

    async def healed() -> bool:
        return bool((await post(client)).status == 201)

    await eventually(healed)

    async def listens() -> bool:
        return bool(client.server.app[HUB].connected)

    await eventually(listens)
    await client.close()
    await proxy.cut()


async def test_a_job_is_taken_back_when_it_cannot_be_queued(
    settings: Settings, aiohttp_client: Any, database: Database
) -> None:
    """Redis goes away between the row and the turn: the client is told no, so there must be no job."""
    async with server_behind_proxies(settings, aiohttp_client) as (client, proxies):
        assert (await post(client)).status == 201
        # The commit is the moment: whatever comes after it finds Redis away.
        async with database.transaction() as session:
            connection = await session.connection()
            # A lock that holds up the INSERT until the test has cut Redis off.
            await connection.exec_driver_sql("LOCK TABLE generation_jobs IN SHARE MODE")
            posting = asyncio.create_task(post(client))

            async def inserting() -> bool:
                waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'generation_jobs'::regclass"
                return bool((await connection.exec_driver_sql(waiting)).scalar_one())

            await eventually(inserting)
            await proxies["redis_url"].cut()
        await expect_unavailable(await posting, "redis_unavailable")
        assert await accepted(database) == 1
        await proxies["redis_url"].restore()


@pytest.mark.slow
async def test_a_client_gets_the_end_though_redis_was_cut_in_the_middle(
    settings: Settings,
    aiohttp_client: Any,
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_worker: Callable[..., Awaitable[WorkerProcess]],
) -> None:
    standin = await start_standin()
    worker = await start_worker(f"standin={standin.url}")
    async with server_behind_proxies(settings, aiohttp_client) as (client, proxies):
        service = Service(client, standin, worker)
        await service.backend_online()
        await standin.state.apply(Fault(kind=FaultKind.SLOW_STEPS, times=None, seconds=0.01))
        job = await service.submit(sampler_params={"steps": 150})
        frames: list[dict[str, Any]] = []
        async with asyncio.timeout(GUARD_S), client.ws_connect(f"/ws/jobs/{job['job_id']}") as ws:
            while not frames or frames[-1].get("progress", 0) < 20:
                frames.append(await ws.receive_json())
            await proxies["redis_url"].cut()

            async def completed() -> bool:
                return bool((await service.job(job["job_id"]))["status"] == "completed")

            # The end is told to nobody, because the connection is away. Polling finds it.
            await eventually(completed)
            frames += [message.json() async for message in ws]
        assert [frame["status"] for frame in frames].count("completed") == 1
        assert frames[-1]["status"] == "completed"
        assert sorted(frame["seq"] for frame in frames) == [frame["seq"] for frame in frames]
        await proxies["redis_url"].restore()

        async def listens() -> bool:
            return bool(client.server.app[HUB].connected)

        await eventually(listens)
        # And events arrive again, without polling.
        assert (await service.run())["status"] == "completed"


async def test_a_redis_that_comes_back_at_once_costs_nobody_a_frame(settings: Settings, aiohttp_client: Any) -> None:
    async with server_behind_proxies(settings, aiohttp_client) as (client, proxies):
        job_ids = [(await (await post(client)).json())["job_id"] for _ in range(3)]
        async with client.ws_connect(f"/ws/jobs?job_ids={','.join(map(str, job_ids))}") as ws:
            for _ in job_ids:
                assert (await ws.receive_json())["status"] == "pending"
            for job_id in job_ids:
                await proxies["redis_url"].cut()
                await proxies["redis_url"].restore()
                assert (await client.post(f"{BASE}/{job_id}/cancel")).status == 200
                async with asyncio.timeout(GUARD_S):
                    frame = await ws.receive_json()
                assert (frame["job_id"], frame["status"]) == (job_id, "cancelled")


async def test_a_database_that_goes_away_leaves_open_sockets_open(settings: Settings, aiohttp_client: Any) -> None:
    async with server_behind_proxies(settings, aiohttp_client) as (client, proxies):
        job_id = (await (await post(client)).json())["job_id"]
        async with asyncio.timeout(GUARD_S), client.ws_connect(f"/ws/jobs/{job_id}") as ws:
            await ws.receive_json()
            await proxies["database_url"].cut()
            await expect_unavailable(await client.get(f"{BASE}/{job_id}"), "database_unavailable")
            await ws.send_json({"type": "ping"})
            assert await ws.receive_json() == {"type": "pong"}
            await proxies["database_url"].restore()

            async def cancelled() -> bool:
                return bool((await client.post(f"{BASE}/{job_id}/cancel")).status == 200)

            await eventually(cancelled)
            assert (await ws.receive_json())["status"] == "cancelled"
