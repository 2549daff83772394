"""Which waiting job a backend takes: each rule by an example that it alone decides."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.scheduling.choice import CANDIDATES, LOOK_AGAIN_S, MOST_LEFT, SOONEST_LOOK_S, choose
from app.domain.scheduling.fleet import BackendState, Fleet
from app.domain.scheduling.jobs import Candidate, Choice, Leave, Reason
from app.domain.scheduling.learned_times import Loads
from app.domain.scheduling.reach import MOST_OVERTAKEN

NOW = 100.0
A, B, C = (frozenset({f"{name}.safetensors"}) for name in "abc")
LOADS = Loads()
"""5 s for whatever must be loaded."""


def job(job_id: int, models: frozenset[str] = A, cost_s: float = 1.0, **more: Any) -> Candidate:
    return Candidate(job_id, more.pop("tenant", "ann"), models, cost_s, **more)


def backend(
    name: str = "here", warm: frozenset[str] = frozenset(), remaining_s: float = 0.0, **more: Any
) -> BackendState:
    return BackendState(name, warm, NOW + remaining_s, busy=remaining_s > 0, **more)


def chosen(jobs: list[Candidate], here: BackendState, *others: BackendState) -> Choice | Leave:
    return choose(jobs, here, Fleet([here, *others]), LOADS, NOW)


def taken(jobs: list[Candidate], here: BackendState, *others: BackendState) -> int | None:
    """Return the id of the job that is taken, None for none."""
    found = chosen(jobs, here, *others)
    return found.job_id if isinstance(found, Choice) else None


def test_the_first_is_taken_when_nothing_is_to_be_weighed() -> None:
    expected = Choice(1, Reason.DUE, rank=0, overtook=(), put_off_s=1.0, load_s=0.0, alternatives=1)
    assert chosen([job(1), job(2)], backend(warm=A)) == expected


def test_a_job_without_models_needs_no_load() -> None:
    assert chosen([job(1, frozenset())], backend(warm=A)) == Choice(1, Reason.DUE, 0, (), 1.0, 0.0, 0)


def test_a_job_whose_models_are_loaded_goes_first() -> None:
    expected = Choice(3, Reason.WARM, rank=2, overtook=(1, 2), put_off_s=1.0, load_s=0.0, alternatives=3)
    assert chosen([job(1, A), job(2, A), job(3, B), job(4, B)], backend(warm=B)) == expected


def test_what_another_puts_off_is_shared_by_the_backends() -> None:
    found = chosen([job(1, A), job(2, B)], backend(warm=B), backend("else", A, 9))
    assert isinstance(found, Choice)
    assert found.put_off_s == 0.5


def test_if_none_is_loaded_the_first_is() -> None:
    found = chosen([job(1, A), job(2, C)], backend(warm=B))
    assert found == Choice(1, Reason.LOAD, 0, (), 6.0, 5.0, 1)


def test_only_the_missing_files_count_as_load() -> None:
    loads = Loads({"a.safetensors": 4.0, "lora.safetensors": 0.5})
    here = backend(warm=A)
    found = choose([job(1, A | {"lora.safetensors"})], here, Fleet([here]), loads, NOW)
    assert isinstance(found, Choice)
    assert found.load_s == 0.5


@pytest.mark.parametrize(("overtaken", "expected"), [(MOST_OVERTAKEN - 1, 2), (MOST_OVERTAKEN, 1)])
def test_a_job_is_overtaken_so_often(overtaken: int, expected: int) -> None:
    assert taken([job(1, A, overtaken=overtaken), job(2, B)], backend(warm=B)) == expected


@pytest.mark.parametrize(("others", "expected"), [(MOST_OVERTAKEN - 1, 99), (MOST_OVERTAKEN, 0)])
def test_what_is_due_between_two_jobs_counts_as_if_it_went_first_too(others: int, expected: int) -> None:
    between = [job(number, C, cost_s=0.001) for number in range(1, others + 1)]
    assert taken([job(0, A, cost_s=0.001), *between, job(99, B, cost_s=0.001)], backend(warm=B)) == expected


def test_what_needs_the_same_models_as_the_one_that_is_passed_over_does_not_count() -> None:
    alike = [job(number, A, cost_s=5.0, overtaken=MOST_OVERTAKEN - 1) for number in range(28)]
    assert taken([*alike, job(99, B)], backend(warm=B)) == 99
    assert taken([*alike, job(98, C), job(99, B)], backend(warm=B)) == 0
    fresh = [job(number, A, cost_s=0.1) for number in range(27)]
    assert taken([*fresh, job(97, C, cost_s=0.1), job(98, C, cost_s=0.1), job(99, B)], backend(warm=B)) == 99


@pytest.mark.parametrize(("overtaken_s", "expected"), [(7.4, 2), (7.6, 1)])
def test_a_job_is_put_off_by_less_than_two_of_its_loads(overtaken_s: float, expected: int) -> None:
    assert taken([job(1, A, overtaken_s=overtaken_s), job(2, B)], backend(warm=B)) == expected


@pytest.mark.parametrize(("overtaken_s", "expected"), [(3.2, 2), (3.3, 1)])
def test_by_other_tenants_a_job_is_put_off_by_less_than_one_load(overtaken_s: float, expected: int) -> None:
    jobs = [job(1, A, overtaken_s=overtaken_s), job(2, B, tenant="bob")]
    assert taken(jobs, backend(warm=B)) == expected


def test_the_bound_for_others_holds_across_a_job_of_the_same_tenant_too() -> None:
    mine = job(2, A, overtaken_s=6.0)
    assert taken([job(1, C, tenant="bob"), mine, job(3, B, cost_s=0.9)], backend(warm=B)) == 3
    assert taken([job(1, C, tenant="bob", overtaken_s=2.0), mine, job(3, B, cost_s=0.9)], backend(warm=B)) == 3
    assert taken([job(1, C, tenant="bob", overtaken_s=2.5), mine, job(3, B, cost_s=0.9)], backend(warm=B)) == 1


def test_each_tenant_is_bound_by_what_jobs_of_all_others_bear() -> None:
    bob, carl = job(1, A, tenant="bob", overtaken_s=4.2), job(2, A, tenant="carl", overtaken_s=4.0)
    # Whoever comes passes over one of another tenant, which bears no more, whichever of them is first.
    for tenant in ("ann", "bob", "carl"):
        assert taken([bob, carl, job(3, B, tenant=tenant)], backend(warm=B)) == 1
        assert taken([carl, bob, job(3, B, tenant=tenant)], backend(warm=B)) == 2
    fresh = job(2, A, tenant="carl")
    assert taken([bob, fresh, job(3, B, tenant="bob", cost_s=0.1)], backend(warm=B)) == 3
    assert taken([bob, fresh, job(3, B, tenant="carl", cost_s=0.1)], backend(warm=B)) == 1


def test_a_warm_job_that_runs_for_too_long_waits() -> None:
    assert taken([job(1, A), job(2, B, cost_s=8.4)], backend(warm=B)) == 2
    assert taken([job(1, A), job(2, B, cost_s=8.6)], backend(warm=B)) == 1


def test_on_a_slow_card_it_runs_for_longer() -> None:
    assert taken([job(1, A), job(2, B, cost_s=4.5)], backend(warm=B, speed=0.5)) == 1
    assert taken([job(1, A), job(2, B, cost_s=4.0)], backend(warm=B, speed=0.5)) == 2


def test_a_lower_priority_never_goes_first() -> None:
    assert taken([job(1, A, priority=1), job(2, B)], backend(warm=B)) == 1
    # Not even while the other waits for the backend that will finish it sooner.
    assert taken([job(1, A, priority=1), job(2, B)], backend(warm=B), backend("else", A, 1)) is None


def test_one_of_a_lower_priority_is_taken_if_the_other_cannot_run_here() -> None:
    found = chosen([job(1, A, priority=1, only="else"), job(2, B)], backend(warm=B), backend("else"))
    assert isinstance(found, Choice)
    assert (found.job_id, found.rank, found.overtook) == (2, 0, ())


def test_a_job_waits_for_the_backend_that_has_its_models_while_that_is_shorter_than_a_load() -> None:
    assert taken([job(1, A)], backend(), backend("else", A, 4)) is None
    assert taken([job(1, A)], backend(), backend("else", A, 6)) == 1


def test_meanwhile_the_next_one_is_taken() -> None:
    assert taken([job(1, A), job(2, B)], backend(), backend("else", A, 4)) == 2


def test_what_is_left_to_another_backend_counts_there() -> None:
    jobs = [job(number, A, cost_s=2.0) for number in range(9)]
    # It does two more within a load, the third one would wait for longer.
    assert taken(jobs, backend(), backend("else", A, 0.5)) == 3


def test_idle_time_counts_against_waiting_on() -> None:
    assert taken([job(1, A)], backend(idle_since=NOW - 0.5), backend("else", A, 4)) is None
    assert taken([job(1, A)], backend(idle_since=NOW - 1.5), backend("else", A, 4)) == 1


def test_who_waits_looks_again_in_time() -> None:
    found = chosen([job(1, A)], backend(), backend("else", A, 4))
    assert found == Leave(pytest.approx(1.0, abs=0.01), Reason.ELSEWHERE, left_to=("else",))
    assert chosen([], backend()) == Leave(LOOK_AGAIN_S, Reason.EMPTY)


def test_a_full_queue_is_no_time_to_wait() -> None:
    """Each job would be better off where its models are; but an idle backend would hold up those behind them."""
    jobs = [job(number, A, cost_s=0.01) for number in range(CANDIDATES)]
    found = chosen(jobs, backend(), backend("else", A, 1))
    assert found == Choice(0, Reason.LOAD, 0, (), pytest.approx(2.505), 5.0, CANDIDATES - 1, left_to=("else",))
    assert taken(jobs[:MOST_LEFT], backend(), backend("else", A, 1)) is None
    assert taken(jobs[: MOST_LEFT + 1], backend(), backend("else", A, 1)) == 0


def test_a_job_that_may_not_be_passed_over_does_not_hold_up_a_full_queue() -> None:
    jobs = [job(0, A, overtaken=MOST_OVERTAKEN), *(job(number, B) for number in range(1, CANDIDATES))]
    assert taken(jobs, backend(), backend("else", A, 1)) == 0
    assert taken(jobs[:-1], backend(), backend("else", A, 1)) is None


def test_a_slow_card_works_too_when_the_queue_is_full() -> None:
    jobs = [job(number, A, cost_s=0.1) for number in range(CANDIDATES)]
    assert taken(jobs, backend(warm=A, speed=0.1), backend("fast", A, 0.1, speed=10.0)) == 0


def test_of_two_idle_backends_one_with_room_loads() -> None:
    empty, full = backend(room=1), backend("full", B, room=0)
    assert taken([job(1, A)], full, empty) is None
    assert taken([job(1, A)], empty, full) == 1
    # It loads one, not all of them.
    assert taken([job(1, A), job(2, C)], full, empty) == 2


def test_of_two_full_ones_each_loads_what_it_is_asked_for() -> None:
    assert taken([job(1, A)], backend(warm=B, room=0), backend("else", B, room=0)) == 1


def test_of_two_equal_backends_each_takes_what_it_is_asked_for() -> None:
    assert taken([job(1, A)], backend("a"), backend("b")) == 1
    assert taken([job(1, A)], backend("b"), backend("a")) == 1


def test_a_job_waits_for_a_card_that_finishes_it_sooner() -> None:
    fast = backend("fast", A, 2.0, speed=4.0)
    assert taken([job(1, A, cost_s=8.0)], backend(warm=A), fast) is None
    assert taken([job(1, A, cost_s=2.0)], backend(warm=A), fast) == 1
    assert taken([job(1, A, cost_s=8.0), job(2, A, cost_s=8.0)], backend(warm=A, speed=0.9), fast) is None


def test_a_fast_card_is_not_left_idle_for_the_queue_of_a_slow_one() -> None:
    assert taken([job(1, A, cost_s=8.0)], backend(speed=4.0), backend("slow", A, 1.0)) == 1


def test_a_second_job_is_queued_behind_one_that_leaves_its_models_loaded() -> None:
    found = chosen([job(1, A), job(2, B)], backend(warm=B, remaining_s=3), backend("else", A, 3))
    assert found == Choice(2, Reason.AHEAD, 1, (1,), 0.5, 0.0, 1)


def test_no_load_is_queued_ahead() -> None:
    assert chosen([job(1, A)], backend(warm=B, remaining_s=3)) == Leave(3.0, Reason.BUSY)


def test_behind_the_prompts_of_others_any_job_is_queued_that_would_not_end_sooner_elsewhere() -> None:
    theirs = BackendState("here", free_at=NOW + 30)
    assert taken([job(1, A)], theirs) == 1
    assert taken([job(1, A)], theirs, backend("else", remaining_s=40)) == 1
    assert taken([job(1, A)], theirs, backend("else", remaining_s=20)) is None


def test_nothing_is_queued_ahead_that_an_idle_backend_would_finish_sooner() -> None:
    assert taken([job(1, B)], backend(warm=B, remaining_s=6), backend("idle")) is None
    assert taken([job(1, B)], backend(warm=B, remaining_s=3), backend("idle", B)) is None
    assert taken([job(1, B, only="here")], backend(warm=B, remaining_s=6), backend("idle")) == 1
    assert taken([job(1, B, refused_by=frozenset({"idle"}))], backend(warm=B, remaining_s=6), backend("idle")) == 1
    assert taken([job(1, B)], backend(warm=B, remaining_s=6), backend("idle", offers={"a.safetensors"})) == 1
    assert taken([job(1, B)], backend(warm=B, remaining_s=6), backend("idle", live=False)) == 1
    # A load there would take longer than the wait.
    assert taken([job(1, B)], backend(warm=B, remaining_s=3), backend("idle")) == 1


def test_a_run_that_takes_longer_than_expected_is_one_still() -> None:
    late = BackendState("here", B, NOW - 5.0, busy=True)
    found = chosen([job(1, A), job(2, B)], late, backend("else", A, 3))
    assert isinstance(found, Choice)
    assert (found.job_id, found.reason) == (2, Reason.AHEAD)
    assert chosen([job(1, A)], late, backend("else", A, 3)) == Leave(SOONEST_LOOK_S, Reason.BUSY)


def test_nothing_is_queued_ahead_that_another_backend_would_begin_sooner() -> None:
    assert taken([job(1, B)], backend(warm=B, remaining_s=3), backend("else", B, 1)) is None


def test_where_its_models_ran_out_of_memory_a_job_is_not_tried_again() -> None:
    small = backend(avoids=frozenset({A}))
    assert taken([job(1, A), job(2, B)], small, backend("large", B, 50)) == 2
    assert taken([job(1, A)], small, backend("large", B, 50)) is None


def test_unless_no_other_backend_is_left_for_it() -> None:
    small = backend(avoids=frozenset({A}))
    assert taken([job(1, A)], small) == 1
    assert taken([job(1, A)], small, backend("also", avoids=frozenset({A}))) == 1
    assert taken([job(1, A)], small, backend("lacks", offers={"b.safetensors"})) == 1


def test_a_preferred_backend_gets_the_job_if_that_costs_little() -> None:
    wish = job(1, A, prefer="wanted")
    assert taken([wish], backend(warm=A), backend("wanted", A, 4)) is None
    assert taken([wish], backend(warm=A), backend("wanted", A, 6)) == 1
    assert taken([wish], backend("wanted"), backend("else", A, 4)) == 1


def test_a_preferred_backend_that_cannot_run_it_is_no_hindrance() -> None:
    wish = job(1, A, prefer="wanted")
    assert taken([wish], backend(warm=A), backend("wanted", A, live=False)) == 1
    assert taken([wish], backend(warm=A)) == 1


def test_a_busy_backend_tells_whether_anything_waits_for_it() -> None:
    busy = backend(warm=A, remaining_s=6)
    assert chosen([job(1, B)], busy) == Leave(6.0, Reason.BUSY)
    assert chosen([], busy) == chosen([job(1, A, only="else")], busy) == Leave(6.0, Reason.EMPTY)


def test_a_backend_that_takes_no_jobs_takes_none() -> None:
    assert chosen([job(1)], backend(live=False)) == Leave(LOOK_AGAIN_S, Reason.EMPTY)


def test_no_more_are_looked_at() -> None:
    elsewhere = [job(number, only="else") for number in range(CANDIDATES - 1)]
    assert taken([*elsewhere, job(31, only="else"), job(32)], backend(warm=A)) is None
    assert taken([*elsewhere, job(31), job(32)], backend(warm=A)) == 31


def test_a_job_is_not_taken_where_its_models_are_not() -> None:
    here = backend(offers={"b.safetensors", "sdxl/c.safetensors"})
    assert taken([job(1, A)], here) is None
    assert taken([job(1, A), job(2, B)], here) == 2
    for there in ("checkpoints/b.safetensors", "Odd/Loader.file/b.safetensors", "loras/sdxl/c.safetensors"):
        assert taken([job(1, frozenset({there}))], here) == 1
    # Of a name that was cut it cannot be told.
    assert taken([job(1, frozenset({"checkpoints/aaa#0123"}))], here) == 1
