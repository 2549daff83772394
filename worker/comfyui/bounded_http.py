"""HTTP answers and messages of a backend, with limits: no redirects, maximum sizes, minimum speed."""

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
"""Minimum bytes per second of a download, averaged over a whole time-out; a slower one is given up."""
_SHARE: Final = 0.5
_SHARE_S: Final = 0.25
"""Seconds of the event loop that a backend's messages may take at once; beyond that they get the share `_SHARE`."""
_AT_A_TIME: Final = 50
_MIB: Final = 2**20
_MOST_BYTES: Final = {
    # Hundreds of custom nodes, each with lists of thousands of models: 10 to 30 MB were seen.
    "object_info": 64 * _MIB,
    # Contains the submitted graph, escaped, and the nodes' outputs.
    "history": 64 * _MIB,
    # Contains all waiting graphs, also those of other clients.
    "queue": 64 * _MIB,
    # The log: some hundred pieces, among them whole error messages.
    "internal": 8 * _MIB,
    # A refusal quotes the lists of allowed values.
    "prompt": 16 * _MIB,
}
"""Route → maximum bytes of an answer, after decompression."""
_MOST_ELSEWHERE: Final = _MIB


def own_session(shared: ClientSession) -> ClientSession:
    """Return a session on the same connections that keeps no cookies and refuses redirects.

    Refusing here is needed because aiohttp has no option for it when it opens a WebSocket. Close only the shared
    session, which owns the connections.
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
    """Return the error message for a redirect."""
    return f"The backend answered {path} with status {status}, a redirect, which is not followed."


def is_redirect(status: int) -> bool:
    """Whether the status is a redirect."""
    return HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST


def most_bytes(path: str) -> int:
    """Return the maximum bytes of the answer to a request for this path."""
    return _MOST_BYTES.get(path.split("/")[1], _MOST_ELSEWHERE)


async def read_whole(response: ClientResponse, path: str) -> bytes:
    """Return the decompressed content of an answer; raises `BackendLost` when it exceeds `most_bytes`."""
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
    """Reads a file of any length, and gives up when it stops or is too slow.

    Only the time spent waiting for the backend counts, not the time that the caller takes for each piece.
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
            Nothing came for `silence_s`.
        BackendLost
            The file comes more slowly than `SLOWEST_BYTES_S`.
        """
        began = time.monotonic()
        # aiohttp's own read timeout no longer works after a damaged chunk in a large answer.
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
    """Yield the messages of a backend; handling them takes at most half of the event loop's time.

    Messages that are already buffered are yielded without the loop running other tasks, so it gets a chance every
    `_AT_A_TIME` messages. When a backend sends too much, reading pauses, and its own buffers fill up.
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
    """Return the error for a backend that cannot be reached."""
    return BackendLost(f"The backend cannot be reached: {named(error)}.")


def named(error: BaseException) -> str:
    """Return a short name of a connection error; its own text shows the address, which users must not see."""
    return "it did not answer in time" if isinstance(error, TimeoutError) else type(error).__name__


ON_THE_WIRE: Final[tuple[type[Exception], ...]] = (ClientError, OSError, TimeoutError, ValueError)
"""Errors that aiohttp raises; `ValueError` for parts of an answer or a request that it cannot encode or parse."""
