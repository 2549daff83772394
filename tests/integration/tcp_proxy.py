"""A TCP proxy between the service and one of its servers, which a test can cut and restore, or freeze and thaw."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class TcpProxy:
    """Forwards connections to one server. While it is cut, open connections are aborted and new ones refused.

    While it is frozen nobody is told of anything: new connections are taken, and what either side sends is lost, an end
    of its stream included. So it is when a cable is pulled, or a firewall has forgotten the connection.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self.port = 0
        self.accepted = 0
        """Connections taken since the beginning."""
        self.brought_bytes = 0
        """What the server has sent since the beginning."""

    @classmethod
    async def before(cls, url: str) -> tuple[Self, str]:
        """Return a proxy that runs before the server of a URL, and the URL that leads through it."""
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        proxy = cls(parts.hostname, parts.port)
        await proxy.restore()
        account, at, _ = parts.netloc.rpartition("@")
        return proxy, urlunsplit(parts._replace(netloc=f"{account}{at}127.0.0.1:{proxy.port}"))

    @property
    def open_connections(self) -> int:
        """How many connections go through it now."""
        return len(self._writers) // 2

    async def cut(self) -> None:
        """Abort every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    def freeze(self) -> None:
        """Swallow what is sent from now on, both ways."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Forward again; what was swallowed stays lost."""
        self._thawed.set()

    async def restore(self) -> None:
        """Take connections (again), on the same port."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._pipes.add(task)
        self._writers.add(writer)
        far: asyncio.StreamWriter | None = None
        try:
            far_reader, far = await asyncio.open_connection(*self._target)
            self._writers.add(far)
            there = asyncio.create_task(self._pump(reader, far))
            back = asyncio.create_task(self._pump(far_reader, writer, counted=True))
            try:
                await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in (there, back):
                    each.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._pipes.discard(task)
            for each in filter(None, (writer, far)):
                each.transport.abort()
                self._writers.discard(each)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.brought_bytes += len(data) if counted else 0
                if self._thawed.is_set():
                    writer.write(data)
                    await writer.drain()
        await self._thawed.wait()


@asynccontextmanager
async def proxied(url: SecretStr) -> AsyncIterator[tuple[TcpProxy, SecretStr]]:
    """Have a proxy before the server of a settings URL within the block."""
    proxy, through = await TcpProxy.before(url.get_secret_value())
    try:
        yield proxy, SecretStr(through)
    finally:
        await proxy.cut()
