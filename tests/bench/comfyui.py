"""The limit of jobs: the same graphs sent to the stand-in itself, with no service between."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from aiohttp import WSMsgType

from tests.bench.client import Connection, Unexpected, all_at_once, message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from aiohttp import ClientSession, ClientWebSocketResponse

    from tests.bench.workload import Graph

_CONNECTIONS: Final = 16


class Direct:
    """A client of ComfyUI that does nothing but submit and listen."""

    def __init__(self, url: str, ws: ClientWebSocketResponse, client_id: str) -> None:
        self._url = url
        self._ws = ws
        self._client_id = client_id

    @classmethod
    @asynccontextmanager
    async def connected(cls, session: ClientSession, url: str) -> AsyncIterator[Direct]:
        """Have one with its socket open in the block."""
        client_id = uuid4().hex
        async with session.ws_connect(f"{url}/ws?clientId={client_id}", max_msg_size=0) as ws:
            yield cls(url, ws, client_id)

    async def run_all(self, graphs: Sequence[Graph]) -> float:
        """Run them, all submitted at once, and return after how many seconds the last one had ended."""
        began = time.perf_counter()
        await all_at_once(self._url, _CONNECTIONS, [self._prompt(graph) for graph in graphs], 200)
        for _ in graphs:
            await self._until("executing")
        return time.perf_counter() - began

    async def run_one(self, graph: Graph) -> tuple[float, float]:
        """Run it, and return after how many seconds it had begun, and had ended."""
        connection = await Connection.open(self._url)
        began = time.perf_counter()
        await connection.ask(self._prompt(graph), 200)
        await self._until("execution_start")
        started = time.perf_counter() - began
        await self._until("executing")
        connection.close()
        return started, time.perf_counter() - began

    def _prompt(self, graph: Graph) -> bytes:
        body = json.dumps({"prompt": graph, "client_id": self._client_id}).encode()
        return message(f"{self._url}/prompt", "POST", body)

    async def _until(self, kind: str) -> None:
        """Wait for a frame of this kind; of `executing` for the one that says that a prompt has ended."""
        async for frame in self._ws:
            if frame.type is WSMsgType.TEXT:
                told = json.loads(frame.data)
                if told["type"] == kind and told["data"].get("node") is None:
                    return
        raise Unexpected("the stand-in has closed its socket")
