"""Requests over many connections at once: creating and reading jobs, beside handlers that do nothing."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Final

from tests.bench.client import Load, closed_loop, message, percentile
from tests.bench.job_rows import run_at_once
from tests.bench.report import Figure
from tests.bench.workload import JOBS, instant, job_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.service import Service
    from tests.bench.sizes import Sizes

_WARM_UP_S: Final = 0.3


async def create(service: Service, sizes: Sizes) -> list[Figure]:
    """Submit jobs while the worker is stopped: running them would take processor time from the server."""
    await service.stop_worker()

    def to_service() -> bytes:
        return message(f"{service.api_url}{JOBS}", "POST", job_body(instant()))

    def to_bare() -> bytes:
        return message(f"{service.bare_url}/job", "POST", job_body(instant()))

    try:
        return await _by_turns("create a job", service, sizes, (to_service, to_bare), 201)
    finally:
        await service.forget_jobs()
        await service.start_worker()


async def read(service: Service, sizes: Sizes) -> list[Figure]:
    """Read finished jobs by their ids."""
    ids = (await run_at_once(service, [instant() for _ in range(sizes.read_jobs)])).job_ids
    asked = [message(f"{service.api_url}{JOBS}{job_id}", "GET") for job_id in ids]
    bare = message(f"{service.bare_url}/job", "GET")
    position = 0

    def to_service() -> bytes:
        nonlocal position
        position += 1
        return asked[position % len(asked)]

    return await _by_turns("read a job by id", service, sizes, (to_service, lambda: bare), 200)


async def _by_turns(
    what: str, service: Service, sizes: Sizes, requests: tuple[Callable[[], bytes], Callable[[], bytes]], expected: int
) -> list[Figure]:
    """Let service and bare server take turns, so that what else the machine does hits both."""
    ours, bare = Load(), Load()
    turns = ((service.api_url, requests[0], ours), (service.bare_url, requests[1], bare))
    for url, make, _ in turns:
        await closed_loop(url, sizes.connections, make, expected, Load(), min(_WARM_UP_S, sizes.round_s))
    for _ in range(sizes.rounds):
        for url, make, load in turns:
            await closed_loop(url, sizes.connections, make, expected, load, sizes.round_s)
    named = f"{what}, {sizes.connections} connections"
    figures = [Figure(named, median(ours.rates), "/s", median(bare.rates))]
    for percent in (50, 99):
        times = [1000 * percentile(load.latencies_s, percent) for load in (ours, bare)]
        figures.append(Figure(f"{named}: p{percent}", times[0], "ms", times[1]))
    return figures
