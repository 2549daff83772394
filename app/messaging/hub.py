"""Open sockets of this process: one Redis connection for all of them, and each event forwarded to who watches it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
from redis.exceptions import RedisError

from app.batching import Batcher
from app.cancellation import end_tasks
from app.domain.errors import Unavailable
from app.domain.job import Phase
from app.domain.message import Snapshot, frame
from app.messaging.connection import AWAY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from redis.asyncio import Redis
    from redis.asyncio.client import PubSub

    from app.messaging.channels import Names
    from app.metrics import ServerMetrics

log = logging.getLogger(__name__)

CONFIRM_S: Final = 2.0
"""So long a new watcher waits for Redis to confirm its subscription; after that polling serves it."""
HEAL_S: Final = 10.0
"""Watched jobs are read again this often, in case an event was lost on the way."""
HEAL_WITHOUT_REDIS_S: Final = 1.0
HELLO: Final = b'{"type": "hello"}'
"""Tells those who watch everything to look at everything anew, because an event may have been lost."""
AT_ONCE: Final = 500
"""Watchers that are told before everybody else on the event loop has a turn."""
_FIRST_DELAY_S: Final = 0.1
_SUBSCRIBING_AT_ONCE: Final = 1000


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


class Hub:
    """Forwards events from Redis to watchers, and makes up for lost ones by reading the jobs again.

    `read` returns the present snapshots of those of the jobs that exist; `encode` makes of a JSON text what watchers
    take.
    """

    def __init__(
        self,
        listener: Redis,
        names: Names,
        read: Callable[[Sequence[int]], Awaitable[list[Snapshot]]],
        encode: Callable[[bytes], bytes],
        metrics: ServerMetrics,
    ) -> None:
        self._listener = listener
        self._names = names
        self._read = read
        self._encode = encode
        self._metrics = metrics
        self._watchers: dict[int, set[Watcher]] = {}
        self._progress: dict[int, int] = {}
        """What was last told of each watched job that runs."""
        self._everything: set[Watcher] = set()
        self._pubsub: PubSub | None = None
        self._confirmed: dict[str, asyncio.Event] = {}
        """Channels that were subscribed to, and whether Redis has confirmed it."""
        self._joining = Batcher(self._subscribe, most=_SUBSCRIBING_AT_ONCE, flights=1)
        self._left: set[int] = set()
        """Jobs whose last watcher has left, and whose channels have not."""
        self._leaving = asyncio.Event()
        self._lock = asyncio.Lock()
        self._dismissed = False

    @property
    def connected(self) -> bool:
        """Whether events arrive."""
        return self._pubsub is not None

    async def watch(self, watcher: Watcher, job_ids: Iterable[int]) -> None:
        """Forward from now on; returns when no event can fall between this and a snapshot read afterwards."""
        channels = []
        for job_id in job_ids:
            self._watchers.setdefault(job_id, set()).add(watcher)
            channels.append(self._names.job(job_id))
        if self._dismissed:
            watcher.dismiss()
        await self._join(channels)

    def unwatch(self, watcher: Watcher, job_ids: Iterable[int]) -> None:
        """Forward no more; a job that nobody watches any longer is soon unsubscribed from."""
        for job_id in job_ids:
            watchers = self._watchers.get(job_id)
            if watchers is not None:
                watchers.discard(watcher)
                if not watchers:
                    del self._watchers[job_id]
                    self._progress.pop(job_id, None)
                    self._left.add(job_id)
                    self._leaving.set()

    async def watch_everything(self, watcher: Watcher) -> None:
        """Forward every event of the service."""
        self._everything.add(watcher)
        if self._dismissed:
            watcher.dismiss()
        await self._join([self._names.events])

    def unwatch_everything(self, watcher: Watcher) -> None:
        """Undo `watch_everything`; the one channel stays subscribed."""
        self._everything.discard(watcher)

    def dismiss(self) -> None:
        """Tell every watcher, and whoever still comes, that the server shuts down."""
        self._dismissed = True
        for watcher in self._everything.union(*self._watchers.values()):
            watcher.dismiss()

    async def run(self) -> None:
        """Listen until cancelled; whatever happens to Redis, come back to it."""
        healing = asyncio.create_task(self._heal_for_ever(), name="hub-heal")
        leaving = asyncio.create_task(self._leave_for_ever(), name="hub-leave")
        delay_s = _FIRST_DELAY_S
        try:
            while True:
                try:
                    await self._listen()
                except (*AWAY, RedisError) as error:
                    log.warning("no connection to Redis, watched jobs are polled until it is back: %s", error)
                except Exception:
                    log.exception("the hub stumbled, and begins again")
                # Right after a loss at once again, then ever more seldom.
                delay_s = _FIRST_DELAY_S if self.connected else min(delay_s * 2, 2.0)
                self._pubsub = None
                await asyncio.sleep(delay_s)
        finally:
            await end_tasks([healing, leaving])

    async def _join(self, channels: Sequence[str]) -> None:
        """Subscribe to channels that are not yet, and wait until Redis has confirmed it, or is found to be away."""
        new = [channel for channel in channels if not self._is_confirmed(channel)]
        if not new:
            return
        await self._joining.do(new)
        if self._pubsub is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONFIRM_S):
                    for channel in new:
                        await self._confirmed[channel].wait()

    async def _subscribe(self, asked: Sequence[Sequence[str]]) -> list[None]:
        """Subscribe to the channels of many watchers that came at the same time."""
        async with self._lock:
            channels = {channel for each in asked for channel in each if not self._is_confirmed(channel)}
            for channel in channels:
                self._confirmed.setdefault(channel, asyncio.Event())
            if self._pubsub is not None and channels:
                with contextlib.suppress(*AWAY, RedisError):
                    await self._pubsub.subscribe(*channels)
        return [None] * len(asked)

    async def _leave_for_ever(self) -> None:
        while True:
            await self._leaving.wait()
            self._leaving.clear()
            try:
                await self._unsubscribe()
            except (*AWAY, RedisError):
                pass  # With the connection its subscriptions are gone, and only what is watched is subscribed to anew.
            except Exception:
                log.exception("the hub could not leave channels")

    async def _unsubscribe(self) -> None:
        async with self._lock:
            # Somebody may have begun to watch while we waited for the lock.
            gone = [self._names.job(job_id) for job_id in self._left if job_id not in self._watchers]
            self._left.clear()
            for channel in gone:
                self._confirmed.pop(channel, None)
            if self._pubsub is not None and gone:
                await self._pubsub.unsubscribe(*gone)

    def _is_confirmed(self, channel: str) -> bool:
        event = self._confirmed.get(channel)
        return event is not None and event.is_set()

    async def _listen(self) -> None:
        """Subscribe to all that is watched and forward, until the connection breaks."""
        async with self._listener.pubsub() as pubsub:
            async with self._lock:
                for event in self._confirmed.values():
                    event.clear()
                channels = {self._names.events, *(self._names.job(job_id) for job_id in self._watchers)}
                for channel in channels:
                    self._confirmed.setdefault(channel, asyncio.Event())
                await pubsub.subscribe(*channels)
                self._pubsub = pubsub
            awaited = set(channels)
            while True:
                message = await pubsub.get_message(timeout=5)
                if message is None:
                    # Silence may be a dead connection: the ping goes out when health_check_interval is over.
                    await pubsub.check_health()
                    continue
                channel = message["channel"].decode()
                if message["type"] == "subscribe":
                    self._confirm(channel)
                    if awaited:
                        awaited.discard(channel)
                        if not awaited:
                            # Redis drops what is published while nobody listens: look at everything once more.
                            await self._resync()
                elif message["type"] == "message":
                    await self._forward(channel, message["data"])

    def _confirm(self, channel: str) -> None:
        event = self._confirmed.get(channel)
        if event is not None:
            event.set()

    async def _forward(self, channel: str, text: bytes) -> None:
        if channel == self._names.events:
            text.decode()  # What is no text would end the connection of every client.
            message = self._encode(text)
            async for some in _parts(self._everything):
                for watcher in some:
                    watcher.offer_event(message)
            return
        told: dict[str, Any] = orjson.loads(text)
        job_id, order = told["job_id"], told["seq"]
        finished = told["status"] in ("completed", "failed", "cancelled")
        if self._rises(job_id, told.get("progress") if told["status"] == "processing" else None):
            await self._offer(job_id, order, text, finished=finished)
            self._metrics.forwarded(told.get("timestamp"))

    async def _offer(self, job_id: int, order: int, text: bytes, *, finished: bool) -> None:
        if watchers := self._watchers.get(job_id):
            message = self._encode(text)
            async for some in _parts(watchers):
                for watcher in some:
                    watcher.offer(job_id, order, message, finished=finished)

    def note(self, snapshots: Iterable[Snapshot]) -> None:
        """Note what watchers are told besides what is forwarded, so that no progress that is late falls behind it."""
        for snapshot in snapshots:
            running = snapshot.phase in (Phase.EXECUTING, Phase.SAVING, Phase.CANCELLING)
            if snapshot.job_id in self._watchers:
                self._rises(snapshot.job_id, snapshot.progress if running else None)

    def _rises(self, job_id: int, progress: int | None) -> bool:
        """Note a job's progress, and return whether it may be told: a tick held up by an outage of Redis may be old.

        None, which is said of a job that does not run, begins anew.
        """
        if progress is None:
            self._progress.pop(job_id, None)
            return True
        rises = progress >= self._progress.get(job_id, 0)
        if rises and job_id in self._watchers:
            self._progress[job_id] = progress
        return rises

    async def _heal_for_ever(self) -> None:
        while True:
            await asyncio.sleep(HEAL_S if self.connected else HEAL_WITHOUT_REDIS_S)
            try:
                await self._resync()
            except Exception:
                log.exception("the hub could not read the watched jobs again")

    async def _resync(self) -> None:
        """Offer every watcher the present state of what it watches; those who know it already drop it."""
        hello = self._encode(HELLO)
        for watcher in list(self._everything):
            watcher.offer_event(hello)
        job_ids = list(self._watchers)
        for start in range(0, len(job_ids), 500):
            asked = job_ids[start : start + 500]
            try:
                snapshots = await self._read(asked)
            except Unavailable as error:
                log.warning("could not read the watched jobs again: %s", error)
                return
            self.note(snapshots)
            for snapshot in snapshots:
                text = orjson.dumps(frame(snapshot))
                await self._offer(snapshot.job_id, snapshot.order, text, finished=snapshot.finished)
            for job_id in set(asked) - {snapshot.job_id for snapshot in snapshots}:
                # Deleted, and so finished before; who missed that must not wait for it for ever.
                for watcher in list(self._watchers.get(job_id, ())):
                    watcher.forget(job_id)


async def _parts(watchers: Iterable[Watcher]) -> AsyncIterator[list[Watcher]]:
    """Yield those who watch at this moment, `AT_ONCE` of them at a time."""
    present = list(watchers)
    for start in range(0, len(present), AT_ONCE):
        if start:
            await asyncio.sleep(0)
        yield present[start : start + AT_ONCE]
