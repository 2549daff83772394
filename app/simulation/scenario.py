"""What is played: backends, tenants, and jobs that come, each drawn from a seed."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from random import Random


class Arrival(NamedTuple):
    """A job that comes. Moments are seconds from the beginning."""

    at: float
    tenant: str
    models: frozenset[str]
    run_s: float
    """What it takes on an average backend, without loading."""
    cost_s: float
    """What it is expected to take."""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Hardware:
    """A backend as it is; what is known of it is learned from its runs."""

    speed: float = 1.0
    keeps: int = 1
    """How many model sets it has in memory at once."""
    dies_every_s: float | None = None
    """Mean time between two deaths; each one costs what runs there, and its memory."""
    down_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """A workload for a fleet."""

    name: str
    about: str
    hardware: Sequence[Hardware]
    load_s: Mapping[str, float]
    """Model → seconds until it is in memory."""
    jobs: Callable[[Random], Iterator[Arrival]]
    weights: Mapping[str, float] = field(default_factory=dict)
    """Tenant → share; 1.0 for one who is not named."""
    gap_s: float = 0.02
    """From the end of a run to the beginning of the next one, unless that was queued behind it."""


def model_names(count: int) -> list[str]:
    """Return names of so many model files, the most popular first."""
    return [f"model-{number}.safetensors" for number in range(count)]


def zipf(random: Random, count: int, exponent: float = 1.0) -> Iterator[frozenset[str]]:
    """Draw models, the second half as often as the first, the third a third as often, without end."""
    models = [frozenset({name}) for name in model_names(count)]
    shares = list(zipf_shares(count, exponent))
    while True:
        yield random.choices(models, cum_weights=shares)[0]


def zipf_shares(count: int, exponent: float = 1.0) -> Iterator[float]:
    """Return how often each of so many is drawn, added up."""
    return itertools.accumulate((number + 1) ** -exponent for number in range(count))


def poisson(random: Random, rate: float, count: int) -> Iterator[float]:
    """Draw the moments at which so many jobs come by themselves, `rate` a second."""
    at = 0.0
    for _ in range(count):
        at += random.expovariate(rate)
        yield at


def day_and_night(random: Random, rate: float, count: int, day_s: float = 86_400.0) -> Iterator[float]:
    """Draw the moments of jobs of which `rate` a second come on average, at noon nine times as many as at midnight."""
    at, made = 0.0, 0
    while made < count:
        at += random.expovariate(1.8 * rate)
        if random.random() < (1 - 0.8 * math.cos(2 * math.pi * at / day_s)) / 1.8:
            made += 1
            yield at


def estimated(random: Random, run_s: float, error: float) -> float:
    """Return what a run is expected to take; `error` is the standard deviation of the logarithm."""
    return run_s * math.exp(random.gauss(0.0, error)) if error else run_s
