"""What proxies tell of a request, read so that nobody can claim to be somebody else.

Each proxy on the way appends the address that it was connected from to `X-Forwarded-For`. So that header is true from
its right end on, as far as the addresses are proxies that are trusted: the first other address is the client, and what
stands left of it is whatever that client wrote.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.public_addresses import Address, Network

MOST_HOPS: Final = 20
"""So many entries of `X-Forwarded-For` are read, from its right end. No request passes more proxies."""
MOST_PREFIX_CHARS: Final = 200
OWN_PATHS: Final = frozenset({"api", "docs", "health", "metrics", "monitor", "openapi.json", "ws"})
"""What the paths of this service begin with. A prefix that begins so could not be told from them."""

_ADDRESS: Final = re.compile(r"[0-9A-Fa-f:.]{2,45}")
_WITH_PORT: Final = re.compile(r"\[(?P<v6>[^\[\]]{2,45})\](?::[0-9]{1,5})?|(?P<v4>[0-9.]{7,15}):[0-9]{1,5}")
"""Some proxies add the port of the client: Azure's Application Gateway to addresses of both kinds."""
_PREFIX: Final = re.compile(r"(?:/[\w.-]+)+", re.ASCII)
_HOST: Final = re.compile(r"(?:[\w.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Told:
    """What trusted proxies say; None where they say nothing that can be used."""

    client: str
    """The nearest address of which it is known that the request came from there."""
    scheme: str | None
    """`http` or `https`."""
    host: str | None
    """Name or address, maybe with a port, as the client asked for it."""
    prefix: str | None
    """As `checked_prefix` returns it."""


def told(peer: Address, trusted: Sequence[Network], *, client: str, proto: str, host: str, prefix: str) -> Told | None:
    """Return what the `X-Forwarded-` headers For, Proto, Host and Prefix say; None if `peer` is not trusted.

    A header that was sent several times is given as one, with commas. Where each proxy has appended a value, the one
    of the outermost trusted proxy counts.
    """
    if not is_in(peer, trusted):
        return None
    nearest, hops = peer, 1
    for entry in reversed(client.rsplit(",", MOST_HOPS)[-MOST_HOPS:]):
        found = address_in(entry)
        if found is None:
            break
        nearest = found
        if not is_in(found, trusted):
            break
        hops += 1
    scheme, asked = _of_outermost(proto, hops).lower(), _of_outermost(host, hops)
    return Told(
        str(nearest),
        scheme if scheme in ("http", "https") else None,
        asked if _HOST.fullmatch(asked) else None,
        _prefix_or_none(_of_outermost(prefix, hops)),
    )


def address_in(text: str) -> Address | None:
    """Return the address in an entry of `X-Forwarded-For`, without its port; None if there is none.

    An IPv4 address that is written as IPv6 (`::ffff:…`), as sockets for both tell it, becomes IPv4. An address with a
    zone (`fe80::1%eth0`) is none: it means something to one machine only.
    """
    text = text.strip()
    if (match := _WITH_PORT.fullmatch(text)) is not None:
        text = match["v6"] or match["v4"]
    if not _ADDRESS.fullmatch(text):
        return None
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def is_in(address: Address, networks: Sequence[Network]) -> bool:
    """Whether one of the networks has the address."""
    return any(address in network for network in networks)


def checked_prefix(text: str) -> str:
    """Return a prefix of paths such as `/images`, without a slash at its end; "" for none.

    Raises
    ------
    ValueError
        As a sentence about the text: "is …".
    """
    prefix = text.removesuffix("/")
    if not prefix:
        return ""
    if len(prefix) > MOST_PREFIX_CHARS or not _PREFIX.fullmatch(prefix):
        raise ValueError(
            f"is no path such as /images: it begins with /, has letters, digits and . _ - / only, no //, and at most "
            f"{MOST_PREFIX_CHARS} characters"
        )
    parts = prefix.split("/")[1:]
    if not all(part.strip(".") for part in parts):
        raise ValueError("has a part . or .., which browsers take out of a path")
    if parts[0] in OWN_PATHS:
        raise ValueError(f"begins with /{parts[0]}, where the service has pages of its own")
    return prefix


def _prefix_or_none(text: str) -> str | None:
    try:
        return checked_prefix(text) or None
    except ValueError:
        return None


def _of_outermost(text: str, hops: int) -> str:
    values = text.rsplit(",", hops)[-hops:]
    return values[0].strip()
