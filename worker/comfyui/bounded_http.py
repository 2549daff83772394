"""Answers of a backend on the wire: read where it was asked and nowhere else, and no more than they may be."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar

from aiohttp import ClientError, ClientSession, DummyCookieJar, TraceConfig, TraceRequestRedirectParams

from app.domain.errors import BackendLost

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable
    from types import SimpleNamespace

    from aiohttp import ClientResponse, StreamReader

T = TypeVar("T")

CHUNK_BYTES: Final = 256 * 1024
SLOWEST_BYTES_S: Final = 8 * 1024
"""A file that comes slower than this, over a whole time-out, does not come: its sender could go on for years."""
_SHARE: Final = 0.5
_SHARE_S: Final = 0.25
"""So much of the loop's time a backend's messages may take at once, and from then on that share of it."""
_AT_A_TIME: Final = 50
_MIB: Final = 2**20
_MOST_BYTES: Final = {
    # Hundreds of custom nodes, each with lists of thousands of models: 10 to 30 MB were seen.
    "object_info": 64 * _MIB,
    # Has the graph as it was sent, escaped, and what nodes say of their outputs.
    "history": 64 * _MIB,
    # Has all graphs that wait, other people's included.
    "queue": 64 * _MIB,
    # The log: some hundred pieces, among them whole error messages.
    "internal": 8 * _MIB,
    # A refusal quotes the lists of allowed values.
    "prompt": 16 * _MIB,
}
"""Route → so much of an answer is read, counted after inflation."""
_MOST_ELSEWHERE: Final = _MIB


def own_session(shared: ClientSession) -> ClientSession:
    """Return a session on the same connections that keeps no cookies and follows nobody to another place.

    Each request may forbid redirects, except the one that opens a WebSocket. The shared session, which owns the
    connections, is to be closed, and this one need not be.
    """
    tracing = TraceConfig()
    tracing.on_request_redirect.append(_refuse)
    return ClientSession(
        connector=shared.connector,
        connector_owner=False,
        cookie_jar=DummyCookieJar(),
        trace_configs=[tracing],
        timeout=shared.timeout,
    )


async def _refuse(session: ClientSession, context: SimpleNamespace, told: TraceRequestRedirectParams) -> None:
    del session, context
    told.response.close()
    raise BackendLost(redirected(told.url.path, told.response.status))


def redirected(path: str, status: int) -> str:
    """Return what to say of an answer that points to another place."""
    return f"The backend answered {path} with status {status}, a redirect, which is not followed."


def is_redirect(status: int) -> bool:
    """Whether the answer points to another place."""
    return HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST


def most_bytes(path: str) -> int:
    """Return how long the answer to a request for this path may be."""
    return _MOST_BYTES.get(path.split("/")[1], _MOST_ELSEWHERE)


async def read_whole(response: ClientResponse, path: str) -> bytes:
    """Return the content of an answer, which is inflated piece by piece; raises `BackendLost` when it is too long."""
    most = most_bytes(path)
    held: list[bytes] = []
    size = 0
    while chunk := await response.content.read(CHUNK_BYTES):
        size += len(chunk)
        if size > most:
            raise BackendLost(f"The backend's answer to {path} is longer than {most // _MIB} MiB.")
        held.append(chunk)
    return held[0] if len(held) == 1 else b"".join(held)


class Pace:
    """Reads a file of any length, and gives up on one that does not come, or comes at a drip.

    Only the time in which the backend is waited for counts, not what becomes of the pieces meanwhile.
    """

    def __init__(self, content: StreamReader, silence_s: float) -> None:
        self._content = content
        self._silence_s = silence_s
        self._waited_s = 0.0
        self._size = 0

    async def read(self) -> bytes:
        """Return the next piece, empty at the end.

        Raises
        ------
        TimeoutError
            Nothing came for so long.
        BackendLost
            What came was too little.
        """
        began = time.monotonic()
        # aiohttp's own limit on silence is gone once it stumbled over a damaged chunk of a large answer.
        async with asyncio.timeout(self._silence_s):
            chunk = await self._content.read(CHUNK_BYTES)
        self._waited_s += time.monotonic() - began
        self._size += len(chunk)
        if self._waited_s >= self._silence_s:
            if chunk and self._size < SLOWEST_BYTES_S * self._waited_s:
                raise BackendLost(f"The backend sends a file with less than {SLOWEST_BYTES_S // 1024} kB a second.")
            self._waited_s, self._size = 0.0, 0
        return chunk


async def in_turns(messages: AsyncIterable[T]) -> AsyncGenerator[T, None]:
    """Yield the messages of a backend, which has at most half of the event loop's time for what they lead to.

    Many that have come together are handed out without the loop having its turn, so it is given that now and then.
    One that sends more than is ours to read is not listened to for a while, which it feels when its buffers are full.
    """
    rest_s, looked_at, count = _SHARE_S, time.monotonic(), 0
    async for message in messages:
        began = time.monotonic()
        yield message
        now = time.monotonic()
        rest_s = min(_SHARE_S, rest_s + (now - looked_at) * _SHARE) - (now - began)
        looked_at = now
        count += 1
        if rest_s < 0:
            await asyncio.sleep(-rest_s / _SHARE)
        elif count % _AT_A_TIME == 0:
            await asyncio.sleep(0)


def away(error: BaseException) -> BackendLost:
    """Return the error for a backend that cannot be spoken with."""
    return BackendLost(f"The backend cannot be reached: {named(error)}.")


def named(error: BaseException) -> str:
    """Return what went wrong on the wire; a connection error's own text shows the address, which is not for users."""
    return "it did not answer in time" if isinstance(error, TimeoutError) else type(error).__name__


ON_THE_WIRE: Final[tuple[type[Exception], ...]] = (ClientError, OSError, TimeoutError, ValueError)
"""What aiohttp raises: `ValueError` for parts of an answer, or of what it is told to send, that it cannot write."""
