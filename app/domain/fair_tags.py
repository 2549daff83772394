"""Fair tags: where a job stands in the queue, so that tenants share the backends by their weights.

Start-time fair queueing, with the tag given once, when the job is accepted: a tenant's jobs lie as far apart as they
cost, and the first one of a tenant that had none waiting comes right behind the job that was claimed last. Of the
pure form here the store's SQL is a translation.
"""

from __future__ import annotations

import math
from typing import Final

from app.domain.job_cost import LEAST_S, MOST_S

LEAST_WEIGHT: Final = 0.01
MOST_WEIGHT: Final = 100.0
"""Bounds of a tenant's share beside others'."""


def charge(last: int, clock: int, cost_s: float, weight: float) -> int:
    """Return the tag of a tenant's next job, in microseconds of GPU time.

    Parameters
    ----------
    last
        The tag of its last job at this priority; 0 if it had none.
    clock
        The tag of the job claimed last at this priority; 0 if there was none.
    cost_s
        Seconds that the job will probably take.
    weight
        The tenant's share: one of weight 2 gets twice as much as one of weight 1.
    """
    weight = min(max(weight, LEAST_WEIGHT), MOST_WEIGHT)
    return max(last, clock) + round(cost_us(cost_s) / weight)


def parse_weight(text: str) -> float:
    """Return a weight that somebody has written; raises `ValueError` with what is wrong with it."""
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    # A comparison with NaN is false.
    if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
        raise ValueError(f"is to be a number from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}, and not {text[:50]!r}")
    return weight


def cost_us(cost_s: float) -> int:
    """Return what a job is charged, in microseconds of GPU time at a weight of 1."""
    return round(min(max(cost_s, LEAST_S), MOST_S) * 1_000_000)
