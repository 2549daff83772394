"""Deadlines of many connections, all of the same length, kept with one timer."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


class Deadlines(Generic[_T]):
    """Who has how long: since all have the same time, the one that began first is over first.

    To begin and to end costs the same however many there are. A timer of its own for each would cost more, and so would
    looking through all of them once a second.
    """

    def __init__(self, seconds: float, over: Callable[[_T], None]) -> None:
        self._seconds = seconds
        self._over = over
        """Is called with whoever did not end in time."""
        self._until: OrderedDict[_T, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def __contains__(self, who: _T) -> bool:
        return who in self._until

    def __len__(self) -> int:
        return len(self._until)

    def begin(self, who: _T) -> None:
        """Begin the time of one; the time of who has begun already goes on."""
        if who in self._until:
            return
        loop = asyncio.get_running_loop()
        until = self._until[who] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(until, self._look)

    def end(self, who: _T) -> None:
        """Wait for this one no longer."""
        self._until.pop(who, None)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now, self._timer = loop.time(), None
        late: list[_T] = []
        for who, until in self._until.items():
            if until > now:
                self._timer = loop.call_at(until, self._look)
                break
            late.append(who)
        for who in late:
            del self._until[who]
        for who in late:
            self._over(who)
