"""Who is let in: the one middleware that asks, before any handler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from app.domain.errors import WrongKey
from app.web.auditing import note_wrong_key
from app.web.callers import authorize

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@web.middleware
async def only_permitted(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Serve those alone who may; the page, a sub-application, asks by itself, and answers in its own way."""
    if len(request.match_info.apps) < 2 and request.match_info.http_exception is None:
        try:
            await authorize(request)
        except WrongKey as error:
            await note_wrong_key(request, error)
            raise
    return await handler(request)
