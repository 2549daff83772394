"""An HTTP client for URLs of other people's choice: it connects only to where they may lead, and reads with limits.

The address that is connected to is judged, not the name: a name is looked up once for each connection, what is not
allowed is left out, and exactly the rest goes to the connector. So it does not matter if the name means something else
a moment later (DNS rebinding). aiohttp does not ask a resolver about a host that is an address; so each socket is
judged again when it is made, just before it connects. Nothing is shared between two requests: no connection, no
cookie, no cache of names. Proxies and passwords of the environment (`HTTP_PROXY`, `.netrc`) are not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import urljoin

from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorDNSError,
    ClientConnectorError,
    ClientConnectorSSLError,
    ClientError,
    ClientResponseError,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    InvalidURL,
    TCPConnector,
)
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http import HttpProcessingError
from yarl import URL

from app.domain.errors import InputUnavailable, UrlAway, UrlFailed, UrlRefused, UrlUnusable
from app.domain.public_addresses import NOT_PUBLIC, judged_url, may_be_reached, shown_url

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence

    from aiohttp import AddrInfoType, ClientResponse

    from app.domain.public_addresses import Network, Target

log = logging.getLogger(__name__)

Lookup: TypeAlias = "Callable[[str, int], Awaitable[Sequence[str]]]"
"""Host name and port → its addresses; raises `OSError`, such as `socket.gaierror`."""

CHUNK_BYTES: Final = 256 * 1024
MOST_REDIRECTS: Final = 5
MOST_LOOKUPS: Final = 8
"""Maximum names that are looked up at once: one that is never answered keeps a thread for up to half a minute."""
HEADERS: Final = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "Genonaut"}
WIRE_ERRORS: Final[tuple[type[Exception], ...]] = (ClientError, HttpProcessingError, OSError, ValueError)
"""What aiohttp raises; `failure` makes ours of it. `ValueError`: a URL or an answer that it cannot encode or parse."""

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PASSING: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
"""Statuses below 500 that pass."""
_UNKNOWN_NAME: Final = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may come, and how long it is waited for. Only waiting counts, not what the caller does meanwhile."""

    max_bytes: int
    total_s: float = 600
    """Maximum wait for all of it: names, connections, redirects and the body."""
    silence_s: float = 30
    """Maximum wait for an answer to begin, name and connection included, and for each piece of the body."""
    slowest_bytes_s: float = 8 * 1024
    """Minimum bytes per second, averaged over each `silence_s`."""


class NotPublic(OSError):
    """A connection would lead to an address that is not allowed. It does not say to which."""

    def __init__(self) -> None:
        super().__init__("not a public address")


class GuardedHttp:
    """Asks for URLs that lead to public addresses, or into one of `networks`. Made once a process, and closed.

    `lookup` and `tls` take the place of the system's look-up of names and of its trusted certificates.
    """

    def __init__(
        self, networks: Sequence[Network] = (), *, lookup: Lookup | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.networks = tuple(networks)
        self._lookup = lookup or self._look_up
        self._tls = tls
        # Threads of its own: names that hang must not keep those in which files are written.
        self._threads = ThreadPoolExecutor(MOST_LOOKUPS, thread_name_prefix="lookup")

    def close(self) -> None:
        """End the threads, without waiting for names that are being looked up."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def session(self) -> ClientSession:
        """Return a session for one request to a `judged_url`; the caller closes it, and follows no redirect with it.

        It has no time-outs of its own. An address that is not allowed ends the request with an error of aiohttp's, of
        which `failure` makes ours.
        """
        connector = TCPConnector(
            resolver=Resolver(self._lookup, self.networks),
            use_dns_cache=False,
            socket_factory=self._socket,
            force_close=True,
            ssl=self._tls or True,
        )
        return ClientSession(
            connector=connector,
            cookie_jar=DummyCookieJar(),
            headers=HEADERS,
            timeout=ClientTimeout(total=None),
            trust_env=False,
            auto_decompress=False,
        )

    async def chunks(self, url: str, limits: Limits) -> AsyncGenerator[bytes, None]:
        """Yield what is found under a URL, in pieces of at most `CHUNK_BYTES`.

        Redirects are followed, up to `MOST_REDIRECTS`, each judged as the URL itself, and none from https to http.

        Raises
        ------
        UrlRefused
            The URL, or one that it redirects to, is not allowed or leads to an address that is not.
        UrlUnusable
            There is no such file, it is larger than `max_bytes`, or what is sent is not plain HTTP.
        UrlAway
            It may be there later: nothing answers, it is too slow, it breaks off, or the status says so.
        """
        trail = _Trail(url)
        clock = _Clock(limits, trail)
        target = judged_url(url, self.networks)
        try:
            for _ in range(MOST_REDIRECTS + 1):
                async with self._answer(target, clock) as response:
                    if response.status not in _REDIRECTS:
                        _require_file(response, limits, trail)
                        size = 0
                        while chunk := await clock.piece(response):
                            size += len(chunk)
                            if size > limits.max_bytes:
                                raise trail.too_large(limits)
                            yield chunk
                        return
                    target = self._redirected(target, response, trail)
        except WIRE_ERRORS as error:
            raise trail.error(*_meaning(error)) from error
        raise UrlUnusable(trail.asked_for, f"it redirects more than {MOST_REDIRECTS} times")

    @contextlib.asynccontextmanager
    async def _answer(self, target: Target, clock: _Clock) -> AsyncIterator[ClientResponse]:
        async with self.session() as session:
            async with clock.waiting("nothing answered"):
                response = await session.get(URL(target.url, encoded=True), allow_redirects=False)
            try:
                yield response
            finally:
                response.close()

    def _redirected(self, target: Target, response: ClientResponse, trail: _Trail) -> Target:
        location = response.headers.get("Location")
        if location is None:
            raise trail.error(UrlUnusable, f"it answered with status {response.status} and no address to go to")
        # Browsers write spaces so too, and servers rely on it.
        url = urljoin(target.url, location.strip().replace(" ", "%20"))
        trail.follow(url)
        try:
            found = judged_url(url, self.networks)
        except UrlRefused as error:
            raise trail.error(UrlRefused, error.reason) from error
        if target.scheme == "https" and found.scheme != "https":
            # A server that has proven its name must not be replaced by whoever is on the way.
            raise trail.error(UrlRefused, "that leads from https to http")
        return found

    def _socket(self, info: AddrInfoType) -> socket.socket:
        """Make the socket of a connection, unless it would lead to an address that is not allowed."""
        family, kind, protocol, _, place = info
        if not may_be_reached(str(place[0]), self.networks):
            raise NotPublic
        return socket.socket(family, kind, protocol)

    async def _look_up(self, host: str, port: int) -> Sequence[str]:
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _addresses, host, port)
        return list(dict.fromkeys(found))


async def input_chunks(http: GuardedHttp, url: str, limits: Limits) -> AsyncGenerator[bytes, None]:
    """Yield what `GuardedHttp.chunks` yields, for an attempt at a job.

    Raises
    ------
    InputUnavailable
        The file is not to be had: for good, or, as `InputAway`, for now.
    """
    try:
        async with contextlib.aclosing(http.chunks(url, limits)) as chunks:
            async for chunk in chunks:
                yield chunk
    except UrlFailed as error:
        raise InputUnavailable.of(error) from error


def failure(url: str, error: Exception) -> UrlFailed:
    """Return what one of `WIRE_ERRORS` means for a URL. Addresses, which its own text shows, are not repeated."""
    return _Trail(url).error(*_meaning(error))


def _meaning(error: Exception) -> tuple[type[UrlFailed], str]:
    cause = error.os_error if isinstance(error, ClientConnectorError) else error
    if isinstance(cause, NotPublic):
        return UrlRefused, NOT_PUBLIC
    if isinstance(error, ClientConnectorCertificateError):
        return UrlUnusable, "its certificate is not valid for it, or not trusted"
    if isinstance(error, ClientConnectorSSLError):
        return UrlUnusable, "no encrypted connection could be made"
    if isinstance(error, ClientConnectorDNSError):
        if isinstance(cause, socket.gaierror) and cause.errno in _UNKNOWN_NAME:
            return UrlUnusable, "its host is not known"
        return UrlAway, "its host could not be looked up"
    if isinstance(error, ClientConnectorError):
        return UrlAway, "no connection could be made"
    if isinstance(error, InvalidURL | ClientResponseError | HttpProcessingError):
        return UrlUnusable, "what answers there is not valid HTTP"
    if isinstance(error, ClientError | OSError):
        return UrlAway, "the connection broke off"
    return UrlUnusable, "it cannot be asked for"


class _Trail:
    """The URL that was asked for, and where it led to."""

    def __init__(self, url: str) -> None:
        self.asked_for = shown_url(url)
        self._now = ""

    def follow(self, url: str) -> None:
        """Note a redirect."""
        self._now = shown_url(url)

    def error(self, kind: type[UrlFailed], reason: str) -> UrlFailed:
        """Return the error about where it led to."""
        return kind(self.asked_for, f"it redirects to {self._now}: {reason}" if self._now else reason)

    def too_large(self, limits: Limits) -> UrlFailed:
        """Return the error about a file of too many bytes."""
        return self.error(UrlUnusable, f"it is larger than {limits.max_bytes} bytes")


class _Clock:
    """Counts the time that is waited for the other side, over all redirects, and what comes in it."""

    def __init__(self, limits: Limits, trail: _Trail) -> None:
        self._limits = limits
        self._trail = trail
        self._left_s = limits.total_s
        self._waited_s = 0.0
        """Seconds that the body was waited for since its pace was looked at."""
        self._size = 0

    @contextlib.asynccontextmanager
    async def waiting(self, silent: str) -> AsyncIterator[None]:
        """Wait at most as long as is allowed; `silent` tells in the error what did not happen in `silence_s`."""
        began = time.monotonic()
        silence_s = self._limits.silence_s
        try:
            async with asyncio.timeout(min(silence_s, self._left_s)):
                yield
        except TimeoutError as error:
            if self._left_s > silence_s:
                raise self._trail.error(UrlAway, f"{silent} within {silence_s:g} s") from error
            raise self._too_long() from error
        finally:
            self._left_s -= time.monotonic() - began
        # What comes before it is waited for ends no wait.
        if self._left_s <= 0:
            raise self._too_long()

    async def piece(self, response: ClientResponse) -> bytes:
        """Return the next piece of a body, empty at its end; raises `UrlAway` when it comes too late or too slowly."""
        left_s = self._left_s
        async with self.waiting("nothing more came"):
            chunk = await response.content.read(CHUNK_BYTES)
        self._waited_s += left_s - self._left_s
        self._size += len(chunk)
        if self._waited_s >= self._limits.silence_s:
            slowest = self._limits.slowest_bytes_s
            if chunk and self._size < slowest * self._waited_s:
                raise self._trail.error(UrlAway, f"it is sent with less than {slowest:g} bytes a second")
            self._waited_s, self._size = 0.0, 0
        return chunk

    def _too_long(self) -> UrlFailed:
        return self._trail.error(UrlAway, f"it took longer than {self._limits.total_s:g} s")


class Resolver(AbstractResolver):
    """Looks a name up and leaves out the addresses that are not allowed."""

    def __init__(self, lookup: Lookup, networks: Sequence[Network]) -> None:
        self._lookup = lookup
        self._networks = networks

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host that are allowed; raises `NotPublic` if there are only others."""
        del family
        addresses = await self._lookup(host, port)
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        allowed = [address for address in addresses if may_be_reached(address, self._networks)]
        if not allowed:
            # For operators, who may want to allow it: users are not told the addresses.
            log.info("%s has only addresses that are not allowed: %s", host, ", ".join(addresses[:5]))
            raise NotPublic
        return [_result(host, address, port) for address in allowed]

    async def close(self) -> None:
        """There is nothing to close."""


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=flags)


def _addresses(host: str, port: int) -> list[str]:
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [str(info[4][0]) for info in infos]


def _require_file(response: ClientResponse, limits: Limits, trail: _Trail) -> None:
    status = response.status
    if status != HTTPStatus.OK:
        passing = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING
        raise trail.error(UrlAway if passing else UrlUnusable, f"it answered with status {status}")
    encodings = response.headers.getall("Content-Encoding", [])
    if any(encoding.strip().lower() not in ("", "identity") for encoding in encodings):
        # Not unpacked: a few kilobytes can become gigabytes.
        raise trail.error(UrlUnusable, "it is sent compressed, which was not asked for")
    if (response.content_length or 0) > limits.max_bytes:
        raise trail.too_large(limits)
