"""A light HTTP/1.1 client on asyncio's streams: the driver must not take the processors that it measures."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Unexpected(Exception):
    """The service did something that makes the figure worthless."""


def message(url: str, method: str, body: bytes = b"", key: str | None = None) -> bytes:
    """Return a request as it goes over the wire; `key` is whose it is."""
    parts = urlsplit(url)
    head = f"{method} {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
    if key is not None:
        head += f"Authorization: Bearer {key}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body


class Connection:
    """One kept connection, and as much of the protocol as our own servers speak: every answer has a length."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to the server of this URL."""
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    async def ask(self, request: bytes, expected: int) -> bytes:
        """Send a request and return the body of the answer; raises `Unexpected` for another status."""
        status, body = await self.send(request)
        if status != expected:
            raise Unexpected(f"{request[:60]!r} was answered with {status} and {body[:300]!r}")
        return body

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Send a request and return status and body of the answer."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        return int(head[9:12]), await self._reader.readexactly(int(length[1])) if length else b""

    def close(self) -> None:
        """Close it."""
        self._writer.close()


@dataclass
class Load:
    """What a closed loop did."""

    latencies_s: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    """Requests a second, one for each round."""


async def closed_loop(
    url: str, connections: int, requests: Callable[[], bytes], expected: int, load: Load, seconds: float
) -> None:
    """Let each connection send its next request when the last one is answered, for so long; adds a round to `load`."""
    opened = [await Connection.open(url) for _ in range(connections)]
    began, done = time.perf_counter(), 0

    async def one(connection: Connection) -> None:
        nonlocal done
        while (sent := time.perf_counter()) - began < seconds:
            await connection.ask(requests(), expected)
            load.latencies_s.append(time.perf_counter() - sent)
            done += 1

    try:
        await asyncio.gather(*map(one, opened))
    finally:
        for connection in opened:
            connection.close()
    load.rates.append(done / (time.perf_counter() - began))


@asynccontextmanager
async def flood(url: str, connections: int, request: bytes, statuses: Counter[int]) -> AsyncIterator[None]:
    """Have so many connections send the request again and again in the block, whatever is answered; count that.

    The block begins when a first one is refused.
    """
    refused = asyncio.Event()
    opened = [await Connection.open(url) for _ in range(connections)]

    async def one(connection: Connection) -> None:
        while True:
            status, _ = await connection.send(request)
            statuses[status] += 1
            if status >= HTTPStatus.BAD_REQUEST:
                refused.set()

    tasks = [asyncio.create_task(one(connection)) for connection in opened]
    try:
        await refused.wait()
        yield
    finally:
        for task in tasks:
            task.cancel()
        for became in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(became, Exception):
                raise became
        for connection in opened:
            connection.close()


async def all_at_once(url: str, connections: int, requests: Iterable[bytes], expected: int) -> list[bytes]:
    """Send all of these over so many connections, and return the answers in no order."""
    left = iter(requests)

    async def one() -> list[bytes]:
        connection = await Connection.open(url)
        try:
            return [await connection.ask(request, expected) for request in left]
        finally:
            connection.close()

    return [answer for answers in await asyncio.gather(*(one() for _ in range(connections))) for answer in answers]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that so many percent are not above."""
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * percent // 100) - 1)]
