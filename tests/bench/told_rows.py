"""What clients are told of the end of a job right after it was accepted, beside when it ended."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING

from tests.bench.client import Connection, message
from tests.bench.job_rows import run_at_once, until_completed
from tests.bench.report import Figure
from tests.bench.workload import JOBS, job_body, lasting, lengths

if TYPE_CHECKING:
    from tests.bench.service import Service
    from tests.bench.sizes import Sizes


@dataclass(frozen=True)
class Told:
    """The moments between which a job was said to end, and the most likely one; seconds since 1970."""

    low: float
    likely: float
    high: float


async def told(service: Service, sizes: Sizes) -> list[Figure]:
    """Submit jobs one after the other, faster than they run, and ask for each right after its acceptance.

    A few have run before: without any nothing is said.
    """
    await run_at_once(service, [lasting(length) for length in lengths(sizes.told_before, sizes.told_s)])
    connection = await Connection.open(service.api_url)
    said: dict[int, Told] = {}
    ids = []
    try:
        for length in lengths(sizes.told_jobs, sizes.told_s):
            post = message(f"{service.api_url}{JOBS}", "POST", job_body(lasting(length)))
            job_id = json.loads(await connection.ask(post, 201))["job_id"]
            ids.append(job_id)
            get = message(f"{service.api_url}{JOBS}{job_id}", "GET")
            found = json.loads(await connection.ask(get, 200))["eta_range"]
            if found is not None:
                now = time.time()
                said[job_id] = Told(now + found["low"], now + found["likely"], now + found["high"])
    finally:
        connection.close()
    await until_completed(service, ids)
    ended = {job_id: await _ended_at(service, job_id) for job_id in said}
    within = sum(each.low <= ended[job_id] <= each.high for job_id, each in said.items())
    wide = median((each.high - each.low) for each in said.values())
    off = median(abs(ended[job_id] - each.likely) for job_id, each in said.items())
    named = f"{sizes.told_jobs} jobs of {sizes.told_s[0]:g}–{sizes.told_s[1]:g} s, asked for right after acceptance"
    return [
        Figure(f"{named}: share of those told of that ended within the range", within / len(said), ""),
        Figure(f"{named}: how many were told of", len(said), "jobs"),
        Figure(f"{named}: width of the range, p50", wide, "s"),
        Figure(f"{named}: end beside the likely one, p50", off, "s"),
    ]


async def _ended_at(service: Service, job_id: int) -> float:
    async with service.session.get(f"{service.api_url}{JOBS}{job_id}") as response:
        return datetime.fromisoformat((await response.json())["completed_at"]).timestamp()
