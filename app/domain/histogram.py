"""Lengths of time as histograms: they add up over backends, models and stretches of time, which percentiles do not.

A histogram is a list of `PLACES` counts. The recording counts in SQL (`width_bucket` over `BOUNDS`), by the rule of
`place_of`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SHORTEST_S: Final = 0.01
LONGEST_S: Final = 36 * 3600.0

_STEPS: Final = 46

BOUNDS: Final = tuple(
    float(f"{SHORTEST_S * (LONGEST_S / SHORTEST_S) ** (step / _STEPS):.4g}") for step in range(_STEPS + 1)
)
"""Where one place ends and the next one begins, in seconds; each 1.43 times the one before. What is recorded is counted
by them: they may never change."""
PLACES: Final = len(BOUNDS) + 1
"""The first is of what is shorter than all bounds, the last of what is longer."""


def empty() -> list[int]:
    """Return the histogram of nothing."""
    return [0] * PLACES


def place_of(seconds: float) -> int:
    """Return the place at which a length of time is counted."""
    return bisect_right(BOUNDS, seconds)


def histogram(lengths_s: Iterable[float]) -> list[int]:
    """Return the histogram of lengths of time in seconds."""
    counts = empty()
    for length_s in lengths_s:
        counts[place_of(length_s)] += 1
    return counts


def add(counts: list[int], more: Sequence[int]) -> None:
    """Add a histogram to another one, in place."""
    for place, count in enumerate(more):
        counts[place] += count


def merged(histograms: Iterable[Sequence[int]]) -> list[int]:
    """Return the histogram of all that these count."""
    counts = empty()
    for each in histograms:
        add(counts, each)
    return counts


def quantile(counts: Sequence[int], share: float) -> float | None:
    """Return the length in seconds below which that share (0 to 1) of the lengths lies; None without any.

    It lies between the bounds of the place that holds the exact one, interpolated as if the lengths there were spread
    evenly over the logarithm. Of what is longer than the last bound only that bound is known.
    """
    total = sum(counts)
    if not total:
        return None
    wanted, place, below = share * total, 0, 0
    while place < PLACES - 1 and (not counts[place] or below + counts[place] < wanted):
        below += counts[place]
        place += 1
    if place == PLACES - 1:
        return LONGEST_S
    within = min(1.0, max(0.0, (wanted - below) / counts[place]))
    if place == 0:
        return SHORTEST_S * within
    low, high = BOUNDS[place - 1], BOUNDS[place]
    # Rounding must not lead out of the place.
    return min(high, max(low, low * math.exp(within * math.log(high / low))))
