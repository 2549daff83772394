"""One WebSocket client: what goes out to it, in which order, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from typing import TYPE_CHECKING, Final

from aiohttp import WSCloseCode, WSMsgType, web

from app.domain.errors import BadParameter, Fault
from app.keys import METRICS, SETTINGS
from app.runtime.end_tasks import end_tasks
from app.web.callers import subprotocols_of
from app.web.socket_commands import MAX_FRAME_BYTES, Pace, answer_to

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp.abc import AbstractStreamWriter

    from app.messaging.hub import Offer

log = logging.getLogger(__name__)

CLOSE_S: Final = 10.0
"""Maximum seconds that a client may take to read what was sent before the close."""
CLOSE_LAGGING_S: Final = 2.0
"""The same for one that is closed because it does not read."""
CLOSE_ANSWER_S: Final = 2.0
"""Maximum seconds for a client to answer the close. If the connection ended before, some clients would report it as
lost."""
SIGNED_OUT: Final = 4401
"""The code of a close after which a client must sign in before it comes back."""


_FRAME_OVERHEAD_BYTES: Final = 64
"""What a frame takes in an outbox besides its own bytes."""


def text_frame(text: bytes) -> bytes:
    """Return a WebSocket text frame of a server: whole, neither masked nor compressed (RFC 6455, section 5.2)."""
    length = len(text)
    if length < 126:
        return struct.pack("!BB", 0x81, length) + text
    if length < 1 << 16:
        return struct.pack("!BBH", 0x81, 126, length) + text
    return struct.pack("!BBQ", 0x81, 127, length) + text


def pong_frame(data: bytes) -> bytes:
    """Return the answer to a ping, whose data has at most 125 bytes (RFC 6455, section 5.5)."""
    return struct.pack("!BB", 0x8A, len(data)) + data


class Connection:
    """One WebSocket client: a frame goes straight to its transport or, while that is full, into a bounded outbox.

    The frames come ready-made, the same bytes for all clients, so aiohttp's `send_str` is passed by: all that happens
    for each client is a write. What aiohttp itself sends, pings and the close, is whole frames too. Pongs are sent by
    us: aiohttp answers pings as fast as they come, which keeps all others waiting.
    It remembers the last frame of each job, so that nothing goes out twice, and nothing after a job's end.
    """

    __slots__ = (
        "_allowance", "_done", "_draining", "_dropped", "_early", "_end", "_linger_s", "_lingering", "_listening",
        "_most_bytes", "_out", "_outbox", "_outbox_bytes", "_request", "_told", "ws",
    )  # fmt: skip

    @property
    def waiting(self) -> int:
        """How many frames wait in the outbox."""
        return len(self._outbox)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait in the outbox and in the transport below it."""
        return self._outbox_bytes + (self._out[1].get_write_buffer_size() if self._out is not None else 0)

    def told(self, job_id: int) -> int | None:
        """Return the `seq` last told of a job that is followed; None when it is not followed, or has finished."""
        return self._told.get(job_id)

    def __init__(self, request: web.Request) -> None:
        settings = request.app[SETTINGS]
        self.ws: Final = web.WebSocketResponse(
            timeout=CLOSE_ANSWER_S,
            protocols=subprotocols_of(request),
            heartbeat=settings.ws_heartbeat_seconds,
            max_msg_size=MAX_FRAME_BYTES,
            autoping=False,
            compress=False,
        )
        self._request: Final = request
        self._linger_s: Final = settings.ws_linger_seconds
        self._most_bytes: Final = settings.ws_outbox_bytes
        self._allowance = 0
        """Bytes that may wait besides, until the client has read all that it began with."""
        self._outbox: Final[deque[bytes]] = deque()
        self._outbox_bytes = 0
        self._told: Final[dict[int, int]] = {}
        """The `seq` last told of each job that is followed; a job that has finished is not in it any more."""
        self._early: list[Offer] | None = []
        """Frames that came while the present state was being read; None when that is known."""
        self._dropped = 0
        """Frames that found the outbox full."""
        self._done = False
        """Every followed job has finished."""
        self._out: tuple[AbstractStreamWriter, asyncio.WriteTransport] | None = None
        """What is written to, from the upgrade on."""
        self._end: tuple[int, bytes] | None = None
        """The code and the reason of the close, once there is one."""
        self._listening: asyncio.Timeout | None = None
        """Ends the listening, so that the close is sent by who listened."""
        self._draining: asyncio.Task[None] | None = None
        self._lingering: asyncio.TimerHandle | None = None

    async def upgrade(self) -> None:
        """Begin to speak WebSocket; raises `BadParameter` if the client does not, `ConnectionError` if it is gone."""
        try:
            writer = await self.ws.prepare(self._request)
        except (web.HTTPBadRequest, ValueError) as error:
            # A ValueError is what bytes that are no text become in aiohttp's own words.
            detail = "This address speaks WebSocket: connect with ws:// and an Upgrade header."
            raise BadParameter(detail, [Fault("Upgrade", "not_a_websocket", detail)]) from error
        transport = self._request.transport
        if transport is None:
            raise ConnectionResetError("the client left during the upgrade")
        self._out = writer, transport

    def follow(self, present: Sequence[Offer]) -> None:
        """Begin with the present state of each job, and go on with what has happened since it was read."""
        early, self._early = self._early or [], None
        # However much it is: a client that is closed for it would come back for the same.
        self._allowance = sum(len(message) + _FRAME_OVERHEAD_BYTES for _, _, message, _ in present)
        self._told.update((job_id, -1) for job_id, *_ in present)
        for job_id, order, message, finished in (*present, *early):
            self.offer(job_id, order, message, finished=finished)

    def offer(self, job_id: int, order: int, message: bytes, *, finished: bool) -> None:
        """Send a frame of a job, unless the client has it, a later one, or the job's last one already."""
        if self._early is not None:
            self._early.append((job_id, order, message, finished))
            return
        last = self._told.get(job_id)
        if last is None or order <= last:
            return
        self._told[job_id] = order
        self.send(message)
        if finished:
            self.forget(job_id)

    def forget(self, job_id: int) -> None:
        """Follow a job no longer: it has finished, or was deleted. There is nothing to wait for after the last one."""
        if self._told.pop(job_id, None) is not None and not self._told:
            self._done = True
            if self._draining is None:
                self._linger()

    def offer_event(self, message: bytes) -> None:
        """Send an event of the service."""
        self.send(message)

    def dismiss(self) -> None:
        """Close, because the server goes away."""
        self._close(WSCloseCode.GOING_AWAY, b"the server is going away, come back")

    def sign_out(self) -> None:
        """Close, because the session that it was opened with has ended."""
        self._close(SIGNED_OUT, b"sign in again")

    def send(self, message: bytes) -> None:
        """Send a frame. A client that does not keep up is closed, and comes back for a snapshot."""
        if self._out is None or self.ws.closed or self._out[1].is_closing():
            return
        if self._draining is None:
            if not self._request.protocol.writing_paused:
                self._out[1].write(message)
                return
            self._draining = asyncio.create_task(self._drain(*self._out), name="ws-drain")
        size = len(message) + _FRAME_OVERHEAD_BYTES
        # A frame that is larger than all that may wait is not lost to a client that reads.
        if not self._outbox or self.waiting_bytes + size <= self._most_bytes + self._allowance:
            self._outbox.append(message)
            self._outbox_bytes += size
        else:
            self._dropped += 1
            self._close(WSCloseCode.TRY_AGAIN_LATER, b"too slow")

    async def serve(self) -> None:
        """Answer what the client says, until either side ends it."""
        metrics = self._request.app[METRICS]
        metrics.socket_opened()
        try:
            await self._listen()
            if self._end is not None:
                await self._send_close(*self._end)
        except Exception:
            # It is too late for an answer that tells of it.
            log.exception("a WebSocket ended with an error")
        finally:
            metrics.socket_closed(self._dropped, too_slow=self._dropped > 0)
            if self._lingering is not None:
                self._lingering.cancel()
            if self._draining is not None:
                await end_tasks([self._draining])

    async def _listen(self) -> None:
        """Answer what the client says, until it leaves or is to be closed."""
        if self._end is not None:
            return
        pace = Pace()
        try:
            async with asyncio.timeout(None) as self._listening:
                async for message in self.ws:
                    await pace.wait()
                    if message.type is WSMsgType.PING:
                        self.send(pong_frame(bytes(message.data)))
                    elif (answer := answer_to(message)) is not None:
                        self.send(text_frame(answer))
        except TimeoutError:
            # By `_close`; or by TCP, which gave up: over either way.
            return
        finally:
            self._listening = None

    async def _drain(self, writer: AbstractStreamWriter, transport: asyncio.WriteTransport) -> None:
        """Send what is in the outbox as fast as the client reads."""
        try:
            # On a transport that is gone `drain` returns at once, and writing stays paused: this would never end.
            while self._outbox and not self.ws.closed and not transport.is_closing():
                await writer.drain()
                while self._outbox and not self.ws.closed and not self._request.protocol.writing_paused:
                    message = self._outbox.popleft()
                    self._outbox_bytes -= len(message) + _FRAME_OVERHEAD_BYTES
                    transport.write(message)
        except ConnectionError:
            return
        finally:
            self._draining = None
        self._allowance = 0
        if self._done:
            self._linger()

    def _linger(self) -> None:
        """Close after `linger_s` seconds, so that the client can still send commands."""
        if self._lingering is None:
            loop, reason = asyncio.get_running_loop(), b"all jobs have finished"
            self._lingering = loop.call_later(self._linger_s, self._close, WSCloseCode.OK, reason)

    def _close(self, code: int, reason: bytes) -> None:
        if self._end is None:
            self._end = code, reason
            if self._listening is not None:
                self._listening.reschedule(0)

    async def _send_close(self, code: int, reason: bytes) -> None:
        """Close, and wait until the client has answered that: aiohttp does so only for the task that listens."""
        try:
            async with asyncio.timeout(CLOSE_LAGGING_S if code == WSCloseCode.TRY_AGAIN_LATER else CLOSE_S):
                await self.ws.close(code=code, message=reason)
        except TimeoutError:
            # Closed politely, it would be kept until the client has read what it does not read.
            if self._out is not None:
                self._out[1].abort()
