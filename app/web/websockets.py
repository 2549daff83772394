"""WebSockets: following jobs, snapshot first and then every change, and the service's events for the page."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web

from app.domain.errors import BadParameter, DatabaseUnavailable, Fault, JobNotFound
from app.keys import ACCESS, HUB, SNAPSHOTS
from app.messaging.hub import HELLO
from app.services.access import SESSION_COOKIE
from app.web.bodies import MAX_ID, job_id_of
from app.web.callers import CALLER, shows_key
from app.web.requests import MAX_FOLLOWED
from app.web.socket_client import Connection, text_frame
from app.web.socket_tickets import TICKET, check_events, check_jobs
from app.web.sockets_of_keys import one_socket

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)
routes: Final = web.RouteTableDef()

SOCKETS: Final[web.AppKey[dict[Connection, OpenedBy]]] = web.AppKey("SOCKETS", dict)
"""The open sockets, and by what each was opened."""
KEYS_S: Final = 10.0
"""So soon after a session has ended, or a key has expired, its sockets are closed; after a change to a key at once."""


@dataclass(frozen=True, slots=True)
class OpenedBy:
    """What let a socket in: a key, or its ticket, or a session of the page; none of them while there are no keys."""

    key_id: int | None
    session: str | None


@routes.get(r"/ws/jobs/{job_id:\d+}")
async def follow_job(request: web.Request) -> web.StreamResponse:
    """Follow one job."""
    with one_socket(request):
        return await _follow(request, [job_id_of(request)])


@routes.get("/ws/jobs")
async def follow_jobs(request: web.Request) -> web.StreamResponse:
    """Follow the jobs of `?job_ids=1,2,3`."""
    job_ids = _job_ids(",".join(request.query.getall("job_ids", [])))
    with one_socket(request):
        return await _follow(request, job_ids)


@routes.get(r"/ws/jobs/{job_id}")
async def follow_nonsense(request: web.Request) -> web.StreamResponse:
    """Refuse an id that is no number."""
    detail = f"{request.match_info['job_id'][:40]!r} is no job id."
    raise BadParameter(detail, [Fault("job_id", "not_a_number", detail)])


@routes.get("/ws/events")
async def follow_everything(request: web.Request) -> web.StreamResponse:
    """Follow every event of the service, or of the caller's own jobs: what the monitor page lives on."""
    check_events(request)
    with one_socket(request):
        return await _follow_everything(request)


async def _follow_everything(request: web.Request) -> web.StreamResponse:
    hub = request.app[HUB]
    connection = Connection(request)
    request.app[SOCKETS][connection] = opened_by(request)
    try:
        await connection.upgrade()
        hub.watch_everything(connection, request[CALLER].scope)
        connection.send(text_frame(HELLO))
        await connection.serve()
    except ConnectionError as error:
        log.debug("a client left early: %s", error)
    finally:
        hub.unwatch_everything(connection)
        del request.app[SOCKETS][connection]
    return connection.ws


async def end_with_keys(app: web.Application) -> None:
    """Close sockets soon after what opened them has ended; one statement looks for all of them."""
    sockets, access, changed = app[SOCKETS], app[ACCESS], asyncio.Event()
    access.on_change.append(lambda _: changed.set())
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(KEYS_S):
                await changed.wait()
        changed.clear()
        present = dict(sockets)
        tokens = {each.session for each in present.values() if each.session is not None}
        key_ids = {each.key_id for each in present.values() if each.session is None and each.key_id is not None}
        try:
            over = await access.over(tokens, key_ids, anybody=OpenedBy(None, None) in present.values())
        except DatabaseUnavailable as error:
            log.warning("which keys and sessions have ended is not known: %s", error)
            continue
        for connection, opener in present.items():
            if over.includes(opener.session, opener.key_id):
                connection.sign_out()


def opened_by(request: web.Request) -> OpenedBy:
    """Return what lets this request in."""
    caller = request[CALLER]
    by_session = caller.signed_in and not shows_key(request) and TICKET not in request
    return OpenedBy(caller.key_id, request.cookies.get(SESSION_COOKIE) if by_session else None)


async def _follow(request: web.Request, job_ids: Sequence[int]) -> web.StreamResponse:
    check_jobs(request, job_ids)
    hub, scope = request.app[HUB], request[CALLER].scope
    connection = Connection(request)
    request.app[SOCKETS][connection] = opened_by(request)
    try:
        # Joined first and read after, so that no event falls between; what comes twice is dropped by its number.
        hub.watch(connection, job_ids)
        # Whose the jobs are is not in what was heard.
        told = hub.heard_of(job_ids) if scope is None else None
        if told is None:
            present = await request.app[SNAPSHOTS].read(job_ids, scope)
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
        del request.app[SOCKETS][connection]
    return connection.ws


def _job_ids(text: str) -> list[int]:
    """Return the ids of a comma-separated list, each once; raises `BadParameter` before any upgrade."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    wrong = [part for part in parts if not (part.isascii() and part.isdigit() and len(part) < 20)]
    faults = [Fault("job_ids", "not_a_number", f"{part[:40]!r} is no job id.") for part in wrong[:20]]
    if not parts:
        faults = [Fault("job_ids", "missing", "Name the jobs to follow: ?job_ids=1,2,3.")]
    elif len(parts) > MAX_FOLLOWED:
        faults = [Fault("job_ids", "too_many", f"One connection follows at most {MAX_FOLLOWED} jobs.")]
    if faults:
        raise BadParameter(faults[0].detail, faults)
    ids = list(dict.fromkeys(map(int, parts)))
    if beyond := [job_id for job_id in ids if job_id > MAX_ID]:
        raise JobNotFound(beyond)
    return ids
