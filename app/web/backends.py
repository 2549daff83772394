"""Handlers of `/api/v1/backends` and `/api/v1/workers`: how they are, and which backends are given work."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import web

from app.domain.errors import QueueUnavailable, Unavailable
from app.keys import FLEET, FLEET_FIGURES, LIVE_FLEET, REGISTRY
from app.services.fleet_control import known_backends
from app.storage.fleet_figures import Loading
from app.web.answers import backend_answer, worker_answer
from app.web.auditing import noted
from app.web.bodies import read_query
from app.web.callers import actor_of
from app.web.checking import check
from app.web.payloads import BackendStateAnswer
from app.web.requests import NoQuery
from app.web.responses import answered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.storage.backend_states import BackendState

routes: Final = web.RouteTableDef()

ALL: Final = "/api/v1/backends"
ONE: Final = ALL + "/{name}"
_PATIENCE_S: Final = 2.0
"""Without an answer in so many seconds what was decided about backends is left out: heartbeats tell the rest."""


@routes.get(ALL)
async def list_backends(request: web.Request) -> web.Response:
    """List the backends: how they are, and what they do."""
    check(NoQuery, read_query(request.query), pointer="")
    beats = (await request.app[LIVE_FLEET].now()).backends
    decided, loading = await asyncio.gather(_decisions(request), _loading(request))
    told = {beat.name: beat for beat in beats}
    names = known_backends(beats, decided)
    items = [
        backend_answer(
            name, told.get(name), decided.get(name), loading.get(name, Loading()) if loading is not None else None
        )
        for name in names
    ]
    return answered({"items": items})


@routes.get("/api/v1/workers")
async def list_workers(request: web.Request) -> web.Response:
    """List the workers, live and lost."""
    check(NoQuery, read_query(request.query), pointer="")
    beats = (await request.app[LIVE_FLEET].now()).workers
    asked = await request.app[FLEET].asked([beat.name for beat in beats if beat.live])
    return answered({"items": [worker_answer(beat, asked.get(beat.name)) for beat in beats]})


@routes.post(ONE + "/drain")
async def drain(request: web.Request) -> web.Response:
    """Have a backend given no more prompts."""
    name = request.match_info["name"]
    deciding = request.app[FLEET].drain(name, actor_of(request))
    return await _decided(request, await noted(request, "drain", f"backend {name}", deciding, _asked))


@routes.post(ONE + "/resume")
async def resume(request: web.Request) -> web.Response:
    """Have a drained backend given prompts again."""
    name = request.match_info["name"]
    deciding = request.app[FLEET].resume(name, actor_of(request))
    return await _decided(request, await noted(request, "resume", f"backend {name}", deciding, _asked))


def _asked(_: BackendState) -> str:
    return "asked"


async def _decisions(request: web.Request) -> dict[str, BackendState]:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return await request.app[FLEET].decisions()
    except (Unavailable, TimeoutError):
        return {}


async def _loading(request: web.Request) -> Mapping[str, Loading] | None:
    """Return backend → what it loaded in the last hour; None while that cannot be read."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return (await request.app[FLEET_FIGURES].last_hour()).loading
    except (Unavailable, TimeoutError):
        return None


async def _decided(request: web.Request, state: BackendState) -> web.Response:
    """Return what was decided, and whether the backend's driver says already that it does so."""
    try:
        beats = await request.app[REGISTRY].backends()
    except QueueUnavailable:
        beats = []
    confirmed = any(beat.live and beat.drained is state.drained for beat in beats if beat.name == state.name)
    answer = BackendStateAnswer(
        name=state.name,
        drained=state.drained,
        confirmed=confirmed,
        changed_at=state.changed_at,
        changed_by=state.changed_by,
    )
    return answered(answer)
