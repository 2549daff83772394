"""Jobs from end to end: one at a time on an idle service, and many at once."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from aiohttp import WSMsgType

from tests.bench.client import Connection, Unexpected, all_at_once, message, percentile
from tests.bench.comfyui import Direct
from tests.bench.report import Figure
from tests.bench.service import PICTURE
from tests.bench.workload import HEAVY_BYTES, JOBS, Graph, heavy, instant, job_body, lasting, lengths, pictures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.service import Service
    from tests.bench.sizes import Sizes

MOST_WATCHED: Final = 500
"""Jobs on one socket, by the contract."""
SAVED: Final = 8
"""Pictures of a batch."""
_CONNECTIONS: Final = 16
_REST_S: Final = 0.1
"""After a job's last frame, until the worker has tidied up and all is idle again."""
_ENDS: Final = ("completed", "failed", "cancelled")


@dataclass(frozen=True)
class Run:
    """Jobs that were submitted at once and have all completed."""

    job_ids: list[int]
    seconds: float
    """From the first POST to the last terminal frame."""


async def roundtrip(service: Service, sizes: Sizes) -> list[Figure]:
    """Run one job after the other, its WebSocket opened after the POST, as clients do; the first one is not counted.

    It pays for the statements that are prepared and the code that is loaded once in a process's life.
    """
    started: list[float] = []
    ended: list[float] = []
    bare_started: list[float] = []
    bare_ended: list[float] = []
    async with Direct.connected(service.session, service.standin_url) as direct:
        await run_one(service, lasting(sizes.roundtrip_s[0]))
        await asyncio.sleep(_REST_S)
        for length in lengths(sizes.roundtrip_jobs, sizes.roundtrip_s):
            begun, done = await run_one(service, lasting(length))
            started.append(1000 * begun)
            ended.append(1000 * (done - length))
            await asyncio.sleep(_REST_S)
        for length in lengths(sizes.roundtrip_jobs // 2, sizes.busy_s):
            begun, done = await direct.run_one(lasting(length))
            bare_started.append(1000 * begun)
            bare_ended.append(1000 * (done - length))
    figures = []
    for percent in (50, 95):
        for what, ours, bare in (
            ("POST sent → first frame beyond `pending`", started, bare_started),
            ("POST sent → `completed`, less the job's length", ended, bare_ended),
        ):
            figures.append(Figure(f"{what}: p{percent}", percentile(ours, percent), "ms", percentile(bare, percent)))
    return sorted(figures, key=lambda figure: figure.what.rpartition(":")[0], reverse=True)


async def busy(service: Service, sizes: Sizes) -> list[Figure]:
    """Submit jobs of some length at once, and look at the backend's own log of what it executed."""
    return await _shares(service, lasting, sizes.busy_jobs, sizes.busy_s, "")


async def busy_heavy(service: Service, sizes: Sizes) -> list[Figure]:
    """The same with 20 MB of pictures a job, which the worker fetches, checks and stores meanwhile."""
    return await _shares(service, heavy, sizes.heavy_jobs, sizes.busy_s, " with 20 MB each", HEAVY_BYTES)


async def saving(service: Service, sizes: Sizes) -> list[Figure]:
    """Run jobs that leave pictures and take no time: what fetching, checking and storing them adds to a job.

    The limit is a client that fetches them, one after the other, and does nothing with them; it begins when the
    thumbnails have been made, which nobody waits for.
    """
    figures = []
    for count in (1, SAVED):
        ours = [(await run_one(service, pictures(count)))[1] for _ in range(sizes.saving_jobs)]
        await service.until_thumbnails()
        bare = [await _fetch_s(service, count) for _ in range(sizes.saving_jobs)]
        what = f"POST sent → `completed`, a job of {count} picture{'s' * (count > 1)} of 4 MB: p50"
        figures.append(Figure(what, 1000 * median(ours), "ms", 1000 * median(bare)))
    return figures


async def _fetch_s(service: Service, count: int) -> float:
    """Return how long it takes to fetch the picture so often from the stand-in."""
    began = time.perf_counter()
    for _ in range(count):
        async with service.session.get(f"{service.standin_url}/view?filename={PICTURE}&type=input") as response:
            await response.read()
    return time.perf_counter() - began


async def throughput(service: Service, sizes: Sizes) -> list[Figure]:
    """Submit jobs of no length at once: what is left is what the service itself takes."""
    ours = await run_at_once(service, [instant() for _ in range(sizes.instant_jobs)])
    async with Direct.connected(service.session, service.standin_url) as direct:
        bare_s = await direct.run_all([instant() for _ in range(sizes.instant_jobs)])
    what = f"{sizes.instant_jobs} jobs of no length, all at once"
    return [Figure(what, sizes.instant_jobs / ours.seconds, "jobs/s", sizes.instant_jobs / bare_s)]


async def run_at_once(service: Service, graphs: Sequence[Graph]) -> Run:
    """Submit all of these at once, and wait for their ends; raises `Unexpected` when one does not complete."""
    return await run_bodies(service, [job_body(graph) for graph in graphs], _CONNECTIONS)


async def run_bodies(service: Service, bodies: Sequence[bytes], connections: int) -> Run:
    """Submit all these jobs over so many connections, and wait for their ends, as `run_at_once` does."""
    posts = [message(f"{service.api_url}{JOBS}", "POST", body) for body in bodies]
    began = time.perf_counter()
    answers = await all_at_once(service.api_url, connections, posts, 201)
    ids = [json.loads(answer)["job_id"] for answer in answers]
    groups = [ids[start : start + MOST_WATCHED] for start in range(0, len(ids), MOST_WATCHED)]
    await asyncio.gather(*(until_completed(service, group) for group in groups))
    return Run(ids, time.perf_counter() - began)


async def _shares(
    service: Service,
    make: Callable[[float], Graph],
    count: int,
    between_s: tuple[float, float],
    loaded: str,
    least_bytes: int = 1,
) -> list[Figure]:
    graphs = [[make(length) for length in lengths(count, between_s)] for _ in range(2)]
    before = len(await service.executions())
    run = await run_at_once(service, graphs[0])
    await _check_bytes(service, run.job_ids[-1], least_bytes)
    between = await service.executions()
    async with Direct.connected(service.session, service.standin_url) as direct:
        await direct.run_all(graphs[1])
    after = await service.executions()
    ours, bare = between[before:], after[len(between) :]
    named = f"{count} jobs of {between_s[0]:g}–{between_s[1]:g} s{loaded}"
    return [
        Figure(f"{named}: share of time that the backend works", share(ours), "", share(bare)),
        Figure(f"{named}: gap between two of them, p50", _gap_ms(ours), "ms", _gap_ms(bare)),
    ]


async def _check_bytes(service: Service, job_id: int, least_bytes: int) -> None:
    """Raise `Unexpected` when the job has left less than it is meant to."""
    async with service.session.get(f"{service.api_url}{JOBS}{job_id}") as response:
        stored = sum(output["size_bytes"] for output in (await response.json())["outputs"])
    if stored < least_bytes:
        raise Unexpected(f"job {job_id} has left {stored} bytes, not {least_bytes}")


def share(executions: Sequence[dict[str, Any]]) -> float:
    """Return how much of the time from the first start to the last end something was executed."""
    worked = sum(each["ended"] - each["started"] for each in executions)
    return float(worked / (executions[-1]["ended"] - executions[0]["started"]))


def _gap_ms(executions: Sequence[dict[str, Any]]) -> float:
    return 1000 * median(
        float(later["started"] - earlier["ended"]) for earlier, later in itertools.pairwise(executions)
    )


async def run_one(service: Service, graph: Graph) -> tuple[float, float]:
    """Run a job and return after how many seconds it was told to be beyond `pending`, and `completed`."""
    connection = await Connection.open(service.api_url)
    post = message(f"{service.api_url}{JOBS}", "POST", job_body(graph))
    began = time.perf_counter()
    job_id = json.loads(await connection.ask(post, 201))["job_id"]
    begun = None
    async with service.session.ws_connect(f"{service.api_url}/ws/jobs/{job_id}") as ws:
        async for frame in ws:
            now, status = time.perf_counter() - began, json.loads(frame.data)["status"]
            begun = now if begun is None and status != "pending" else begun
            if status == "completed" and begun is not None:
                connection.close()
                return begun, now
            if status in _ENDS:
                break
    raise Unexpected(f"job {job_id} did not complete")


async def until_completed(service: Service, ids: Sequence[int]) -> None:
    """Wait for the ends of so many jobs as one socket watches; raises `Unexpected` when one does not complete."""
    left = set(ids)
    watched = ",".join(map(str, ids))
    async with service.session.ws_connect(f"{service.api_url}/ws/jobs?job_ids={watched}", max_msg_size=0) as ws:
        async for frame in ws:
            if frame.type is not WSMsgType.TEXT:
                break
            told = json.loads(frame.data)
            if told["status"] == "completed":
                left.discard(told["job_id"])
            elif told["status"] in _ENDS:
                raise Unexpected(f"a job did not complete: {told}")
            if not left:
                return
    raise Unexpected(f"the service closed the socket while {len(left)} jobs were left")
