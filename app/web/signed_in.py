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

_FOR_ALL: Final = frozenset({"", "/health/live", "/health/ready", "/metrics"})
"""These tell machines how the service fares, and nothing of any job; the first only leads on to the page."""


async def viewer_of(request: web.Request) -> Viewer:
    """Return who the request is from; raises `SignInNeeded` or `DatabaseUnavailable`."""
    token = request.cookies.get(SESSION_COOKIE)
    return await request.config_dict[ACCESS].viewer(token, request.remote, host_name(request))


@web.middleware
async def only_signed_in(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Serve what belongs to the page to those alone who may see the page, which has a guard of its own."""
    match, resource = request.match_info, request.match_info.route.resource
    # By what the router made of it, and not by how it is written. Within a sub-application, the page, there are two.
    place = resource.canonical.rstrip("/") if resource is not None else None
    if len(match.apps) < 2 and place not in _FOR_ALL:
        await viewer_of(request)
    return await handler(request)
