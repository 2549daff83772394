"""Who sends a browser here: pages of other sites must not use what only this machine may reach."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from app.domain.errors import ForeignHost, ForeignOrigin
from app.keys import SETTINGS
from app.settings import is_loopback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_HARMLESS: Final = (hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS)


@web.middleware
async def refuse_foreign_hosts(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuse requests for a host that is neither this machine nor one of `ALLOWED_HOSTS`.

    A page of another site can have its own name resolved to this machine (DNS rebinding). The browser and the other
    guards here then take its requests for this server's own; only the host name in them differs.
    """
    name = host_name(request)
    if name is not None and not _is_this_machine(name) and name not in request.app[SETTINGS].host_names:
        raise ForeignHost(f"This server does not serve {name[:200]}; ALLOWED_HOSTS says which names it goes by.")
    return await handler(request)


def host_name(request: web.Request) -> str | None:
    """Return the name by which the request calls this server, without its port; None from who says none."""
    host = request.headers.get("Host")
    return _host_name(f"//{host}") or "" if host is not None else None


@web.middleware
async def refuse_foreign_pages(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuse whatever changes something when a page of another site sends it: a form needs no permission for that.

    The monitor page has a stricter guard of its own, and answers in its own way.
    """
    if request.method not in _HARMLESS and request.path.startswith("/api/"):
        check_origin(request)
    return await handler(request)


def check_origin(request: web.Request, *, files: bool = False) -> None:
    """Refuse pages of other sites: a browser sends no other guard with an upgrade than its `Origin`.

    Pages from this machine are welcome whatever their port; with `files` those opened from disk too, whose origin is
    "null".
    """
    origin = request.headers.get("Origin")
    if origin is None or (files and origin == "null"):
        return
    name = _host_name(origin)
    if name is None or (name != host_name(request) and not is_loopback(name)):
        raise ForeignOrigin(f"Pages of {origin[:200]} may not connect here.")


# Every request brings its host, and they are few.
@lru_cache(maxsize=128)
def _is_this_machine(name: str) -> bool:
    return is_loopback(name)


@lru_cache(maxsize=128)
def _host_name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
