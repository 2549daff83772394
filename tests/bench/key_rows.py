"""Keys: what it costs to show one, and whether a key that floods is felt by another."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, Final

from app.domain.access import Role
from app.storage.database import Database, make_engine
from app.storage.keys import KeyStore
from tests.bench.client import Load, Unexpected, closed_loop, flood, message, percentile
from tests.bench.job_rows import run_at_once
from tests.bench.report import Figure
from tests.bench.workload import JOBS, USER, instant, job_body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.service import Service
    from tests.bench.sizes import Sizes

_WARM_UP_S: Final = 0.3
_FLOOD_CONNECTIONS: Final = 32
_VICTIM_CONNECTIONS: Final = 4
_GENEROUS: Final = {"requests_per_second": 1_000_000, "waiting": None}
"""A limit that is looked at, and never reached: to count thousands of waiting jobs would be another figure."""


async def keys(service: Service, sizes: Sizes) -> list[Figure]:
    """Create and read with a key and without, and read beside a key that floods. It must be the last row."""
    ids = (await run_at_once(service, [instant() for _ in range(sizes.read_jobs)])).job_ids
    await service.stop_worker()
    makers = {"create": _creating, "read": _reading(ids)}
    without = {what: await _measured(service, sizes, make, what, None) for what, make in makers.items()}
    database = Database(make_engine(service.settings))
    try:
        store = KeyStore(database)
        one = await store.add("one", Role.USER, owner=USER, limits=_GENEROUS)
        other = await store.add("other", Role.USER, owner=USER)
        boss = await store.add("boss", Role.ADMIN)
    finally:
        await database.close()
    figures = []
    for what, make in makers.items():
        found = await _measured(service, sizes, make, what, one)
        named = f"{what} a job with a key, beside without one"
        figures.append(Figure(named, median(found.rates), "/s", median(without[what].rates)))
        times = [1000 * percentile(load.latencies_s, 50) for load in (found, without[what])]
        figures.append(Figure(f"{named}: p50", times[0], "ms", times[1]))
    figures += await _beside_a_flood(service, sizes, ids, boss, other)
    await service.forget_jobs()
    return figures


async def _beside_a_flood(service: Service, sizes: Sizes, ids: list[int], one: str, flooding: str) -> list[Figure]:
    calm, beside, answered = Load(), Load(), Counter[int]()
    make = _reading(ids)(service.api_url, one)
    request = message(f"{service.api_url}{JOBS}{ids[0]}", "GET", key=flooding)
    for _ in range(sizes.rounds):
        await closed_loop(service.api_url, _VICTIM_CONNECTIONS, make, 200, calm, sizes.round_s)
        async with flood(service.api_url, _FLOOD_CONNECTIONS, request, answered):
            await closed_loop(service.api_url, _VICTIM_CONNECTIONS, make, 200, beside, sizes.round_s)
    if answered.keys() - {200, 429}:
        raise Unexpected(f"the flood was answered with {answered}")
    named = f"read a job while another key floods over {_FLOOD_CONNECTIONS} connections, beside without a flood"
    return [Figure(f"{named}: p{percent}", *_pair(percent, beside, calm)) for percent in (50, 99)]


def _pair(percent: int, load: Load, limit: Load) -> tuple[float, str, float]:
    return 1000 * percentile(load.latencies_s, percent), "ms", 1000 * percentile(limit.latencies_s, percent)


async def _measured(
    service: Service, sizes: Sizes, make: Callable[[str, str | None], Callable[[], bytes]], what: str, key: str | None
) -> Load:
    load, expected, requests = Load(), 201 if what == "create" else 200, make(service.api_url, key)
    await closed_loop(service.api_url, sizes.connections, requests, expected, Load(), min(_WARM_UP_S, sizes.round_s))
    for _ in range(sizes.rounds):
        await closed_loop(service.api_url, sizes.connections, requests, expected, load, sizes.round_s)
    return load


def _creating(url: str, key: str | None) -> Callable[[], bytes]:
    return lambda: message(f"{url}{JOBS}", "POST", job_body(instant()), key)


def _reading(ids: list[int]) -> Callable[[str, str | None], Callable[[], bytes]]:
    def make(url: str, key: str | None) -> Callable[[], bytes]:
        asked = _for_ever([message(f"{url}{JOBS}{job_id}", "GET", key=key) for job_id in ids])
        return lambda: next(asked)

    return make


def _for_ever(requests: list[bytes]) -> Iterator[bytes]:
    while True:
        yield from requests
