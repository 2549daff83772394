"""When waiting jobs begin and end: the queue played forward, and ranges that mostly hold what comes."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from app.domain.scheduling.fleet import BackendState
from app.domain.scheduling.forecast import MOST_PLAYED, Forecast, Playing
from app.domain.scheduling.jobs import Candidate
from app.domain.scheduling.learned_times import Loads
from app.domain.scheduling.missing import cannot_run, missing

NOW = 1000.0
NONE: frozenset[str] = frozenset()
A, B = (frozenset({f"checkpoints/{name}.safetensors"}) for name in "ab")
LOADS = Loads(dict.fromkeys(A | B, 4.0))


def job(job_id: int, cost_s: float = 10.0, models: frozenset[str] = NONE, **more: Any) -> Candidate:
    return Candidate(job_id, more.pop("tenant", "ann"), models, cost_s, fair_tag=job_id, **more)


def backend(name: str = "a", busy_s: float = 0.0, **more: Any) -> BackendState:
    return BackendState(name, more.pop("warm", NONE), NOW + busy_s, busy=busy_s > 0, **more)


def played(waiting: list[Candidate], *states: BackendState) -> Forecast:
    playing = Playing(waiting, states, LOADS, NOW)
    for _ in playing.steps():
        pass
    return playing.forecast()


def begins(waiting: list[Candidate], *states: BackendState) -> list[float | None]:
    """Return in how many seconds each job begins, as is likely; None for one that never does."""
    forecast = played(waiting, *states)
    found = [forecast.of(each, place, NOW) for place, each in enumerate(waiting, 1)]
    return [each.begin.likely_s if each is not None else None for each in found]


def test_jobs_run_one_after_the_other_behind_what_runs_already() -> None:
    assert begins([job(1), job(2, 5.0), job(3)], backend(busy_s=3.0)) == [3.0, 13.0, 18.0]


def test_backends_share_them_and_a_fast_one_does_more() -> None:
    assert begins([job(number) for number in (1, 2, 3)], backend("a"), backend("b")) == [0.0, 0.0, 10.0]
    assert begins([job(number) for number in (1, 2, 3)], backend("a", speed=2.0), backend("b")) == [0.0, 0.0, 5.0]


def test_models_are_loaded_once_for_those_that_share_them() -> None:
    """The third goes before the second, whose models are not loaded."""
    waiting = [job(1, 2.0, A), job(2, 2.0, B), job(3, 2.0, A)]
    assert begins(waiting, backend(warm=A)) == [0.0, 4.0, 2.0]
    found = played(waiting, backend(warm=A)).of(waiting[1], 2, NOW)
    assert found is not None
    assert found.run.likely_s == 6.0


def test_a_job_is_passed_over_only_within_its_bounds() -> None:
    waiting = [job(1, 1.0, B), *(job(number, 1.0, A) for number in range(2, 42))]
    first, *_ = begins(waiting, backend(warm=A))
    assert first is not None
    assert 0 < first <= 2 * 4.0


def test_what_a_memory_has_room_for_stays_loaded() -> None:
    waiting = [job(1, 2.0, A), job(2, 30.0, B), job(3, 2.0, A)]
    assert begins(waiting, backend(warm=A, room=1)) == [0.0, 4.0, 2.0]
    alternating = [job(number, 30.0, A if number % 2 else B) for number in range(1, 5)]
    with_room = played(alternating, backend(room=2)).of(alternating[2], 3, NOW)
    without = played(alternating, backend(room=0)).of(alternating[2], 3, NOW)
    assert with_room is not None
    assert without is not None
    assert (with_room.run.likely_s, without.run.likely_s) == (30.0, 34.0)


def test_a_job_waits_for_the_backend_that_alone_may_run_it() -> None:
    waiting = [job(1, only="b"), job(2), job(3, models=A)]
    states = backend("a", offers={"b.safetensors"}), backend("b", busy_s=50.0, offers={"a.safetensors"})
    assert begins(waiting, *states) == [50.0, 0.0, 60.0]


def test_a_backend_that_left_a_job_to_another_looks_again() -> None:
    """At first it would be finished sooner by the other, which then takes what only that one may run."""
    first, second = begins([job(1, 20.0, only="a"), job(2, 1.0, A)], backend("a", 3.0, warm=A), backend("b"))
    assert first == 3.0
    assert 3.0 <= (second or 0.0) <= 4.0


def test_of_many_runs_one_after_the_other_the_lengths_even_out() -> None:
    waiting = [job(number, 1.0) for number in range(1, 51)]
    forecast = played(waiting, backend())
    second, last = forecast.of(waiting[1], 2, NOW), forecast.of(waiting[49], 50, NOW)
    assert second is not None
    assert last is not None
    assert last.begin.low_s / last.begin.likely_s > second.begin.low_s / second.begin.likely_s


def test_what_nobody_can_run_holds_up_nobody_and_has_no_time() -> None:
    lacking = [job(number, models=B) for number in range(1, 60)]
    waiting = [*lacking, job(98, models=A), job(99, models=A)]
    assert begins(waiting, backend(warm=A, offers={"a.safetensors"}))[-3:] == [None, 0.0, 10.0]
    assert begins([job(1)]) == [None]


def test_beyond_what_is_played_it_goes_on_as_it_went() -> None:
    waiting = [job(number, 1.0) for number in range(1, MOST_PLAYED + 101)]
    forecast = played(waiting, backend("a"), backend("b"))
    last = forecast.of(waiting[-1], len(waiting), NOW)
    assert last is not None
    assert last.begin.likely_s == pytest.approx(150.0, rel=0.03)


def test_a_job_that_was_not_played_has_the_time_of_the_one_whose_place_it_takes() -> None:
    forecast = played([job(1), job(2), job(3)], backend())
    at = [forecast.of(job(9, 1.0), position, NOW) for position in (1, 2, 3, 4)]
    assert [each.begin.likely_s for each in at if each is not None] == [0.0, 10.0, 20.0, 30.0]
    # A while later the first one runs: who is the first now has the time of the second.
    later = forecast.of(job(9, 1.0), 1, NOW + 4.0)
    assert later is not None
    assert later.begin.likely_s == 6.0


def test_time_passes_and_a_begin_does_not_go_below_now() -> None:
    waiting = [job(1), job(2)]
    forecast = played(waiting, backend())
    late = forecast.of(waiting[1], 1, NOW + 12.0)
    assert late is not None
    assert (late.begin.low_s, late.begin.likely_s) == (0.0, 0.0)
    assert late.begin.high_s >= 1.0


@pytest.mark.parametrize("models", [NONE, A])
def test_the_likely_time_lies_within_its_range(models: frozenset[str]) -> None:
    waiting = [job(number, 3.0, models) for number in range(1, 30)]
    forecast = played(waiting, backend(busy_s=2.0), backend("b"))
    for place, each in enumerate(waiting, 1):
        found = forecast.of(each, place, NOW)
        assert found is not None
        for told in (found.begin, found.run):
            assert 0 <= told.low_s <= told.likely_s <= told.high_s
        assert found.run.low_s < found.run.likely_s
        # It may yet be passed over by those that come later.
        assert found.begin.high_s - found.begin.likely_s >= (6.8 if models else 1.0)


def test_four_in_five_end_within_what_was_told_when_they_were_accepted() -> None:
    """Two hundred jobs come one after the other; then they take longer, or less long, than was expected."""
    random, states = Random(7), [backend("a", warm=A), backend("b", warm=B)]
    coming = [job(number, random.choice((2.0, 5.0)), random.choice((A, B))) for number in range(1, MOST_PLAYED + 1)]
    told = {}
    for number, each in enumerate(coming, 1):
        if number % 10 == 0:
            forecast = played(coming[: number - 1], *states)
            told[each.job_id] = forecast.of(each, number, NOW)
    really = [Candidate(each.job_id, each.tenant, each.models, each.cost_s * random.lognormvariate(0, 0.3),
                        fair_tag=each.fair_tag) for each in coming]  # fmt: skip
    became = played(really, *states)
    within = 0
    for place, each in enumerate(really, 1):
        if (expected := told.get(each.job_id)) is not None:
            end = became.of(each, place, NOW)
            assert end is not None
            ended_s = end.begin.likely_s + end.run.likely_s
            within += expected.begin.low_s + expected.run.low_s <= ended_s
            within -= ended_s > expected.begin.high_s + expected.run.high_s
    assert within >= 0.8 * len(told)


# What is missing.


OFFERS = {"a": {"a.safetensors"}, "b": {"b.safetensors"}}


def test_a_model_that_no_backend_has_is_named() -> None:
    assert missing({*A, "loras/x.safetensors"}, None, OFFERS) == ["loras/x.safetensors"]
    assert cannot_run({*A, "loras/x.safetensors"}, None, OFFERS) == (
        "It cannot run now, because no live backend has x.safetensors."
    )
    assert cannot_run(A, None, OFFERS) is None


def test_if_each_backend_lacks_another_what_is_missing_is_said_where_the_least_is() -> None:
    both = {*A, *B, "loras/a.safetensors"}
    assert missing(both, None, OFFERS) == ["checkpoints/b.safetensors"]


def test_a_job_for_one_backend_lacks_what_that_one_lacks() -> None:
    assert cannot_run(B, "a", OFFERS) == "It cannot run now, because backend a does not have b.safetensors."
    assert missing(B, "b", OFFERS) == []
    # That it is not there is said elsewhere.
    assert missing(B, "c", OFFERS) == []


def test_nothing_is_missing_while_it_is_not_known_what_there_is() -> None:
    assert missing(A, None, {}) == []
    assert missing(A, None, {"b": {"b.safetensors"}, "new": None}) == []


def test_of_many_missing_models_a_few_are_named() -> None:
    many = {f"loras/{number}.safetensors" for number in range(5)}
    said = cannot_run(many, None, {"a": set()})
    assert (
        said == "It cannot run now, because no live backend has 0.safetensors, 1.safetensors, 2.safetensors and 2 more."
    )
