"""The workloads that `make simulate` knows by name."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

from app.simulation.scenario import (
    Arrival,
    Hardware,
    Scenario,
    day_and_night,
    estimated,
    model_names,
    poisson,
    zipf,
    zipf_shares,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from random import Random

EQUAL: Final = Hardware()
UNEQUAL: Final = (Hardware(0.5), Hardware(1.0), Hardware(1.0, keeps=2), Hardware(2.0, keeps=3))
"""Cards of three generations, the larger with more memory."""


def mix() -> Scenario:
    """Return the mix that was measured: two models take turns."""

    def jobs(random: Random) -> Iterator[Arrival]:
        for models in _equal(random, 2, 40):
            yield Arrival(0.0, "ann", models, 0.25, 0.25)

    return Scenario("mix", "40 jobs of 2 models at once, 2 backends", (EQUAL,) * 2, loads(2, 2.0), jobs)


def zipf_bursts(bursts: int = 60) -> Scenario:
    """Return five models, one of them in nearly every second job, on a stand-in's times; FIFO keeps up."""

    def jobs(random: Random) -> Iterator[Arrival]:
        models = zipf(random, 5)
        for number in range(bursts):
            for _ in range(60):
                run_s = random.uniform(0.15, 0.35)
                yield Arrival(60.0 * number, "ann", next(models), run_s, estimated(random, run_s, 0.2))

    about = "60 jobs at once every minute, 5 models with a Zipf tail, 3 backends"
    return Scenario("zipf", about, (EQUAL,) * 3, loads(5, 2.0), jobs)


def steady(rate: float = 0.4, count: int = 4_000) -> Scenario:
    """Return the same models one job at a time, with little to put in order; FIFO can just keep up."""

    def jobs(random: Random) -> Iterator[Arrival]:
        models = zipf(random, 5)
        for at in poisson(random, rate, count):
            run_s = random.uniform(2.0, 6.0)
            yield Arrival(at, "ann", next(models), run_s, estimated(random, run_s, 0.2))

    about = f"{count:,} jobs one by one, 5 models with a Zipf tail, 3 backends"
    return Scenario("steady", about, (EQUAL,) * 3, loads(5, 5.0), jobs)


def flood() -> Scenario:
    """Return one who sends sixty jobs, and one who then sends three."""

    def jobs(random: Random) -> Iterator[Arrival]:
        models = zipf(random, 2)
        for _ in range(60):
            yield Arrival(0.0, "flood", next(models), 2.0, 2.0)
        for _ in range(3):
            yield Arrival(1.0, "three", next(models), 2.0, 2.0)

    return Scenario("flood", "60 jobs of one tenant, then 3 of another, 2 backends", (EQUAL,) * 2, loads(2, 2.0), jobs)


def weights(smallest: int = 600) -> Scenario:
    """Return three floods of very different size; one tenant has twice the share."""

    def jobs(random: Random) -> Iterator[Arrival]:
        models = zipf(random, 4)
        for tenant, count in (("large", 100 * smallest), ("medium", 10 * smallest), ("small", smallest)):
            for _ in range(count):
                run_s = random.uniform(1.0, 3.0)
                yield Arrival(0.0, tenant, next(models), run_s, estimated(random, run_s, 0.2))

    shares = {"large": 1.0, "medium": 1.0, "small": 2.0}
    about = "floods of 3 tenants, 100 : 10 : 1, with weights 1 : 1 : 2, 4 backends"
    return Scenario("weights", about, (EQUAL,) * 4, loads(4, 4.0), jobs, shares)


def days(count: int = 12_000) -> Scenario:
    """Return days and nights of twenty tenants on unequal cards that die now and then; some jobs have priority."""

    def jobs(random: Random) -> Iterator[Arrival]:
        yield from _many_tenants(random, day_and_night(random, 1.0, count, 3_600.0), models=30, tenants=20)

    hardware = [Hardware(each.speed, each.keeps, dies_every_s=3_600.0) for each in UNEQUAL * 3]
    about = f"{count:,} jobs of 30 models and 20 tenants by day and night, 12 unequal backends that die"
    return Scenario("days", about, hardware, loads(30, 6.0), jobs, tenant_weights(20))


def million(count: int = 1_000_000) -> Scenario:
    """Return a million jobs with bursts, far more than fit at noon."""

    def jobs(random: Random) -> Iterator[Arrival]:
        steady = _many_tenants(random, day_and_night(random, 11.0, count - count // 5), models=200, tenants=100)
        return heapq.merge(steady, _bursts(random, count // 5, count / 11.0), key=lambda job: job.at)

    hardware = [Hardware(each.speed, each.keeps, dies_every_s=86_400.0) for each in UNEQUAL * 20]
    about = f"{count:,} jobs of 200 models and 100 tenants by day and night, with bursts, 80 unequal backends that die"
    return Scenario("million", about, hardware, loads(200, 6.0), jobs, tenant_weights(100))


def thousand_backends(count: int = 60_000) -> Scenario:
    """Return a large fleet, nearly as busy as it can be."""

    def jobs(random: Random) -> Iterator[Arrival]:
        yield from _many_tenants(random, poisson(random, 180.0, count), models=200, tenants=100)

    hardware = [Hardware(each.speed, each.keeps, dies_every_s=7_200.0) for each in UNEQUAL * 250]
    about = f"{count:,} jobs of 200 models and 100 tenants, 1,000 unequal backends that die"
    return Scenario("thousand-backends", about, hardware, loads(200, 6.0), jobs, tenant_weights(100))


def _equal(random: Random, models: int, count: int) -> Iterator[frozenset[str]]:
    """Draw models that are equally popular."""
    draw = zipf(random, models, 0.0)
    for _ in range(count):
        yield next(draw)


def _many_tenants(random: Random, moments: Iterator[float], models: int, tenants: int) -> Iterator[Arrival]:
    """Draw jobs of a few large and many small tenants; one in fifty has priority."""
    draw_models = zipf(random, models)
    names = [f"tenant-{number}" for number in range(tenants)]
    shares = list(zipf_shares(tenants))
    for at in moments:
        run_s = min(60.0, random.lognormvariate(1.5, 0.7))
        yield Arrival(
            at,
            random.choices(names, cum_weights=shares)[0],
            next(draw_models),
            run_s,
            estimated(random, run_s, 0.2),
            priority=10 if random.random() < 0.02 else 0,
        )


def _bursts(random: Random, count: int, until: float) -> Iterator[Arrival]:
    """Draw jobs of one tenant that come by the thousand, each thousand for one model."""
    draw_models = zipf(random, 200)
    for at in sorted(random.uniform(0.0, until) for _ in range(max(1, count // 1_000))):
        models = next(draw_models)
        for _ in range(1_000):
            yield Arrival(at, "bursts", models, 4.0, 4.0)


def loads(models: int, load_s: float) -> dict[str, float]:
    """Return the load times of so many models: from half to one and a half of the mean, unless they are two."""
    names = model_names(models)
    if models == 2:
        return dict.fromkeys(names, load_s)
    return {name: load_s * (0.5 + number * 7 % models / models) for number, name in enumerate(names)}


def tenant_weights(tenants: int) -> dict[str, float]:
    """Return weights of which every fifth is 2, and all others are 1."""
    return {f"tenant-{number}": 2.0 if number % 5 == 4 else 1.0 for number in range(tenants)}


SCENARIOS: Final[Mapping[str, Callable[[], Scenario]]] = {
    "mix": mix,
    "zipf": zipf_bursts,
    "steady": steady,
    "flood": flood,
    "weights": weights,
    "days": days,
    "million": million,
    "thousand-backends": thousand_backends,
}
USUAL: Final = ("mix", "zipf", "steady", "flood", "weights", "days")
"""Those that are played if none is named: a minute together."""
