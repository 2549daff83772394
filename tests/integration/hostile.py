"""What no decent client sends, and a socket that sends it all the same."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient


async def raw(client: TestClient[Any, Any], request: bytes, timeout_s: float = 30) -> bytes:
    """Send these bytes to the client's server, and return all that it answers until it closes."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(client.server.host, client.server.port)
        try:
            writer.write(request)
            await writer.drain()
            return await reader.read()
        except ConnectionError:
            # Closed before it had read everything: that is an answer, too.
            return b""
        finally:
            writer.close()
