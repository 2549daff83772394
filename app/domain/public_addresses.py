"""Which addresses and URLs of other people's choice may be connected to: public ones, and networks that are allowed.

A client that names a URL must not reach through us what only this machine or its network can reach: services on
loopback, a cloud's metadata, routers, databases (server-side request forgery). The text of a URL is judged before
anything is looked up; the address of each connection is judged by `app.runtime.guarded_http`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import quote

from app.domain.errors import UrlRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

MAX_URL_CHARS: Final = 4096
"""Maximum characters of a URL. Signed URLs of stores of objects have up to some 2,500."""
SHOWN_CHARS: Final = 200
"""Maximum characters of a URL in a message."""

# Written out, since Python's `is_global` and `is_private` changed between its releases and miss some of these:
# https://docs.python.org/3/library/ipaddress.html#ipaddress.IPv4Address.is_private
_NOT_PUBLIC_V4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network: Linux takes 0.0.0.0 for loopback
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata at 100.100.100.200
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # looks public: Azure's WireServer, which each of its machines can reach
        "169.254.0.0/16",  # link-local; most clouds' metadata at 169.254.169.254
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata at 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_UNICAST_V6: Final = IPv6Network("2000::/3")
"""All that is public in IPv6 is in here; fc00::/7, fe80::/10, fec0::/10, ff00::/8, ::/8 … are not."""
_NOT_PUBLIC_V6: Final = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which leads to any IPv4 address
        "3fff::/20",  # documentation
    )
)
_NAT64: Final = IPv6Network("64:ff9b::/96")
"""How a network without IPv4 reaches the IPv4 address in the last four bytes (RFC 6052)."""
_LAST_FOUR_BYTES: Final = 0xFFFF_FFFF
_ISATAP: Final = frozenset({0x0000_5EFE, 0x0200_5EFE})
"""Third quarter of an address that may be tunnelled to the IPv4 address in its last one (RFC 5214)."""

_UNSENDABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, line ends, and halves of characters, which have no UTF-8."""
_URL: Final = re.compile(
    # As ASCII: other letters count as an s too when case does not matter.
    r"(?P<scheme>https?)://(?P<authority>[^/?#\\]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?",
    re.I | re.A,
)
_AUTHORITY: Final = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]*))?")
_NAME: Final = re.compile(
    r"(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*"
)
_LIKE_A_NUMBER: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
"""Names that end in a number: `getaddrinfo` takes some for addresses (2130706433, 0x7f.1), and no name ends so."""
_CIDR: Final = re.compile(r"[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_FIRST_FREE_PORT: Final = 1024
_LAST_PORT: Final = 65535
_OTHER_PROTOCOLS: Final = frozenset(
    {1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080}
)
"""Ports that browsers refuse too: https://fetch.spec.whatwg.org/#port-blocking."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be asked for, taken apart; made by `judged_url` alone."""

    url: str
    """The URL as it is sent: ASCII, without fragment, the rest spelled as it was (a signature covers the spelling)."""
    scheme: str
    host: str
    """In lower case; an IPv6 address without brackets."""
    port: int


def parse_networks(text: str) -> tuple[Network, ...]:
    """Read networks separated by commas, such as `10.0.0.0/8, fd00::/8`; an address alone is a network of one.

    Raises
    ------
    ValueError
        Naming the first entry that is no network, as a sentence about the whole text: "has …".
    """
    return tuple(_network(entry) for entry in filter(None, (part.strip() for part in text.split(","))))


def _network(entry: str) -> Network:
    shown = entry[:60]
    if not _CIDR.fullmatch(entry):
        raise ValueError(f"has {shown!r}, which is no network, such as 10.0.0.0/8 or fd00::/8")
    try:
        found = ip_network(entry, strict=False)
    except ValueError:
        raise ValueError(f"has {shown!r}, which is no network, such as 10.0.0.0/8 or fd00::/8") from None
    if found.network_address != ip_address(entry.partition("/")[0]):
        raise ValueError(f"has {shown!r}, whose address is not the first of its network: {found} is meant?")
    if isinstance(found, IPv6Network) and found.network_address.ipv4_mapped is not None:
        raise ValueError(f"has {shown!r}: write such networks as IPv4, such as 10.0.0.0/8")
    return found


def may_be_reached(address: str | Address, networks: Sequence[Network] = ()) -> bool:
    """Whether an address is a public one, or in one of these networks; a text that is no address is not.

    An address that stands for an IPv4 address of this machine's own network (`::ffff:a.b.c.d`) is judged as that. One
    with a scope (`fe80::1%eth0`) belongs to one wire, and is never allowed.
    """
    if isinstance(address, str):
        try:
            address = ip_address(address)
        except ValueError:
            return False
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return False
        address = address.ipv4_mapped or address
    return any(address in network for network in networks) or _is_public(address)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    if address in _NAT64:
        return _is_public(IPv4Address(int(address) & _LAST_FOUR_BYTES))
    if int(address) >> 32 & _LAST_FOUR_BYTES in _ISATAP:
        return False
    return address in _UNICAST_V6 and not any(address in network for network in _NOT_PUBLIC_V6)


def judged_url(text: str, networks: Sequence[Network] = ()) -> Target:
    """Return a URL that may be asked for. A host that is a name is not looked up: its addresses are judged later.

    Raises
    ------
    UrlRefused
        It is no http URL, or says what is not allowed: a password, an unusual port, an address that is not public.
    """
    if len(text) > MAX_URL_CHARS:
        raise UrlRefused(shown_url(text), f"it has more than {MAX_URL_CHARS} characters")
    if _UNSENDABLE.search(text):
        raise UrlRefused(shown_url(text), "it has control characters, or bytes that are no text")
    if re.search(r"\s", text):
        raise UrlRefused(shown_url(text), "it has a space, which is written as %20")
    parts = _URL.match(text)
    if parts is None:
        raise UrlRefused(shown_url(text), "it does not begin with http:// or https://")
    if "@" in parts["authority"]:
        raise UrlRefused(shown_url(text), "it has a user name or a password, which would be kept with the job")
    places = _read(parts)
    if places is None:
        raise UrlRefused(shown_url(text), "its host cannot be read")
    scheme = parts["scheme"].lower()
    host = _judged_host(text, places["host"], networks)
    port = _judged_port(text, places["port"], scheme)
    written = f"[{host}]" if ":" in host else host
    if port != _DEFAULT_PORTS[scheme]:
        written += f":{port}"
    rest = quote((parts["path"] or "/") + (parts["query"] or ""), safe="%/:?[]@!$&'()*+,;=~")
    return Target(f"{scheme}://{written}{rest}", scheme, host, port)


def _read(parts: re.Match[str]) -> re.Match[str] | None:
    """Return host and port; None where readers of URLs differ about them, as about a backslash."""
    return None if parts["path"].startswith("\\") else _AUTHORITY.fullmatch(parts["authority"])


def _judged_host(text: str, host: str, networks: Sequence[Network]) -> str:
    """Return the host as it is connected to; only one spelling of an address is read, since libraries differ."""
    if not host:
        raise UrlRefused(shown_url(text), "it has no host")
    if not host.isascii():
        raise UrlRefused(shown_url(text), "its host has letters beyond ASCII: write it as xn--…")
    if "%" in host:
        raise UrlRefused(shown_url(text), "its host has a %")
    host = host.lower()
    address: Address | None = None
    try:
        if host.startswith("["):
            address = IPv6Address(host[1:-1])
        elif _LIKE_A_NUMBER.fullmatch(host.rstrip(".")):
            address = IPv4Address(host)
    except ValueError:
        raise UrlRefused(shown_url(text), "its host is an address in a spelling that is not read") from None
    if address is None:
        if not _NAME.fullmatch(host.removesuffix(".")):
            raise UrlRefused(shown_url(text), "its host is no name")
        return host
    if not may_be_reached(address, networks):
        raise UrlRefused(shown_url(text), NOT_PUBLIC)
    return str(address)


def _judged_port(text: str, port: str | None, scheme: str) -> int:
    number = int(port[:6]) if port else _DEFAULT_PORTS[scheme]
    if not 0 < number <= _LAST_PORT:
        raise UrlRefused(shown_url(text), f"its port is no number from 1 to {_LAST_PORT}")
    if number in _OTHER_PROTOCOLS or (number < _FIRST_FREE_PORT and number not in _DEFAULT_PORTS.values()):
        raise UrlRefused(shown_url(text), f"port {number} is not one for http: 80, 443 and most from 1024 are allowed")
    return number


NOT_PUBLIC: Final = "it leads to an address that is not public"
"""The reason of a refusal; it must not say which address a name has, which may tell of a network's inside."""


def shown_url(text: str, limit: int = SHOWN_CHARS) -> str:
    """Return a URL as messages show it: printable, without query, fragment, user and password, cut to `limit`.

    The text may be anything, also no URL at all.
    """
    parts = _URL.match(text)
    if parts is not None and _read(parts) and "@" not in parts["authority"]:
        plain = f"{parts['scheme'].lower()}://{parts['authority']}{parts['path'] or '/'}"
        plain += "?…" if parts["query"] else ""
    else:
        # What is a password in it cannot be told: nothing before the last @ is shown.
        before, at, after = text.rpartition("@")
        end = re.split(r"[?#]", after, maxsplit=1)[0]
        scheme = re.match(r"[a-z][a-z0-9+.-]{0,10}:/+", before, re.I) if at else None
        plain = f"{scheme[0] if scheme else ''}…@{end}" if at else end
    plain = "".join(each if each.isprintable() else "�" for each in plain[: limit + 1])
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"
