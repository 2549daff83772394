"""Who sends a browser here: pages of other sites must not use what only this machine may reach."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from aiohttp import web

from app.domain.errors import ForeignHost, ForeignOrigin
from app.keys import SETTINGS
from app.settings import is_loopback
from app.web.header_marks import marks_of, note_marks
from app.web.proxies import all_hosts, asked_host

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^][@/?#\\\s:]+)(:\d*)?", re.ASCII)
"""A name or an address, and perhaps a port: readers of anything more do not agree which part of it is the name."""
_ORIGIN: Final = re.compile(rf"https?://{_HOST.pattern}", re.ASCII | re.IGNORECASE)


@web.middleware
async def refuse_foreign_hosts(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuse requests for a host that is neither this machine nor one of `ALLOWED_HOSTS`.

    A page of another site can have its own name resolved to this machine (DNS rebinding). The browser and the other
    guards here then take its requests for this server's own; only the host name in them differs.
    """
    marks = note_marks(request)
    for host in all_hosts(request):
        # Of two it cannot be known which one was meant.
        name = _name_in(host) if marks.hosts < 2 else ""
        if not is_loopback(name) and not request.app[SETTINGS].goes_by(name):
            raise ForeignHost(f"This server does not serve {name[:200]}; ALLOWED_HOSTS says which names it goes by.")
    return await handler(request)


def host_name(request: web.Request) -> str | None:
    """Return the name by which the request calls this server, without its port; None from who says none."""
    host = asked_host(request)
    if host is None:
        return None
    return _name_in(host) if marks_of(request).hosts < 2 else ""


# Every request brings its host, and they are few.
@lru_cache(maxsize=128)
def _name_in(host: str) -> str:
    """Return the name, without its port; "" of what is no name with a port or without."""
    return (_host_name(f"//{host}") or "") if _HOST.fullmatch(host) else ""


def check_origin(request: web.Request, *, by_key: bool, by_session: bool) -> None:
    """Refuse pages of other sites, which a browser lets send requests in the name of its user; raises `ForeignOrigin`.

    `by_key`: the request shows a key, which a page must know; then those of `ALLOWED_ORIGINS` are welcome too.
    `by_session`: the browser adds its session by itself, so only our own page is welcome. Others that have neither are
    of this machine, whose pages are welcome whatever their port. What "null" stands for cannot be known.
    """
    if not marks_of(request).origin:
        return
    origin = ", ".join(request.headers.getall("Origin"))
    if by_key and origin in request.config_dict[SETTINGS].origins:
        return
    name = _host_name(origin) if _ORIGIN.fullmatch(origin) else None
    own = origin.partition("://")[2] == asked_host(request)
    if name is None or not (own or (not by_session and (name == host_name(request) or is_loopback(name)))):
        raise ForeignOrigin(f"Pages of {origin[:200]} may not connect here.")


@lru_cache(maxsize=128)
def _host_name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
