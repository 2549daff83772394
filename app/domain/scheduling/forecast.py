"""When waiting jobs will probably begin and end: the queue is played forward over the backends, by the same choice.

Nobody knows who will come, and runs are never equally long: what is told is a range, with the likely value in it.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from app.domain.run_times import Range
from app.domain.scheduling.choice import CANDIDATES, choose
from app.domain.scheduling.fleet import Fleet
from app.domain.scheduling.jobs import Choice, Reason
from app.domain.scheduling.reach import MOST_PUT_OFF

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from app.domain.scheduling.fleet import BackendState
    from app.domain.scheduling.jobs import Candidate, Leave
    from app.domain.scheduling.learned_times import Loads

MOST_PLAYED: Final = 200
"""Waiting jobs that are played; what comes after them is told from how fast those went."""
_LOOKS_PER_JOB: Final = 4
"""How often backends look for a job at most, so that a play ends even if they leave all jobs to each other."""
_SHORTER: Final = 0.3
_LONGER: Final = 0.5
"""By what share a run may be shorter, or longer, than it is likely to be. Of many runs one after the other half of
that is taken to even out."""
_UNEXPECTED_S: Final = 1.0
"""What lies between two runs, or holds up the first of them."""


class Begun(NamedTuple):
    """A job in a play."""

    at: float
    """When it begins, on the clock of the play."""
    load_s: float
    run_s: float
    before: int
    """How many jobs of the play run on its backend before it."""


@dataclass(frozen=True, slots=True)
class Expected:
    """When a job will begin, in seconds from now, and how long it will run from there, loading included."""

    begin: Range
    run: Range


class Forecast:
    """What has come of a play; moments are on its clock."""

    def __init__(
        self,
        order: Sequence[int],
        begun: dict[int, Begun],
        states: Iterable[BackendState],
        loads: Loads,
        now: float,
    ) -> None:
        self._places = {job_id: place for place, job_id in enumerate(order)}
        self._order = order
        self._begun = begun
        self._states = [state for state in states if state.live]
        """As they are when all that was played has been taken."""
        self._loads = loads
        self._made_at = now

    def of(self, job: Candidate, position: int, now: float) -> Expected | None:
        """Return what is expected of a waiting job, or of one that would be sent now; None if nobody can run it.

        `position` is its place among all jobs that wait now, from 1. It counts where the job itself was not played.
        """
        if not any(state.can_take(job) for state in self._states):
            return None
        found = self._begun.get(job.job_id) or self._instead(job, position, now)
        return self._told(found, job, now)

    def _instead(self, job: Candidate, position: int, now: float) -> Begun:
        """Return when a job begins that was not played, by those whose places it has."""
        # What has begun since does not count among those before it any more.
        since = sum(each.at <= now for each in self._begun.values()) if now > self._made_at else 0
        place = position - 1 + since
        if place < len(self._order):
            later = (self._begun[job_id] for job_id in islice(self._order, place, None) if job_id in self._begun)
            displaced = next(later, None)
            if displaced is not None:
                load_s = 0.0 if any(job.models <= state.warm for state in self._states) else self._loads.of(job.models)
                return displaced._replace(load_s=load_s, run_s=job.cost_s)
        return self._at_the_end(job, max(0, place - len(self._order)))

    def _at_the_end(self, job: Candidate, more: int) -> Begun:
        """Return when a job begins before which all that was played comes, and so many others."""
        able = [state for state in self._states if state.can_take(job)]
        ends = [
            (max(self._made_at, state.free_at) + self._load_s(job, state) + job.cost_s / state.speed, state.name, state)
            for state in able
        ]
        _, _, state = min(ends)
        at = max(self._made_at, state.free_at)
        played = max(1, len(self._begun))
        until = max((each.at for each in self._begun.values()), default=self._made_at)
        each_s = (until - self._made_at) / played if len(self._begun) > len(self._states) else job.cost_s
        before = (played + more) // max(1, len(self._states))
        return Begun(at + more * each_s, self._load_s(job, state), job.cost_s / state.speed, before)

    def _load_s(self, job: Candidate, state: BackendState) -> float:
        return 0.0 if job.models <= state.warm else self._loads.of(job.models - state.warm)

    def _told(self, begun: Begun, job: Candidate, now: float) -> Expected:
        begin_s = max(0.0, begun.at - now)
        spread = 0.5 + 0.5 / math.sqrt(1 + begun.before)
        # Those that come later may still go first while their models are loaded.
        put_off_s = MOST_PUT_OFF * self._loads.of(job.models)
        high_s = begin_s * (1 + _LONGER * spread) + put_off_s + _UNEXPECTED_S
        run_s, load_s = begun.run_s, self._loads.of(job.models)
        return Expected(
            Range(begin_s * (1 - _SHORTER * spread), begin_s, high_s),
            Range(
                run_s * (1 - _SHORTER),
                run_s + begun.load_s,
                run_s * (1 + _LONGER) + max(load_s, begun.load_s) + _UNEXPECTED_S,
            ),
        )


class Playing:
    """One play, which takes some milliseconds: `steps` may be gone through bit by bit, `forecast` is there then."""

    def __init__(self, waiting: Sequence[Candidate], states: Sequence[BackendState], loads: Loads, now: float) -> None:
        """`waiting` are the first jobs in the order in which they are due; at most `MOST_PLAYED` are played."""
        self._waiting = list(waiting[:MOST_PLAYED])
        self._order = [job.job_id for job in self._waiting]
        self._fleet = Fleet(states)
        self._loads = loads
        self._now = now
        self._begun: dict[int, Begun] = {}
        self._able: dict[tuple[object, ...], bool] = {}
        self._runs = Counter[str]()
        self._looks: list[tuple[float, str]] = []
        """When each backend looks for a job, and which."""
        for state in states:
            if state.live:
                heapq.heappush(self._looks, (max(now, state.free_at) if state.busy else now, state.name))

    def steps(self) -> Iterator[None]:
        """Play, and yield after each look of a backend."""
        for _ in range(_LOOKS_PER_JOB * (len(self._waiting) + len(self._looks))):
            if not self._waiting or not self._looks:
                return
            at, name = heapq.heappop(self._looks)
            self._look(name, at)
            yield

    def forecast(self) -> Forecast:
        """Return what has come of it."""
        states = (self._fleet.get(name) for name in self._fleet.names())
        return Forecast(self._order, self._begun, [each for each in states if each is not None], self._loads, self._now)

    def _look(self, name: str, at: float) -> None:
        state = self._fleet.get(name)
        assert state is not None  # noqa: S101 - none is removed
        here = replace(state, busy=False, free_at=at)
        self._fleet.update(here)
        candidates = list(islice((job for job in self._waiting if self._may_take(here, job)), CANDIDATES))
        found = choose(candidates, here, self._fleet, self._loads, at)
        if isinstance(found, Choice):
            self._begin(here, found, at)
        else:
            self._leave(here, found, at)

    def _may_take(self, here: BackendState, job: Candidate) -> bool:
        kind = here.name, job.models, job.only, job.refused_by
        found = self._able.get(kind)
        if found is None:
            found = self._able[kind] = here.may_take(job)
        return found

    def _begin(self, here: BackendState, choice: Choice, at: float) -> None:
        place = next(place for place, job in enumerate(self._waiting) if job.job_id == choice.job_id)
        job = self._waiting.pop(place)
        passed = set(choice.overtook)
        for number, other in enumerate(self._waiting[:place]):
            if other.job_id in passed:
                overtaken_s = other.overtaken_s + choice.put_off_s
                self._waiting[number] = replace(other, overtaken=other.overtaken + 1, overtaken_s=overtaken_s)
        run_s = job.cost_s / here.speed
        self._begun[job.job_id] = Begun(at, choice.load_s, run_s, self._runs[here.name])
        self._runs[here.name] += 1
        ends_at = at + choice.load_s + run_s
        self._fleet.update(_after(here, job, ends_at))
        heapq.heappush(self._looks, (ends_at, here.name))

    def _leave(self, here: BackendState, left: Leave, at: float) -> None:
        if left.reason is Reason.EMPTY:
            # Nothing comes in a play: there is nothing here for it later either.
            return
        if here.idle_since is None:
            self._fleet.update(replace(here, idle_since=at))
        heapq.heappush(self._looks, (at + left.until_s, here.name))


def _after(here: BackendState, job: Candidate, ends_at: float) -> BackendState:
    """Return the state of a backend that has taken a job: what does not fit beside its models is taken to be gone."""
    warm, room = here.warm, here.room
    if job.models and not job.models <= warm:
        warm, room = (warm | job.models, room - 1) if room else (job.models, room)
    return replace(here, warm=warm, room=room, free_at=ends_at, busy=True, idle_since=None)
