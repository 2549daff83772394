"""Many watchers of one job, beside a server that does nothing but send."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, Final

from aiohttp import ClientSession, TCPConnector

from tests.bench.client import Connection, Unexpected, message
from tests.bench.report import Figure
from tests.bench.usage import usage
from tests.bench.workload import JOBS, instant, job_body

if TYPE_CHECKING:
    from aiohttp import ClientWebSocketResponse

    from tests.bench.service import Service
    from tests.bench.sizes import Sizes

_AT_ONCE: Final = 50
"""Handshakes under way at the same time."""


@dataclass
class Watched:
    """What was seen of one server, a value a round."""

    connects_per_s: list[float] = field(default_factory=list)
    spreads_ms: list[float] = field(default_factory=list)
    """From the first watcher's receipt of the terminal frame to the last one's."""
    lasts_ms: list[float] = field(default_factory=list)
    """From sending the request that ends the job to the last watcher's receipt."""
    redis_added: int = 0
    bytes_each: float | None = None
    """Memory of the server process for each client in the first round: it is seldom given back, and taken again."""


async def sockets(service: Service, sizes: Sizes) -> list[Figure]:
    """Let many clients watch a job that waits, and cancel it: on an app just started, as memory once taken stays."""
    ours, bare = Watched(), Watched()
    for _ in range(sizes.rounds):
        job_id = await _waiting_job(service)
        cancel = message(f"{service.api_url}{JOBS}{job_id}/cancel", "POST")
        await _watch(service, sizes, f"{service.api_url}/ws/jobs/{job_id}", cancel, service.app.pid, ours)
        end = message(f"{service.bare_url}/end", "POST")
        await _watch(service, sizes, f"{service.bare_url}/ws", end, 0, bare)
    what = f"{sizes.sockets:,} sockets"
    figures = [
        Figure(f"{what}: Redis gets", ours.redis_added, "connections"),
        Figure(f"{what}: connects", median(ours.connects_per_s), "/s", median(bare.connects_per_s)),
        Figure(f"{what}: one job's end, first to last watcher", median(ours.spreads_ms), "ms", median(bare.spreads_ms)),
        Figure(f"{what}: cancel sent → last watcher told", median(ours.lasts_ms), "ms", median(bare.lasts_ms)),
    ]
    if ours.bytes_each is not None:
        figures.append(Figure(f"{what}: memory of the app for each", ours.bytes_each / 1000, "kB"))
    return figures


async def _watch(service: Service, sizes: Sizes, url: str, ending: bytes, pid: int, seen: Watched) -> None:
    gate = asyncio.Semaphore(_AT_ONCE)
    used, before = usage([pid]) if pid else None, await service.redis_connections()
    async with ClientSession(connector=TCPConnector(limit=0)) as session:

        async def connect() -> ClientWebSocketResponse:
            async with gate:
                ws = await session.ws_connect(url)
                await _receive(ws, "pending")
                return ws

        began = time.perf_counter()
        watching = await asyncio.gather(*(connect() for _ in range(sizes.sockets)))
        seen.connects_per_s.append(sizes.sockets / (time.perf_counter() - began))
        seen.redis_added = max(seen.redis_added, await service.redis_connections() - before)
        now_used = usage([pid]) if pid else None
        if used and now_used and seen.bytes_each is None:
            seen.bytes_each = (now_used.resident_bytes - used.resident_bytes) / sizes.sockets
        waiting = [asyncio.create_task(_receive(ws, "cancelled")) for ws in watching]
        connection = await Connection.open(url)
        sent = time.perf_counter()
        await connection.ask(ending, 200)
        received = await asyncio.gather(*waiting)
        seen.spreads_ms.append(1000 * (max(received) - min(received)))
        seen.lasts_ms.append(1000 * (max(received) - sent))
        connection.close()
        await asyncio.gather(*(ws.close() for ws in watching))


async def _receive(ws: ClientWebSocketResponse, status: str) -> float:
    """Return when the next frame came, which must say this."""
    text = await ws.receive_str()
    moment = time.perf_counter()
    if json.loads(text)["status"] != status:
        raise Unexpected(f"a watcher that waited for {status} was told {text}")
    return moment


async def _waiting_job(service: Service) -> int:
    connection = await Connection.open(service.api_url)
    later = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    post = message(f"{service.api_url}{JOBS}", "POST", job_body(instant(), not_before=later))
    job_id = json.loads(await connection.ask(post, 201))["job_id"]
    connection.close()
    return int(job_id)
