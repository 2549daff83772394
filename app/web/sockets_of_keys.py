"""How many WebSockets each key has open at this server: more than it may are refused before the upgrade."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from aiohttp import web

from app.domain.errors import TooManySockets
from app.web.callers import CALLER

if TYPE_CHECKING:
    from collections.abc import Iterator

OPEN_SOCKETS: Final = web.AppKey("OPEN_SOCKETS", Counter[int | None])
"""Key's id → its open sockets. In this process alone: one that dies takes its sockets with it, and no count is left."""
_RETRY_S: Final = 5.0
"""When a socket is closed nobody knows; so soon a client may try again."""


@contextmanager
def one_socket(request: web.Request) -> Iterator[None]:
    """Count a socket of the request's key until the block ends; raises `TooManySockets`."""
    caller, counted = request[CALLER], request.app[OPEN_SOCKETS]
    most = caller.limits.sockets
    if caller.key_id is None:
        yield
        return
    if most is not None and counted[caller.key_id] >= most:
        detail = f"This key may have {most} WebSockets open; one follows up to 500 jobs: /ws/jobs?job_ids=1,2,3."
        raise TooManySockets(detail, _RETRY_S)
    counted[caller.key_id] += 1
    try:
        yield
    finally:
        counted[caller.key_id] -= 1
        if not counted[caller.key_id]:
            del counted[caller.key_id]
