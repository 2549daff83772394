"""Handlers of `/api/v1/backends`: which of them are given work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from app.domain.errors import QueueUnavailable
from app.keys import FLEET, REGISTRY
from app.web.payloads import BackendStateAnswer
from app.web.responses import ACTOR, answered

if TYPE_CHECKING:
    from app.storage.backend_states import BackendState

routes: Final = web.RouteTableDef()

ONE: Final = "/api/v1/backends/{name}"


@routes.post(ONE + "/drain")
async def drain(request: web.Request) -> web.Response:
    """Have a backend given no more prompts."""
    return await _decided(request, await request.app[FLEET].drain(request.match_info["name"], ACTOR))


@routes.post(ONE + "/resume")
async def resume(request: web.Request) -> web.Response:
    """Have a drained backend given prompts again."""
    return await _decided(request, await request.app[FLEET].resume(request.match_info["name"], ACTOR))


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
