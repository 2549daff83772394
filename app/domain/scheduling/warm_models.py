"""What a backend has in memory, and what did not fit: remembered by the worker that drives it, pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

MOST_SETS: Final = 8
"""Maximum number of model sets that are taken to be in memory at once."""
AVOIDED_S: Final = 1800.0
"""How long a model set that ran out of memory is avoided."""
MOST_AVOIDED: Final = 64
"""Of one backend; the oldest is forgotten first."""


@dataclass(frozen=True, slots=True)
class WarmSet:
    """The model sets of a backend's last runs that are still in memory.

    ComfyUI keeps what the last prompt used; whether it keeps more depends on its options and its memory, and is learned
    from runs that load, or do not, against what was expected.
    """

    sets: tuple[frozenset[str], ...] = ()
    """The last one first."""
    keeps: int = 1
    """How many sets it seems to keep."""

    @property
    def models(self) -> frozenset[str]:
        """All files that are in memory."""
        return frozenset().union(*self.sets)

    @property
    def room(self) -> int:
        """How many more sets fit before one is thrown out."""
        return max(0, self.keeps - len(self.sets))

    def after(self, models: frozenset[str], loaded: bool | None = None) -> WarmSet:
        """Return what is in memory after a run of ours.

        `loaded` is whether the run had to load any of its models; None if that was not seen.
        """
        if not models:
            return self
        keeps = self._seen_to_keep(models, loaded)
        rest = tuple(each for each in self.sets if not each <= models)
        return WarmSet((models, *rest)[:keeps], keeps)

    def forgotten(self) -> WarmSet:
        """Return what is known after a restart, after its memory was freed, or after a prompt that was not ours."""
        return replace(self, sets=())

    def _seen_to_keep(self, models: frozenset[str], loaded: bool | None) -> int:
        if not self.sets or loaded is None:
            return self.keeps
        if not loaded and not models <= self.models:
            return min(MOST_SETS, self.keeps + 1)
        if loaded and models <= self.models:
            # What was the deepest of those it needs is no longer there.
            depth = max(number for number, each in enumerate(self.sets) if each & models)
            return max(1, depth)
        return self.keeps


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """The model sets that ran out of memory on a backend. Moments are seconds of any one clock."""

    until: tuple[tuple[frozenset[str], float], ...] = ()
    """Each set with the moment to which it is avoided, the oldest first."""

    def after(self, models: frozenset[str], now: float) -> OutOfMemory:
        """Return what is avoided after these ran out of memory; a graph without models says nothing of others."""
        if not models:
            return self
        kept = [(each, until) for each, until in self.until if until > now and each != models]
        return OutOfMemory((*kept, (models, now + AVOIDED_S))[-MOST_AVOIDED:])

    def avoided(self, now: float) -> frozenset[frozenset[str]]:
        """Return the model sets that are avoided now."""
        return frozenset(models for models, until in self.until if until > now)
