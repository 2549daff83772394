"""Which headers a request has that matter for who may send it: told by their names, once for all who send the same."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from aiohttp import web

_OF_KEYS: Final = frozenset({"authorization", "x-api-key", "sec-websocket-protocol"})
_OF_PROXIES: Final = frozenset(
    {"forwarded", "forwarded-for", "via", "cdn-loop", "true-client-ip", "fly-client-ip", "fastly-client-ip"}
    | {"x-real-ip", "x-client-ip", "x-cluster-client-ip", "x-original-host", "x-original-url"}
)
_BEGINNINGS_OF_PROXIES: Final = ("x-forwarded", "x-original-forwarded", "x-envoy-", "x-amzn-", "x-azure-", "cf-")
"""Headers that only a proxy adds, written small and with hyphens, and how the names of others begin."""
_USUAL: Final = 40
"""Headers of a request; those of one with more are not remembered."""


@dataclass(frozen=True, slots=True)
class HeaderMarks:
    """What the names of a request's headers tell."""

    key: bool
    """It may show a key."""
    cookie: bool
    origin: bool
    proxy: bool
    """It came through a proxy, or is made to look so."""
    hosts: int
    """How many hosts it names."""


MARKS: Final = web.RequestKey("MARKS", HeaderMarks)
"""Looked at by several for each request, so it is noted with it."""


def note_marks(request: web.Request) -> HeaderMarks:
    """Note what the names of its headers tell of a request, and return it."""
    names = tuple(request.headers)
    marks = request[MARKS] = _marks(names) if len(names) <= _USUAL else _marks.__wrapped__(names)
    return marks


def marks_of(request: web.Request) -> HeaderMarks:
    """Return what the names of its headers tell of a request; the first guard of all has noted it."""
    return request[MARKS]


# A client sends the same headers each time. Names may be long: few are kept.
@lru_cache(maxsize=128)
def _marks(headers: tuple[str, ...]) -> HeaderMarks:
    names = [name.lower() for name in headers]
    of_proxies = [name.replace("_", "-") for name in names]
    return HeaderMarks(
        key=not _OF_KEYS.isdisjoint(names),
        cookie="cookie" in names,
        origin="origin" in names,
        proxy=any(name in _OF_PROXIES or name.startswith(_BEGINNINGS_OF_PROXIES) for name in of_proxies),
        hosts=names.count("host"),
    )
