"""Headers that keep browsers from doing with an answer what it is not for, on whatever has not said so itself."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aiohttp import web

PROTECTIVE_HEADERS: Final = {
    # An answer is data. Opened as a page it loads nothing, and no page frames it.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Pages of this machine on other ports, and those of sister hosts, may show its pictures; those of others may not.
    "Cross-Origin-Resource-Policy": "same-site",
}
"""What every answer has unless it, or the page, says otherwise.

`Strict-Transport-Security` is the proxy's: it holds for all ports of a host name, and so also for a ComfyUI that is
there without TLS. Only who has set up the proxy knows what else is there."""


async def add_protective_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers that an answer lacks; a connection that becomes a socket is none."""
    del request
    if response.status == HTTPStatus.SWITCHING_PROTOCOLS:
        return
    headers = response.headers
    for name, value in PROTECTIVE_HEADERS.items():
        headers.setdefault(name, value)
