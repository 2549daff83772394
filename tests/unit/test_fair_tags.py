"""Fair tags: where a job of a tenant stands."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.domain.fair_tags import LEAST_WEIGHT, MOST_WEIGHT, charge
from app.domain.job_cost import LEAST_S, MOST_S


def test_a_tenants_jobs_lie_as_far_apart_as_they_cost() -> None:
    assert charge(0, 0, 2.5, 1.0) == 2_500_000
    assert charge(7_000_000, 3_000_000, 2.5, 1.0) == 9_500_000


def test_twice_the_weight_is_charged_half() -> None:
    assert charge(0, 0, 3.0, 2.0) == 1_500_000


def test_one_who_had_none_waiting_comes_behind_the_job_claimed_last() -> None:
    assert charge(1_000_000, 60_000_000, 1.0, 1.0) == 61_000_000


def test_cost_and_weight_are_bounded() -> None:
    assert charge(0, 0, 0.0, 1.0) == round(LEAST_S * 1_000_000)
    assert charge(0, 0, 1e9, 1.0) == round(MOST_S * 1_000_000)
    assert charge(0, 0, 1.0, 0.0) == round(1_000_000 / LEAST_WEIGHT)
    assert charge(0, 0, 1.0, 1e9) == round(1_000_000 / MOST_WEIGHT)


@given(st.integers(0, 2**60), st.integers(0, 2**60), st.floats(0, 1e9), st.floats(0, 1e9))
def test_a_tag_is_always_behind_what_it_follows(last: int, clock: int, cost_s: float, weight: float) -> None:
    assert charge(last, clock, cost_s, weight) > max(last, clock)
