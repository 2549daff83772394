"""What is probably left of a run, from runs like it and from how far it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.run_times import Range, RunTime, remaining

USUAL = RunTime(8.0, 10.0, 12.0, 30)


def test_at_the_beginning_the_runs_before_it_say_how_long():
    assert remaining(USUAL, 0, 0) == Range(8.0, 10.0, 12.0)
    assert remaining(USUAL, 3, 0) == Range(5.0, 7.0, 9.0)


def test_near_the_end_its_own_speed_says_more():
    left = remaining(USUAL, 20, 90)
    assert 1.5 < left.low_s < left.likely_s < 2.5 < left.high_s < 3.5


def test_what_few_runs_say_is_less_exact():
    left = remaining(RunTime(8.0, 10.0, 12.0, 2), 0, 0)
    assert left.low_s < 8
    assert left.likely_s == 10
    assert left.high_s > 12


@given(st.floats(0, 1e5), st.floats(0, 1e5), st.floats(0, 1e6), st.integers(-5, 200))
def test_it_is_always_a_range_that_is_not_negative(one, other, elapsed, percent):
    usual = RunTime(min(one, other), (one + other) / 2, max(one, other), 9)
    left = remaining(usual, elapsed, percent)
    assert 0 <= left.low_s <= left.likely_s <= left.high_s


def test_a_run_that_takes_longer_than_all_before_is_not_said_to_be_over():
    assert remaining(USUAL, 60, 0).high_s == pytest.approx(6)
