"""Who is there, as of a moment ago: read from Redis at most a few times a second, however many ask."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.messaging.registry import Beat, Registry

FRESH_S: Final = 0.2
"""Heartbeats come seconds apart: a fifth of a second more or less tells nothing new."""


class Presence:
    """Heartbeats of backends and workers. Methods raise `QueueUnavailable` while Redis is away."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = asyncio.Lock()
        self._read_at = float("-inf")
        self._backends: Sequence[Beat] = ()
        self._workers: Sequence[Beat] = ()

    async def backends(self) -> Sequence[Beat]:
        """Return the heartbeats of all backends seen within a day."""
        await self._refresh()
        return self._backends

    async def any_worker(self) -> bool:
        """Whether a worker is alive."""
        await self._refresh()
        return any(beat.live for beat in self._workers)

    async def _refresh(self) -> None:
        if time.monotonic() - self._read_at <= FRESH_S:
            return
        async with self._lock:
            # Whoever held the lock before has read them.
            if time.monotonic() - self._read_at <= FRESH_S:
                return
            backends, workers = await self._registry.backends(), await self._registry.workers()
            self._backends, self._workers, self._read_at = backends, workers, time.monotonic()
