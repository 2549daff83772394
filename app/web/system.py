"""Handlers about the service itself: health and the OpenAPI document."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from app.domain.errors import Unavailable
from app.keys import DATABASE, HUB, QUEUE, REGISTRY
from app.web.jobs import answered
from app.web.openapi import document
from app.web.payloads import Check, ReadyAnswer

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from app.messaging.registry import Beat

routes: Final = web.RouteTableDef()


@routes.get("/health/live")
async def live(request: web.Request) -> web.Response:
    """Say that the process serves requests."""
    del request
    return web.json_response({"status": "live"})


@routes.get("/health/ready")
async def ready(request: web.Request) -> web.Response:
    """Say whether the service can do its work: 503 while PostgreSQL or Redis is away.

    A missing worker does not make the server unready: it accepts jobs, and they wait.
    """
    checks = {
        "postgresql": await _check(request.app[DATABASE].ping()),
        "redis": await _check(request.app[QUEUE].ping()),
        "events": Check(status="ok" if request.app[HUB].connected else "away"),
    }
    workers: list[Beat] = []
    backends: list[Beat] = []
    if checks["redis"].status == "ok":
        workers, backends = await request.app[REGISTRY].workers(), await request.app[REGISTRY].backends()
    checks["workers"] = _present(workers)
    checks["backends"] = _present([beat for beat in backends if beat.state.get("healthy")])
    is_ready = all(checks[name].status == "ok" for name in ("postgresql", "redis"))
    answer = ReadyAnswer(
        status="ready" if is_ready else "not_ready",
        checks=checks,
        workers=[_told(beat) for beat in workers],
        backends=[_told(beat) for beat in backends],
    )
    if is_ready:
        return answered(answer)
    return answered(answer, HTTPStatus.SERVICE_UNAVAILABLE, **{"Retry-After": str(Unavailable.retry_after_s)})


@routes.get("/openapi.json")
async def openapi(request: web.Request) -> web.Response:
    """Give the OpenAPI document."""
    del request
    return web.json_response(document())


async def _check(ping: Awaitable[None]) -> Check:
    try:
        await ping
    except Unavailable as error:
        return Check(status="away", detail=str(error))
    return Check(status="ok")


def _present(beats: list[Beat]) -> Check:
    if not beats:
        return Check(status="none")
    youngest = min(beats, key=lambda beat: beat.age_s)
    return Check(status="ok" if youngest.live else "away", age_seconds=round(youngest.age_s, 1))


def _told(beat: Beat) -> dict[str, Any]:
    shown = ("healthy", "reason", "version", "slots", "running", "driver", "backends", "started_at")
    state = {name: beat.state[name] for name in shown if name in beat.state}
    return {"name": beat.name, "live": beat.live, "age_seconds": round(beat.age_s, 1)} | state
