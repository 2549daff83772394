"""Bare sockets that send as little as they like, and read as little."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any, Self

from harness import GUARD_S

if TYPE_CHECKING:
    from types import TracebackType

    from aiohttp.test_utils import TestClient

HALF_HEAD = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: "


class Bare:
    """A client that is a bare socket; it is closed with the context."""

    def __init__(self, client: TestClient[Any, Any], *, window: int | None = None) -> None:
        self._address = (client.server.host, client.server.port)
        self.socket = socket.socket()
        if window is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self.socket.setblocking(False)
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Self:
        await self._loop.sock_connect(self.socket, self._address)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    async def send(self, data: bytes) -> None:
        """Send all of these bytes."""
        async with asyncio.timeout(GUARD_S):
            await self._loop.sock_sendall(self.socket, data)

    async def receive(self, wanted: bytes, times: int = 1) -> bytes:
        """Return what comes, until these bytes have come so many times."""
        chunks: list[bytes] = []
        tail, found = b"", 0
        async with asyncio.timeout(GUARD_S):
            while found < times:
                chunk = await self._loop.sock_recv(self.socket, 65_536)
                if not chunk:
                    raise ConnectionError(f"closed after {b''.join(chunks)[:200]!r}")
                chunks.append(chunk)
                found += (tail + chunk).count(wanted)
                tail = (tail + chunk)[len(tail + chunk) - len(wanted) + 1 :]
        return b"".join(chunks)

    async def rest(self) -> bytes:
        """Return what comes until the server closes, whichever way it does."""
        received = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(GUARD_S):
                while chunk := await self._loop.sock_recv(self.socket, 65_536):
                    received += chunk
        return received
