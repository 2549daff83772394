"""Fixtures that several modules of integration tests share."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from aiohttp import ClientSession
from integration.access_world import serve
from integration.counting import JOBS
from integration.wire import Wire

from app.domain.public_addresses import parse_networks
from app.keys import SUBMITTING
from tests.bench.filling import fill
from worker.comfyui.client import ComfyUI

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from integration.access_world import World

    from app.settings import Settings
    from app.storage.database import Database
    from harness import Service, Workers

_OLDER = "interval '20 days'"


@pytest.fixture
async def plain(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """A connection for plain SQL."""
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
def with_ended_jobs(make_model: Callable[[str], str]) -> str:
    """Name of a database of jobs of the last hours and of three weeks ago, with waits and runs of many lengths."""

    async def make(url: str) -> None:
        await fill(url, JOBS)
        connection = await asyncpg.connect(url)
        await connection.execute(f"""
            UPDATE generation_jobs SET started_at = created_at + interval '1 ms' * (7 ^ (id % 6)),
                completed_at = created_at + interval '1 ms' * (7 ^ (id % 6) + 11 ^ (id % 5))
            WHERE completed_at < now() - interval '2 hours';
            UPDATE generation_jobs SET created_at = created_at - {_OLDER}, queued_at = queued_at - {_OLDER},
                started_at = started_at - {_OLDER},
                completed_at = completed_at - {_OLDER} WHERE id % 3 = 0 AND completed_at IS NOT NULL;
            UPDATE generation_jobs SET checkpoint_model = NULL WHERE id % 11 = 0;
            UPDATE generation_jobs SET started_at = NULL, backend_name = NULL WHERE id % 7 = 0 AND status = 'cancelled'
            """)  # noqa: S608
        await connection.close()

    asyncio.run(make(make_model("with_ended_jobs")))
    return "with_ended_jobs"


@pytest.fixture
def model(template: str, request: pytest.FixtureRequest) -> str:
    """Tests that ask for `full` get a copy of that database, all others an empty one."""
    return str(request.getfixturevalue("with_ended_jobs")) if "full" in request.fixturenames else template


@pytest.fixture
def full(database: Database) -> Database:
    """A database of `JOBS` jobs that have ended, and some that have not."""
    return database


@pytest.fixture
async def wire() -> AsyncIterator[tuple[Wire, ComfyUI]]:
    """A server whose answers the test chooses, and a client of it."""
    served = Wire()
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, ClientSession() as session:
        yield served, ComfyUI(session, f"http://127.0.0.1:{port}", timeout_s=2, max_message_bytes=2**20)


@pytest.fixture
def allow_this_machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Service, Workers], Awaitable[None]]:
    """Lets jobs of a service name URLs of this machine, which are no public addresses."""

    async def allow(service: Service, start_worker: Workers) -> None:
        networks = "127.0.0.0/8"
        monkeypatch.setattr(service.client.app[SUBMITTING].references, "networks", parse_networks(networks))
        await service.exchange_worker(start_worker, input_networks=networks)

    return allow


@pytest.fixture
def make_world(
    settings: Settings, database: Database, aiohttp_client: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Awaitable[World]]:
    """Make a service that several use, in one of the ways in which it can be served."""
    monkeypatch.setattr("app.services.access.OPEN_S", -1.0)
    monkeypatch.setattr("app.services.access.WRONG_AT_ONCE", 100_000)
    monkeypatch.setattr("app.monitor.sessions.WRONG_S", 0.0)
    return partial(serve, settings=settings, database=database, aiohttp_client=aiohttp_client)


@pytest.fixture
async def world(make_world: Callable[[str], Awaitable[World]]) -> World:
    """A service that several use with keys."""
    return await make_world("keys")
