"""A run that has its backend to itself: no prompt of ours is sent behind it until its files are here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.attempts.prompt_watch import PromptWatch

_LOOK_S: Final = 5.0
"""Who waits is woken; this heals a wake-up that was lost."""


class ExclusiveRun:
    """Whose backend it is at the moment, if it is anybody's alone."""

    def __init__(self, on_free: Callable[[], None]) -> None:
        self._on_free = on_free
        """Called when it is everybody's again."""
        self._holder: PromptWatch | None = None
        self._waiting: set[PromptWatch] = set()

    @property
    def taken(self) -> bool:
        """Whether a run has the backend to itself."""
        return self._holder is not None

    async def enter(self, watch: PromptWatch, *, alone: bool, at_once: bool = False) -> None:
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

    def leave(self, watch: PromptWatch) -> None:
        """The files of the run are here, or it has none; nothing happens if it had no sole use."""
        if self._holder is watch:
            self._holder = None
            for other in self._waiting:
                other.look()
            self._on_free()
