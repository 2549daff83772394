"""Connections of clients: how many there may be, for how long a request is waited for, and an answer to be taken.

aiohttp bounds a head by the number and the length of its lines, and closes what is idle between two requests. What it
leaves open is bounded here: how long a head may take, how large it is in all, and what a client does not read.
"""

from __future__ import annotations

import resource
from collections import Counter
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web

from app.keys import METRICS, SETTINGS
from app.web.deadlines import Deadlines

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http import RawRequestMessage
    from aiohttp.streams import StreamReader

    from app.domain.public_addresses import Network
    from app.metrics import ServerMetrics
    from app.settings import Settings

LOOPBACK: Final[tuple[Network, ...]] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
MAX_HEAD_BYTES: Final = 64 * 1024
"""aiohttp takes 128 header lines of 8 KiB each: a megabyte that every connection could hold."""
TAKEN_A_SECOND: Final = 4096
"""Minimum bytes a second that a client reads of what waits for it; it is looked at every `UNREAD_SECONDS`."""
CLOSE_S: Final = 10.0
"""Maximum seconds for a client to take what was written before the close. A transport alone would wait for ever."""
_SPARE_FILES: Final = 256
"""Open files that are kept for databases, stored outputs, and the rest."""
REFUSALS: Final = {
    408: b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    431: b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
}
"""What is answered to a head that is given up, by status."""


class Connections:
    """The open connections of one server."""

    def __init__(self, settings: Settings, metrics: ServerMetrics, exempt: Sequence[Network]) -> None:
        self.metrics = metrics
        self.heads = Deadlines["Handler"](settings.header_seconds, Handler.give_up_head)
        """Who has still to send the whole head of a request."""
        self.unread = Deadlines["Handler"](settings.unread_seconds, Handler.look_whether_it_reads)
        """Who has more waiting for it than the transport likes to hold."""
        self.closing = Deadlines["Handler"](CLOSE_S, Handler.cut_off)
        """Who is closed as soon as what was written is taken."""
        self.enough_bytes = TAKEN_A_SECOND * settings.unread_seconds
        self._most = settings.max_connections or _most_files()
        self._most_of_one = settings.max_connections_per_address
        self._exempt = exempt
        self._open = 0
        self._by_address: Counter[str] = Counter()

    def enter(self, address: str | None) -> str | None:
        """Count a connection, and return under which name; raises `TooManyConnections`.

        None is returned for an address whose connections are not counted: this machine's, where proxies and the
        workers' neighbours are, and a proxy's. Of a proxy's clients nothing is known before the request's head.
        """
        if self._open >= self._most:
            raise TooManyConnections("total")
        name = None if address is None else counted_as(address, self._exempt)
        if name is not None:
            if self._by_address[name] >= self._most_of_one:
                raise TooManyConnections("address")
            self._by_address[name] += 1
        self._open += 1
        self.metrics.connections_open(self._open)
        return name

    def leave(self, name: str | None) -> None:
        """Undo `enter`."""
        self._open -= 1
        self.metrics.connections_open(self._open)
        if name is not None:
            self._by_address[name] -= 1
            if not self._by_address[name]:
                del self._by_address[name]


class TooManyConnections(Exception):
    """There is no place for another connection; `reason` is whose limit is reached: `address` or `total`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Handler(web.RequestHandler):
    """aiohttp's end of one connection, which besides is closed when its client lets it wait."""

    __slots__ = ("_address", "_body", "_busy", "_connections", "_head_bytes", "_pipe", "_unread_bytes")

    def __init__(self, server: web.Server, connections: Connections, **options: Any) -> None:
        super().__init__(server, **options)
        self._connections = connections
        self._pipe: asyncio.Transport | None = None
        """aiohttp's own `transport` is None as soon as it is told to close."""
        self._address: str | None = None
        self._busy = False
        """A request is being answered, or is a WebSocket."""
        self._body: StreamReader | None = None
        """The body of the last request, which may go on coming in after the answer."""
        self._head_bytes = 0
        self._unread_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or close it before anything of it is read."""
        pipe, connections = cast("asyncio.Transport", transport), self._connections
        peer = pipe.get_extra_info("peername")
        try:
            self._address = connections.enter(peer[0] if isinstance(peer, tuple) else None)
        except TooManyConnections as error:
            connections.metrics.connection_refused(error.reason)
            pipe.abort()
            return
        self._pipe = pipe
        connections.heads.begin(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        if self._pipe is not None:
            self._pipe, connections = None, self._connections
            connections.leave(self._address)
            for waiting in (connections.heads, connections.unread, connections.closing):
                waiting.end(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of a head that goes on are counted, and its time does not begin anew with them."""
        is_body = self._body is not None and not self._body.is_eof()
        super().data_received(data)
        if self._busy:
            return
        # The end of a body that was not waited for is no head either.
        if self._messages or is_body:
            self._connections.heads.end(self)
        elif data and self._pipe is not None:
            self._connections.heads.begin(self)
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._connections.metrics.connection_refused("large_head")
                self._refuse(431)

    def head_came(self, body: StreamReader) -> None:
        """Go on to the request's body and its answer."""
        self._connections.heads.end(self)
        self._busy, self._body, self._head_bytes = True, body, 0

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send what is left of the answer; another request may come then."""
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._busy = False

    async def start(self) -> None:
        """Answer requests until the connection is to be closed; this does not wait for ever for that."""
        try:
            await super().start()
        finally:
            if self._pipe is not None:
                self._connections.closing.begin(self)

    def pause_writing(self) -> None:
        """Wait for the client, which has much to read."""
        super().pause_writing()
        if self._pipe is not None:
            self._unread_bytes = self._pipe.get_write_buffer_size()
            self._connections.unread.begin(self)

    def resume_writing(self) -> None:
        """Go on: the client has read most of what there was."""
        self._connections.unread.end(self)
        super().resume_writing()

    def give_up_head(self) -> None:
        """Close, because the request's head has not come in time."""
        self._connections.metrics.slow_client("head")
        if self._head_bytes:
            self._refuse(408)
        else:
            # Browsers open connections for requests that they may make later, and take an answer for a fault.
            self.force_close()

    def look_whether_it_reads(self) -> None:
        """Cut the connection off, unless the client reads at all quickly."""
        if self._pipe is None:
            return
        before, self._unread_bytes = self._unread_bytes, self._pipe.get_write_buffer_size()
        if before - self._unread_bytes >= self._connections.enough_bytes:
            self._connections.unread.begin(self)
        else:
            self._connections.metrics.slow_client("unread")
            self._pipe.abort()

    def cut_off(self) -> None:
        """End a connection that has been closed, but whose client does not read what was written before."""
        if self._pipe is not None:
            self._connections.metrics.slow_client("close")
            self._pipe.abort()

    def _refuse(self, status: int) -> None:
        if self._pipe is not None and not self._pipe.is_closing():
            self._pipe.write(REFUSALS[status])
        self.force_close()


class _Server(web.Server):
    """Makes our handlers of connections, and tells them of each head that has come."""

    def __init__(self, made: web.Server, connections: Connections, options: dict[str, Any]) -> None:
        make_request = made.request_factory

        def request_of(
            message: RawRequestMessage,
            body: StreamReader,
            protocol: web.RequestHandler,
            writer: AbstractStreamWriter,
            task: asyncio.Task[None],
        ) -> web.BaseRequest:
            if isinstance(protocol, Handler):
                protocol.head_came(body)
            return make_request(message, body, protocol, writer, task)

        super().__init__(
            made.request_handler, request_factory=request_of, handler_cancellation=made.handler_cancellation
        )
        self._connections_of_ours = connections
        self._options = options

    def __call__(self) -> Handler:
        return Handler(self, self._connections_of_ours, loop=self._loop, **self._options)


class Runner(web.AppRunner):
    """Runs the application as aiohttp's own runner does, over connections that are bounded.

    `exempt` are the networks whose addresses may have any number of connections: this machine's and trusted proxies'.
    What a proxy's clients do is to be counted by request, by the address that the proxy names.

    `_make_server` and the handler's `_messages` are private names of aiohttp's; the tests of slow heads fail when they
    change.
    """

    def __init__(self, app: web.Application, *, exempt: Sequence[Network] = LOOPBACK, **options: Any) -> None:
        options = {"keepalive_timeout": app[SETTINGS].keep_alive_seconds} | options
        super().__init__(app, **options)
        own = ("handle_signals", "shutdown_timeout", "handler_cancellation")
        self._options = {name: value for name, value in options.items() if name not in own}
        self._exempt = exempt

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        connections = Connections(self.app[SETTINGS], self.app[METRICS], self._exempt)
        return _Server(made, connections, self._options)


def counted_as(address: str, exempt: Sequence[Network]) -> str | None:
    """Return under which name connections of an address are counted together; None when they are not counted.

    Of IPv6 a provider gives everybody a network of 64 bits, so all of it counts as one.
    """
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    if any(parsed.version == network.version and parsed in network for network in exempt):
        return None
    return str(IPv6Network((parsed, 64), strict=False)) if isinstance(parsed, IPv6Address) else str(parsed)


def _most_files() -> int:
    """Return how many connections the process may have open, by the system's limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(64, soft - _SPARE_FILES) if soft != resource.RLIM_INFINITY else 10**9
