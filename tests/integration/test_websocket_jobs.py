"""Following jobs over WebSocket: which frames come, in which order, and how it ends."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import WSMsgType

from app.main import create_app
from harness import GUARD_S, SMALL_BODY, Service, eventually
from worker.standin.faults import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import ClientWebSocketResponse
    from aiohttp.test_utils import TestClient

    from harness import StandinServer
    from worker.main import WorkerProcess

BASE = "/api/v1/generation-jobs"
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
SLOW = Fault(kind=FaultKind.SLOW_STEPS, times=None, seconds=0.02)
COMMON = {"job_id", "status", "timestamp", "seq"}
KEYS = {
    "pending": {"attempt"},
    "started": {"attempt", "backend"},
    "processing": {"progress"},
    "completed": {"progress", "content_id", "output_paths"},
    "failed": {"error", "error_code"},
    "cancelled": {"error", "reason"},
}
"""The table of the manual's api.md; `completed` also says that its progress is 100."""
FINAL = {"completed", "failed", "cancelled"}
TICKS = 1_000_000
"""A frame's `seq` between two multiples of this tells of progress, and of nothing else."""


@dataclass
class Unmanned:
    """Server and stand-in, and no worker yet: a job waits until the test has everything in its place."""

    client: TestClient[Any, Any]
    standin: StandinServer
    start_worker: Callable[..., Awaitable[WorkerProcess]]

    async def begin(self) -> Service:
        """Let a worker take what waits."""
        return Service(self.client, self.standin, await self.start_worker(f"standin={self.standin.url}"))


@pytest.fixture
async def unmanned(
    client: TestClient[Any, Any],
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_worker: Callable[..., Awaitable[WorkerProcess]],
) -> Unmanned:
    return Unmanned(client, await start_standin(), start_worker)


async def create(client: TestClient[Any, Any], **changes: Any) -> int:
    """Create a job, and return its id."""
    answer = await client.post(f"{BASE}/", json=SMALL_BODY | changes)
    assert answer.status == 201, await answer.text()
    return int((await answer.json())["job_id"])


async def next_frame(ws: ClientWebSocketResponse) -> dict[str, Any]:
    """Return the next frame; its end of the connection is an error."""
    async with asyncio.timeout(GUARD_S):
        return dict(await ws.receive_json())


async def to_the_end(ws: ClientWebSocketResponse) -> list[dict[str, Any]]:
    """Return every frame until the server closes, and check that it does so with 1000."""
    frames = []
    async with asyncio.timeout(GUARD_S):
        async for message in ws:
            assert message.type is WSMsgType.TEXT
            frames.append(message.json())
    assert ws.close_code == 1000
    return frames


async def follow(client: TestClient[Any, Any], job_id: int) -> list[dict[str, Any]]:
    """Follow a job to the end."""
    async with client.ws_connect(f"/ws/jobs/{job_id}") as ws:
        return await to_the_end(ws)


def check_frames(frames: list[dict[str, Any]]) -> None:
    """Check what holds of the frames of one job on one connection, whatever happened to it."""
    for frame in frames:
        expected = COMMON | KEYS[frame["status"]]
        assert set(frame) in (expected, expected | {"reason"} if frame["status"] == "pending" else expected)
        assert TIME.match(frame["timestamp"])
        assert isinstance(frame["job_id"], int)
        assert 0 <= frame.get("progress", 0) <= 100
    seqs = [frame["seq"] for frame in frames]
    assert all(early < late for early, late in itertools.pairwise(seqs))
    assert [frame["status"] in FINAL for frame in frames] == [False] * (len(frames) - 1) + [True]
    progress = 0
    for frame in frames:
        if frame["status"] in ("pending", "started"):
            progress = 0
        elif frame["status"] == "processing":
            assert frame["progress"] >= progress
            progress = frame["progress"]


async def test_a_job_is_followed_from_pending_to_its_end(unmanned: Unmanned) -> None:
    await unmanned.standin.state.apply(replace(SLOW))
    job_id = await create(unmanned.client, sampler_params={"steps": 100})
    async with unmanned.client.ws_connect(f"/ws/jobs/{job_id}") as ws:
        first = await next_frame(ws)
        assert (first["job_id"], first["status"], first["attempt"]) == (job_id, "pending", 1)
        service = await unmanned.begin()
        frames = [first, *await to_the_end(ws)]
    check_frames(frames)
    assert list(dict.fromkeys(frame["status"] for frame in frames)) == ["pending", "started", "processing", "completed"]
    assert {frame["job_id"] for frame in frames} == {job_id}
    job = await service.job(job_id)
    started = next(frame for frame in frames if frame["status"] == "started")
    assert (started["attempt"], started["backend"]) == (1, "standin")
    last = frames[-1]
    assert (last["content_id"], last["output_paths"], last["progress"]) == (job["content_id"], job["output_paths"], 100)
    assert (last["seq"], last["timestamp"]) == (job["seq"], job["completed_at"])
    assert len({frame["progress"] for frame in frames if frame["status"] == "processing"}) > 5


async def test_progress_is_told_at_most_ten_times_a_second(service: Service) -> None:
    await service.standin.state.apply(replace(SLOW))
    frames = await follow(service.client, await create(service.client, sampler_params={"steps": 150}))
    check_frames(frames)
    ticks = [frame for frame in frames if frame["seq"] % TICKS]
    times = [datetime.fromisoformat(frame["timestamp"]).timestamp() for frame in ticks]
    assert len(times) > 10
    assert all(late - early > 0.99 for early, late in zip(times, times[10:], strict=False))


async def test_the_truth_is_in_the_database_before_it_is_told(service: Service) -> None:
    ranks = {"pending": 0, "started": 1, "processing": 1, "completed": 2}
    rank_of = {"pending": 0, "running": 1, "completed": 2}
    job_id = await create(service.client)
    async with service.client.ws_connect(f"/ws/jobs/{job_id}") as ws:
        async for message in ws:
            frame = message.json()
            job = await service.job(job_id)
            assert rank_of[job["status"]] >= ranks[frame["status"]]
            assert job["seq"] >= frame["seq"] // TICKS * TICKS


async def test_a_late_client_is_told_how_it_ended_and_let_go(service: Service) -> None:
    done = await service.run()
    await service.standin.state.apply(Fault(kind=FaultKind.NODE_ERROR, node="KSampler", message="no luck"))
    failed = await service.run(max_attempts=1)
    waiting = await create(service.client, not_before="2100-01-01T00:00:00Z")
    await service.client.post(f"{BASE}/{waiting}/cancel", json={"reason": "second thoughts"})
    silent = await create(service.client, not_before="2100-01-01T00:00:00Z")
    await service.client.post(f"{BASE}/{silent}/cancel")
    expected = [
        (done["job_id"], {"status": "completed", "output_paths": done["output_paths"], "content_id": 1}),
        (failed["job_id"], {"status": "failed", "error": failed["error_message"], "error_code": "node_failed"}),
        (waiting, {"status": "cancelled", "error": "second thoughts", "reason": "second thoughts"}),
        (silent, {"status": "cancelled", "error": "Cancelled.", "reason": None}),
    ]
    for job_id, told in expected:
        frames = await follow(service.client, job_id)
        check_frames(frames)
        assert len(frames) == 1
        assert told.items() <= frames[0].items()


async def test_a_client_that_comes_in_the_middle_begins_with_the_present(service: Service) -> None:
    await service.standin.state.apply(replace(SLOW, seconds=0.08))
    job_id = await create(service.client, sampler_params={"steps": 150})

    async def half() -> bool:
        return bool((await service.job(job_id))["progress"] >= 30)

    await eventually(half)
    async with service.client.ws_connect(f"/ws/jobs/{job_id}") as ws:
        frames = [await next_frame(ws)]
        service.standin.state.faults.clear()
        frames += await to_the_end(ws)
    check_frames(frames)
    assert frames[0]["status"] == "processing"
    assert 30 <= frames[0]["progress"] < 100
    assert frames[-1]["status"] == "completed"


async def test_nobody_reads_of_more_progress_than_is_told(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    # It is told once, while the run goes on, as it does until it is cancelled; a heartbeat comes every 0.3 s.
    monkeypatch.setattr("worker.attempts.ledger.PROGRESS_S", 60)
    await service.standin.state.apply(replace(SLOW, seconds=0.3))
    job_id = await create(service.client, sampler_params={"steps": 150})

    async def told() -> int:
        return int((await service.job(job_id))["progress"])

    first = await eventually(told)
    await asyncio.sleep(1)
    assert await told() == first
    async with service.client.ws_connect(f"/ws/jobs/{job_id}") as ws:
        frames = [await next_frame(ws)]
        await service.client.post(f"{BASE}/{job_id}/cancel")
        frames += await to_the_end(ws)
    check_frames(frames)
    assert frames[0]["progress"] == first


async def test_an_attempt_that_is_tried_again_is_told_with_its_reason(unmanned: Unmanned) -> None:
    await unmanned.standin.state.apply(Fault(kind=FaultKind.OUT_OF_MEMORY, node="KSampler"))
    job_id = await create(unmanned.client, not_before=None)
    async with unmanned.client.ws_connect(f"/ws/jobs/{job_id}") as ws:
        frames = [await next_frame(ws)]
        await unmanned.begin()
        frames += await to_the_end(ws)
    check_frames(frames)
    again = [frame for frame in frames if frame["status"] == "pending" and "reason" in frame]
    assert [(frame["attempt"], "memory" in frame["reason"]) for frame in again] == [(2, True)]
    assert [frame["attempt"] for frame in frames if frame["status"] == "started"] in ([1, 2], [2])
    assert frames[-1]["status"] == "completed"


async def test_a_cancelled_run_ends_with_its_reason(service: Service) -> None:
    await service.standin.state.apply(replace(SLOW, seconds=0.2))
    job_id = await create(service.client, sampler_params={"steps": 150})
    async with service.client.ws_connect(f"/ws/jobs/{job_id}") as ws:
        frames = [await next_frame(ws)]
        while not frames[-1]["seq"] % TICKS:
            frames.append(await next_frame(ws))
        await service.client.post(f"{BASE}/{job_id}/cancel", json={"reason": "enough"})
        frames += await to_the_end(ws)
    check_frames(frames)
    assert (frames[-1]["status"], frames[-1]["error"], frames[-1]["reason"]) == ("cancelled", "enough", "enough")


async def test_after_a_retry_a_new_client_sees_the_new_attempt(client: TestClient[Any, Any]) -> None:
    job_id = await create(client)
    await client.post(f"{BASE}/{job_id}/cancel")
    async with client.ws_connect(f"/ws/jobs/{job_id}") as old:
        assert (await next_frame(old))["status"] == "cancelled"
        await client.post(f"{BASE}/{job_id}/retry")
        async with client.ws_connect(f"/ws/jobs/{job_id}") as new:
            frame = await next_frame(new)
            assert (frame["status"], frame["attempt"]) == ("pending", 2)
        # The end was told here, and is told once.
        assert await to_the_end(old) == []


async def test_one_socket_follows_several_jobs_finished_ones_too(service: Service) -> None:
    done = await service.run()
    await service.standin.state.apply(replace(SLOW))
    job_ids = [done["job_id"], *[await create(service.client, sampler_params={"steps": 20}) for _ in range(4)]]
    listed = ",".join(map(str, [*job_ids, job_ids[0], job_ids[1]]))
    async with service.client.ws_connect(f"/ws/jobs?job_ids={listed}") as ws:
        frames = await to_the_end(ws)
    assert {frame["job_id"] for frame in frames} == set(job_ids)
    for job_id in job_ids:
        own = [frame for frame in frames if frame["job_id"] == job_id]
        check_frames(own)
        assert own[-1]["status"] == "completed"
    assert len([frame for frame in frames if frame["job_id"] == done["job_id"]]) == 1
    last_done = max(index for index, frame in enumerate(frames) if frame["status"] in FINAL)
    assert last_done == len(frames) - 1


async def test_every_watcher_of_a_job_is_told_the_same(unmanned: Unmanned) -> None:
    await unmanned.standin.state.apply(replace(SLOW))
    job_id = await create(unmanned.client, sampler_params={"steps": 40})
    other = await create(unmanned.client)
    ways = [f"/ws/jobs/{job_id}", f"/ws/jobs?job_ids={job_id}", f"/ws/jobs?job_ids={other},{job_id}"] * 3
    all_there = asyncio.Barrier(len(ways) + 1)

    async def watch(way: str) -> list[dict[str, Any]]:
        async with unmanned.client.ws_connect(way) as ws:
            first = await next_frame(ws)
            await all_there.wait()
            return [frame for frame in (first, *await to_the_end(ws)) if frame["job_id"] == job_id]

    async def begin() -> None:
        await all_there.wait()
        await unmanned.begin()

    *seen, _ = await asyncio.gather(*map(watch, ways), begin())
    for frames in seen:
        check_frames(frames)
    common = max(frames[0]["seq"] for frames in seen)
    rest = [[frame for frame in frames if frame["seq"] > common] for frames in seen]
    assert rest[0]
    for frames in rest:
        assert frames == rest[0]


async def test_five_hundred_jobs_on_one_socket(client: TestClient[Any, Any]) -> None:
    job_ids = []
    for _ in range(10):
        job_ids += await asyncio.gather(*(create(client) for _ in range(50)))
    assert len(job_ids) == 500
    async with client.ws_connect(f"/ws/jobs?job_ids={','.join(map(str, job_ids))}") as ws:
        frames = [await next_frame(ws) for _ in job_ids]
        assert {frame["job_id"] for frame in frames} == set(job_ids)
        assert {frame["status"] for frame in frames} == {"pending"}
        await client.post(f"{BASE}/{job_ids[250]}/cancel")
        frame = await next_frame(ws)
        assert (frame["job_id"], frame["status"]) == (job_ids[250], "cancelled")


async def test_everything_is_told_to_those_who_watch_everything(unmanned: Unmanned) -> None:
    # A run of no length is never said to be executing.
    await unmanned.standin.state.apply(replace(SLOW))
    async with unmanned.client.ws_connect("/ws/events") as ws:
        assert await next_frame(ws) == {"type": "hello"}
        job_id = await create(unmanned.client)
        while (event := await next_frame(ws))["type"] != "job":
            pass
        assert (event["job_id"], event["status"]) == (job_id, "pending")
        service = await unmanned.begin()
        statuses = ["pending"]
        while "completed" not in statuses:
            event = await next_frame(ws)
            if event["type"] == "job" and event["job_id"] == job_id:
                assert event["phase"]
                statuses.append(event["status"])
        assert list(dict.fromkeys(statuses)) == ["pending", "started", "processing", "completed"]
        assert (await service.client.delete(f"{BASE}/{job_id}")).status == 204
        while (event := await next_frame(ws))["type"] != "deleted":
            pass
        assert event["job_id"] == job_id


@pytest.mark.parametrize("linger_s", [0.0, 2.0])
async def test_the_server_lingers_and_then_closes(
    settings: Any, aiohttp_client: Any, linger_s: float, service: Service
) -> None:
    done = await service.run()
    client = await aiohttp_client(create_app(settings.model_copy(update={"ws_linger_seconds": linger_s})))
    loop = asyncio.get_running_loop()
    async with client.ws_connect(f"/ws/jobs/{done['job_id']}") as ws:
        assert (await next_frame(ws))["status"] == "completed"
        told = loop.time()
        if linger_s:
            # It is still there for who has something to say.
            await ws.send_str(json.dumps({"type": "ping", "id": 1}))
            assert await next_frame(ws) == {"type": "pong", "id": 1}
        assert await to_the_end(ws) == []
        assert loop.time() - told > linger_s - 0.05
