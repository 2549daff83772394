"""Whatever waits, and whatever the fleet is like: nobody is passed over more often or for longer than is allowed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.scheduling.choice import choose
from app.domain.scheduling.fleet import BackendState, Fleet
from app.domain.scheduling.jobs import Candidate, Choice
from app.domain.scheduling.learned_times import Loads
from app.domain.scheduling.reach import MOST_OVERTAKEN, MOST_PUT_OFF, MOST_PUT_OFF_BY_OTHERS

NOW = 50.0
MODELS = [frozenset[str](), *(frozenset({name}) for name in "abc"), frozenset("ab")]
LOADS = Loads({"a": 2.0, "b": 5.0, "c": 9.0})

jobs = st.builds(
    Candidate,
    job_id=st.just(0),
    tenant=st.sampled_from(["ann", "bob", "carl"]),
    models=st.sampled_from(MODELS),
    cost_s=st.floats(0.05, 20.0),
    priority=st.sampled_from([0, 0, 0, 5]),
    overtaken=st.integers(0, MOST_OVERTAKEN),
    overtaken_s=st.floats(0.0, 20.0),
    prefer=st.sampled_from([None, None, "gpu-0", "gpu-1", "gone"]),
    only=st.sampled_from([None, None, None, None, "gpu-0", "gpu-1", "gone"]),
    refused_by=st.frozensets(st.sampled_from(["gpu-0", "gpu-1"]), max_size=1),
)
backends = st.builds(
    BackendState,
    name=st.just(""),
    warm=st.sampled_from(MODELS),
    free_at=st.floats(NOW - 20, NOW + 20),
    busy=st.booleans(),
    idle_since=st.sampled_from([None, NOW - 3.0]),
    room=st.sampled_from([None, 0, 1]),
    speed=st.sampled_from([0.5, 1.0, 2.0]),
    offers=st.sampled_from([None, None, {"a", "b"}]),
    avoids=st.frozensets(st.sampled_from(MODELS[1:]), max_size=1),
    live=st.sampled_from([True, True, True, False]),
)


def queue_of(drawn: list[Candidate]) -> list[Candidate]:
    """Return the jobs as a claim lists them: by priority, each with an id of its own."""
    ordered = sorted(drawn, key=lambda job: -job.priority)
    return [replace(each, job_id=number) for number, each in enumerate(ordered)]


def named(drawn: list[BackendState]) -> list[BackendState]:
    fields = ("warm", "free_at", "busy", "idle_since", "room", "speed", "offers", "avoids", "live")
    return [
        BackendState(f"gpu-{number}", **{field: getattr(each, field) for field in fields})
        for number, each in enumerate(drawn)
    ]


@given(st.lists(jobs, max_size=40), st.lists(backends, min_size=1, max_size=5))
def test_no_choice_passes_over_a_job_beyond_its_bounds(drawn: list[Candidate], fleet: list[BackendState]) -> None:
    queue, states = queue_of(drawn), named(fleet)
    here = states[0]
    found = choose(queue, here, Fleet(states), LOADS, NOW)
    if not isinstance(found, Choice):
        return
    by_id = {job.job_id: job for job in queue}
    taken = by_id[found.job_id]
    assert here.may_take(taken)
    assert len(found.overtook) == found.rank
    passed = [job for job in queue[: queue.index(taken)] if here.may_take(job)]
    for job in passed:
        # Those that were passed by because they ran out of memory here are the only ones that do not count.
        assert job.job_id in found.overtook or job.models in here.avoids
    for job in (by_id[job_id] for job_id in found.overtook):
        most = MOST_PUT_OFF if job.tenant == taken.tenant else MOST_PUT_OFF_BY_OTHERS
        assert job.priority == taken.priority
        assert job.overtaken + 1 <= MOST_OVERTAKEN
        places = Fleet(states).places(job)
        put_off_s = (found.load_s + taken.cost_s / here.speed) / places
        assert job.overtaken_s + put_off_s <= most * LOADS.of(job.models) + 1e-9
        if places == Fleet(states).places(taken):
            assert found.put_off_s == pytest.approx(put_off_s)


@given(st.lists(jobs, max_size=40), st.lists(backends, min_size=1, max_size=5))
def test_what_is_queued_ahead_needs_no_load(drawn: list[Candidate], fleet: list[BackendState]) -> None:
    queue, states = queue_of(drawn), named(fleet)
    found = choose(queue, states[0], Fleet(states), LOADS, NOW)
    if isinstance(found, Choice) and states[0].busy:
        assert found.load_s == 0
        assert queue[found.job_id].models <= states[0].warm


@given(st.lists(jobs, max_size=40), st.lists(backends, min_size=1, max_size=5))
def test_a_first_job_that_is_taken_without_a_choice_would_be_chosen(
    drawn: list[Candidate], fleet: list[BackendState]
) -> None:
    queue, states = queue_of(drawn), named(fleet)
    here = states[0]
    able = [job for job in queue if here.may_take(job)]
    if not able or able[0].prefer or not able[0].models <= here.warm or able[0].models in here.avoids:
        return
    if Fleet(states).is_as_good_as_any(here, NOW):
        found = choose([job for job in queue if job in able][:32], here, Fleet(states), LOADS, NOW)
        assert isinstance(found, Choice)
        assert (found.job_id, found.rank, found.load_s) == (able[0].job_id, 0, 0)


def test_the_fastest_backend_is_forgotten_with_its_state() -> None:
    fleet = Fleet([BackendState("slow"), BackendState("fast", speed=2.0)])
    assert fleet.fastest == 2.0
    fleet.remove("fast")
    assert (fleet.fastest, len(fleet)) == (1.0, 1)


@given(st.lists(st.tuples(st.integers(0, 4), backends), max_size=30), jobs)
def test_the_index_of_a_fleet_is_that_of_its_newest_states(
    updates: list[tuple[int, BackendState]], job: Candidate
) -> None:
    fleet, newest = Fleet(), dict[str, BackendState]()
    for number, drawn in updates:
        state = named([drawn] * (number + 1))[number]
        if not state.live and state.room:
            fleet.remove(state.name)
            newest.pop(state.name, None)
        else:
            fleet.update(state)
            newest[state.name] = state
        assert fleet.fastest == max((state.speed for state in newest.values() if state.live), default=1.0)
    live = [state for state in newest.values() if state.live]
    assert len(fleet) == len(live)
    assert [state for _, _, state in fleet.soonest()] == sorted(live, key=lambda state: (state.free_at, state.name))
    assert fleet.places(job) == max(1, sum(state.can_take(job) for state in live))
    preferred = {job.prefer} & {state.name for state in live}
    assert {state.name for state in fleet.holders(job)} == preferred | {
        state.name for state in live if job.models & state.warm
    }
