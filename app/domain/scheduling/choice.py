"""Which waiting job a backend takes: the one that is due first, unless another order saves loads and harms nobody.

1. Of the jobs in reach (`reach`), the first whose models are loaded here.
2. If there is none, the first that no other backend would probably finish sooner: a job waits for a backend that has
   its models while the wait there is shorter than the load here, and for a faster card. What is left to another
   backend counts as taken by it, so a long queue is not left to one; time spent idle counts against waiting on.
3. A second job is queued behind a running one only if that leaves its models loaded, and no idle backend could start
   it.

Each worker decides for its own backends from a view that is some seconds old; the claim's guarded UPDATE settles
races.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.domain.scheduling.jobs import Choice, Leave, Reason
from app.domain.scheduling.reach import Reached, can_run_here, in_reach

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.scheduling.fleet import BackendState, Fleet
    from app.domain.scheduling.jobs import Candidate
    from app.domain.scheduling.learned_times import Loads

CANDIDATES: Final = 32
"""How many waiting jobs are looked at."""
LOOK_AGAIN_S: Final = 5.0
SOONEST_LOOK_S: Final = 0.05
"""Bounds of how soon a backend that took nothing looks again."""
PREFERRED_S: Final = 5.0
"""By how much later a job may end on the backend that its owner prefers."""
THROWN_OUT: Final = 0.5
"""Part of a load that throwing out another model costs: one time in two it will be wanted again."""
_SAME_S: Final = 1e-6


def choose(
    candidates: Sequence[Candidate], here: BackendState, fleet: Fleet, loads: Loads, now: float
) -> Choice | Leave:
    """Return what a backend that may take a job does.

    Parameters
    ----------
    candidates
        The first waiting jobs in the order in which they are due, at most `CANDIDATES`.
    here
        The backend. If a job runs on it, what is taken is queued behind that one.
    fleet
        All backends, this one among them.
    now
        On the clock of the states.
    """
    return _Choosing(candidates[:CANDIDATES], here, fleet, loads, now).result()


class _Choosing:
    """One choice, with what is left to other backends on the way."""

    def __init__(
        self, candidates: Sequence[Candidate], here: BackendState, fleet: Fleet, loads: Loads, now: float
    ) -> None:
        self._candidates, self._here, self._fleet, self._loads, self._now = candidates, here, fleet, loads, now
        self._wait_s = max(0.0, here.free_at - now)
        self._idle_s = 0.0 if here.idle_since is None else max(0.0, now - here.idle_since)
        self._promised: dict[str, float] = {}
        """Other backend → seconds of work that is left to it."""
        self._look_again_s = LOOK_AGAIN_S

    def result(self) -> Choice | Leave:
        cold: list[Reached] = []
        nothing = True
        for each in in_reach(self._candidates, self._here, self._fleet, self._loads):
            nothing = False
            if not each.job.models <= self._here.warm:
                cold.append(each)
            elif self._is_best_here(each, 0.0):
                return self._taken(each, 0.0)
        if self._wait_s:
            return Leave(self._wait_s, Reason.BUSY)
        for each in cold:
            load_s = self._load_s(each.job, self._here)
            if self._is_best_here(each, load_s):
                return self._taken(each, load_s)
        return Leave(LOOK_AGAIN_S, Reason.EMPTY) if nothing else self._left()

    def _is_best_here(self, each: Reached, load_s: float) -> bool:
        """Return whether the job should be taken here; if it should not, it is left to the backend that is better."""
        job, here = each.job, self._here
        run_s = job.cost_s / here.speed
        if each.rank and load_s + run_s - job.cost_s > each.spare_s:
            return False
        if self._wait_s and self._fleet.could_start(job, self._now):
            return False
        if not (load_s or self._wait_s or job.prefer) and here.speed >= self._fleet.fastest:
            return True
        cost_s = self._wait_s + load_s + run_s + self._thrown_out_s(here, load_s)
        if job.prefer == here.name:
            cost_s -= PREFERRED_S
        return not self._left_to_a_better_one(job, cost_s - self._idle_s - _SAME_S)

    def _left_to_a_better_one(self, job: Candidate, limit_s: float) -> bool:
        """Leave the job to the backend that would finish it soonest, if that takes less than `limit_s`."""
        best, best_s = None, limit_s
        for other in self._fleet.likely(job):
            if other.name == self._here.name or not other.can_take(job):
                continue
            cost_s = max(0.0, other.free_at - self._now) + job.cost_s / other.speed
            cost_s += self._promised.get(other.name, 0.0) - (PREFERRED_S if other.name == job.prefer else 0.0)
            if cost_s < best_s and not job.models <= other.warm:
                load_s = self._load_s(job, other)
                cost_s += load_s + self._thrown_out_s(other, load_s)
            if cost_s < best_s:
                best, best_s = other, cost_s
        if best is None:
            return False
        self._look_again_s = min(self._look_again_s, limit_s - best_s)
        taken_s = job.cost_s / best.speed + self._load_s(job, best)
        self._promised[best.name] = self._promised.get(best.name, 0.0) + taken_s
        return True

    def _taken(self, each: Reached, load_s: float) -> Choice:
        here, job = self._here, each.job
        if load_s:
            reason = Reason.LOAD
        elif self._wait_s:
            reason = Reason.AHEAD
        else:
            reason = Reason.WARM if each.rank else Reason.DUE
        able = [other.job_id for other in self._candidates if can_run_here(other, here, self._fleet)]
        took_s = load_s + job.cost_s / here.speed
        return Choice(
            job_id=job.job_id,
            reason=reason,
            rank=each.rank,
            overtook=tuple(able[: each.rank]),
            put_off_s=took_s / self._fleet.places(job),
            load_s=load_s,
            alternatives=len(able) - 1,
        )

    def _left(self) -> Leave:
        return Leave(min(LOOK_AGAIN_S, max(SOONEST_LOOK_S, self._look_again_s)), Reason.ELSEWHERE)

    def _load_s(self, job: Candidate, backend: BackendState) -> float:
        return 0.0 if job.models <= backend.warm else self._loads.of(job.models - backend.warm)

    def _thrown_out_s(self, backend: BackendState, load_s: float) -> float:
        """Return what a load costs the jobs that would have found another model there."""
        return 0.0 if backend.room or not backend.warm else load_s * THROWN_OUT
