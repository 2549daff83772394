"""`GET /api/v1/me`: who the caller is, and what of its limits it has used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from app.keys import OWNER_USE
from app.web.bodies import read_query
from app.web.callers import CALLER
from app.web.checking import check
from app.web.rates import RATE
from app.web.requests import NoQuery
from app.web.responses import answered
from app.web.sockets_of_keys import OPEN_SOCKETS

if TYPE_CHECKING:
    from app.domain.access import Caller

routes: Final = web.RouteTableDef()


@routes.get("/api/v1/me")
async def who_am_i(request: web.Request) -> web.Response:
    """Tell who the caller is, what it may use, and what it uses."""
    check(NoQuery, read_query(request.query), pointer="")
    caller = request[CALLER]
    told = {"name": caller.name if caller.signed_in else None, "role": caller.role, "owner": caller.owner}
    if caller.key_id is None or caller.owner is None:
        return answered(told | {"limits": None, "use": None})
    return answered(told | {"limits": caller.limits.told(), "use": await _use(request, caller, caller.owner)})


async def _use(request: web.Request, caller: Caller, owner: str) -> dict[str, Any]:
    used, rate = await request.app[OWNER_USE].of(owner), request.get(RATE)
    return {
        "requests_left": rate.remaining if rate is not None else None,
        "sockets": request.app[OPEN_SOCKETS][caller.key_id],
        "waiting": used.waiting,
        "running": used.running,
        "jobs_today": used.jobs_today if caller.limits.jobs_per_day is not None else None,
        "upload_bytes": used.upload_bytes,
    }
