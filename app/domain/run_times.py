"""How long a run will still take: a range, from the last runs of the same kind and from how far this one is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FEW: Final = 5
"""Maximum number of runs that count as few: what they say is taken for less exact."""
_FEW_SPREAD: Final = 1.25
_PROJECTED_SPREAD: Final = 1.2
"""A run does not go on exactly as fast as it began."""


@dataclass(frozen=True, slots=True)
class RunTime:
    """The execution times of the last runs that cost about the same: percentiles in seconds, and how many runs."""

    p10: float
    p50: float
    p90: float
    count: int


@dataclass(frozen=True, slots=True)
class Range:
    """A length of time that is not known exactly, in seconds."""

    low_s: float
    likely_s: float
    high_s: float


def remaining(usual: RunTime, elapsed_s: float, percent: int) -> Range:
    """Return how long a run that has lasted `elapsed_s` will probably take to its end; one that waits has lasted 0 s.

    `percent` is how far it is. At the beginning the earlier runs say more; the further it is, the more its own speed
    does.
    """
    spread = _FEW_SPREAD if usual.count <= FEW else 1.0
    low = max(0.0, usual.p10 / spread - elapsed_s)
    likely = max(0.0, usual.p50 - elapsed_s)
    # A run that takes longer than nearly all before it will hardly end this very moment.
    high = max(usual.p90 * spread - elapsed_s, elapsed_s / 10)
    share = min(max(percent, 0), 100) / 100
    if share and elapsed_s > 0:
        projected = elapsed_s * (1 - share) / share
        low += share * (projected / _PROJECTED_SPREAD - low)
        likely += share * (projected - likely)
        high += share * (projected * _PROJECTED_SPREAD - high)
    low, high = max(0.0, low), max(0.0, low, high)
    return Range(low, min(max(likely, low), high), high)
