"""Handlers about the service itself: health and the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from app.domain.errors import Unavailable
from app.domain.message import timestamp
from app.keys import DATABASE, HUB, QUEUE, REGISTRY
from app.services.readiness import no_backend, why_idle
from app.web.openapi import document
from app.web.payloads import Check, ReadyAnswer
from app.web.proxies import root_path
from app.web.responses import answered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from app.domain.heartbeats import BackendBeat, WorkerBeat

routes: Final = web.RouteTableDef()

NOT_KNOWN: Final = Check(status="away", detail="Not known: Redis is away.")
"""Of backends, of which only Redis knows."""


@routes.get("/health/live")
async def live(request: web.Request) -> web.Response:
    """Say that the process serves requests."""
    del request
    return web.json_response({"status": "live"})


@routes.get("/health/ready")
async def ready(request: web.Request) -> web.Response:
    """Say whether the service can do its work: 503 while PostgreSQL or Redis is away, or no backend can take work.

    Jobs are accepted all the same as long as PostgreSQL and Redis are there, and wait.
    """
    checks = {
        "postgresql": await _check(request.app[DATABASE].ping()),
        "redis": await _check(request.app[QUEUE].ping()),
        "events": Check(status="ok" if request.app[HUB].connected else "away"),
    }
    workers: list[WorkerBeat] = []
    backends: list[BackendBeat] = []
    if checks["redis"].status == "ok":
        workers, backends = await request.app[REGISTRY].workers(), await request.app[REGISTRY].backends()
    reasons = why_idle(backends, workers)
    checks["workers"] = _present(workers)
    checks["backends"] = _able(backends, reasons) if checks["redis"].status == "ok" else NOT_KNOWN
    is_ready = all(checks[name].status == "ok" for name in ("postgresql", "redis", "backends"))
    answer = ReadyAnswer(
        status="ready" if is_ready else "not_ready",
        checks=checks,
        workers=[_beat_answer(beat) for beat in workers],
        backends=[
            _beat_answer(beat) | {"able": reasons[beat.name] is None, "reason": reasons[beat.name]} for beat in backends
        ],
    )
    if is_ready:
        return answered(answer)
    return answered(answer, HTTPStatus.SERVICE_UNAVAILABLE, **{"Retry-After": str(Unavailable.retry_after_s)})


@routes.get("/openapi.json")
async def openapi(request: web.Request) -> web.Response:
    """Give the OpenAPI document."""
    root = root_path(request)
    return web.json_response(document() | {"servers": [{"url": root}]} if root else document())


async def _check(ping: Awaitable[None]) -> Check:
    try:
        await ping
    except Unavailable as error:
        return Check(status="away", detail=str(error))
    return Check(status="ok")


def _present(beats: Sequence[WorkerBeat | BackendBeat]) -> Check:
    if not beats:
        return Check(status="none")
    youngest = min(beats, key=lambda beat: beat.age_s)
    return Check(status="ok" if youngest.live else "away", age_seconds=round(youngest.age_s, 1))


def _able(backends: list[BackendBeat], reasons: Mapping[str, str | None]) -> Check:
    """Return whether any backend can take work, and if none can, which and why."""
    able = _present([beat for beat in backends if reasons[beat.name] is None])
    if able.status == "ok":
        return able
    # "none": no backend is known. "away": backends are known, but none can take work.
    return Check(status="away" if backends else "none", detail=no_backend(reasons))


def _beat_answer(beat: WorkerBeat | BackendBeat) -> dict[str, Any]:
    shown = ("healthy", "drained", "state", "reason", "version", "slots", "running", "driver", "backends", "started_at")
    state = {name: _json(getattr(beat, name)) for name in shown if hasattr(beat, name) and name in beat.told}
    return {"name": beat.name, "live": beat.live, "age_seconds": round(beat.age_s, 1)} | state


def _json(value: Any) -> Any:
    return timestamp(value) if isinstance(value, datetime) else list(value) if isinstance(value, tuple) else value
