"""WebSockets: following jobs, snapshot first and then every change, and the service's events for the page."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from aiohttp import web

from app.domain.errors import BadParameter, DatabaseUnavailable, Fault, JobNotFound
from app.keys import ACCESS, HUB, SNAPSHOTS
from app.messaging.hub import HELLO
from app.services.access import SESSION_COOKIE
from app.web.bodies import MAX_ID, job_id_of
from app.web.origin import check_origin
from app.web.signed_in import viewer_of
from app.web.socket_client import Connection, text_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)
routes: Final = web.RouteTableDef()

MAX_JOBS: Final = 500
EVENT_SOCKETS: Final[web.AppKey[dict[Connection, str | None]]] = web.AppKey("EVENT_SOCKETS", dict)
"""The open sockets of `/ws/events`, and the session that each was opened with."""
SESSIONS_S: Final = 10.0
"""So soon after a session's end its sockets are closed."""


@routes.get(r"/ws/jobs/{job_id:\d+}")
async def follow_job(request: web.Request) -> web.StreamResponse:
    """Follow one job."""
    return await _follow(request, [job_id_of(request)])


@routes.get("/ws/jobs")
async def follow_jobs(request: web.Request) -> web.StreamResponse:
    """Follow the jobs of `?job_ids=1,2,3`."""
    return await _follow(request, _job_ids(",".join(request.query.getall("job_ids", []))))


@routes.get(r"/ws/jobs/{job_id}")
async def follow_nonsense(request: web.Request) -> web.StreamResponse:
    """Refuse an id that is no number."""
    detail = f"{request.match_info['job_id'][:40]!r} is no job id."
    raise BadParameter(detail, [Fault("job_id", "not_a_number", detail)])


@routes.get("/ws/events")
async def follow_everything(request: web.Request) -> web.StreamResponse:
    """Follow every event of the service: what the monitor page lives on."""
    hub = request.app[HUB]
    check_origin(request)
    await viewer_of(request)
    connection = Connection(request)
    request.app[EVENT_SOCKETS][connection] = request.cookies.get(SESSION_COOKIE)
    try:
        await connection.upgrade()
        hub.watch_everything(connection)
        connection.send(text_frame(HELLO))
        await connection.serve()
    except ConnectionError as error:
        log.debug("a client left early: %s", error)
    finally:
        hub.unwatch_everything(connection)
        del request.app[EVENT_SOCKETS][connection]
    return connection.ws


async def end_with_sessions(app: web.Application) -> None:
    """Close sockets of the page soon after their sessions have ended; one statement looks for all of them."""
    sockets = app[EVENT_SOCKETS]
    while True:
        await asyncio.sleep(SESSIONS_S)
        try:
            over = await app[ACCESS].over(set(sockets.values())) if sockets else set()
        except DatabaseUnavailable as error:
            log.warning("whose sessions have ended is not known: %s", error)
            continue
        for connection in [connection for connection, token in sockets.items() if token in over]:
            connection.sign_out()


async def _follow(request: web.Request, job_ids: Sequence[int]) -> web.StreamResponse:
    hub = request.app[HUB]
    check_origin(request, files=True)
    connection = Connection(request, len(job_ids))
    try:
        # Joined first and read after, so that no event falls between; what comes twice is dropped by its number.
        hub.watch(connection, job_ids)
        told = hub.heard_of(job_ids)
        if told is None:
            present = await request.app[SNAPSHOTS].read(job_ids)
            if missing := sorted(set(job_ids) - {snapshot.job_id for snapshot in present}):
                raise JobNotFound(missing)
            told = hub.offers(present)
        await connection.upgrade()
        connection.follow(told)
        await connection.serve()
    except ConnectionError as error:
        log.debug("a client left early: %s", error)
    finally:
        hub.unwatch(connection, job_ids)
    return connection.ws


def _job_ids(text: str) -> list[int]:
    """Return the ids of a comma-separated list, each once; raises `BadParameter` before any upgrade."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    wrong = [part for part in parts if not (part.isascii() and part.isdigit() and len(part) < 20)]
    faults = [Fault("job_ids", "not_a_number", f"{part[:40]!r} is no job id.") for part in wrong[:20]]
    if not parts:
        faults = [Fault("job_ids", "missing", "Name the jobs to follow: ?job_ids=1,2,3.")]
    elif len(parts) > MAX_JOBS:
        faults = [Fault("job_ids", "too_many", f"One connection follows at most {MAX_JOBS} jobs.")]
    if faults:
        raise BadParameter(faults[0].detail, faults)
    ids = list(dict.fromkeys(map(int, parts)))
    if beyond := [job_id for job_id in ids if job_id > MAX_ID]:
        raise JobNotFound(beyond)
    return ids
