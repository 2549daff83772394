"""Who is let in: the one middleware that asks, before any handler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from app.domain.errors import WrongKey
from app.web.auditing import note_wrong_key
from app.web.callers import authorize, main_app
from app.web.permissions import LASTING, route_of
from app.web.requests_at_once import REQUESTS_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@web.middleware
async def only_permitted(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Serve those alone who may; the page, a sub-application, asks by itself, and answers in its own way."""
    if len(request.match_info.apps) > 1 or request.match_info.http_exception is not None:
        return await handler(request)
    try:
        caller = await authorize(request)
    except WrongKey as error:
        await note_wrong_key(request, error)
        raise
    if caller is None or caller.key_id is None or route_of(request) in LASTING:
        return await handler(request)
    at_once = main_app(request)[REQUESTS_AT_ONCE]
    await at_once.begin(caller.key_id)
    try:
        return await handler(request)
    finally:
        at_once.end(caller.key_id)
