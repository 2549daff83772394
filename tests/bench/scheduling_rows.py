"""Which job runs next, and where: loads, waits and idle backends, beside first come, first served.

Service and backends start anew with the settings of each of the two, and get the same jobs in the same order.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from tests.bench.client import percentile
from tests.bench.fleet import FIFO, OURS, backends
from tests.bench.report import Figure
from tests.bench.workload import USER, job_body, lasting, with_checkpoint
from worker.standin.options import StandinOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.bench.fleet import Seen
    from tests.bench.service import Service
    from tests.bench.sizes import Sizes

_CHECKPOINTS: Final = StandinOptions().checkpoints
_FLOODING: Final = "flooding"
_STEP_S: Final = 0.5
_CONNECTIONS: Final = 16
_CORE: Final = "% of a core"


async def mix(service: Service, sizes: Sizes) -> list[Figure]:
    """Send jobs of two checkpoints to two backends, by turns and in an order that was drawn once."""
    turns = [_CHECKPOINTS[number % 2] for number in range(sizes.mixed_jobs)]
    drawn = list(turns)
    random.Random(2).shuffle(drawn)
    figures = []
    for how, checkpoints in (("by turns", turns), ("in a drawn order", drawn))[: sizes.mixed_orders]:
        seen = await _compared(service, sizes, 2, _bodies(checkpoints, sizes))
        named = f"{len(checkpoints)} jobs of 2 checkpoints {how}, 2 backends"
        figures += [_loads(named, seen), _figure(f"{named}: until all are done", "s", seen, lambda each: each.seconds)]
    return figures


async def zipf(service: Service, sizes: Sizes) -> list[Figure]:
    """Send jobs of five checkpoints, of which the n-th is asked for 1/n as often as the first, to three backends."""
    weights = [1 / place for place in range(1, len(_CHECKPOINTS) + 1)]
    checkpoints = random.Random(5).choices(_CHECKPOINTS, weights, k=sizes.zipf_jobs)
    seen = await _compared(service, sizes, 3, _bodies(checkpoints, sizes))
    named = f"{len(checkpoints)} jobs of 5 checkpoints by Zipf's law, 3 backends"
    return [
        _loads(named, seen),
        _figure(f"{named}: until all are done", "s", seen, lambda each: each.seconds),
        _figure(f"{named}: wait, p95", "s", seen, lambda each: percentile(each.waits_s[USER], 95)),
    ]


async def flood(service: Service, sizes: Sizes) -> list[Figure]:
    """Send many jobs of one user, and then three of another, to two backends; all need the same checkpoint."""
    users = [*([_FLOODING] * sizes.flood_jobs), USER, USER, USER]
    bodies = [job_body(with_checkpoint(_CHECKPOINTS[0], sizes.chosen_s), user_id=user) for user in users]
    seen = await _compared(service, sizes, 2, bodies)
    named = f"3 jobs behind {sizes.flood_jobs} of another user, 2 backends: the longest wait"
    compared = _figure(named, "s", seen, lambda each: max(each.waits_s[USER]))
    of_the_flood = f"{named}, beside that of the {sizes.flood_jobs}"
    return [compared, Figure(of_the_flood, compared.value, "s", max(seen[0].waits_s[_FLOODING]))]


async def fleet(service: Service, sizes: Sizes) -> list[Figure]:
    """Let one worker drive many backends, with jobs enough for each of them; they need no models."""
    count = sizes.fleet_backends
    found: list[list[Seen]] = [[] for _ in sizes.fleet_jobs]
    for settings in _settings(sizes):
        async with backends(service, count, 0.0, settings) as those:
            for at, (length, each) in enumerate(sizes.fleet_jobs):
                bodies = [job_body(lasting(length, _STEP_S)) for _ in range(count * each)]
                found[at].append(await those.run(bodies, _CONNECTIONS))
    figures = []
    for (length, _), seen in zip(sizes.fleet_jobs, found, strict=True):
        named = f"{count} backends of one worker, jobs of {length:g} s"
        figures += [
            _figure(f"{named}: share of time that they work", "", seen, lambda each: each.busy_share),
            _figure(f"{named}: processor time of the worker", _CORE, seen, lambda each: 100 * each.worker_cpu),
            _figure(f"{named}: processor time of the stand-ins", _CORE, seen, lambda each: 100 * each.standins_cpu),
            _figure(f"{named}: share of all processors in use", "", seen, lambda each: each.all_cpu),
        ]
    return figures


def _settings(sizes: Sizes) -> Sequence[Mapping[str, str]]:
    return (OURS, FIFO) if sizes.compares else (OURS,)


async def _compared(service: Service, sizes: Sizes, count: int, bodies: Sequence[bytes]) -> list[Seen]:
    """Return what so many backends saw of these jobs: ours, and first come, first served."""
    found = []
    for settings in _settings(sizes):
        async with backends(service, count, sizes.load_s, settings) as those:
            found.append(await those.run(bodies))
    return found


def _bodies(checkpoints: Sequence[str], sizes: Sizes) -> list[bytes]:
    return [job_body(with_checkpoint(each, sizes.chosen_s)) for each in checkpoints]


def _loads(named: str, seen: list[Seen]) -> Figure:
    return _figure(f"{named}: loads", "loads", seen, lambda each: each.loads)


def _figure(what: str, unit: str, seen: Sequence[Seen], value: Callable[[Seen], float]) -> Figure:
    ours, *fifo = map(value, seen)
    return Figure(f"{what}, beside first come, first served", ours, unit, *fifo)
