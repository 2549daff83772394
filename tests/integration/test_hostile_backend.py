"""A backend that wants to do harm beside a good one: it ends its own turn, and nothing of worker, server or page."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from hostile import ID, deep, drip, flood, says

from app.domain.job import Phase
from app.messaging.channels import Names
from app.messaging.redis_connection import close, make_redis
from app.messaging.registry import Registry
from harness import GUARD_S, Service, StandinServer, eventually
from worker.standin.main import STANDIN
from worker.standin.main import create_app as create_standin
from worker.standin.options import StandinOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.test_utils import TestClient
    from hostile import Answer

    from app.settings import Settings
    from worker.main import WorkerProcess

pytestmark = pytest.mark.slow


@pytest.fixture
async def start_hostile(aiohttp_server: Any) -> Callable[..., Awaitable[StandinServer]]:
    """Start a stand-in that answers on these paths, each a beginning, in its own way."""

    async def start_one(**answers: Answer) -> StandinServer:
        @web.middleware
        async def hostile(request: web.Request, handler: Any) -> web.StreamResponse:
            found = answers.get(request.path.split("/")[1])
            return await found(request) if found is not None and request.method == "GET" else await handler(request)

        app = create_standin(StandinOptions(model_load_seconds=0, lora_load_seconds=0, step_seconds=0))
        app.middlewares.insert(0, hostile)
        server = await aiohttp_server(app)
        return StandinServer(str(server.make_url("")).rstrip("/"), app[STANDIN])

    return start_one


@pytest.fixture
async def beside(
    client: TestClient[Any, Any],
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_hostile: Callable[..., Awaitable[StandinServer]],
    start_worker: Callable[..., Awaitable[WorkerProcess]],
) -> Callable[..., Awaitable[Service]]:
    """Start the whole service with a good backend, and beside it bad ones: name → how it answers."""

    async def start(bad: dict[str, dict[str, Answer]], *, online: int, **changes: Any) -> Service:
        good = await start_standin()
        urls = [f"good={good.url}"]
        urls += [f"{name}={(await start_hostile(**answers)).url}" for name, answers in bad.items()]
        found = Service(client, good, await start_worker(",".join(urls), **changes))
        await found.backend_online(online)
        return found

    return start


@pytest.fixture
def both(beside: Callable[..., Awaitable[Service]]) -> Callable[..., Awaitable[Service]]:
    """Start the whole service with a good backend and a bad one."""

    async def start(changes: dict[str, Any] | None = None, **answers: Answer) -> Service:
        return await beside({"bad": answers}, online=2, **(changes or {}))

    return start


PAGES = ("/monitor/", "/monitor/backends", "/monitor/workers", "/health/ready", "/metrics")


async def all_is_well(service: Service) -> None:
    """Check that the good backend works, and that all that is shown of both can be shown."""
    job = await service.run(backend="good")
    assert job["status"] == "completed", job
    for page in (*PAGES, "/api/v1/generation-jobs/queue/stats"):
        answer = await service.client.get(page)
        assert answer.status == 200, (page, await answer.text())


NONSENSE: dict[str, Any] = {
    "list": {"devices": ["x"]},
    "numbers": {
        "devices": [{"name": "a", "vram_total": 1e308, "vram_free": -1e308}],
        "system": {"comfyui_version": deep(400)},
    },
    "shapes": {"devices": {"0": 1}, "system": 7},
    "deep": {
        "devices": [{"name": deep(400), "vram_total": "x", "vram_free": 10**300}],
        "system": {"comfyui_version": "²." * 3},
    },
    "long": {"devices": [{"name": "x" * 900_000}], "system": {"comfyui_version": "9" * 90_000 + ".1.2"}},
    "nan": b'{"devices": [{"vram_total": NaN, "vram_free": -Infinity, "name": "\\ud800\\u0000"}]}',
}


async def test_servers_that_say_nonsense_of_themselves_silence_nobody(
    beside: Callable[..., Awaitable[Service]], settings: Settings
) -> None:
    service = await beside(
        {name: {"system_stats": says(stats)} for name, stats in NONSENSE.items()}, online=1 + len(NONSENSE)
    )
    await all_is_well(service)
    redis = make_redis(settings, patient=False)
    beats = {beat.name: beat for beat in await Registry(redis, Names(settings.redis_namespace), 30).backends()}
    await close(redis)
    for name in NONSENSE:
        assert beats[name].live, name
        assert len(json.dumps(asdict(beats[name]), default=str)) < 4000, name
        job = await service.run(backend=name)
        assert job["status"] == "completed", name


async def test_a_backend_whose_state_cannot_be_told_costs_the_others_nothing(
    both: Callable[..., Awaitable[Service]], caplog: pytest.LogCaptureFixture
) -> None:
    service = await both()
    backend = service.worker.pool.backends["bad"]
    # As a fault of ours would leave it.
    sound, backend.stats = backend.stats, None  # type: ignore[assignment]

    async def told() -> bool:
        answer = await (await service.client.get("/health/ready")).json()
        return {beat["name"]: beat["healthy"] for beat in answer["backends"]} == {"good": True, "bad": False}

    await eventually(told)
    await all_is_well(service)
    assert sum("cannot be told" in record.message for record in caplog.records) == 1
    backend.stats = sound


WRITTEN = [
    b"no JSON",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"healthy": true, "vram_total": 1e308, "vram_free": -1e308, "used": NaN, "slots": Infinity, "driver": null}',
    b'{"url": [1], "since": "0001-01-01T00:00:00+23:59", "warm": [[[[1]]]], "freed": {"at": 7}, "current": 1}',
    b'{"avoids": [1, ["a", 2]], "speed": -1, "room": 1e15, "free_in_s": 1e15, "healthy": true, "warm": ["x"]}',
    b'{"since": "9999-12-31T23:59:59-23:59", "started_at": "9999-12-31T23:59:59-23:59", "catalog": ["x"]}',
    b'{"queue_remaining": 1%b, "foreign": -1%b, "reason": "\\ud800", "version": {"a": 1}}' % (b"0" * 400, b"0" * 400),
    json.dumps({"slots": "x", "used": [], "running": {"a": 1}, "backends": 5, "memory_bytes": -1, "pid": {}}).encode(),
    json.dumps({"reason": "x" * 2**21}).encode(),
]
"""Heartbeats as an older or newer version, or a fault, may leave them."""


async def test_a_heartbeat_of_another_version_breaks_nothing(service: Service, settings: Settings) -> None:
    names = Names(settings.redis_namespace)
    redis = make_redis(settings, patient=False)
    for written in WRITTEN:
        for key, index in ((names.backend, names.backends), (names.worker, names.workers)):
            await redis.set(key("other"), written, ex=24 * 3600)
            await redis.zadd(index, {"other": 10**12})
        job = await service.run()
        assert job["status"] == "completed", written[:99]
        for page in (*PAGES, "/api/v1/generation-jobs/queue/stats", "/monitor/stats"):
            answer = await service.client.get(page)
            assert answer.status == 200, (written[:99], page, await answer.text())
    await close(redis)


async def test_a_file_that_comes_at_a_drip_ends_that_attempt_and_holds_up_nobody(
    both: Callable[..., Awaitable[Service]],
) -> None:
    service = await both({"comfyui_timeout_seconds": 0.5, "retry_max_seconds": 0.1}, view=drip)
    dripping = [(await service.submit(backend="bad", max_attempts=1))["job_id"] for _ in range(3)]

    async def saving() -> bool:
        return [(await service.job(job_id))["phase"] for job_id in dripping] == [Phase.SAVING] * 3

    await eventually(saving)
    await all_is_well(service)
    for job_id in dripping:
        job = await service.finished(job_id)
        assert (job["status"], job["error_code"]) == ("failed", "backend_lost")


async def test_a_worker_stops_while_files_come_at_a_drip(both: Callable[..., Awaitable[Service]]) -> None:
    service = await both({"comfyui_timeout_seconds": 600, "shutdown_grace_seconds": 0.2}, view=drip)
    job_id = (await service.submit(backend="bad"))["job_id"]

    async def saving() -> bool:
        return bool((await service.job(job_id))["phase"] == Phase.SAVING)

    await eventually(saving)
    async with asyncio.timeout(GUARD_S):
        service.worker.stop()

        async def gone() -> bool:
            answer = await (await service.client.get("/health/ready")).json()
            return not answer["workers"]

        await eventually(gone)


FRAMES: dict[str, list[Any]] = {
    "status": ['{"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 1%s}}}}' % ("0" * 300)],
    "executing": [json.dumps({"type": "executing", "data": {"node": "1", "prompt_id": ID}})] * 50,
    "binary": [b"\0\0\0\4\xff\xff\xff\xff" + b"x" * 100, b"\0\0\0\1" * 3, b"", b"\0\0\0\4\0\0\0\2{}x"],
    "shapes": [
        "[" * 10_000,
        '{"type": {}, "data": []}',
        '{"type": "progress_state", "data": {"nodes": 5, "prompt_id": ["a"]}}',
    ],
    "deep": [
        json.dumps({"type": "executed", "data": {"prompt_id": deep(300), "node": deep(300), "output": deep(300)}})
    ],
}


async def test_frames_of_all_kinds_do_no_harm(beside: Callable[..., Awaitable[Service]]) -> None:
    service = await beside(
        {name: {"ws": flood(frames, many=200)} for name, frames in FRAMES.items()}, online=1 + len(FRAMES)
    )
    await all_is_well(service)
    for name in FRAMES:
        job = await service.run(backend=name)
        assert job["status"] == "completed", (name, job)
        assert service.worker.pool.backends[name].queue_remaining < 10**7


DESCRIPTIONS: dict[str, Any] = {
    "list": b"[]",
    "page": b"<html>",
    "deep": b'{"a": ' + b"[" * 50_000,
    "empty": {},
}


async def test_backends_that_describe_their_nodes_badly_are_down_and_nobody_else(
    beside: Callable[..., Awaitable[Service]],
) -> None:
    many = {"SaveImage": {"input": {"required": {f"i{number}": ["INT"] for number in range(150_000)}}}}
    described = DESCRIPTIONS | {"many": many}
    service = await beside({name: {"object_info": says(told)} for name, told in described.items()}, online=1)
    await all_is_well(service)
    answer = await (await service.client.get("/health/ready")).json()
    assert {beat["name"]: beat["healthy"] for beat in answer["backends"]} == {
        "good": True,
        **dict.fromkeys(described, False),
    }


def history_of(entry: Any) -> Answer:
    """Answer that the history of whatever prompt is asked for is this."""

    async def history(request: web.Request) -> web.StreamResponse:
        return web.json_response({request.path.rpartition("/")[2]: entry})

    return history


async def test_a_history_that_is_none_fails_the_job_and_nothing_else(
    beside: Callable[..., Awaitable[Service]],
) -> None:
    entries = {"number": 5, "text": "x", "list": [], "shapes": {"outputs": 7, "status": 5}}
    bad = {name: {"history": history_of(entry)} for name, entry in entries.items()}
    service = await beside(bad, online=1 + len(bad), comfyui_timeout_seconds=2)
    for job in await asyncio.gather(*(service.run(backend=name, max_attempts=1) for name in bad)):
        assert job["status"] == "failed", job
        assert job["error_code"] in ("backend_lost", "node_failed")
    await all_is_well(service)


async def test_a_history_that_is_nested_without_end_is_kept_as_data_that_has_one(
    both: Callable[..., Awaitable[Service]],
) -> None:
    entry = {"outputs": {"9": {"images": [deep(300)]}}, "status": {"status_str": "success"}}
    service = await both({"comfyui_timeout_seconds": 2}, history=history_of(entry))
    job = await service.run(backend="bad", max_attempts=1)
    assert (job["status"], [output["kind"] for output in job["outputs"]]) == ("completed", ["data"])
    await all_is_well(service)
