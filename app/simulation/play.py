"""Plays a scenario: events in virtual time, in the order in which they are due; the same seed, the same play."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Final

from app.domain.fair_tags import charge
from app.domain.scheduling.choice import SOONEST_LOOK_S, choose
from app.domain.scheduling.fleet import Fleet
from app.domain.scheduling.jobs import Candidate, Choice, Leave, Reason
from app.domain.scheduling.learned_times import Loads
from app.simulation.machine import Claimed, Machine
from app.simulation.measures import Measures
from app.simulation.waiting import Key, Waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.simulation.scenario import Arrival, Scenario

ASKED: Final = 4
"""Maximum number of backends that are asked whether they take a job that came."""
_STEP: Final = 2_000


class Mode(StrEnum):
    """What decides."""

    FIFO = "fifo"
    """Jobs in the order in which they came, on whichever backend is free."""
    AFFINITY = "affinity"
    """The same order, and the backend chooses."""
    FAIR = "fair"
    """Jobs by fair tag, on whichever backend is free."""
    BOTH = "both"
    """Jobs by fair tag, and the backend chooses."""


class _Event(StrEnum):
    ARRIVES = "arrives"
    ENDS = "ends"
    LOOKS = "looks"
    DIES = "dies"
    COMES_BACK = "comes back"


@dataclass(slots=True)
class _Record:
    """A job that has not ended."""

    arrival: Arrival
    put_off_s: float = 0.0
    """What those that went before it have really taken of the fleet."""


class Play:
    """One scenario in one mode. `steps` plays it to its end; the measures are complete then."""

    def __init__(self, scenario: Scenario, mode: Mode, seed: int) -> None:
        self._scenario = scenario
        self._chooses = mode in (Mode.AFFINITY, Mode.BOTH)
        self._is_fair = mode in (Mode.FAIR, Mode.BOTH)
        self.measures = Measures(scenario.weights)
        self._arrivals = scenario.jobs(Random(seed))
        self._misfortune = Random(seed + 1)
        machines = [Machine(f"gpu-{number}", each) for number, each in enumerate(scenario.hardware)]
        self._machines = {machine.name: machine for machine in machines}
        self._fleet = Fleet(machine.state for machine in machines)
        self._idle = dict.fromkeys(self._machines)
        self._waiting = Waiting()
        self._waiting_of: dict[str, int] = {}
        """Tenant → how many jobs; one that has none is kept, so that all have come when all wait."""
        self._none_waiting = 0
        """Tenants that have been seen and have no job waiting."""
        self._records: dict[int, _Record] = {}
        self._last_tag: dict[tuple[str, int], int] = {}
        self._clock: dict[int, int] = {}
        self._loads = Loads()
        self._events: list[tuple[float, int, _Event, str, int]] = []
        """Moment, number, kind, machine, and the number of its run."""
        self._numbers = 0
        self._job_id = 0
        self._next: Arrival | None = None
        self.now = 0.0

    def steps(self) -> Iterator[None]:
        """Play it, and yield now and then."""
        self._await_arrival()
        for machine in self._machines.values():
            self._await_death(machine)
        count = 0
        while self._events and (self.measures.left or self._next is not None):
            self.now, _, kind, name, run = heapq.heappop(self._events)
            self._happen(kind, name, run)
            count += 1
            if count % _STEP == 0:
                yield

    def _happen(self, kind: _Event, name: str, run: int) -> None:
        if kind is _Event.ARRIVES:
            self._arrive()
            return
        machine = self._machines[name]
        if kind is _Event.ENDS:
            if machine.running is not None and machine.runs == run:
                self._end(machine)
        elif kind is _Event.LOOKS:
            if machine.looks_at == self.now:
                machine.looks_at = -1.0
                self._look(machine)
        elif kind is _Event.DIES:
            self._die(machine)
        else:
            self._come_back(machine)

    def _schedule(self, at: float, kind: _Event, name: str = "", run: int = 0) -> None:
        self._numbers += 1
        heapq.heappush(self._events, (at, self._numbers, kind, name, run))

    def _await_arrival(self) -> None:
        self._next = next(self._arrivals, None)
        if self._next is not None:
            self._schedule(self._next.at, _Event.ARRIVES)

    def _await_death(self, machine: Machine) -> None:
        if machine.hardware.dies_every_s is not None:
            after_s = self._misfortune.expovariate(1 / machine.hardware.dies_every_s)
            self._schedule(self.now + after_s, _Event.DIES, machine.name)

    def _arrive(self) -> None:
        """Put the job that has come into the queue, and ask some backends whether they take it."""
        come = self._next
        assert come is not None  # noqa: S101 - the event is scheduled with it
        self._job_id += 1
        job = Candidate(self._job_id, come.tenant, come.models, come.cost_s, come.priority)
        self._records[job.job_id] = _Record(come)
        self.measures.left += 1
        is_among_first = self._put((-job.priority, self._tag(job), job.job_id), job)
        self._await_arrival()
        if is_among_first:
            self._ask(job)

    def _tag(self, job: Candidate) -> int:
        if not self._is_fair:
            return job.job_id
        account = job.tenant, job.priority
        clock = self._clock.get(job.priority, 0)
        weight = self._scenario.weights.get(job.tenant, 1.0)
        tag = self._last_tag[account] = charge(self._last_tag.get(account, 0), clock, job.cost_s, weight)
        return tag

    def _put(self, key: Key, job: Candidate) -> bool:
        waiting = self._waiting_of.get(job.tenant)
        if waiting is None:
            self.measures.joined(job.tenant)
        elif not waiting:
            self._none_waiting -= 1
        self._waiting_of[job.tenant] = (waiting or 0) + 1
        return self._waiting.add(key, job)

    def _ask(self, job: Candidate) -> None:
        """Ask backends that may be the best for the job: idle ones, or else ones that may queue it."""
        holders = [state.name for state in self._fleet.holders(job)]
        if self._idle:
            holders = [name for name in holders if name in self._idle]
        others = self._idle or (name for _, name, _ in self._fleet.soonest())
        asked = dict.fromkeys([*holders[:ASKED], *islice(others, ASKED)])
        for name in islice(asked, ASKED):
            self._look(self._machines[name])
            if not self._waiting.first or self._waiting.first[-1].job_id < job.job_id == self._job_id:
                return

    def _look(self, machine: Machine) -> None:
        """Let a backend take what it may."""
        machine.looked_at = self.now
        while machine.up and machine.ahead is None and self._waiting:
            self.measures.decisions += 1
            found = self._decide(machine)
            for name in found.left_to:
                self._wake(self._machines[name])
            if isinstance(found, Leave):
                self._leave(machine, found)
                return
            self._take(machine, found)

    def _wake(self, machine: Machine) -> None:
        """Let a backend look soon; not again in the same moment, as two could go on telling each other for ever."""
        if machine.ahead is None:
            self._look_later(machine, SOONEST_LOOK_S if machine.looked_at == self.now else 0.0)

    def _decide(self, machine: Machine) -> Choice | Leave:
        first = self._waiting.first
        if self._chooses:
            return choose(first, machine.state, self._fleet, self._loads, self.now)
        if machine.running is not None and self._idle:
            return Leave(0.0, Reason.BUSY)
        return Choice(first[0].job_id, Reason.DUE, 0, (), 0.0, 0.0, len(first) - 1)

    def _leave(self, machine: Machine, left: Leave) -> None:
        if machine.running is not None:
            return
        machine.wait(self.now)
        self._look_later(machine, left.until_s)

    def _look_later(self, machine: Machine, after_s: float) -> None:
        at = self.now + after_s
        if machine.looks_at < self.now or at < machine.looks_at:
            machine.looks_at = at
            self._schedule(at, _Event.LOOKS, machine.name)

    def _take(self, machine: Machine, choice: Choice) -> None:
        due = self._waiting.due
        key, job = self._waiting.take(choice.rank, choice.put_off_s)
        assert job.job_id == choice.job_id  # noqa: S101 - the choice was made from the same list
        # Not the tag of a job that went first: who comes now would stand behind those that it has passed over.
        self._clock[job.priority] = due[1]
        self.measures.most_overtaken = max(self.measures.most_overtaken, job.overtaken)
        self._share(job.tenant, machine, job)
        claimed = Claimed(key, job, self._records[job.job_id].arrival, choice.overtook)
        if machine.running is None:
            self._begin(machine, claimed, self._scenario.gap_s)
        else:
            machine.queue(claimed)
            self._fleet.update(machine.state)
        # What it took may have been what others waited for, or left to it.
        for name in islice(self._idle, 2) if self._waiting else ():
            self._wake(self._machines[name])

    def _share(self, tenant: str, machine: Machine, job: Candidate) -> None:
        """Account a job that was just taken, if all tenants have some waiting."""
        left = self._waiting_of[tenant] = self._waiting_of[tenant] - 1
        if not self._none_waiting:
            self.measures.given(tenant, self._records[job.job_id].arrival.run_s / machine.hardware.speed)
        self._none_waiting += not left

    def _begin(self, machine: Machine, claimed: Claimed, gap_s: float) -> None:
        self._idle.pop(machine.name, None)
        ends_at = machine.begin(claimed, self.now, gap_s, self._loads, self._scenario.load_s)
        self._fleet.update(machine.state)
        self._schedule(ends_at, _Event.ENDS, machine.name, machine.runs)
        put_off_s = (claimed.load_s + claimed.run_s) / max(1, len(self._fleet))
        for job_id in claimed.overtook:
            record = self._records.get(job_id)
            if record is not None:
                record.put_off_s += put_off_s

    def _end(self, machine: Machine) -> None:
        claimed, self._loads = machine.end(self.now, self._loads)
        measures, arrival = self.measures, claimed.arrival
        measures.ran(arrival.tenant, claimed.wait_s, claimed.load_s, claimed.run_s)
        measures.last_end = self.now
        record = self._records.pop(claimed.job.job_id)
        usual_s = sum(self._scenario.load_s[name] for name in arrival.models)
        measures.most_put_off = max(measures.most_put_off, record.put_off_s / usual_s)
        self._go_on(machine)

    def _go_on(self, machine: Machine) -> None:
        """Begin the job that is queued, or look for one."""
        ahead, machine.ahead = machine.ahead, None
        if ahead is not None:
            self._begin(machine, ahead, 0.0)
        else:
            self._idle[machine.name] = None
            self._fleet.update(machine.state)
        self._look(machine)

    def _die(self, machine: Machine) -> None:
        for lost in machine.die(self.now):
            self.measures.lost_runs += 1
            self._put(lost.key, lost.job)
        self._idle.pop(machine.name, None)
        self._fleet.update(machine.state)
        self._schedule(self.now + machine.hardware.down_s, _Event.COMES_BACK, machine.name)
        for name in islice(self._idle, 2):
            self._wake(self._machines[name])

    def _come_back(self, machine: Machine) -> None:
        machine.come_back(self.now)
        self._await_death(machine)
        self._go_on(machine)
