"""How long it will still take, in words: a range, because runs of the same workflow differ."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Self

from app.domain.job import Phase
from app.domain.run_times import remaining_s

if TYPE_CHECKING:
    from datetime import datetime

    from app.domain.job import Standing
    from app.domain.run_times import RunTime

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


def left(job: Standing, usual: RunTime | None, began_at: datetime | None, progress: int, now: datetime) -> str | None:
    """Return what is to be said of the end of a running job; None when there is nothing to say.

    `usual` is how long runs of the same workflow take, `began_at` when ComfyUI began with this one. Of a job that
    ComfyUI has not begun with nothing is said: it may be queued there behind another one, for as long as that takes.
    """
    if job.phase is not Phase.EXECUTING:
        return None
    if usual is None:
        return UNKNOWN
    elapsed_s = max(0.0, (now - began_at).total_seconds()) if began_at else 0.0
    range_s = remaining_s(usual, elapsed_s, progress if began_at else 0)
    # What does not run yet has as much before it a minute from now: that is no countdown.
    return Left(now, *range_s) if began_at else f"{between(*range_s)} left"


def until_turn(position: int, slots: int | None, usual: RunTime | None) -> str | None:
    """Return what is to be said of the turn of a waiting job, from how long the last runs of all kinds took.

    The runs before it share the slots; one on each may be about to end, or may just have begun.
    """
    if not slots:
        return None
    if usual is None:
        return UNKNOWN
    ahead = position - 1
    return f"{between(usual.p10 * (ahead // slots), usual.p90 * (ahead // slots + 1))} until its turn"


def between(low_s: float, high_s: float) -> str:
    """Return the range in the unit that its upper end needs: rounded outwards, so that it holds what it says."""
    if high_s < 1:
        return "less than 1 s"
    unit_s, unit = next((unit_s, unit) for limit_s, unit_s, unit in _UNITS if high_s < limit_s)
    low, high = math.floor(max(0.0, low_s) / unit_s), math.ceil(high_s / unit_s)
    return f"≈ {low}–{high} {unit}" if low < high else f"≈ {high} {unit}"
