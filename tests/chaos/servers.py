"""PostgreSQL and Redis of a run, on ports of its own, stopped and started again with their data."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from app.embedded.ports import is_free
from app.embedded.shared import Share, State

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable

    from app.embedded.shared import Server

PORTS: Final = range(20_000, 32_000)
"""Below the ports that systems give to outgoing connections, one of which could take a server's while it is down."""


def pick_ports(count: int) -> list[int]:
    """Return different free ports; two runs at the same time draw different ones."""
    found: list[int] = []
    draw = random.SystemRandom()
    while len(found) < count:
        port = draw.choice(PORTS)
        if port not in found and is_free(port):
            found.append(port)
    return found


class Database:
    """An embedded server that can be stopped and started again on its port, with its data."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._share = Share(server, lambda _: None)
        self.lock = asyncio.Lock()
        """Held by whoever stops and starts it."""

    @property
    def url(self) -> str:
        """Where clients reach it."""
        assert self._server.port
        return self._server.url(self._server.port)

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        await _to_the_end(self._share.enter)

    async def stop(self, *signals: signal.Signals) -> None:
        """End it with these signals, or in its own way."""
        process = State.read(self._server.folder / "state.json").process
        if signals and process is not None:
            await _to_the_end(lambda: process.stop(signals))
        await _to_the_end(self._share.leave)


async def _to_the_end(call: Callable[[], object]) -> None:
    """Call it in a thread, and wait for its end also when cancelled: what it starts can be stopped only then."""
    future = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait({future})
        raise
