"""Open sockets of this process: one Redis connection for all of them, and each event forwarded to who watches it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson

from app.domain.errors import Unavailable
from app.domain.job import Phase
from app.domain.message import Snapshot, frame
from app.messaging.events import frame_of
from app.messaging.own_events import OwnEvents
from app.messaging.redis_connection import REDIS_ERRORS
from app.runtime.end_tasks import end_tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

    from redis.asyncio import Redis

    from app.messaging.channels import Names
    from app.metrics import ServerMetrics

log = logging.getLogger(__name__)

HEAL_S: Final = 10.0
"""Watched jobs are read again this often, in case an event was lost on the way."""
HEAL_WITHOUT_REDIS_S: Final = 1.0
HELLO: Final = b'{"type": "hello"}'
"""Tells clients that watch all events to read everything again, because an event may have been lost."""
RECENT_S: Final = 2.0
"""Seconds for which the hub keeps the last news of a job, for clients that watch a job right after sending it."""
MOST_RECENT: Final = 4096
PROGRESS_S: Final = 0.25
"""Minimum seconds between two progress messages of a job to a client that watches all events."""
AT_ONCE: Final = 500
"""Maximum number of watchers that get a message before other tasks of the event loop run."""
_FIRST_DELAY_S: Final = 0.1
_FINISHED: Final = ("completed", "failed", "cancelled")


Offer = tuple[int, int, bytes, bool]
"""What `Watcher.offer` takes: job, `seq`, message, and whether the job has finished."""


class Watcher(Protocol):
    """Who watches jobs: takes what it is offered without waiting. A message is encoded once for all watchers."""

    def offer(self, job_id: int, order: int, message: bytes, *, finished: bool) -> None:
        """Take a message of a job; `order` is its `seq`."""

    def offer_event(self, message: bytes) -> None:
        """Take an event of the service, if it watches everything."""

    def forget(self, job_id: int) -> None:
        """Wait for this job no longer: it was deleted."""

    def dismiss(self) -> None:
        """Go: the server shuts down."""


async def _nobodys(job_ids: Sequence[int]) -> Mapping[int, str]:
    """Return that it is not known whose the jobs are."""
    del job_ids
    return {}


class Hub:
    """Forwards events from Redis to watchers, and makes up for lost ones by reading the jobs again.

    All jobs' frames come through one channel, which is needed for all events anyway. So a client that begins to watch
    a job waits for no subscription, and each event is published once and read by each server once.
    `read` returns the present snapshots of those of the jobs that exist, and `owners` whose they are; `encode` makes of
    a JSON text what watchers take.
    """

    def __init__(
        self,
        listener: Redis,
        names: Names,
        read: Callable[[Sequence[int]], Awaitable[list[Snapshot]]],
        encode: Callable[[bytes], bytes],
        metrics: ServerMetrics,
        owners: Callable[[Sequence[int]], Awaitable[Mapping[int, str]]] = _nobodys,
    ) -> None:
        self._listener = listener
        self._names = names
        self._read = read
        self._encode = encode
        self._metrics = metrics
        self._watchers: dict[int, set[Watcher]] = {}
        self._progress: dict[int, tuple[int, int]] = {}
        """What was last told of each watched job that runs: its attempt, 0 if not known, and how far it is."""
        self._everything: set[Watcher] = set()
        self._own: OwnEvents[Watcher] = OwnEvents(owners, encode(HELLO))
        """Clients that watch all events of their own jobs."""
        self._paces: dict[int, _Pace] = {}
        """How often progress of each running job is sent to clients that watch all events."""
        self._recent: dict[int, tuple[float, dict[str, Any]]] = {}
        """The last news of jobs, the oldest first, and when it was heard, by the event loop's clock."""
        self._connected = False
        self._dismissed = False
        self.on_event: dict[str, Callable[[dict[str, Any]], None]] = {}
        """Type of an event of the service → who in this process is told of it."""

    @property
    def connected(self) -> bool:
        """Whether events arrive."""
        return self._connected

    @property
    def watched_jobs(self) -> frozenset[int]:
        """Ids of the jobs that anybody watches."""
        return frozenset(self._watchers)

    @property
    def recent_jobs(self) -> list[int]:
        """Ids of the jobs whose last news is kept, the oldest news first."""
        return list(self._recent)

    @property
    def paced_jobs(self) -> frozenset[int]:
        """Ids of the running jobs whose progress is told no more often than is allowed."""
        return frozenset(self._paces)

    @property
    def viewers(self) -> int:
        """Number of clients that watch all events, be it of their own jobs only."""
        return len(self._everything) + len(list(self._own))

    def watchers_of(self, job_id: int) -> frozenset[Watcher]:
        """Return the watchers of this job."""
        return frozenset(self._watchers.get(job_id, ()))

    def watch(self, watcher: Watcher, job_ids: Iterable[int]) -> None:
        """Forward from now on: no event falls between this and a snapshot read afterwards.

        While no events arrive polling serves the watcher, and as soon as they do it is told the present state.
        """
        for job_id in job_ids:
            self._watchers.setdefault(job_id, set()).add(watcher)
        if self._dismissed:
            watcher.dismiss()

    def heard_of(self, job_ids: Sequence[int]) -> list[Offer] | None:
        """Return what `Watcher.offer` takes, for the present state of these jobs; None if any has no recent news.

        This saves two reads for a client that follows a job right after sending it. Later events reach the watcher.
        """
        since = asyncio.get_running_loop().time() - RECENT_S
        heard = [self._recent.get(job_id) for job_id in job_ids] if self._connected else [None]
        known = [each[1] for each in heard if each is not None and each[0] >= since]
        if len(known) < len(heard):
            return None
        present = []
        for told in known:
            self._rises(told)
            message = self._encode(orjson.dumps(frame_of(told)))
            present.append((told["job_id"], told["seq"], message, told["status"] in _FINISHED))
        return present

    def offers(self, snapshots: Sequence[Snapshot]) -> list[Offer]:
        """Return what `Watcher.offer` takes of snapshots that were read for watchers."""
        present = [self._risen(each) for each in snapshots]
        return [(each.job_id, each.order, self._encode(orjson.dumps(frame(each))), each.finished) for each in present]

    def unwatch(self, watcher: Watcher, job_ids: Iterable[int]) -> None:
        """Forward no more."""
        for job_id in job_ids:
            watchers = self._watchers.get(job_id)
            if watchers is not None:
                watchers.discard(watcher)
                if not watchers:
                    del self._watchers[job_id]
                    self._progress.pop(job_id, None)

    def watch_everything(self, watcher: Watcher, owner: str | None = None) -> None:
        """Forward every event of the service; with an owner those of this user's jobs, and no others."""
        if owner is None:
            self._everything.add(watcher)
        else:
            self._own.watch(watcher, owner)
        if self._dismissed:
            watcher.dismiss()

    def unwatch_everything(self, watcher: Watcher) -> None:
        """Undo `watch_everything`."""
        self._everything.discard(watcher)
        self._own.unwatch(watcher)
        if not self._everything and not self._own:
            self._forget_paces()

    def dismiss(self) -> None:
        """Tell every watcher, and each later one, that the server shuts down."""
        self._dismissed = True
        for watcher in self._everything.union(self._own, *self._watchers.values()):
            watcher.dismiss()

    async def run(self) -> None:
        """Listen until cancelled; whatever happens to Redis, come back to it."""
        healing = asyncio.create_task(self._heal_for_ever(), name="hub-heal")
        delay_s = _FIRST_DELAY_S
        try:
            while True:
                try:
                    await self._listen()
                except REDIS_ERRORS as error:
                    log.warning("no connection to Redis, watched jobs are polled until it is back: %s", error)
                except Exception:
                    log.exception("the hub stumbled, and begins again")
                # Right after a loss at once again, then ever more seldom.
                delay_s = _FIRST_DELAY_S if self._connected else min(delay_s * 2, 2.0)
                lost, self._connected = self._connected, False
                if lost:
                    # Clients are also notified when events stop arriving, so that the page shows it at once.
                    self._greet()
                self._recent.clear()
                self._forget_paces()
                await asyncio.sleep(delay_s)
        finally:
            self._forget_paces()
            await end_tasks([healing])
            await self._own.close()

    async def _listen(self) -> None:
        """Subscribe and forward, until the connection breaks."""
        async with self._listener.pubsub() as pubsub:
            await pubsub.subscribe(self._names.events)
            while True:
                message = await pubsub.get_message(timeout=5)
                if message is None:
                    # Silence may be a dead connection: the ping goes out when health_check_interval is over.
                    await pubsub.check_health()
                elif message["type"] == "subscribe":
                    self._connected = True
                    # Redis drops what is published without a subscriber: read everything once more.
                    await self.resync()
                elif message["type"] == "message":
                    await self.forward(message["data"])

    async def forward(self, text: bytes) -> None:
        """Forward one event, as it was published, to its watchers."""
        # What is no text would end the connection of every client: it raises here.
        told: Any = orjson.loads(text)
        if isinstance(told, dict) and told.get("type") == "job":
            self._remember(told)
            if told["job_id"] in self._watchers:
                await self._forward_frame(told)
        elif isinstance(told, dict) and told.get("type") == "deleted":
            self._recent.pop(told["job_id"], None)
        elif isinstance(told, dict) and (callback := self.on_event.get(told.get("type", ""))) is not None:
            callback(told)
        if (self._everything or self._own) and not self._held_back(told, text):
            message = self._encode(text)
            if self._own and isinstance(told, dict) and isinstance(told.get("job_id"), int):
                # What is of no job is for those who see all.
                self._own.forward(told["job_id"], message, told.get("user_id"))
            async for some in _parts(self._everything):
                for watcher in some:
                    watcher.offer_event(message)

    def _held_back(self, told: Any, text: bytes) -> bool:
        """Whether an event is progress that comes too soon after the last: the newest is told when its time has come.

        Whatever else is told of the job says more than the progress before it, which is dropped.
        """
        if not isinstance(told, dict) or told.get("type") != "job":
            return False
        job_id, stage = told["job_id"], (told["status"], told.get("phase"))
        pace = self._paces.get(job_id)
        if pace is not None and pace.stage == stage and stage[0] == "processing":
            pace.held = text
            return True
        if pace is not None:
            del self._paces[job_id]
            pace.timer.cancel()
        if stage[0] == "processing":
            self._paces[job_id] = _Pace(stage, self._later(job_id))
        return False

    def _later(self, job_id: int) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(PROGRESS_S, self._tell_held, job_id)

    def _tell_held(self, job_id: int) -> None:
        """Tell the newest progress of a job that was held back, if there is any."""
        pace = self._paces[job_id]
        if pace.held is None:
            del self._paces[job_id]
            return
        message, pace.held, pace.timer = self._encode(pace.held), None, self._later(job_id)
        for watcher in list(self._everything):
            watcher.offer_event(message)
        if self._own:
            self._own.forward(job_id, message)

    def _forget_paces(self) -> None:
        for pace in self._paces.values():
            pace.timer.cancel()
        self._paces.clear()

    def _remember(self, told: dict[str, Any]) -> None:
        last = self._recent.pop(told["job_id"], None)
        if last is not None and last[1]["seq"] > told["seq"]:
            told = last[1]
        self._recent[told["job_id"]] = asyncio.get_running_loop().time(), told
        if len(self._recent) > MOST_RECENT:
            del self._recent[next(iter(self._recent))]

    async def _forward_frame(self, told: dict[str, Any]) -> None:
        finished = told["status"] in _FINISHED
        if self._rises(told):
            await self._offer(told["job_id"], told["seq"], self._encode(orjson.dumps(frame_of(told))), finished)
            self._metrics.forwarded(told.get("timestamp"))

    async def _offer(self, job_id: int, order: int, message: bytes, finished: bool) -> None:
        if watchers := self._watchers.get(job_id):
            async for some in _parts(watchers):
                for watcher in some:
                    watcher.offer(job_id, order, message, finished=finished)

    def _risen(self, snapshot: Snapshot) -> Snapshot:
        """Record a snapshot that is about to be sent to watchers, and return it with progress that never falls.

        Its progress may be older than what was sent of this attempt: PostgreSQL gets progress only with a heartbeat,
        and the newer progress in Redis is lost when Redis is emptied.
        """
        attempt, percent = self._progress.get(snapshot.job_id, (0, 0))
        runs = snapshot.phase in (Phase.EXECUTING, Phase.SAVING, Phase.CANCELLING)
        if runs and attempt in (0, snapshot.attempt) and percent > snapshot.progress:
            snapshot = replace(snapshot, progress=percent)
        if snapshot.job_id in self._watchers:
            self._keep(snapshot.job_id, snapshot.attempt, snapshot.progress if runs else None)
        return snapshot

    def _rises(self, told: dict[str, Any]) -> bool:
        """Note a job's progress, and return whether it may be told: a tick held up by an outage of Redis may be old."""
        progress = told.get("progress") if told["status"] == "processing" else None
        # Workers of an older version do not name the attempt.
        attempt = told.get("attempt") or self._progress.get(told["job_id"], (0, 0))[0]
        return self._keep(told["job_id"], attempt, progress)

    def _keep(self, job_id: int, attempt: int, progress: int | None) -> bool:
        """Keep how far an attempt is, if that is news. None, which is said of a job that does not run, begins anew."""
        if progress is None:
            self._progress.pop(job_id, None)
            return True
        rises = (attempt, progress) >= self._progress.get(job_id, (0, 0))
        if rises and job_id in self._watchers:
            self._progress[job_id] = attempt, progress
        return rises

    def _greet(self) -> None:
        hello = self._encode(HELLO)
        for watcher in (*self._everything, *self._own):
            watcher.offer_event(hello)

    async def _heal_for_ever(self) -> None:
        while True:
            await asyncio.sleep(HEAL_S if self._connected else HEAL_WITHOUT_REDIS_S)
            try:
                await self.resync()
            except Exception:
                log.exception("the hub could not read the watched jobs again")

    async def resync(self) -> None:
        """Offer every watcher the present state of its jobs; watchers drop what they were told before."""
        self._greet()
        job_ids = list(self._watchers)
        for start in range(0, len(job_ids), 500):
            asked = job_ids[start : start + 500]
            try:
                snapshots = await self._read(asked)
            except Unavailable as error:
                log.warning("could not read the watched jobs again: %s", error)
                return
            for offer in self.offers(snapshots):
                await self._offer(*offer)
            for job_id in set(asked) - {snapshot.job_id for snapshot in snapshots}:
                # Deleted, and so finished before; who missed that must not wait for it for ever.
                for watcher in list(self._watchers.get(job_id, ())):
                    watcher.forget(job_id)


@dataclass(slots=True)
class _Pace:
    """How often progress of one job is sent to clients that watch all events."""

    stage: tuple[str, str | None]
    """Status and phase that the progress is of."""
    timer: asyncio.TimerHandle
    """Fires when the next progress may be sent."""
    held: bytes | None = None
    """The newest progress that was not told yet."""


async def _parts(watchers: Iterable[Watcher]) -> AsyncIterator[list[Watcher]]:
    """Yield the watchers of this moment, `AT_ONCE` at a time."""
    present = list(watchers)
    for start in range(0, len(present), AT_ONCE):
        if start:
            await asyncio.sleep(0)
        yield present[start : start + AT_ONCE]
