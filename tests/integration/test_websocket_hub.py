"""The hub: one Redis connection for all sockets, and what happens to events that come while nobody listens."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, TCPConnector
from integration.tcp_proxy import TcpProxy, proxied
from redis.asyncio import Redis
from samples import new_job
from sqlalchemy import text

from app.domain.errors import DatabaseUnavailable
from app.domain.job import Phase
from app.domain.message import Snapshot, frame, snapshot_of
from app.keys import EVENTS, HUB, VIEWS
from app.main import create_app
from app.messaging.channels import Names
from app.messaging.events import Events
from app.messaging.hub import AT_ONCE, Hub
from app.messaging.redis_connection import close, make_listener, make_redis
from app.metrics import ServerMetrics
from app.runtime.end_tasks import end_tasks
from app.services.snapshots import Snapshots
from app.storage.job_views import JobViews
from app.storage.jobs import JobStore
from harness import GUARD_S, SMALL_BODY, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from arq.connections import ArqRedis

    from app.settings import Settings
    from app.storage.database import Database


class Watching:
    """A watcher that keeps what it is offered."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, int, bool]] = []
        self.events: list[dict[str, Any]] = []
        self.forgotten: list[int] = []
        self.messages: list[bytes] = []
        self.dismissed = False

    def offer(self, job_id: int, order: int, message: bytes, *, finished: bool) -> None:
        """Keep a frame."""
        told = json.loads(message)
        assert (told["job_id"], told["seq"]) == (job_id, order)
        self.frames.append((job_id, order, finished))
        self.messages.append(message)

    def offer_event(self, message: bytes) -> None:
        """Keep an event."""
        self.events.append(json.loads(message))

    def dismiss(self) -> None:
        """Keep that the server shuts down."""
        self.dismissed = True

    def forget(self, job_id: int) -> None:
        """Keep the id."""
        self.forgotten.append(job_id)


class Truth:
    """The jobs as a database would have them."""

    def __init__(self, count: int = 3) -> None:
        self.jobs = {job_id: snapshot(job_id) for job_id in range(1, count + 1)}
        self.fault: Exception | None = None
        self.reads = 0

    async def read(self, job_ids: Sequence[int]) -> list[Snapshot]:
        """Return the snapshots of those that exist."""
        self.reads += 1
        if self.fault is not None:
            raise self.fault
        return [self.jobs[job_id] for job_id in job_ids if job_id in self.jobs]


def snapshot(job_id: int, phase: Phase = Phase.QUEUED, seq: int = 1) -> Snapshot:
    """Return a job at some moment."""
    return Snapshot(job_id=job_id, phase=phase, seq=seq, at=datetime.now(UTC), attempt=1)


@asynccontextmanager
async def running_hub(settings: Settings, truth: Truth) -> AsyncIterator[tuple[Hub, Events]]:
    """Run a hub, and yield it with what publishes to it."""
    names = Names(settings.redis_namespace)
    listener, redis = make_listener(settings), make_redis(settings, patient=False)
    hub = Hub(listener, names, truth.read, bytes.strip, ServerMetrics())
    task = asyncio.create_task(hub.run(), name="hub")

    async def connected() -> bool:
        return hub.connected

    try:
        await eventually(connected)
        yield hub, Events(redis, names)
    finally:
        await end_tasks([task])
        await close(listener)
        await close(redis)


@asynccontextmanager
async def hub_behind_proxy(settings: Settings, truth: Truth) -> AsyncIterator[tuple[Hub, TcpProxy]]:
    """Run a hub whose connection to Redis can be cut."""
    async with (
        proxied(settings.redis_url) as (proxy, through),
        running_hub(settings.model_copy(update={"redis_url": through}), truth) as (hub, _),
    ):
        yield hub, proxy


async def subscriptions(settings: Settings) -> set[str]:
    """Return the channels of this test's namespace that somebody is subscribed to."""
    async with Redis.from_url(settings.redis_url_with_db) as redis:
        found = await redis.pubsub_channels(f"{settings.redis_namespace}:*")
    return {channel.decode().removeprefix(f"{settings.redis_namespace}:") for channel in found}


async def test_an_event_reaches_those_who_watch_its_job_and_nobody_else(settings: Settings) -> None:
    async with running_hub(settings, Truth()) as (hub, events):
        one, both, all_ = Watching(), Watching(), Watching()
        hub.watch(one, [1])
        hub.watch(both, [1, 2])
        hub.watch_everything(all_)
        for job_id in (1, 2, 3):
            await events.publish(snapshot(job_id, seq=2), snapshot(job_id, Phase.CANCELLED, seq=3))

        async def told() -> bool:
            return len([event for event in all_.events if event["type"] == "job"]) == 6

        await eventually(told)
        assert [seen for seen in one.frames if seen[1] > 1_000_000] == [(1, 2_000_000, False), (1, 3_000_000, True)]
        assert {job_id for job_id, _, _ in both.frames} == {1, 2}
        assert all_.frames == []


def ticks(job_id: int, *percents: int, phase: Phase = Phase.EXECUTING, seq: int = 3) -> list[Snapshot]:
    """Progress of a job, one after the other."""
    start = snapshot(job_id, phase, seq)
    return [replace(start, tick=percent, progress=percent) for percent in percents]


async def test_who_watches_everything_is_told_the_newest_progress_and_not_each(settings: Settings) -> None:
    async with running_hub(settings, Truth()) as (hub, events):
        all_, follower = Watching(), Watching()
        hub.watch_everything(all_)
        hub.watch(follower, [1])
        await events.publish(*ticks(1, *range(1, 41)), *ticks(2, 5))

        async def told() -> bool:
            return any(event.get("progress") == 40 for event in all_.events)

        await eventually(told)
        of_one = [event for event in all_.events if event.get("job_id") == 1]
        # The first at once, the last when its time has come, and hardly anything between.
        assert of_one[0]["progress"] == 1
        assert len(of_one) < 20
        assert [event["seq"] for event in of_one] == sorted(event["seq"] for event in of_one)
        assert [event["progress"] for event in all_.events if event.get("job_id") == 2] == [5]
        # Who follows the job is told each, as the contract has it.
        assert len([order for _, order, _ in follower.frames if order > 3_000_000]) == 40

        async def rested() -> bool:
            return not hub.paced_jobs

        await eventually(rested)


async def test_a_change_of_state_is_told_at_once_and_no_progress_from_before_it_after(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.messaging.hub.PROGRESS_S", 0.2)
    async with running_hub(settings, Truth()) as (hub, events):
        all_ = Watching()
        hub.watch_everything(all_)
        await events.publish(
            *ticks(1, 10, 20, 30),
            *ticks(1, 30, 40, phase=Phase.SAVING, seq=4),
            snapshot(1, Phase.COMPLETED, seq=5),
            *ticks(2, 7, 8),
        )

        async def told() -> bool:
            return any(event.get("job_id") == 2 and event.get("progress") == 8 for event in all_.events)

        # What was held of the other job has had its time by then, too.
        await eventually(told)
        of_one = [(event["phase"], event.get("progress")) for event in all_.events if event.get("job_id") == 1]
        assert of_one == [("executing", 10), ("saving", 30), ("completed", 100)]


async def test_news_of_workers_backends_and_pictures_pass_as_they_are(settings: Settings) -> None:
    news = [
        {"type": "worker", "worker": "w", "seq": 7, "state": "quiet"},
        {"type": "backend", "backend": "gpu-a", "seq": 8, "healthy": False},
        {"type": "preview", "job_id": 1, "attempt": 1, "number": 9, "seq": 9},
    ]
    async with running_hub(settings, Truth()) as (hub, events):
        all_ = Watching()
        hub.watch_everything(all_)
        for each in news:
            await events.publish_event(each)

        async def told() -> bool:
            return [event for event in all_.events if event["type"] != "hello"] == news

        await eventually(told)


async def test_a_watcher_that_has_come_misses_nothing_published_afterwards(settings: Settings) -> None:
    async with running_hub(settings, Truth(50)) as (hub, events):
        for job_id in range(1, 51):
            watcher = Watching()
            hub.watch(watcher, [job_id])
            await events.publish(snapshot(job_id, seq=5))

            async def told(watcher: Watching = watcher, job_id: int = job_id) -> bool:
                return (job_id, 5_000_000, False) in watcher.frames

            await eventually(told)


async def test_what_happens_while_the_present_is_read_is_told_after_it(
    settings: Settings, aiohttp_client: Any, database: Database
) -> None:
    app = create_app(settings)
    client = await aiohttp_client(app)
    # Of which nobody was told.
    present = snapshot_of(await JobStore(database).create(new_job()))
    job_id = present.job_id
    async with client.ws_connect("/ws/events") as everything, database.transaction() as session:
        # The read has to wait for this, and events do not.
        await session.execute(text("LOCK TABLE generation_jobs IN ACCESS EXCLUSIVE MODE"))
        connecting = asyncio.create_task(client.ws_connect(f"/ws/jobs/{job_id}"))

        async def watched() -> bool:
            return job_id in app[HUB].watched_jobs

        await eventually(watched)
        later = [replace(present, seq=present.seq + more) for more in (1, 2)]
        await app[EVENTS].publish(present, *later)
        async with asyncio.timeout(GUARD_S):
            while (await everything.receive_json()).get("seq") != later[-1].order:
                pass
        assert not connecting.done()
    async with asyncio.timeout(GUARD_S):
        ws = await connecting
        seqs = [(await ws.receive_json())["seq"] for _ in range(3)]
        assert seqs == [present.order, *(each.order for each in later)]
        await ws.close()


async def test_who_follows_a_job_just_sent_waits_for_no_database(
    settings: Settings, aiohttp_client: Any, database: Database
) -> None:
    client = await aiohttp_client(create_app(settings))
    job_id = (await (await client.post("/api/v1/generation-jobs/", json=SMALL_BODY)).json())["job_id"]

    async def heard() -> bool:
        return job_id in client.app[HUB].recent_jobs

    await eventually(heard)
    async with database.transaction() as session:
        await session.execute(text("LOCK TABLE generation_jobs IN ACCESS EXCLUSIVE MODE"))
        async with asyncio.timeout(GUARD_S), client.ws_connect(f"/ws/jobs/{job_id}") as ws:
            told = await ws.receive_json()
    read = frame(snapshot_of((await client.app[VIEWS].view(job_id)).job))
    assert told == read


async def test_what_was_heard_of_a_job_is_kept_no_longer_than_it_is_surely_the_present(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hub_behind_proxy(settings, Truth()) as (hub, proxy), running_hub(settings, Truth()) as (_, events):

        async def heard(count: int) -> None:
            async def known() -> bool:
                return len(hub.recent_jobs) == count

            await eventually(known)

        # In the wrong order: the later state counts.
        await events.publish(snapshot(1, Phase.EXECUTING, seq=3), snapshot(1, Phase.ASSIGNED, seq=2), snapshot(2))
        await heard(2)
        (told,) = hub.heard_of([1]) or ()
        assert told[:2] == (1, 3_000_000)
        assert hub.heard_of([1, 3]) is None
        with monkeypatch.context() as patched:
            patched.setattr("app.messaging.hub.RECENT_S", 0.0)
            await asyncio.sleep(0.01)
            assert hub.heard_of([1]) is None
        await events.publish_event({"type": "deleted", "job_id": 1})
        await heard(1)
        assert hub.heard_of([1]) is None
        assert hub.heard_of([2]) is not None
        await proxy.cut()
        await heard(0)
        assert hub.heard_of([2]) is None


async def test_only_so_many_jobs_are_remembered(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.messaging.hub.MOST_RECENT", 2)
    async with running_hub(settings, Truth()) as (hub, events):
        await events.publish(*(snapshot(job_id) for job_id in (1, 2, 1, 3)))

        async def heard() -> bool:
            return 3 in hub.recent_jobs

        await eventually(heard)
        assert hub.recent_jobs == [1, 3]


async def test_a_frame_is_made_once_for_all_who_watch_its_job(settings: Settings) -> None:
    """Of more watchers than are told at once none is passed over."""
    async with running_hub(settings, Truth()) as (hub, events):
        watchers = [Watching() for _ in range(AT_ONCE + 1)]
        for watcher in watchers:
            hub.watch(watcher, [1])
        await events.publish(snapshot(1, seq=5))

        async def told() -> bool:
            return all((1, 5_000_000, False) in watcher.frames for watcher in watchers)

        await eventually(told)
        assert len({id(watcher.messages[-1]) for watcher in watchers}) == 1


async def test_those_who_come_together_are_read_together(settings: Settings, database: Database) -> None:
    class Counting(JobViews):
        """Counts the reads."""

        reads = 0

        async def snapshots(self, job_ids: Sequence[int]) -> dict[int, Snapshot]:
            """Count, and read."""
            self.reads += 1
            return await super().snapshots(job_ids)

    async with running_hub(settings, Truth(0)) as (_, events):
        views = Counting(database)
        snapshots = Snapshots(views, events)
        assert await asyncio.gather(*(snapshots.read([job_id]) for job_id in range(1, 101))) == [[]] * 100
        assert views.reads <= 2


async def test_who_comes_while_the_server_shuts_down_is_dismissed_too(settings: Settings) -> None:
    async with running_hub(settings, Truth()) as (hub, _):
        early, both, late, late_all = (Watching() for _ in range(4))
        hub.watch(early, [1, 2])
        hub.watch_everything(both)
        hub.dismiss()
        hub.watch(late, [1])
        hub.watch_everything(late_all)
        assert all(watcher.dismissed for watcher in (early, both, late, late_all))


async def test_one_channel_brings_the_frames_of_all_jobs(settings: Settings) -> None:
    """However many come and go, Redis is asked for nothing."""
    async with running_hub(settings, Truth()) as (hub, events):
        before = await subscriptions(settings)
        first, second = Watching(), Watching()
        hub.watch(first, [1, 2])
        hub.watch(second, [2, 3])
        hub.unwatch(first, [1, 2])
        assert await subscriptions(settings) == before == {"events"}
        await events.publish(snapshot(1, seq=7), snapshot(2, seq=7), snapshot(3, seq=7))

        async def told() -> bool:
            return (3, 7_000_000, False) in second.frames

        await eventually(told)
        assert (2, 7_000_000, False) in second.frames
        assert all(order < 7_000_000 for _, order, _ in first.frames)
        hub.unwatch(second, [2, 3])
        hub.unwatch(second, [2, 3])
        assert hub.watched_jobs == set()


@pytest.mark.parametrize("phase", Phase)
async def test_a_frame_comes_to_who_watches_the_job_as_the_contract_has_it(settings: Settings, phase: Phase) -> None:
    """Without what is published besides for those who watch everything."""
    told = replace(snapshot(1, phase, seq=3), backend_name="here", error_message="why", progress=7, content_id=9)
    async with running_hub(settings, Truth()) as (hub, events):
        watcher, all_ = Watching(), Watching()
        hub.watch(watcher, [1])
        hub.watch_everything(all_)
        await events.publish(told)

        async def heard() -> bool:
            return any(event["type"] == "job" for event in all_.events)

        await eventually(heard)
        assert json.loads(watcher.messages[-1]) == frame(told)
        assert frame(told).items() <= all_.events[-1].items()
        assert (all_.events[-1]["phase"], all_.events[-1]["backend"]) == (phase, "here")


async def test_what_was_published_while_redis_was_away_is_read(settings: Settings) -> None:
    truth = Truth()
    async with hub_behind_proxy(settings, truth) as (hub, proxy):
        watcher, all_ = Watching(), Watching()
        hub.watch(watcher, [1, 2])
        hub.watch_everything(all_)
        await proxy.cut()
        truth.jobs[1] = snapshot(1, Phase.COMPLETED, seq=5)

        async def told() -> bool:
            return (1, 5_000_000, True) in watcher.frames

        # Even though it stays away.
        await eventually(told)
        truth.jobs[2] = snapshot(2, Phase.FAILED, seq=6)
        await proxy.restore()

        async def back() -> bool:
            return hub.connected and (2, 6_000_000, True) in watcher.frames and {"type": "hello"} in all_.events

        await eventually(back)
        proxy_connections = proxy.accepted
        assert proxy_connections >= 2


async def test_as_soon_as_redis_is_back_what_was_missed_is_read(settings: Settings) -> None:
    """Six times within a time in which the slow poll would have come round twice."""
    truth = Truth()
    async with hub_behind_proxy(settings, truth) as (hub, proxy), asyncio.timeout(GUARD_S):
        watcher = Watching()
        hub.watch(watcher, [1])
        for seq in range(2, 8):
            await proxy.cut()
            truth.jobs[1] = snapshot(1, seq=seq)
            await proxy.restore()

            async def told(seq: int = seq) -> bool:
                return (1, seq * 1_000_000, False) in watcher.frames

            await eventually(told)


async def test_who_comes_while_redis_is_away_is_told_all_the_same(settings: Settings) -> None:
    truth = Truth()
    async with hub_behind_proxy(settings, truth) as (hub, proxy):
        await proxy.cut()

        async def away() -> bool:
            return not hub.connected

        await eventually(away)
        watcher = Watching()
        hub.watch(watcher, [3])
        truth.jobs[3] = replace(truth.jobs[3], seq=4)

        async def told() -> bool:
            return (3, 4_000_000, False) in watcher.frames

        await eventually(told)


@pytest.mark.parametrize("fault", [DatabaseUnavailable("away"), RuntimeError("a bug")])
async def test_a_failing_read_does_not_end_the_healing(
    settings: Settings, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    truth = Truth()
    async with hub_behind_proxy(settings, truth) as (hub, proxy):
        watcher = Watching()
        hub.watch(watcher, [1])
        await proxy.cut()
        truth.fault, reads = fault, truth.reads

        async def tried() -> bool:
            return truth.reads >= reads + 2

        await eventually(tried)
        truth.fault = None
        truth.jobs[1] = snapshot(1, Phase.CANCELLED, seq=2)

        async def told() -> bool:
            return (1, 2_000_000, True) in watcher.frames

        await eventually(told)
    assert caplog.records


async def test_a_job_that_is_gone_is_waited_for_no_longer(settings: Settings) -> None:
    truth = Truth()
    async with hub_behind_proxy(settings, truth) as (hub, proxy):
        watcher = Watching()
        hub.watch(watcher, [1, 2])
        del truth.jobs[1]
        await proxy.cut()

        async def told() -> bool:
            return watcher.forgotten != []

        await eventually(told)
        assert set(watcher.forgotten) == {1}


async def test_a_socket_whose_job_was_deleted_is_closed_all_the_same(settings: Settings, aiohttp_client: Any) -> None:
    """The event of the end is lost with Redis, and the job is deleted before anybody reads it again."""
    async with proxied(settings.redis_url) as (proxy, through):
        client = await aiohttp_client(create_app(settings.model_copy(update={"redis_url": through})))
        other = await aiohttp_client(create_app(settings))
        job_id = (await (await other.post("/api/v1/generation-jobs/", json=SMALL_BODY)).json())["job_id"]
        async with asyncio.timeout(GUARD_S), client.ws_connect(f"/ws/jobs/{job_id}") as ws:
            assert (await ws.receive_json())["status"] == "pending"
            await proxy.cut()
            await other.post(f"/api/v1/generation-jobs/{job_id}/cancel")
            assert (await other.delete(f"/api/v1/generation-jobs/{job_id}")).status == 204
            statuses = [message.json()["status"] async for message in ws]
        assert (ws.close_code, statuses in ([], ["cancelled"])) == (1000, True)
        await client.close()


async def test_nonsense_on_a_channel_does_not_end_the_hub(
    settings: Settings, redis: ArqRedis, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_hub(settings, Truth()) as (hub, events):
        watcher = Watching()
        hub.watch(watcher, [1])
        await redis.publish(names.events, b"\xff not JSON")

        async def stumbled() -> bool:
            return any("hub" in record.getMessage() for record in caplog.records)

        await eventually(stumbled)
        await events.publish(snapshot(1, seq=8))

        async def told() -> bool:
            await events.publish(snapshot(1, seq=8))
            return (1, 8_000_000, False) in watcher.frames

        await eventually(told)


async def test_a_hundred_sockets_share_one_connection_to_redis(settings: Settings, aiohttp_client: Any) -> None:
    app = create_app(settings)
    client = await aiohttp_client(app)
    job_ids = [
        (await (await client.post("/api/v1/generation-jobs/", json=SMALL_BODY)).json())["job_id"] for _ in range(10)
    ]
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(Redis.from_url(settings.redis_url_with_db))

        async def listeners() -> list[dict[str, str]]:
            return [one for one in await redis.client_list(_type="pubsub") if int(one["sub"]) > 0]

        assert app[HUB].connected or await eventually(lambda: _connected(app[HUB]))
        before = {one["id"] for one in await listeners()}
        session = await stack.enter_async_context(ClientSession(connector=TCPConnector(limit=0)))
        sockets = [
            await session.ws_connect(client.make_url(f"/ws/jobs/{job_ids[number % 10]}")) for number in range(100)
        ]
        for ws in sockets:
            assert (await ws.receive_json())["status"] == "pending"
        after = await listeners()
        assert {one["id"] for one in after} == before
        assert [int(one["sub"]) for one in after] == [1]
        await client.post(f"/api/v1/generation-jobs/{job_ids[0]}/cancel")
        for ws in sockets[::10]:
            assert (await ws.receive_json())["status"] == "cancelled"
        for ws in sockets:
            await ws.close()


async def _connected(hub: Hub) -> bool:
    return hub.connected


async def test_a_tick_that_an_outage_held_up_does_not_make_progress_fall(settings: Settings) -> None:
    redis = make_listener(settings)
    hub = Hub(redis, Names(settings.redis_namespace), _nobody, bytes.strip, ServerMetrics())
    told: list[int] = []

    class Listener:
        """Keeps the progress that it is told."""

        def offer(self, job_id: int, order: int, message: bytes, *, finished: bool) -> None:
            told.append(json.loads(message)["progress"])

        def offer_event(self, message: bytes) -> None:
            """Not of interest."""

        def forget(self, job_id: int) -> None:
            """Not of interest."""

        def dismiss(self) -> None:
            """Not of interest."""

    hub.watch(Listener(), [1])
    for seq, progress in enumerate((40, 91, 75, 91, 95)):
        news = {"type": "job", "job_id": 1, "status": "processing", "seq": seq, "progress": progress}
        news["timestamp"] = "2026-01-01T00:00:00.000Z"
        await hub.forward(json.dumps(news).encode())
    await close(redis)
    assert told == [40, 91, 91, 95]


async def test_progress_falls_with_no_reading_of_a_job_either(settings: Settings) -> None:
    """A run was taken over after Redis was emptied: what PostgreSQL has of its progress is older than what was told."""
    truth, watcher = Truth(), Watching()
    run = replace(snapshot(1, Phase.EXECUTING, seq=3), progress=50)
    async with running_hub(settings, truth) as (hub, events):
        hub.watch(watcher, [1])

        async def told(*percents: int) -> None:
            async def heard() -> bool:
                return [json.loads(each).get("progress") for each in watcher.messages] == list(percents)

            await eventually(heard)
            watcher.messages.clear()

        await events.publish(run, replace(run, tick=1, progress=75))
        await told(50, 75)
        truth.jobs[1] = replace(run, seq=4)
        await hub.resync()
        await told(75)
        # What the worker that took it over tells is told again when it is news.
        await events.publish(replace(run, seq=4, tick=1, progress=62), replace(run, seq=4, tick=2, progress=80))
        await told(80)
        # Another attempt begins anew, though all that was told of the change got lost.
        truth.jobs[1] = replace(run, seq=7, attempt=2, progress=10)
        await hub.resync()
        await told(10)
        await events.publish(replace(run, seq=7, attempt=2, tick=1, progress=12))
        await told(12)


async def _nobody(job_ids: Sequence[int]) -> list[Snapshot]:
    del job_ids
    return []
