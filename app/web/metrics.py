"""`GET /metrics` for Prometheus, and the middleware that counts requests."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from app.domain.errors import Unavailable
from app.keys import ACCESS, FIGURES, HUB, METRICS, REGISTRY, VIEWS
from app.metrics import Found, fleet_families
from app.web.callers import main_app

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.domain.heartbeats import BackendBeat
    from app.storage.job_views import QueueStats

routes: Final = web.RouteTableDef()

SCRAPE_S: Final = 3.0
"""Longer than this a scrape waits for neither PostgreSQL nor Redis: Prometheus gives up after ten seconds."""
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


@web.middleware
async def counted(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Count the request and time it, under the template of its route: paths with ids in them would be endless."""
    began = time.perf_counter()
    status = 500
    try:
        response = await handler(request)
        status = response.status
    except web.HTTPException as error:
        status = error.status
        raise
    finally:
        resource = request.match_info.route.resource
        route = resource.canonical.rstrip("/") or "/" if resource is not None else "none"
        seconds = time.perf_counter() - began if status != HTTPStatus.SWITCHING_PROTOCOLS else None
        main_app(request)[METRICS].answered(request.method, route, status, seconds)
    return response


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    """Answer the figures of this process, the fleet's, and the queue's; parts that are away are left out."""
    fleet, stats, beats = await asyncio.gather(_fleet(request.app), _stats(request.app), _beats(request.app))
    families: list[Metric] = [_up(fleet is not None, stats is not None, request.app[HUB].connected)]
    families.append(_wrong_keys(request.app[ACCESS].wrong.counted))
    families += fleet_families(fleet) if fleet is not None else []
    families += _queue(stats) if stats is not None else []
    families += [_well(beats)] if beats is not None else []
    found = CollectorRegistry()
    found.register(Found(families))
    body = generate_latest(request.app[METRICS].registry) + generate_latest(found)
    return web.Response(body=body, headers={"Content-Type": _TEXT})


async def _fleet(app: web.Application) -> dict[str, float] | None:
    """Return the fleet's sums; None while Redis is away."""
    try:
        async with asyncio.timeout(SCRAPE_S):
            return await app[FIGURES].read()
    except (Unavailable, TimeoutError):
        return None


async def _beats(app: web.Application) -> list[BackendBeat] | None:
    """Return the heartbeats of backends; None while Redis is away."""
    try:
        async with asyncio.timeout(SCRAPE_S):
            return await app[REGISTRY].backends()
    except (Unavailable, TimeoutError):
        return None


async def _stats(app: web.Application) -> QueueStats | None:
    try:
        async with asyncio.timeout(SCRAPE_S):
            return await app[VIEWS].stats()
    except (Unavailable, TimeoutError):
        return None


def _wrong_keys(count: int) -> Metric:
    told = "Keys that were none of ours, revoked or expired, as they came to this server."
    return CounterMetricFamily("genonaut_wrong_keys_total", told, value=count)


def _up(redis: bool, postgresql: bool, events: bool) -> Metric:
    up = GaugeMetricFamily("genonaut_up", "1 while this server reaches the part, 0 while it does not.", labels=["part"])
    for part, there in (("redis", redis), ("postgresql", postgresql), ("events", events)):
        up.add_metric([part], float(there))
    return up


def _well(beats: list[BackendBeat]) -> Metric:
    told = "1 while the backend is trusted with jobs, 0 while it is ill, stands still or is not heard of."
    well = GaugeMetricFamily("genonaut_backend_well", told, labels=["backend"])
    for beat in beats:
        well.add_metric([beat.name], float(beat.live and bool(beat.healthy)))
    return well


def _queue(stats: QueueStats) -> list[Metric]:
    jobs = GaugeMetricFamily("genonaut_jobs", "Jobs that wait or run now, in PostgreSQL.", labels=["status"])
    for status in ("pending", "running"):
        jobs.add_metric([status], float(stats.by_status.get(status, 0)))
    oldest = "For how long the job that waits longest has waited; 0 when none waits."
    return [jobs, GaugeMetricFamily("genonaut_oldest_wait_seconds", oldest, value=stats.oldest_wait_s or 0.0)]
