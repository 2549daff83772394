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
MOST_LEFT: Final = 8
"""How many jobs are left to other backends in one choice; if more wait, a backend does not stay idle."""
LOOK_AGAIN_S: Final = 5.0
SOONEST_LOOK_S: Final = 0.05
"""Bounds of how soon a backend that took nothing looks again."""
PREFERRED_S: Final = 5.0
"""By how much later a job may end on the backend that its owner prefers."""
THROWN_OUT: Final = 1.0
"""What throwing out another model costs, in loads: it will be wanted again."""
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
        self._left_jobs = 0
        self._look_again_s = LOOK_AGAIN_S

    def result(self) -> Choice | Leave:
        first: Reached | None = None
        cold: list[Reached] = []
        for each in in_reach(self._candidates, self._here, self._fleet, self._loads):
            first = first or each
            if not each.job.models <= self._here.warm:
                cold.append(each)
            elif self._may_leave and self._is_best_here(each, 0.0):
                return self._taken(each, 0.0)
        if self._here.busy:
            reason = Reason.BUSY if first else Reason.EMPTY
            return Leave(max(SOONEST_LOOK_S, self._wait_s), reason, tuple(self._promised))
        return self._loaded(first, cold) or self._left(Reason.ELSEWHERE if first else Reason.EMPTY)

    @property
    def _may_leave(self) -> bool:
        return self._left_jobs < MOST_LEFT

    def _loaded(self, first: Reached | None, cold: list[Reached]) -> Choice | None:
        """Return the job whose models are loaded here, if there is one."""
        for each in cold:
            load_s = self._load_s(each.job, self._here)
            if self._may_leave and self._is_best_here(each, load_s):
                return self._taken(each, load_s)
        # If more wait than can be left to others, an idle backend would hold up all of them.
        many = MOST_LEFT if not self._may_leave else CANDIDATES - 1
        if first is not None and len(self._candidates) > many:
            return self._taken(first, self._load_s(first.job, self._here))
        return None

    def _is_best_here(self, each: Reached, load_s: float) -> bool:
        """Return whether the job should be taken here; if it should not, it is left to the backend that is better."""
        job, here = each.job, self._here
        run_s = job.cost_s / here.speed
        if each.rank and load_s + run_s - job.cost_s > each.spare_s:
            return False
        if not (load_s or self._wait_s or job.prefer) and here.speed >= self._fleet.fastest:
            return True
        cost_s = self._wait_s + load_s + run_s + self._thrown_out_s(here, load_s)
        if job.prefer == here.name:
            cost_s -= PREFERRED_S
        limit_s = cost_s - self._idle_s - _SAME_S
        better, better_s = self._better(job, limit_s)
        if better is None:
            return True
        self._look_again_s = min(self._look_again_s, limit_s - better_s)
        taken_s = job.cost_s / better.speed + self._load_s(job, better)
        self._promised[better.name] = self._promised.get(better.name, 0.0) + taken_s
        self._left_jobs += 1
        return False

    def _better(self, job: Candidate, limit_s: float) -> tuple[BackendState | None, float]:
        """Return the other backend that would finish the job soonest, if that costs less than `limit_s`, and its cost.

        This is nearly all that a choice costs, hence the plain loops.
        """
        fastest_s = job.cost_s / self._fleet.fastest
        if fastest_s >= limit_s and job.prefer is None:
            return None, limit_s
        best, best_s = self._better_holder(job, limit_s)
        now, promised, here = self._now, self._promised, self._here.name
        load_s = self._loads.of(job.models)
        for free_at, name, other in self._fleet.soonest():
            wait_s = free_at - now if free_at > now else 0.0
            if wait_s + load_s + fastest_s >= best_s:
                break
            cost_s = wait_s + load_s + job.cost_s / other.speed + promised.get(name, 0.0)
            if cost_s < best_s and name != here and other.can_take(job):
                cost_s += self._thrown_out_s(other, load_s)
                if cost_s < best_s:
                    best, best_s = other, cost_s
        return best, best_s

    def _better_holder(self, job: Candidate, limit_s: float) -> tuple[BackendState | None, float]:
        """Return the same of those backends that have a model of the job in memory, and of the preferred one."""
        best, best_s = None, limit_s
        now, promised, here = self._now, self._promised, self._here.name
        for other in self._fleet.holders(job):
            cost_s = (other.free_at - now if other.free_at > now else 0.0) + job.cost_s / other.speed
            cost_s += promised.get(other.name, 0.0) - (PREFERRED_S if job.prefer == other.name else 0.0)
            if cost_s < best_s and other.name != here and other.can_take(job):
                load_s = self._load_s(job, other)
                cost_s += load_s + self._thrown_out_s(other, load_s)
                if cost_s < best_s:
                    best, best_s = other, cost_s
        return best, best_s

    def _taken(self, each: Reached, load_s: float) -> Choice:
        here, job = self._here, each.job
        if load_s:
            reason = Reason.LOAD
        elif here.busy:
            reason = Reason.AHEAD
        else:
            reason = Reason.WARM if each.rank else Reason.DUE
        able = [other for other in self._candidates if can_run_here(other, here, self._fleet)]
        took_s = load_s + job.cost_s / here.speed
        return Choice(
            job_id=job.job_id,
            reason=reason,
            rank=each.rank,
            overtook=tuple(other.job_id for other in able[: each.rank]),
            put_off_s=took_s / self._fleet.places(job),
            load_s=load_s,
            alternatives=len(able) - 1,
            left_to=tuple(self._promised),
            due_tag=able[0].fair_tag,
        )

    def _left(self, reason: Reason) -> Leave:
        until_s = min(LOOK_AGAIN_S, max(SOONEST_LOOK_S, self._look_again_s))
        return Leave(until_s, reason, tuple(self._promised))

    def _load_s(self, job: Candidate, backend: BackendState) -> float:
        return 0.0 if job.models <= backend.warm else self._loads.of(job.models - backend.warm)

    def _thrown_out_s(self, backend: BackendState, load_s: float) -> float:
        """Return what a load costs the jobs that would have found another model there."""
        return 0.0 if backend.room or not backend.warm else load_s * THROWN_OUT
