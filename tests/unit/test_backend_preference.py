"""Which backend takes the next prompt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.domain.scheduling.backend_load import BackendLoad, by_preference


def test_the_backend_that_would_begin_soonest_comes_first() -> None:
    loads = [
        BackendLoad("busy", slots=2, used=1),
        BackendLoad("idle", slots=2, used=0),
        BackendLoad("others-use-it", slots=2, used=0, foreign=5),
    ]
    assert by_preference(loads) == ["idle", "busy", "others-use-it"]


def test_of_two_that_are_as_busy_the_one_whose_runs_end_first_comes_first() -> None:
    loads = [BackendLoad(name, slots=2, used=1, ends_at=ends_at) for name, ends_at in (("a", 9.0), ("b", 3.0))]
    assert by_preference([*loads, BackendLoad("idle", slots=2, used=0)]) == ["idle", "b", "a"]


def test_a_full_backend_is_not_asked() -> None:
    assert by_preference([BackendLoad("full", slots=2, used=2), BackendLoad("away", slots=0, used=1)]) == []


def test_equals_come_by_name() -> None:
    assert by_preference([BackendLoad(name, slots=1, used=0) for name in "cab"]) == ["a", "b", "c"]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 9)), max_size=8))
def test_each_backend_with_a_free_slot_is_named_once(figures: list[tuple[int, int, int]]) -> None:
    loads = [BackendLoad(str(number), *each) for number, each in enumerate(figures)]
    assert sorted(by_preference(loads)) == sorted(load.name for load in loads if load.slots > load.used)
