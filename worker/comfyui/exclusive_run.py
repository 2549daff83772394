"""A run that has its backend to itself: no prompt of ours is sent behind it until its files are here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_LOOK_S: Final = 5.0
"""Seconds between two looks of a run that waits: it is woken when its turn comes, and this heals a lost wake-up."""


class WaitingRun(Protocol):
    """A run that waits until its prompt may be sent: see `PromptWatch`."""

    cancelling: bool

    def seen(self) -> None:
        """Forget what has happened up to now."""

    def look(self) -> None:
        """Wake whoever awaits `news_within`."""

    async def news_within(self, seconds: float) -> bool:
        """Wait for something to happen, at most so many seconds."""


class ExclusiveRun:
    """The run that has its backend to itself, if there is one, and those that wait for its end."""

    def __init__(self, on_free: Callable[[], None]) -> None:
        self._on_free = on_free
        """Called when it is everybody's again."""
        self._holder: WaitingRun | None = None
        self._waiting: set[WaitingRun] = set()

    @property
    def taken(self) -> bool:
        """Whether a run has the backend to itself."""
        return self._holder is not None

    async def enter(self, watch: WaitingRun, *, alone: bool, at_once: bool = False) -> None:
        """Return when the prompt may be sent: no other run has the backend to itself; from then on this one, if alone.

        `at_once` is for a prompt that the backend has already. A job that is cancelled waits no longer.
        """
        self._waiting.add(watch)
        try:
            while self._holder is not None and not watch.cancelling and not at_once:
                watch.seen()
                await watch.news_within(_LOOK_S)
        finally:
            self._waiting.discard(watch)
        if alone and (self._holder is None or at_once):
            self._holder = watch

    def leave(self, watch: WaitingRun) -> None:
        """The files of the run are here, or it has none; nothing happens if it had no sole use."""
        if self._holder is watch:
            self._holder = None
            for other in self._waiting:
                other.look()
            self._on_free()
