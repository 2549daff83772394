"""New seeds within what the backends take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from app.domain.errors import QueueUnavailable
from app.domain.seeds import Drawing

if TYPE_CHECKING:
    from app.messaging.registry import Registry

_HOLDS_S: Final = 2.0
"""Seconds for which an answer is reused: many jobs may be retried at once."""


class Seeds:
    """Knows what the backends say of seeds."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._drawing = Drawing()
        self._until = float("-inf")

    async def drawing(self) -> Drawing:
        """Return what draws seeds that every backend takes; while Redis is away, such as any node takes."""
        if time.monotonic() >= self._until:
            try:
                beats = await self._registry.backends()
                known = [beat for beat in beats if beat.catalog]
                live = [beat for beat in known if beat.live] or known
                digests = dict.fromkeys(beat.catalog for beat in live if beat.catalog)
                found = [await self._registry.catalog(digest) for digest in digests]
            except QueueUnavailable:
                return Drawing()
            self._drawing = Drawing([catalog for catalog in found if catalog is not None])
            self._until = time.monotonic() + _HOLDS_S
        return self._drawing
