"""A run with exclusive use of its backend: none of our prompts is sent until its files are downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_LOOK_S: Final = 5.0
"""Seconds between two checks of a waiting run, in case a wake-up is lost."""


class WaitingRun(Protocol):
    """A run that waits until its prompt may be sent: see `PromptWatch`."""

    cancelling: bool

    def clear_news(self) -> None:
        """Mark all news as handled."""

    def wake(self) -> None:
        """End the wait in `news_within`."""

    async def news_within(self, seconds: float) -> bool:
        """Wait up to `seconds` for news; False when none came."""


class ExclusiveRun:
    """The run that has exclusive use of the backend, if any, and the runs that wait for it to end."""

    def __init__(self, on_free: Callable[[], None]) -> None:
        self._on_free = on_free
        """Called when exclusive use ends."""
        self._holder: WaitingRun | None = None
        self._waiting: set[WaitingRun] = set()

    @property
    def taken(self) -> bool:
        """Whether a run has exclusive use of the backend."""
        return self._holder is not None

    async def enter(self, watch: WaitingRun, *, alone: bool, at_once: bool = False) -> None:
        """Wait until no other run has exclusive use; with `alone`, this run then has it.

        `at_once` skips the wait, for a prompt that the backend already has. A cancelled job stops waiting too.
        """
        self._waiting.add(watch)
        try:
            while self._holder is not None and not watch.cancelling and not at_once:
                watch.clear_news()
                await watch.news_within(_LOOK_S)
        finally:
            self._waiting.discard(watch)
        if alone and (self._holder is None or at_once):
            self._holder = watch

    def leave(self, watch: WaitingRun) -> None:
        """End the run's exclusive use; does nothing when it has none."""
        if self._holder is watch:
            self._holder = None
            for other in self._waiting:
                other.wake()
            self._on_free()
