"""What one backend offers: all of it is read regularly, single node classes when a server misses something in them."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.catalog import Catalog
from app.domain.offers import Offer, changed_by, joined, read_offer
from app.messaging.registry import CHANGED_BY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.messaging.registry import Registry
    from worker.comfyui.client import ComfyUI

log = logging.getLogger(__name__)

AGE_S: Final = 120.0
"""Seconds between two readings of everything an idle backend offers: models come and go while it runs."""
BUSY_AGE_S: Final = 600.0
"""The same for a backend that executes prompts. Answering blocks its event loop and delays its frames: 60 ms for a
usual server, up to some seconds with hundreds of custom nodes, so below a hundredth of its time at any size."""
_TIMES_AS_LONG: Final = 10
"""Pause after a reading, as a multiple of its duration; also limits the load of a backend that keeps reconnecting."""
CLASS_EVERY_S: Final = 1.0
"""Minimum seconds between two readings of a class, whatever the number of questions. A reading costs the server a
millisecond, and a caller waits for the next one no longer than is acceptable for a person."""
LATELY_S: Final = 3.0
"""Maximum age in seconds of a reading that may decide against a backend without reading the class again."""
_LONGEST_PAUSE_S: Final = 30.0
SOON_S: Final = 2.0
"""Maximum seconds to wait for the next reading of a class; beyond that the known description counts."""
MOST_UNKNOWN: Final = 64
"""Maximum number of unknown class names read within `LATELY_S`, because clients can send any number of them."""
MOST_CHANGED: Final = 200
"""Maximum number of changed classes read one by one; beyond it everything is read again."""
_MOST_CHANGED_BYTES: Final = 8 * 2**20
_AT_ONCE: Final = 2
"""Maximum number of simultaneous requests for classes to a backend."""
_REPLACEMENTS: Final = ""
"""Key for the backend's replacements of node classes among the names of classes, none of which is empty."""


@dataclass(frozen=True, slots=True)
class _Reading:
    began_at: float
    """By the monotonic clock."""
    pause_s: float
    """Seconds after `began_at` during which it is not repeated."""


class BackendOffer:
    """What a backend offers, and when that was read."""

    def __init__(self, comfyui: ComfyUI) -> None:
        self.catalog = Catalog({})
        self.digest: str | None = None
        """Key of the catalog in the registry; None before it was read. See `CHANGED_BY`."""
        self._comfyui = comfyui
        self._whole: str | None = None
        self._since: str | None = None
        self._changed: dict[str, Offer] = {}
        """Class → its description, if it has changed since everything was read."""
        self._readings: dict[str, _Reading] = {}
        self._asking = asyncio.Semaphore(_AT_ONCE)
        self._replacing = asyncio.Lock()
        self._publishing = asyncio.Lock()
        self._unpublished = False
        self._read_at = float("-inf")
        self._due_at = float("-inf")
        """Earliest time of the next reading of everything, which may take long."""

    def forget_age(self) -> None:
        """Have everything read again as soon as allowed, because the server may have been restarted or replaced."""
        self._read_at = float("-inf")

    async def refresh(self, registry: Registry, *, busy: bool) -> None:
        """Read everything again, if that is due."""
        now = time.monotonic()
        if now - self._read_at <= (BUSY_AGE_S if busy and self._whole is not None else AGE_S) or now <= self._due_at:
            return
        self._read_at = now
        offer = await self._comfyui.object_info()
        self._due_at = now + min((time.monotonic() - now) * _TIMES_AS_LONG, AGE_S)
        async with self._publishing:
            self._whole = await registry.put_catalog(offer.described, instead_of=self.digest)
            self.digest, self._since = self._whole, None
            self.catalog = offer.catalog
            # Classes read in the meantime may be newer; they are read again when something is missed in them.
            self._changed.clear()
            self._unpublished = False

    def wait_s(self, name: str) -> float | None:
        """Return in how many seconds a class may be read again; None when that exceeds `SOON_S`."""
        now = time.monotonic()
        self._forget_old(now)
        found = self._readings.get(name)
        if found is not None:
            left_s = max(0.0, found.began_at + found.pause_s - now)
            return left_s if left_s <= SOON_S else None
        unknown = sum(key not in self.catalog.nodes for key in self._readings)
        if name not in self.catalog.nodes and unknown >= MOST_UNKNOWN:
            return None
        return 0.0

    def reserve(self, name: str) -> None:
        """Mark a class as being read, so that no other task reads it."""
        self._readings[name] = _Reading(time.monotonic(), CLASS_EVERY_S)

    async def read_again(self, name: str) -> None:
        """Read a class, or its replacement if it does not exist; raises `BackendLost`.

        The caller must check `wait_s` first.
        """
        began_at = time.monotonic()
        if await self._read_class(name) or name in self.catalog.nodes:
            return
        if name not in self.catalog.replacements:
            await self._read_replacements(began_at)
        known = self.catalog.replacements.get(name)
        if known is not None and known.node_class not in self.catalog.nodes and self.wait_s(known.node_class) == 0:
            await self._read_class(known.node_class)

    async def read_stale(self, names: Iterable[str]) -> bool:
        """Read the classes that were not read within `LATELY_S`; False when some may not be read yet.

        Raises
        ------
        BackendLost
        """
        sure = True
        for name in names:
            read = self._readings.get(name)
            if read is not None and read.began_at > time.monotonic() - LATELY_S:
                continue
            if self.wait_s(name) == 0:
                await self.read_again(name)
            else:
                sure = False
        return sure

    async def publish(self, registry: Registry) -> bool:
        """Publish changed classes in the registry; False when there was nothing to publish."""
        async with self._publishing:
            if not self._unpublished or self._whole is None:
                return False
            described = joined(self._changed.values())
            if len(self._changed) > MOST_CHANGED or len(described) > _MOST_CHANGED_BYTES:
                self.forget_age()
                return False
            self._unpublished = False
            try:
                self._since = await registry.put_catalog(described, instead_of=self._since)
            except BaseException:
                self._unpublished = True
                raise
            self.digest = f"{self._whole}{CHANGED_BY}{self._since}"
            return True

    async def _read_class(self, name: str) -> bool:
        """Read a class; False when the backend does not have it."""
        offer = await self._read(name)
        known = offer.catalog.nodes.get(name)
        if known is None:
            return False
        if known != self.catalog.nodes.get(name):
            log.info("node class %r has changed since the last reading", name)
            self._change(name, offer)
        return True

    async def _read_replacements(self, since: float) -> None:
        """Read the replacements of node classes as soon as allowed, unless another task began to after `since`."""
        async with self._replacing:
            read = self._readings.get(_REPLACEMENTS)
            wait_s = self.wait_s(_REPLACEMENTS)
            if wait_s is None or (read is not None and read.began_at >= since):
                return
            await asyncio.sleep(wait_s)
            offer = await self._read(_REPLACEMENTS)
        if dict(offer.catalog.replacements) != dict(self.catalog.replacements):
            self._change(_REPLACEMENTS, offer)

    def _change(self, name: str, offer: Offer) -> None:
        self._changed[name] = offer
        self.catalog = changed_by(self.catalog, offer.catalog)
        self._unpublished = True

    async def _read(self, name: str) -> Offer:
        self.reserve(name)
        async with self._asking:
            began = time.monotonic()
            try:
                if name == _REPLACEMENTS:
                    return read_offer(b"{}", await self._comfyui.node_replacements())
                return await self._comfyui.node_class(name)
            finally:
                pause_s = min(max(CLASS_EVERY_S, (time.monotonic() - began) * _TIMES_AS_LONG), _LONGEST_PAUSE_S)
                self._readings[name] = _Reading(began, pause_s)

    def _forget_old(self, now: float) -> None:
        self._readings = {
            name: each for name, each in self._readings.items() if now < each.began_at + max(each.pause_s, LATELY_S)
        }
