"""What WebSocket clients may say, and what they are answered."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, Final

from aiohttp import WSMessage, WSMsgType

MAX_CLIENT_CHARS: Final = 64 * 1024
"""What a client has to say is short. Longer messages are answered with an error, up to `MAX_FRAME_BYTES`."""
MAX_FRAME_BYTES: Final = 256 * 1024
"""A message that is longer still, in one frame or many, is not even received, and ends the connection (1009)."""
COMMANDS_A_SECOND: Final = 50
"""How many messages of a client are answered, pings and pongs among them, when they come faster than that."""
COMMANDS_AT_ONCE: Final = 100
"""How many may come in one go before that."""


class Pace:
    """How fast the messages of one client are answered: what comes faster waits in the client's own buffers."""

    def __init__(self) -> None:
        self._next = 0.0

    async def wait(self) -> None:
        """Wait until the next message's turn, and let others run in any case."""
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now - COMMANDS_AT_ONCE / COMMANDS_A_SECOND) + 1 / COMMANDS_A_SECOND
        await asyncio.sleep(max(0.0, self._next - now))


def answer_to(message: WSMessage) -> bytes | None:
    """Return what a client's frame is answered with, a JSON text; nothing that it sends ends the connection."""
    if message.type is WSMsgType.TEXT:
        answer = _answer(message.data)
    elif message.type is WSMsgType.BINARY:
        answer = _complaint("binary_frame", "Only text frames are understood.")
    else:
        return None
    # Not orjson: an id of more than 64 bits, or half a surrogate pair, is echoed as it came.
    return json.dumps(answer).encode()


def _answer(text: str) -> dict[str, Any]:
    if len(text) > MAX_CLIENT_CHARS:
        return _complaint("too_long", f"A frame has at most {MAX_CLIENT_CHARS} characters.")
    try:
        command = json.loads(text)
    except (ValueError, RecursionError):
        return _complaint("malformed_json", "The frame is no JSON text.")
    if not isinstance(command, dict) or not isinstance(command.get("type"), str):
        return _complaint("malformed_command", 'A command is an object with a "type".')
    if command["type"] != "ping":
        return _complaint("unknown_command", "The only command here is ping.")
    echoed = command.get("id")
    if isinstance(echoed, dict | list) or (isinstance(echoed, float) and not math.isfinite(echoed)):
        return _complaint("malformed_command", "The id of a ping is a text or a number.")
    return {"type": "pong"} | ({"id": echoed} if echoed is not None else {})


def _complaint(code: str, detail: str) -> dict[str, Any]:
    return {"type": "error", "code": code, "detail": detail}
