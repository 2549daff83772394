"""What is remembered of a backend: what is in its memory, what did not fit, how long it loads and how fast it runs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.scheduling import learned_times
from app.domain.scheduling.learned_times import DEFAULT_LOAD_S, FASTEST, MOST_FILES, MOST_LOAD_S, SLOWEST, Loads, Speed
from app.domain.scheduling.warm_models import AVOIDED_S, MOST_AVOIDED, MOST_SETS, OutOfMemory, WarmSet

A, B, C = (frozenset({name}) for name in "abc")


def test_what_the_last_run_used_is_in_memory() -> None:
    assert WarmSet().after(A).models == A
    assert WarmSet().after(A).after(B).models == B


def test_a_graph_without_models_throws_none_out() -> None:
    assert WarmSet().after(A).after(frozenset()).models == A


def test_a_run_that_did_not_load_shows_that_more_is_kept() -> None:
    seen = WarmSet().after(A).after(B).after(A, loaded=False)
    assert seen.keeps == 2
    assert (seen.sets, seen.room) == ((A, B), 0)
    assert seen.after(C).sets == (C, A)
    assert WarmSet((A,), keeps=2).room == 1


def test_a_run_that_loaded_shows_that_less_is_kept() -> None:
    two = WarmSet((A, B), keeps=2)
    assert two.after(B, loaded=True) == WarmSet((B,), keeps=1)
    assert WarmSet((A,), keeps=1).after(A, loaded=True).keeps == 1


def test_what_was_expected_changes_nothing() -> None:
    two = WarmSet((A, B), keeps=2)
    assert two.after(B, loaded=False) == WarmSet((B, A), keeps=2)
    assert two.after(C, loaded=True).keeps == 2
    assert two.after(C).keeps == 2


def test_a_set_within_another_is_not_counted_twice() -> None:
    assert WarmSet((A,), keeps=2).after(A | B).sets == (A | B,)


def test_there_is_a_bound_of_what_is_believed() -> None:
    seen = WarmSet().after(A)
    for number in range(MOST_SETS + 5):
        seen = seen.after(frozenset({str(number)}), loaded=False)
    assert seen.keeps == len(seen.sets) == MOST_SETS


def test_nothing_is_known_after_a_restart_but_how_much_fits() -> None:
    assert WarmSet((A, B), keeps=3).forgotten() == WarmSet((), keeps=3)


def test_models_that_ran_out_of_memory_are_avoided_for_a_while() -> None:
    seen = OutOfMemory().after(A, now=100.0)
    assert seen.avoided(100.0 + AVOIDED_S - 1) == {A}
    assert seen.avoided(100.0 + AVOIDED_S) == frozenset()
    assert seen.after(A, now=200.0).avoided(199.0 + AVOIDED_S) == {A}
    assert len(seen.after(B, now=101.0 + AVOIDED_S).until) == 1


def test_a_graph_without_models_teaches_nothing_about_memory() -> None:
    assert OutOfMemory().after(frozenset(), 0.0).avoided(0.0) == frozenset()


def test_no_more_are_avoided() -> None:
    seen = OutOfMemory()
    for number in range(MOST_AVOIDED + 3):
        seen = seen.after(frozenset({str(number)}), 0.0)
    assert len(seen.until) == MOST_AVOIDED
    assert frozenset({"0"}) not in seen.avoided(0.0)


def test_a_load_is_unknown_at_first() -> None:
    assert Loads().of(A) == DEFAULT_LOAD_S
    assert Loads().of(frozenset()) == 0.0


def test_a_load_is_learned_by_file() -> None:
    seen = Loads().learned(A, 2.0).learned(B, 8.0)
    assert (seen.of(A), seen.of(B), seen.of(A | B)) == (2.0, 8.0, 10.0)


def test_a_load_follows_what_is_seen() -> None:
    seen = Loads().learned(A, 2.0)
    for _ in range(30):
        seen = seen.learned(A, 10.0)
    assert seen.of(A) == pytest.approx(10.0, abs=0.1)
    assert Loads({"a": 0.0}).learned(A, 10.0).of(A) > 0


def test_files_loaded_together_share_the_time() -> None:
    seen = Loads({"a": 9.0, "b": 1.0}).learned(A | B, 20.0)
    assert seen.by_file["a"] == pytest.approx(9 * seen.by_file["b"])
    assert seen.of(A | B) == pytest.approx(13.0)


def test_an_unknown_file_costs_what_an_average_set_does() -> None:
    seen = Loads().learned(A, 1.0)
    assert seen.of(A | B) == seen.of_a_set == pytest.approx(3.8)


def test_what_says_nothing_teaches_nothing() -> None:
    seen = Loads().learned(A, 1.0)
    assert seen.learned(frozenset(), 50.0) is seen
    assert seen.learned(A, math.nan) is seen
    assert seen.learned(B, 1e9).of(B) == MOST_LOAD_S
    assert (
        Speed(2.0).learned(0.0, 1.0) == Speed(2.0).learned(1.0, 0.0) == Speed(2.0).learned(1.0, math.inf) == Speed(2.0)
    )


def test_no_more_files_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned_times, "MOST_FILES", 3)
    seen = Loads()
    for name in "abcad":
        seen = seen.learned(frozenset({name}), 1.0)
    assert list(seen.by_file) == ["c", "a", "d"]
    assert MOST_FILES > 3


def test_a_fast_card_is_known_by_its_runs() -> None:
    speed = Speed()
    for _ in range(30):
        speed = speed.learned(expected_s=8.0, measured_s=4.0)
    assert speed.factor == pytest.approx(2.0, rel=0.01)


@given(st.lists(st.tuples(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9)), max_size=30))
def test_a_speed_stays_within_its_bounds(runs: list[tuple[float, float]]) -> None:
    speed = Speed()
    for expected_s, measured_s in runs:
        speed = speed.learned(expected_s, measured_s)
    assert SLOWEST <= speed.factor <= FASTEST
