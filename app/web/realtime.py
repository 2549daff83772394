"""WebSockets: following jobs, snapshot first and then every change, and the service's events for the page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
from typing import TYPE_CHECKING, Any, Final

from aiohttp import WSCloseCode, WSMsgType, web

from app.cancellation import end_tasks
from app.domain.errors import BadParameter, Fault, JobNotFound, Unavailable
from app.domain.message import frame
from app.keys import CLOSING, HUB, SETTINGS, SNAPSHOTS
from app.messaging.hub import HELLO
from app.web.bodies import MAX_ID, job_id_of
from app.web.origin import check_origin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.message import Snapshot

log = logging.getLogger(__name__)
routes: Final = web.RouteTableDef()

MAX_JOBS: Final = 500
MAX_CLIENT_CHARS: Final = 64 * 1024
"""What a client has to say is short. Longer frames are answered with an error, up to `MAX_BODY_BYTES`; one that is
longer still is not even received, and ends the connection (1009)."""


class Connection:
    """One WebSocket client: a bounded outbox, and `write`, which alone sends to it.

    It remembers the last frame of each job, so that nothing goes out twice, and nothing after a job's end.
    """

    def __init__(self, ws: web.WebSocketResponse, outbox_frames: int, linger_s: float) -> None:
        self._ws = ws
        self._outbox: asyncio.Queue[str] = asyncio.Queue(outbox_frames)
        self._linger_s = linger_s
        self._last: dict[int, int] = {}
        self._open: set[int] = set()
        self._early: list[tuple[int, int, str, bool]] | None = []
        """Frames that came while the present state was being read; None when that is known."""
        self.lagging = asyncio.Event()
        """The client does not keep up."""
        self.done = asyncio.Event()
        """Every watched job has finished."""

    def follow(self, snapshots: Sequence[Snapshot]) -> None:
        """Begin with the present state of each job, and go on with what has happened since it was read."""
        early, self._early = self._early or [], None
        self._open.update(snapshot.job_id for snapshot in snapshots)
        for snapshot in snapshots:
            self.offer(snapshot.job_id, snapshot.order, json.dumps(frame(snapshot)), finished=snapshot.finished)
        for job_id, order, text, finished in early:
            self.offer(job_id, order, text, finished=finished)

    def offer(self, job_id: int, order: int, text: str, *, finished: bool) -> None:
        """Put a frame into the outbox, unless the client has it, a later one, or the job's last one already."""
        if self._early is not None:
            self._early.append((job_id, order, text, finished))
            return
        if job_id not in self._open or order <= self._last.get(job_id, -1):
            return
        self._last[job_id] = order
        self.tell(text)
        if finished:
            self.forget(job_id)

    def forget(self, job_id: int) -> None:
        """Follow a job no longer: it has finished, or was deleted. There is nothing to wait for after the last one."""
        if job_id in self._open:
            self._open.discard(job_id)
            if not self._open:
                self.done.set()

    def offer_event(self, text: str) -> None:
        """Put an event of the service into the outbox."""
        self.tell(text)

    def tell(self, text: str) -> None:
        """Put a text into the outbox. A client that does not keep up is closed, and comes back for a snapshot."""
        try:
            self._outbox.put_nowait(text)
        except asyncio.QueueFull:
            self.lagging.set()

    async def write(self) -> None:
        """Send what is in the outbox until the end: all watched jobs finished, or the client too slow, or gone."""
        sending = asyncio.create_task(self._send_for_ever(), name="ws-send")
        lagging = asyncio.create_task(self.lagging.wait(), name="ws-lagging")
        lingering = asyncio.create_task(self._linger(), name="ws-linger")
        try:
            await asyncio.wait({sending, lagging, lingering}, return_when=asyncio.FIRST_COMPLETED)
            if lingering.done() and not lingering.cancelled():
                await self._ws.close(code=WSCloseCode.OK, message=b"all jobs have finished")
            elif lagging.done():
                # Closing politely would wait behind what the client does not read.
                sending.cancel()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(2):
                        await self._ws.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"too slow")
        finally:
            await end_tasks([sending, lagging, lingering])

    async def _send_for_ever(self) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await self._ws.send_str(await self._outbox.get())
                self._outbox.task_done()

    async def _linger(self) -> None:
        await self.done.wait()
        await self._outbox.join()
        await asyncio.sleep(self._linger_s)


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
    settings = request.app[SETTINGS]
    check_origin(request)
    ws = await _upgrade(request)
    connection = Connection(ws, settings.ws_outbox_frames, settings.ws_linger_seconds)
    hub = request.app[HUB]
    try:
        await hub.watch_everything(connection)
        connection.tell(HELLO)
        await _serve(request, ws, connection)
    finally:
        hub.unwatch_everything(connection)
    return ws


async def _follow(request: web.Request, job_ids: Sequence[int]) -> web.StreamResponse:
    settings, hub = request.app[SETTINGS], request.app[HUB]
    check_origin(request, files=True)
    known = await request.app[SNAPSHOTS].read(job_ids)
    if missing := sorted(set(job_ids) - {snapshot.job_id for snapshot in known}):
        raise JobNotFound(missing)
    ws = await _upgrade(request)
    connection = Connection(ws, settings.ws_outbox_frames + len(job_ids), settings.ws_linger_seconds)
    try:
        # Joined first and read after, so that no event falls between; what comes twice is dropped by its number.
        await hub.watch(connection, job_ids)
        present = await _read_again(request, known)
        hub.note(present)
        connection.follow(present)
        await _serve(request, ws, connection)
    finally:
        await hub.unwatch(connection, job_ids)
    return ws


async def _read_again(request: web.Request, known: Sequence[Snapshot]) -> list[Snapshot]:
    """Return the present state of the jobs; of those that cannot be read any more, what was known."""
    present = {snapshot.job_id: snapshot for snapshot in known}
    try:
        read = await request.app[SNAPSHOTS].read(list(present))
    except Unavailable as error:
        # No answer can be sent after the upgrade; the hub reads the jobs again by and by.
        log.warning("a WebSocket begins with what was known of its jobs: %s", error)
        read = []
    return list((present | {snapshot.job_id: snapshot for snapshot in read}).values())


async def _upgrade(request: web.Request) -> web.WebSocketResponse:
    settings = request.app[SETTINGS]
    ws = web.WebSocketResponse(
        heartbeat=settings.ws_heartbeat_seconds, max_msg_size=settings.max_body_bytes, compress=False
    )
    if not ws.can_prepare(request).ok:
        detail = "This address speaks WebSocket: connect with ws:// and an Upgrade header."
        raise BadParameter(detail, [Fault("Upgrade", "not_a_websocket", detail)])
    await ws.prepare(request)
    return ws


async def _serve(request: web.Request, ws: web.WebSocketResponse, connection: Connection) -> None:
    """Write and read until either side ends it, or the server shuts down."""
    writing = asyncio.create_task(connection.write(), name="ws-write")
    reading = asyncio.create_task(_read(ws, connection), name="ws-read")
    closing = asyncio.create_task(request.app[CLOSING].wait(), name="ws-closing")
    tasks = {writing, reading, closing}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if closing.done():
            await ws.close(code=WSCloseCode.GOING_AWAY, message=b"the server is going away, come back")
    finally:
        for result in await end_tasks(tasks):
            if isinstance(result, Exception):
                log.error("a WebSocket ended with an error", exc_info=result)
        if connection.lagging.is_set() and request.transport is not None:
            # Closed politely, it would be kept until the client has read what it does not read.
            request.transport.abort()


async def _read(ws: web.WebSocketResponse, connection: Connection) -> None:
    async for message in ws:
        if message.type is WSMsgType.TEXT:
            connection.tell(json.dumps(_answer(message.data)))
        elif message.type is WSMsgType.BINARY:
            connection.tell(json.dumps(_complaint("binary_frame", "Only text frames are understood.")))


def _answer(text: str) -> dict[str, Any]:
    """Return what a client's frame is answered with; nothing that it sends ends the connection."""
    if len(text) > MAX_CLIENT_CHARS:
        return _complaint("too_long", f"A frame has at most {MAX_CLIENT_CHARS} characters.")
    try:
        command = json.loads(text)
    except (ValueError, RecursionError):
        return _complaint("malformed_json", "The frame is no JSON text.")
    if not isinstance(command, dict) or not isinstance(command.get("type"), str):
        return _complaint("malformed_command", 'A command is an object with a "type".')
    if command["type"] != "ping":
        return _complaint("unknown_command", "The only command here is ping.")
    echoed = command.get("id")
    if isinstance(echoed, dict | list) or (isinstance(echoed, float) and not math.isfinite(echoed)):
        return _complaint("malformed_command", "The id of a ping is a text or a number.")
    return {"type": "pong"} | ({"id": echoed} if echoed is not None else {})


def _complaint(code: str, detail: str) -> dict[str, Any]:
    return {"type": "error", "code": code, "detail": detail}


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
