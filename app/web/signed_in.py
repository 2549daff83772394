"""Who is signed in to the page, for what serves it from elsewhere: its events, and all that the page alone serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from app.keys import ACCESS
from app.services.access import SESSION_COOKIE
from app.web.origin import host_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.domain.access import Viewer

_FOR_ALL: Final = ("/monitor", "/health", "/metrics")
"""The page has a guard of its own; the others tell machines how the service fares, and nothing of any job."""


async def viewer_of(request: web.Request) -> Viewer:
    """Return who the request is from; raises `SignInNeeded` or `DatabaseUnavailable`."""
    token = request.cookies.get(SESSION_COOKIE)
    return await request.config_dict[ACCESS].viewer(token, request.remote, host_name(request))


@web.middleware
async def only_signed_in(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Serve what belongs to the page to those alone who may see the page."""
    if request.path != "/" and not request.path.startswith(_FOR_ALL):
        await viewer_of(request)
    return await handler(request)
