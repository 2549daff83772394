"""Single requests while nothing else is asked for: what the page waits for while somebody fills in its form."""

from __future__ import annotations

import asyncio
import json
import time
from statistics import median
from typing import TYPE_CHECKING, Final

from app.services.live_fleet import FRESH_S
from tests.bench.client import Connection, message
from tests.bench.job_rows import run_one
from tests.bench.report import Figure
from tests.bench.workload import JOBS, USER, instant, job_body

if TYPE_CHECKING:
    from tests.bench.service import Service
    from tests.bench.sizes import Sizes

_PAUSE_S: Final = FRESH_S + 0.01
"""So long before each request that what the one before has read is read again."""


async def single(service: Service, sizes: Sizes) -> list[Figure]:
    """Ask for what would become of a job, and for the backends, one request after the other with a pause before each.

    The limit is a server that does nothing else, asked in the same way.
    """
    # One has run before, so that there is something to tell of times.
    graph = instant()
    await run_one(service, graph)
    simple = json.dumps({"user_id": USER, "job_type": "image", "prompt": "a lighthouse"}).encode()
    check = f"{service.api_url}{JOBS}check"
    asked = {
        "check a job without a workflow, one at a time": (message(check, "POST", simple), 200),
        "check a job with a workflow, one at a time": (message(check, "POST", job_body(graph)), 200),
        "list the backends, one at a time": (message(f"{service.api_url}/api/v1/backends", "GET"), 200),
    }
    bare = message(f"{service.bare_url}/job", "POST", simple), 201
    ours, other = await Connection.open(service.api_url), await Connection.open(service.bare_url)
    try:
        took_ms: dict[str, list[float]] = {name: [] for name in (*asked, "")}
        for _ in range(sizes.single_requests):
            for name, (request, expected) in asked.items():
                took_ms[name].append(await _timed_ms(ours, request, expected))
            took_ms[""].append(await _timed_ms(other, *bare))
    finally:
        ours.close()
        other.close()
    limit = median(took_ms.pop(""))
    return [Figure(f"{name}: p50", median(each), "ms", limit) for name, each in took_ms.items()]


async def _timed_ms(connection: Connection, request: bytes, expected: int) -> float:
    await asyncio.sleep(_PAUSE_S)
    began = time.perf_counter()
    await connection.ask(request, expected)
    return 1000 * (time.perf_counter() - began)
