"""Histograms: nothing is lost in them, they add up, and a quantile lies where the exact one does."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.histogram import BOUNDS, LONGEST_S, PLACES, SHORTEST_S, empty, histogram, merged, place_of, quantile

LENGTHS = st.lists(st.floats(-1, 400_000), min_size=1, max_size=60)
SHARES = st.floats(0.001, 1)


def test_the_bounds_are_those_by_which_everything_was_counted_that_is_recorded() -> None:
    assert (len(BOUNDS), PLACES, BOUNDS[0], BOUNDS[-1]) == (47, 48, SHORTEST_S, LONGEST_S)
    assert BOUNDS[1:4] + BOUNDS[22:25] == (0.01428, 0.02038, 0.0291, 25.22, 36.0, 51.4)
    assert all(1.42 < high / low < 1.44 for low, high in pairwise(BOUNDS))


@given(LENGTHS)
def test_every_length_is_counted_once(lengths: list[float]) -> None:
    assert sum(histogram(lengths)) == len(lengths)


@given(LENGTHS, LENGTHS)
def test_histograms_add_up(some: list[float], others: list[float]) -> None:
    assert merged([histogram(some), histogram(others)]) == histogram(some + others)


@given(LENGTHS, SHARES)
def test_a_quantile_lies_at_the_place_of_the_exact_one(lengths: list[float], share: float) -> None:
    exact = sorted(lengths)[max(0, math.ceil(round(share * len(lengths), 9)) - 1)]
    place = place_of(exact)
    low, high = (0.0, *BOUNDS)[place], (*BOUNDS, LONGEST_S)[place]
    found = quantile(histogram(lengths), share)
    assert found is not None
    # At the very edge of two places rounding may decide for either.
    assert low * (1 - 1e-9) <= found <= high * (1 + 1e-9)


@given(LENGTHS, SHARES, SHARES)
def test_a_greater_share_has_no_smaller_quantile(lengths: list[float], one: float, other: float) -> None:
    low, high = (quantile(histogram(lengths), share) for share in sorted((one, other)))
    assert low is not None
    assert high is not None
    assert low <= high


def test_lengths_spread_over_one_place_are_interpolated() -> None:
    low, high = BOUNDS[20], BOUNDS[21]
    counts = histogram([low] * 100)
    assert quantile(counts, 0.5) == pytest.approx(math.sqrt(low * high))
    assert quantile(counts, 1) == pytest.approx(high)


def test_of_nothing_there_is_no_quantile() -> None:
    assert quantile(empty(), 0.5) is None


def test_of_what_is_longer_than_all_bounds_the_last_one_is_known() -> None:
    assert quantile(histogram([10 * LONGEST_S]), 0.95) == LONGEST_S
