"""Handler of `/api/v1/ws-tickets`: tickets for those whose WebSockets cannot send a header."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

from app.domain.errors import Forbidden, JobNotFound
from app.domain.message import timestamp
from app.keys import SNAPSHOTS, TICKETS
from app.messaging.tickets import TTL_S, Ticket
from app.web.bodies import read_object
from app.web.callers import CALLER
from app.web.checking import check
from app.web.permissions import PERMISSIONS
from app.web.proxies import root_path
from app.web.requests import TicketRequest
from app.web.responses import answered

if TYPE_CHECKING:
    from collections.abc import Sequence

routes: Final = web.RouteTableDef()


@routes.post("/api/v1/ws-tickets")
async def create_ticket(request: web.Request) -> web.Response:
    """Make a ticket for one socket: of jobs that the caller may see, or of all events."""
    asked, caller = check(TicketRequest, await read_object(request)), request[CALLER]
    job_ids = tuple(dict.fromkeys(asked.job_ids or ()))
    if asked.events and not caller.may(PERMISSIONS["GET /ws/events"]):
        raise Forbidden(f"As {caller.role} you may not follow all events.")
    if job_ids:
        await _require(request, job_ids)
    expires_at = datetime.now(UTC) + timedelta(seconds=TTL_S)
    text = await request.app[TICKETS].make(Ticket(caller.key_id, job_ids, asked.events))
    place = "/ws/events?" if asked.events else f"/ws/jobs?job_ids={','.join(map(str, job_ids))}&"
    url = f"{root_path(request)}{place}ticket={text}"
    answer = {"ticket": text, "expires_at": timestamp(expires_at), "url": url}
    return answered(answer, HTTPStatus.CREATED, **{"Cache-Control": "no-store"})


async def _require(request: web.Request, job_ids: Sequence[int]) -> None:
    """Raise `JobNotFound` if the caller may not see one of the jobs, or it does not exist."""
    present = await request.app[SNAPSHOTS].read(job_ids, request[CALLER].scope)
    if missing := sorted(set(job_ids) - {snapshot.job_id for snapshot in present}):
        raise JobNotFound(missing)
