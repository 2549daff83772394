"""Behind a proxy: who the client is, what it asked for, and under which path.

The headers `X-Forwarded-For`, `-Proto`, `-Host` and `-Prefix` are read, and believed from `TRUSTED_PROXIES` only
(`app.domain.forwarded` has the rules). `X-Real-IP` and RFC 7239's `Forwarded` are not read: nginx, Caddy and Traefik
send the others unless told otherwise, and a second list of addresses could contradict the first.

aiohttp-remotes 1.4 is not used. It answers 400 to headers that it cannot read, or that come twice, takes addresses with
a port for unreadable, reads `Host` and `Proto` of one hop although several proxies are trusted, and has no prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from app.domain.forwarded import Told, address_in, told
from app.web.header_marks import marks_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.public_addresses import Network

_READ: Final = (hdrs.X_FORWARDED_FOR, hdrs.X_FORWARDED_PROTO, hdrs.X_FORWARDED_HOST, "X-Forwarded-Prefix")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as its client made it."""

    client: str | None
    scheme: str
    host: str | None
    root: str
    """What its path had before ours; "" for nothing."""


ASKED: Final = web.RequestKey[Asked | None]("ASKED", object)  # type: ignore[arg-type]
"""None unless `TRUSTED_PROXIES` or `ROOT_PATH` is set: without them a request is what the connection says."""


def note_directly_asked(request: web.Request) -> None:
    """Note that nothing is believed of proxies, unless something has been noted: each request is asked for it often."""
    if ASKED not in request:
        request[ASKED] = None


def client_address(request: web.Request) -> str | None:
    """Return the address of the client; None when it is not known, as on a connection that has ended."""
    asked = request[ASKED]
    return asked.client if asked is not None else request.remote


def scheme(request: web.Request) -> str:
    """Return `http` or `https`: how the client reached the service, or the first trusted proxy before it."""
    asked = request[ASKED]
    return asked.scheme if asked is not None else request.scheme


def is_secure(request: web.Request) -> bool:
    """Whether the client came by https."""
    return scheme(request) == "https"


def asked_host(request: web.Request) -> str | None:
    """Return the name or address that the client asked for, maybe with a port; None from who says none."""
    asked = request[ASKED]
    return asked.host if asked is not None else request.headers.get(hdrs.HOST)


def all_hosts(request: web.Request) -> tuple[str, ...]:
    """Return the name that the client asked for and, where it differs, the one that its connection was told.

    A script of another site whose name was made to lead here (DNS rebinding) can add `X-Forwarded-Host`, but it cannot
    change `Host`. So what guards against that must look at both.
    """
    sent, asked = request.headers.get(hdrs.HOST), request[ASKED]
    if asked is None or asked.host == sent:
        return (sent,) if sent is not None else ()
    return tuple(host for host in (asked.host, sent) if host is not None)


def root_path(request: web.Request) -> str:
    """Return what stands before each of our paths where the client sees them, such as `/images`; mostly ""."""
    asked = request[ASKED]
    return asked.root if asked is not None else ""


def outside_address(request: web.Request) -> str | None:
    """Return the address at which the client has the service, such as `https://own.example/images`.

    None where it can only be guessed: without `TRUSTED_PROXIES` and `ROOT_PATH`, or from who names no host.
    """
    asked = request[ASKED]
    return f"{asked.scheme}://{asked.host}{asked.root}" if asked is not None and asked.host else None


def came_through_proxy(request: web.Request) -> bool:
    """Whether the request has a header that only proxies add, from whomever it is."""
    return marks_of(request).proxy


class Proxies:
    """The proxies that are believed, and the path under which the service is when they say none."""

    def __init__(self, trusted: Sequence[Network], root: str) -> None:
        self._trusted: Final = trusted
        self._root: Final = root
        # Most requests come from some few clients, who say the same each time. A header has 8 kB at most.
        self._told: Final = lru_cache(maxsize=256)(self._read)

    def asked(self, request: web.Request) -> Asked:
        """Return the request as its client made it."""
        remote, headers = request.remote, request.headers
        found = self._told(remote, *(_whole(request, name) for name in _READ)) if self._trusted else None
        if found is None:
            return Asked(remote, request.scheme, headers.get(hdrs.HOST), self._root)
        return Asked(
            found.client,
            found.scheme or request.scheme,
            found.host or headers.get(hdrs.HOST),
            self._root if found.prefix is None else found.prefix,
        )

    def _read(self, remote: str | None, client: str, proto: str, host: str, prefix: str) -> Told | None:
        peer = address_in(remote) if remote is not None else None
        if peer is None:
            return None
        return told(peer, self._trusted, client=client, proto=proto, host=host, prefix=prefix)


def _whole(request: web.Request, name: str) -> str:
    """Return a header as one text, also when it came several times, which means the same (RFC 9110, section 5.3)."""
    values = request.headers.getall(name, ())
    return values[0] if len(values) == 1 else ",".join(values)
