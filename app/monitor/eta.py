"""How long it will still take, in words: a range, because runs of the same workflow differ."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from datetime import datetime

    from app.services.eta import Estimate

UNKNOWN: Final = "no runs to compare with"
_UNITS: Final = ((100.0, 1.0, "s"), (100 * 60.0, 60.0, "min"), (math.inf, 3600.0, "h"))


class Left(str):
    """What is said of a run's end, and the moments between which it lies: the page counts down to them by itself."""

    __slots__ = ("earliest", "latest")
    earliest: datetime
    latest: datetime

    def __new__(cls, now: datetime, low_s: float, high_s: float) -> Self:
        """Say it of a run that goes on, as of `now`."""
        said = super().__new__(cls, f"{between(low_s, high_s)} left")
        said.earliest, said.latest = now + timedelta(seconds=low_s), now + timedelta(seconds=high_s)
        return said


def in_words(estimate: Estimate | None, now: datetime) -> str | None:
    """Return what the page says of an estimate as of `now`; None when there is nothing to say."""
    if estimate is None:
        return None
    if estimate.time is None:
        return UNKNOWN
    low_s, high_s = estimate.time.low_s, estimate.time.high_s
    if estimate.turn:
        return f"{between(low_s, high_s)} until it begins"
    # What has not begun takes as long a minute from now: that is no countdown.
    return Left(now, low_s, high_s) if estimate.counts_down else f"{between(low_s, high_s)} left"


def between(low_s: float, high_s: float) -> str:
    """Return the range in the unit that its upper end needs: rounded outwards, so that it holds what it says."""
    if high_s < 1:
        return "less than 1 s"
    unit_s, unit = next((unit_s, unit) for limit_s, unit_s, unit in _UNITS if high_s < limit_s)
    low, high = math.floor(max(0.0, low_s) / unit_s), math.ceil(high_s / unit_s)
    return f"≈ {low}–{high} {unit}" if low < high else f"≈ {high} {unit}"
