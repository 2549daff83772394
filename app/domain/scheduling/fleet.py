"""The backends as one that chooses sees them, with an index that outlives the choice."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from app.domain.scheduling.jobs import Candidate

LOOKED_AT: Final = 32
HOLDERS_LOOKED_AT: Final = 16
"""Maximum number of other backends that are compared for a job: of all, those that are free the soonest; of those that
have a certain model, those whose state is the oldest."""
_NONE: Final[Mapping[str, BackendState]] = MappingProxyType({})
_MOST_COUNTED: Final = 4_000
"""Kinds of jobs of which it is remembered how many backends would run them."""


def lacking(models: Iterable[str], offers: Container[str]) -> list[str]:
    """Return those of a job's models, each with its folder, that are not among these files.

    Folders do not count: which one an unusual loader's files are said to be in may differ from backend to backend. A
    name that was cut (`app.domain.loaded_models`) is taken to be there.
    """
    return [model for model in models if "#" not in model and not _is_among(model, offers)]


def _is_among(model: str, offers: Container[str]) -> bool:
    at = model.find("/")
    while at >= 0:
        if model[at + 1 :] in offers:
            return True
        at = model.find("/", at + 1)
    return model in offers


@dataclass(frozen=True, slots=True)
class BackendState:
    """What counts of a backend. Moments are seconds of any one clock."""

    name: str
    warm: frozenset[str] = frozenset()
    """Models that are in memory, or will be when what runs there has ended."""
    free_at: float = 0.0
    """When all that it has taken will probably have ended, and what others have sent it."""
    busy: bool = False
    """Whether a job of ours runs there, or is queued; one that takes longer than expected does so beyond `free_at`."""
    idle_since: float | None = None
    """Since when it has been idle and left waiting jobs to others; None if it has not."""
    room: int | None = None
    """How many more model sets fit before one is thrown out; None if that is unknown."""
    speed: float = 1.0
    """How fast it runs, 1.0 being the average."""
    offers: Container[str] | None = None
    """The model files that it has, without their folders; None if that is unknown."""
    avoids: frozenset[frozenset[str]] = frozenset()
    """Model sets that ran out of memory here lately."""
    live: bool = True
    """Whether it takes jobs at all."""

    def may_take(self, job: Candidate) -> bool:
        """Return whether the job may be given to it, and all its models are there."""
        if not self.live or job.only not in (None, self.name) or self.name in job.refused_by:
            return False
        return self.offers is None or not lacking(job.models, self.offers)

    def can_take(self, job: Candidate) -> bool:
        """Return whether the job would run here."""
        return self.may_take(job) and job.models not in self.avoids


class Fleet:
    """The states of all backends, by name and by loaded model.

    It is kept up to date as states become known, so that a choice between hundreds of backends looks at a few.
    """

    def __init__(self, states: Iterable[BackendState] = ()) -> None:
        self._states: dict[str, BackendState] = {}
        self._live: dict[str, BackendState] = {}
        self._holders: dict[str, dict[str, BackendState]] = {}
        """Model → the live backends that have it in memory, the oldest state first."""
        self._by_moment: list[tuple[float, str, BackendState]] = []
        """The live ones with the moment when each is free, sorted."""
        self._able: dict[tuple[Any, ...], int] = {}
        """What counts of a job → how many of the live ones would run it, as far as that was asked."""
        self._fastest: float | None = None
        for state in states:
            self.update(state)

    def __len__(self) -> int:
        return len(self._live)

    @property
    def fastest(self) -> float:
        """The speed of the fastest live backend."""
        if self._fastest is None:
            self._fastest = max((state.speed for state in self._live.values()), default=1.0)
        return self._fastest

    def update(self, state: BackendState) -> None:
        """Take the newest state of a backend."""
        before = self._states.get(state.name)
        self._forget(state.name)
        if before is None or (before.live, before.speed) != (state.live, state.speed):
            self._fastest = None
        if before is None or _differ(before, state):
            self._able.clear()
        self._states[state.name] = state
        if not state.live:
            return
        self._live[state.name] = state
        insort(self._by_moment, (state.free_at, state.name, state))
        for model in state.warm:
            self._holders.setdefault(model, {})[state.name] = state

    def remove(self, name: str) -> None:
        """Forget a backend."""
        self._fastest = None
        self._able.clear()
        self._forget(name)

    def get(self, name: str) -> BackendState | None:
        """Return the state of a backend; None if it is not known."""
        return self._states.get(name)

    def names(self) -> list[str]:
        """Return the names of all backends, those that are not live among them."""
        return list(self._states)

    def places(self, job: Candidate) -> int:
        """Return how many live backends would run the job; at least 1."""
        kind = job.models, job.only, job.refused_by
        found = self._able.get(kind)
        if found is None:
            if len(self._able) >= _MOST_COUNTED:
                self._able.clear()
            found = self._able[kind] = sum(state.can_take(job) for state in self._live.values())
        return found or 1

    def has_another_for(self, job: Candidate, name: str) -> bool:
        """Return whether a live backend other than this one would run the job."""
        return any(state.can_take(job) for state in self._live.values() if state.name != name)

    def is_as_good_as_any(self, here: BackendState, now: float) -> bool:
        """Return whether no other backend would finish a job sooner whose models are loaded in both, whatever the job.

        It is compared with those that are free the soonest only.
        """
        wait_s = max(0.0, here.free_at - now)
        if here.speed < self.fastest:
            return False
        others = (free_at for free_at, name, _ in self.soonest() if name != here.name)
        return not wait_s or max(0.0, next(others, math.inf) - now) >= wait_s

    def holders(self, job: Candidate) -> Iterator[BackendState]:
        """Yield live backends that have a model of the job in memory, and the preferred one; some come twice."""
        for model in job.models:
            yield from islice(self._holders.get(model, _NONE).values(), HOLDERS_LOOKED_AT)
        if job.prefer is not None and job.prefer in self._live:
            yield self._live[job.prefer]

    def soonest(self) -> Iterator[tuple[float, str, BackendState]]:
        """Yield live backends with the moment when each is free, and its name: those that are free the soonest."""
        return islice(self._by_moment, LOOKED_AT)

    def _forget(self, name: str) -> None:
        before = self._states.pop(name, None)
        if before is None or not before.live:
            return
        del self._live[name]
        # What sorts right before its entry is the same without the state.
        del self._by_moment[bisect_left(self._by_moment, (before.free_at, name))]
        for model in before.warm:
            holders = self._holders[model]
            del holders[name]
            if not holders:
                del self._holders[model]


def _differ(before: BackendState, after: BackendState) -> bool:
    """Whether one would run jobs that the other would not. Offers by identity: they may be thousands of files."""
    return (before.live, before.avoids) != (after.live, after.avoids) or before.offers is not after.offers
