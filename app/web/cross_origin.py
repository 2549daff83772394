"""Browsers of other sites (CORS): pages of `ALLOWED_ORIGINS` may use the API, and show a key as everybody does.

Never with a browser's own credentials: a session of the page is for that page alone. There is no need of a library
for one list of origins that is the same for all routes.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from app.keys import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PREFLIGHT: Final = {
    hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, HEAD, POST, PUT, PATCH, DELETE",
    hdrs.ACCESS_CONTROL_ALLOW_HEADERS: "Authorization, X-API-Key, Content-Type, Idempotency-Key, Prefer, "
    "X-Request-Id, Range, If-Range, If-None-Match",
    # Seconds for which a browser need not ask again; Chromium asks after two hours at the latest.
    hdrs.ACCESS_CONTROL_MAX_AGE: "7200",
}
EXPOSED: Final = (
    "Location, Retry-After, RateLimit, RateLimit-Policy, X-Request-Id, Idempotency-Replayed, Content-Range, "
    "Content-Disposition, ETag"
)
"""What a page of another site may read of an answer's headers, besides the harmless ones."""


@web.middleware
async def answer_preflights(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Tell a browser what a page may send. It asks without a key, so nobody is asked for one."""
    asks = request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    if asks and _is_shared(request) and _welcome(request) is not None:
        return web.Response(status=HTTPStatus.NO_CONTENT, headers=PREFLIGHT)
    return await handler(request)


async def let_pages_read(request: web.Request, response: web.StreamResponse) -> None:
    """Let a page of `ALLOWED_ORIGINS` read the answer, errors too.

    Done when an answer is about to be sent: a stream begins within its handler.
    """
    if not _is_shared(request):
        return
    if response.status == HTTPStatus.SWITCHING_PROTOCOLS:
        return
    # Also on answers for others: what a cache keeps of one is not for all.
    response.headers.add(hdrs.VARY, hdrs.ORIGIN)
    if (origin := _welcome(request)) is not None:
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED


def _welcome(request: web.Request) -> str | None:
    origin = request.headers.get(hdrs.ORIGIN)
    return origin if origin in request.config_dict[SETTINGS].origins else None


def _is_shared(request: web.Request) -> bool:
    """Whether it is for others at all: the page, a sub-application, is for itself alone."""
    return len(request.match_info.apps) < 2
