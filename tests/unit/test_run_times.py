"""What is probably left of a run, from runs like it and from how far it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.run_times import RunTime, remaining_s

USUAL = RunTime(8.0, 10.0, 12.0, 30)


def test_at_the_beginning_the_runs_before_it_say_how_long():
    assert remaining_s(USUAL, 0, 0) == (8.0, 12.0)
    assert remaining_s(USUAL, 3, 0) == (5.0, 9.0)


def test_near_the_end_its_own_speed_says_more():
    low, high = remaining_s(USUAL, 20, 90)
    assert 1.5 < low < 2.5 < high < 3.5


def test_what_few_runs_say_is_less_exact():
    low, high = remaining_s(RunTime(8.0, 10.0, 12.0, 2), 0, 0)
    assert low < 8
    assert high > 12


@given(st.floats(0, 1e5), st.floats(0, 1e5), st.floats(0, 1e6), st.integers(-5, 200))
def test_it_is_always_a_range_that_is_not_negative(one, other, elapsed, percent):
    usual = RunTime(min(one, other), (one + other) / 2, max(one, other), 9)
    low, high = remaining_s(usual, elapsed, percent)
    assert 0 <= low <= high


def test_a_run_that_takes_longer_than_all_before_is_not_said_to_be_over():
    assert remaining_s(USUAL, 60, 0)[1] == pytest.approx(6)
