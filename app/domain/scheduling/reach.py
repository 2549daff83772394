"""How far down the queue a backend may reach: the bounds within which a job may be passed over.

Each job may be overtaken `MOST_OVERTAKEN` times, and put off by `MOST_PUT_OFF` times the time in which its own models
load; by jobs of other tenants, by one such load. What counts is the whole stretch between two jobs, as if all of it
went first, but for what needs the same models as the one that is passed over: so the jobs that are due together are put
in order among themselves, instead of each of them using up the patience of all before it, after which all would be run
in the order in which they came.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from app.domain.scheduling.fleet import BackendState, Fleet
    from app.domain.scheduling.jobs import Candidate
    from app.domain.scheduling.learned_times import Loads

MOST_OVERTAKEN: Final = 24
MOST_PUT_OFF: Final = 1.7
MOST_PUT_OFF_BY_OTHERS: Final = 0.85
"""In load times of the job that is put off."""


class Reached(NamedTuple):
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
    if not here.may_take(job):
        return False
    return job.models not in here.avoids or not fleet.has_another_for(job, here.name)


def in_reach(candidates: Sequence[Candidate], here: BackendState, fleet: Fleet, loads: Loads) -> Iterator[Reached]:
    """Yield the candidates that may be taken, in the order in which they are due. What cannot run here is passed by."""
    work_s, rank, priority = 0.0, -1, 0
    # Up to which rank, and up to where in the work that is due, in GPU seconds, the jobs so far that need the same
    # models may be passed over by any other: of what is due between, those that need the same are not before them.
    last: dict[frozenset[str], float] = {}
    by_any: dict[frozenset[str], float] = {}
    # And by those of other tenants, where the tenant whose job bears the least is told from all others.
    by_any_s = by_others_s = by_its_others_s = math.inf
    strictest: str | None = None
    for job in candidates:
        if not can_run_here(job, here, fleet):
            continue
        rank += 1
        work_s += job.cost_s
        # A lower priority never goes first.
        if rank and (work_s > by_any_s or rank > min(last.values()) or job.priority != priority):
            return
        priority = job.priority
        limit_s = by_its_others_s if job.tenant == strictest else by_others_s
        limit_s = min(limit_s, by_any_s)
        if work_s <= limit_s:
            yield Reached(job, rank, limit_s - work_s)
        # Several backends do the work at once.
        places, load_s, models = fleet.places(job), loads.of(job.models), job.models
        last[models] = min(last.get(models, math.inf) + 1, rank + MOST_OVERTAKEN - job.overtaken)
        borne_s = work_s + places * (MOST_PUT_OFF * load_s - job.overtaken_s)
        by_any[models] = min(by_any.get(models, math.inf) + job.cost_s, borne_s)
        by_any_s = min(by_any.values())
        borne_s = work_s + places * (MOST_PUT_OFF_BY_OTHERS * load_s - job.overtaken_s)
        if job.tenant == strictest:
            by_others_s = min(by_others_s, borne_s)
        elif borne_s < by_others_s:
            strictest, by_others_s, by_its_others_s = job.tenant, borne_s, by_others_s
        else:
            by_its_others_s = min(by_its_others_s, borne_s)
