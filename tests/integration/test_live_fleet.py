"""Who is there: a moment-old picture is good enough for a yes, and is never what turns a client away."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from samples import new_job
from sweeping import uploads_of

from app.domain.errors import InvalidGraph, InvalidRequest, QueueUnavailable
from app.messaging.channels import Names
from app.messaging.offer_questions import OfferQuestions
from app.messaging.queue import JobQueue
from app.messaging.redis_connection import close, make_redis
from app.messaging.registry import Registry
from app.runtime.side_thread import SideThread
from app.services.live_fleet import FRESH_S, LiveFleet
from app.services.offer_refresh import OfferRefresh
from app.services.references import References
from app.services.seeds import Seeds
from app.services.submit import NO_WORKER, NOT_OFFERED, Submitting
from app.storage.job_views import JobViews
from app.storage.jobs import JobStore
from app.storage.run_times import RunTimes
from app.storage.uploads import UploadStore
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.domain.job import Job
    from app.messaging.registry import Beat
    from app.settings import Settings
    from app.storage.database import Database

GRAPH = {"1": {"class_type": "SaveImage", "inputs": {}}}


class Counting(Registry):
    """Counts the reads."""

    reads = 0

    async def backends(self) -> list[Beat]:
        """Count, and read."""
        self.reads += 1
        return await super().backends()


@pytest.fixture
async def registry(settings: Settings) -> AsyncIterator[Counting]:
    redis = make_redis(settings, patient=False)
    # So long between two heartbeats that a picture is recent throughout a test.
    yield Counting(redis, Names(settings.redis_namespace), stale_s=300)
    await close(redis)


@dataclass
class Clock:
    """A clock that the test puts forward."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        """Return the time, by the clock of the machine and how far this one was put forward."""
        return time.monotonic() + self.ahead_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fleet(registry: Counting, clock: Clock) -> LiveFleet:
    return LiveFleet(registry, clock)


@pytest.fixture
async def submitting(
    registry: Counting, fleet: LiveFleet, settings: Settings, database: Database
) -> AsyncIterator[Submitting]:
    redis, sideline = make_redis(settings, patient=False), SideThread()
    names = Names(settings.redis_namespace)
    afresh = OfferRefresh(OfferQuestions(redis, names))
    store, queue, seeds = JobStore(database), JobQueue(redis, names), Seeds(registry)
    references = References(uploads_of(database, settings), UploadStore(database), JobViews(database))
    run_times = RunTimes(database)
    found = Submitting(store, queue, registry, fleet, seeds, references, afresh, sideline, run_times, "", 2**21)
    yield found
    await found.settle()
    await run_times.close()
    sideline.close()
    await close(redis)


async def offer(registry: Registry, *node_classes: str, backend: str = "gpu-0") -> None:
    """Let a worker with a backend that has these nodes tell of itself."""
    nodes = {name: {"input": {}, "output": [], "output_node": True} for name in node_classes}
    digest = await registry.put_catalog(json.dumps(nodes).encode())
    await registry.beat("w", {}, {backend: {"healthy": True, "catalog": digest}})


async def submit(submitting: Submitting, **changes: Any) -> Job:
    accepted = await submitting.submit(new_job(**({"workflow": GRAPH} | changes)), {})
    assert hasattr(accepted, "job_id")
    return accepted


async def test_a_picture_of_a_moment_ago_is_given_at_once_and_renewed_behind_it(
    registry: Counting, clock: Clock
) -> None:
    presence = LiveFleet(registry, clock)
    await offer(registry, "SaveImage")
    assert [beat.name for beat in (await presence.recently()).backends] == ["gpu-0"]
    await offer(registry, "SaveImage", backend="gpu-1")
    clock.ahead_s += 2 * FRESH_S
    old = await presence.recently()
    assert ([beat.name for beat in old.backends], registry.reads) == (["gpu-0"], 1)

    async def renewed() -> bool:
        return len((await presence.recently()).backends) == 2

    await eventually(renewed)
    assert registry.reads == 2
    await presence.settle()


async def test_a_picture_older_than_a_heartbeat_is_not_given(registry: Counting, clock: Clock) -> None:
    presence = LiveFleet(registry, clock)
    await presence.recently()
    await offer(registry, "SaveImage")
    clock.ahead_s += registry.stale_s / 3
    assert len((await presence.recently()).backends) == 1


async def test_nobody_is_turned_away_by_an_old_picture(
    registry: Counting, fleet: LiveFleet, submitting: Submitting, clock: Clock
) -> None:
    await offer(registry, "SaveImage")
    await submit(submitting)
    for fault, changes in (
        (InvalidRequest, {"backend": "gpu-1"}),
        (InvalidGraph, {"workflow": {"1": {"class_type": "SaveVideo", "inputs": {}}}}),
    ):
        with pytest.raises(fault):
            await submit(submitting, **changes)
    await offer(registry, "SaveImage", "SaveVideo", backend="gpu-1")
    for changes in ({"backend": "gpu-1"}, {"workflow": {"1": {"class_type": "SaveVideo", "inputs": {}}}}):
        clock.ahead_s += 2 * FRESH_S
        assert (await submit(submitting, **changes)).warnings == []


async def test_that_no_worker_lives_is_said_only_when_it_is_so_now(
    registry: Counting, fleet: LiveFleet, submitting: Submitting, clock: Clock
) -> None:
    assert (await submit(submitting)).warnings == [NO_WORKER]
    await offer(registry, "SaveImage")
    clock.ahead_s += 2 * FRESH_S
    assert (await submit(submitting)).warnings == []


async def test_a_job_that_no_backend_can_take_at_the_moment_says_so_and_why(
    registry: Counting, fleet: LiveFleet, submitting: Submitting, clock: Clock
) -> None:
    digest = await registry.put_catalog(json.dumps({"SaveImage": {"output": [], "output_node": True}}).encode())
    other = await registry.put_catalog(json.dumps({"SaveVideo": {"output": [], "output_node": True}}).encode())
    well = {"healthy": True, "driver": "w"}

    async def warnings(backends: dict[str, Any], **changes: Any) -> list[str]:
        await registry.beat("w", {}, backends)
        clock.ahead_s += 2 * registry.stale_s
        return (await submit(submitting, **changes)).warnings

    offering, drained = well | {"catalog": digest}, well | {"catalog": digest, "drained": True}
    down = {"healthy": False, "driver": "w", "catalog": digest, "reason": "it refuses connections"}
    assert await warnings({"a": offering, "b": drained, "c": down}) == []
    assert await warnings({"a": offering, "b": drained, "c": down}, backend="a") == []
    (warning,) = await warnings({"a": offering, "b": drained, "c": down}, backend="b")
    assert warning == "No backend can take work. b: It is drained. The job waits until one can."
    (warning,) = await warnings({"a": down, "b": drained, "c": down})
    assert "a: It refuses connections." in warning
    assert "b: It is drained." in warning
    # One can, but has not what the job needs.
    (warning,) = await warnings({"a": down, "b": drained, "c": well | {"catalog": other}})
    assert warning == f"{NOT_OFFERED} The job waits until one can."
    assert await warnings({"a": down, "b": drained, "c": offering}) == []


async def test_a_job_while_a_worker_lives_without_any_backend_says_so(
    registry: Counting, submitting: Submitting
) -> None:
    await registry.beat("w", {}, {})
    (warning,) = (await submit(submitting)).warnings
    assert warning == "No backend can take work: no worker drives any. The job waits until one can."


async def test_a_picture_that_cannot_be_renewed_is_asked_for_again(settings: Settings, clock: Clock) -> None:
    class Away(Registry):
        """Cannot be reached."""

        away = False

        async def backends(self) -> list[Beat]:
            """Fail, or read."""
            if self.away:
                raise QueueUnavailable("away")
            return await super().backends()

    redis = make_redis(settings, patient=False)
    registry = Away(redis, Names(settings.redis_namespace), stale_s=300)
    presence = LiveFleet(registry, clock)
    await presence.recently()
    registry.away = True
    clock.ahead_s += 2 * FRESH_S
    await presence.recently()
    await presence.settle()
    registry.away = False
    await offer(registry, "SaveImage")

    async def renewed() -> bool:
        return len((await presence.recently()).backends) == 1

    await eventually(renewed)
    await presence.settle()
    await close(redis)
