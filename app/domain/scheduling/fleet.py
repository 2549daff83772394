"""The backends as one that chooses sees them, with an index that outlives the choice."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from app.domain.scheduling.jobs import Candidate

LOOKED_AT: Final = 32
HOLDERS_LOOKED_AT: Final = 16
"""Maximum number of other backends that are compared for a job: of all, those that are free the soonest; of those that
have a certain model, those whose state is the oldest."""
_NONE: Final[Mapping[str, BackendState]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class BackendState:
    """What counts of a backend. Moments are seconds of any one clock."""

    name: str
    warm: frozenset[str] = frozenset()
    """Models that are in memory, or will be when what runs there has ended."""
    free_at: float = 0.0
    """When all that it has taken will probably have ended."""
    busy: bool = False
    """Whether a job runs there; one that takes longer than expected does so beyond `free_at`."""
    idle_since: float | None = None
    """Since when it has been idle and left waiting jobs to others; None if it has not."""
    room: int | None = None
    """How many more model sets fit before one is thrown out; None if that is unknown."""
    speed: float = 1.0
    """How fast it runs, 1.0 being the average."""
    refuses: frozenset[int] = frozenset()
    """Of the candidates, the jobs that it cannot run: it lacks a model, a node or a file."""
    avoids: frozenset[frozenset[str]] = frozenset()
    """Model sets that ran out of memory here lately."""
    live: bool = True
    """Whether it takes jobs at all."""

    def can_take(self, job: Candidate) -> bool:
        """Return whether the job would run here."""
        return self.live and job.job_id not in self.refuses and job.models not in self.avoids


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
        self._picky: dict[str, BackendState] = {}
        """The live ones that refuse or avoid something."""
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
        self._states[state.name] = state
        if not state.live:
            return
        self._live[state.name] = state
        insort(self._by_moment, (state.free_at, state.name, state))
        for model in state.warm:
            self._holders.setdefault(model, {})[state.name] = state
        if state.refuses or state.avoids:
            self._picky[state.name] = state

    def remove(self, name: str) -> None:
        """Forget a backend."""
        self._fastest = None
        self._forget(name)

    def places(self, job: Candidate) -> int:
        """Return how many live backends would run the job; at least 1."""
        if not self._picky:
            return len(self._live) or 1
        return max(1, len(self._live) - sum(not state.can_take(job) for state in self._picky.values()))

    def has_another_for(self, job: Candidate, name: str) -> bool:
        """Return whether a live backend other than this one would run the job."""
        return any(state.can_take(job) for state in self._live.values() if state.name != name)

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
        self._picky.pop(name, None)
        for model in before.warm:
            holders = self._holders[model]
            del holders[name]
            if not holders:
                del self._holders[model]
