"""Who is there: read from Redis a few times a second at most, and waited for only where a moment matters."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.errors import QueueUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.domain.heartbeats import BackendBeat, WorkerBeat
    from app.messaging.registry import Registry

log = logging.getLogger(__name__)

LATER_S: Final = 0.1
"""Seconds before a background read begins, so that the request that was answered from older data is served first."""
FRESH_S: Final = 0.2
"""Heartbeats come seconds apart: a fifth of a second more or less tells nothing new."""


@dataclass(frozen=True, slots=True)
class FleetMembers:
    """Who is there at one moment."""

    backends: Sequence[BackendBeat]
    """The heartbeats of all backends seen within a day."""
    workers: Sequence[WorkerBeat]
    """Those of all workers."""

    @property
    def any_worker(self) -> bool:
        """Whether a worker is alive."""
        return any(beat.live for beat in self.workers)


class LiveFleet:
    """Heartbeats of backends and workers. Methods raise `QueueUnavailable` while Redis is away."""

    def __init__(self, registry: Registry, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._clock = clock
        # The time between two heartbeats.
        self._recent_s = registry.stale_s / 3
        self._lock = asyncio.Lock()
        self._began_at = self._read_at = float("-inf")
        self._present = FleetMembers((), ())
        self._refreshing: asyncio.Task[None] | None = None

    async def recently(self) -> FleetMembers:
        """Return at once the fleet of at most a few seconds ago, and begin a new read for later calls.

        Do not refuse a request because of it: call `now` before that.
        """
        age_s = self._clock() - self._read_at
        if age_s > self._recent_s:
            return await self.now()
        if age_s > FRESH_S and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.create_task(self._refresh(), name="presence")
        return self._present

    async def now(self) -> FleetMembers:
        """Return who is there."""
        return await self._read(lambda: self._clock() - self._read_at > FRESH_S)

    async def afresh(self) -> FleetMembers:
        """Return who is there by heartbeats read after this was called, when newer ones are known to exist."""
        called_at = self._clock()
        return await self._read(lambda: self._began_at < called_at)

    async def _read(self, due: Callable[[], bool]) -> FleetMembers:
        if due():
            async with self._lock:
                # The task that held the lock before has read them.
                if due():
                    began_at = self._clock()
                    backends, workers = await asyncio.gather(self._registry.backends(), self._registry.workers())
                    self._present = FleetMembers(backends, workers)
                    self._began_at, self._read_at = began_at, self._clock()
        return self._present

    async def settle(self) -> None:
        """Return when no read goes on in the background."""
        if self._refreshing is not None:
            await self._refreshing

    async def _refresh(self) -> None:
        await asyncio.sleep(LATER_S)
        try:
            await self.now()
        except QueueUnavailable as error:
            log.debug("who is there could not be read: %s", error)
