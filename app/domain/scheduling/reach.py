"""How far down the queue a backend may reach: the bounds within which a job may be passed over.

Each job may be overtaken `MOST_OVERTAKEN` times, and put off by `MOST_PUT_OFF` times the time in which its own models
load; by jobs of other tenants, by one such load. What counts is the whole stretch between two jobs, as if all of it
went first: so the jobs that are due together are put in order among themselves, instead of each of them using up the
patience of all before it, after which all would be run in the order in which they came.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from app.domain.scheduling.fleet import BackendState, Fleet
    from app.domain.scheduling.jobs import Candidate
    from app.domain.scheduling.learned_times import Loads

MOST_OVERTAKEN: Final = 24
MOST_PUT_OFF: Final = 2.0
MOST_PUT_OFF_BY_OTHERS: Final = 1.0
"""In load times of the job that is put off."""


@dataclass(frozen=True, slots=True)
class Reached:
    """A job that may be taken."""

    job: Candidate
    rank: int
    """Its place among the jobs that can run here."""
    spare_s: float
    """GPU seconds, beyond its usual ones, that it may take without putting off another job for too long."""


def can_run_here(job: Candidate, here: BackendState, fleet: Fleet) -> bool:
    """Return whether a backend may take the job.

    Where it ran out of memory it is tried again only if no other backend is left for it.
    """
    if not here.live or job.job_id in here.refuses:
        return False
    return job.models not in here.avoids or not fleet.has_another_for(job, here.name)


def in_reach(candidates: Sequence[Candidate], here: BackendState, fleet: Fleet, loads: Loads) -> Iterator[Reached]:
    """Yield the candidates that may be taken, in the order in which they are due. What cannot run here is passed by."""
    last, work_s, rank = MOST_OVERTAKEN, 0.0, -1
    latest = _Latest()
    picky = bool(here.refuses or here.avoids or not here.live)
    priority = 0
    for job in candidates:
        if picky and not can_run_here(job, here, fleet):
            continue
        rank += 1
        # A lower priority never goes first.
        if rank > last or (rank and job.priority != priority):
            return
        priority = job.priority
        work_s += job.cost_s
        if work_s > latest.for_all:
            return
        limit_s = min(latest.for_all, latest.for_tenant(job.tenant))
        if work_s <= limit_s:
            yield Reached(job, rank, limit_s - work_s)
        last = min(last, rank + MOST_OVERTAKEN - job.overtaken)
        latest.bear(job, work_s, fleet.places(job), loads.of(job.models))


class _Latest:
    """Up to where in the work that is due, in GPU seconds, the jobs seen so far may be passed over."""

    def __init__(self) -> None:
        self.for_all = math.inf
        self._tenant: str | None = None
        """Whose job bears the least of others' work."""
        self._by_others = math.inf
        self._by_its_others = math.inf
        """The same of all other tenants' jobs."""

    def for_tenant(self, tenant: str) -> float:
        """Return up to where a tenant's job may pass over those of other tenants."""
        return self._by_its_others if tenant == self._tenant else self._by_others

    def bear(self, job: Candidate, work_s: float, places: int, load_s: float) -> None:
        """Add a job that is due when so much work is done; several backends do it at once."""
        self.for_all = min(self.for_all, work_s + places * (MOST_PUT_OFF * load_s - job.overtaken_s))
        limit_s = work_s + places * (MOST_PUT_OFF_BY_OTHERS * load_s - job.overtaken_s)
        if job.tenant == self._tenant:
            self._by_others = min(self._by_others, limit_s)
        elif limit_s < self._by_others:
            self._tenant, self._by_others, self._by_its_others = job.tenant, limit_s, self._by_others
        else:
            self._by_its_others = min(self._by_its_others, limit_s)
