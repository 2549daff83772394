"""What one backend offers: read whole now and then, and node class by node class when somebody misses something."""

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
"""An idle backend is asked this often for everything that it offers: models come and go while it runs."""
BUSY_AGE_S: Final = 600.0
"""One that works is asked less often. It answers with its event loop held up, 60 ms of a usual server and up to some
seconds of one with hundreds of custom nodes, and its frames come that much later: below a hundredth of its time at any
size. Never to be asked, as long as it has work, would leave its list as old as the work is long."""
_TIMES_AS_LONG: Final = 10
"""The pause after it was read what a backend offers, as many times as that took: it may connect again and again."""
CLASS_EVERY_S: Final = 1.0
"""A class is read once in this time, however many miss something in it: that costs the server a millisecond, and who
asks waits for the next reading no longer than a person for an answer."""
LATELY_S: Final = 3.0
"""So old may a reading be by which a backend is passed over: a job of another one's must not cost it a second each."""
_LONGEST_PAUSE_S: Final = 30.0
SOON_S: Final = 2.0
"""When a class may not be read again before that, nobody waits for it: it answers too slowly to be asked so often."""
MOST_UNKNOWN: Final = 64
"""Names that no class of the backend has, read within `LATELY_S`: clients can think of any number of them."""
MOST_CHANGED: Final = 200
"""Classes read one by one; with more of them everything is read again."""
_MOST_CHANGED_BYTES: Final = 8 * 2**20
_AT_ONCE: Final = 2
"""Classes that a backend is asked for at the same time."""
_REPLACEMENTS: Final = ""
"""Stands among the names of classes, of which none is empty, for what the backend takes for others."""


@dataclass(frozen=True, slots=True)
class _Reading:
    began_at: float
    """By the monotonic clock."""
    pause_s: float
    """So long after it began it is not repeated."""


class BackendOffer:
    """What a backend offers, and how long ago it said so."""

    def __init__(self, comfyui: ComfyUI) -> None:
        self.catalog = Catalog({})
        self.digest: str | None = None
        """Under which others find the catalog; None before it was read. See `CHANGED_BY`."""
        self._comfyui = comfyui
        self._whole: str | None = None
        self._since: str | None = None
        self._changed: dict[str, Offer] = {}
        """Class → what was read of it since everything was, and was not as before."""
        self._readings: dict[str, _Reading] = {}
        self._asking = asyncio.Semaphore(_AT_ONCE)
        self._replacing = asyncio.Lock()
        self._publishing = asyncio.Lock()
        self._unpublished = False
        self._read_at = float("-inf")
        self._due_at = float("-inf")
        """Not before then everything is read again: that takes long, if there is much of it."""

    def forget_age(self) -> None:
        """It may be another server now, or a restarted one: what it offers is to be read as soon as may be."""
        self._read_at = float("-inf")

    async def refresh(self, registry: Registry, *, busy: bool) -> None:
        """Read everything anew, when that is due."""
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
            # Read after this began, one by one, it may be newer than the whole: that is seen when it is missed again.
            self._changed.clear()
            self._unpublished = False

    def wait_s(self, name: str) -> float | None:
        """Return in how many seconds a class may be read again; None when that is not soon."""
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
        """Somebody is about to read the class: nobody else need."""
        self._readings[name] = _Reading(time.monotonic(), CLASS_EVERY_S)

    async def read_again(self, name: str) -> None:
        """Read a class, and what it has become if it is not there; raises `BackendLost`.

        Whoever calls it has looked at `wait_s`.
        """
        began_at = time.monotonic()
        if await self._read_class(name) or name in self.catalog.nodes:
            return
        if name not in self.catalog.replacements:
            await self._read_replacements(began_at)
        known = self.catalog.replacements.get(name)
        if known is not None and known.node_class not in self.catalog.nodes and self.wait_s(known.node_class) == 0:
            await self._read_class(known.node_class)

    async def look_again(self, names: Iterable[str]) -> bool:
        """Read those of the classes that were not read lately; whether all of them have been then.

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
        """Have others see what was read of single classes; whether there was anything to be seen."""
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
        """Read a class; whether the backend has it."""
        offer = await self._read(name)
        known = offer.catalog.nodes.get(name)
        if known is None:
            return False
        if known != self.catalog.nodes.get(name):
            log.info("node class %r is not what it was when last read", name)
            self._change(name, offer)
        return True

    async def _read_replacements(self, since: float) -> None:
        """Read what the backend takes for others, as soon as may be, unless somebody has begun to since then."""
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
