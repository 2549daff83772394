"""What is believed of what proxies tell."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.forwarded import MOST_HOPS, MOST_PREFIX_CHARS, Told, address_in, checked_prefix, is_in, told
from app.domain.public_addresses import parse_networks

PROXIES = parse_networks("10.0.0.0/8, fd00::/8")
PEER = ip_address("10.0.0.1")

of_proxies = st.ip_addresses(network="10.0.0.0/8") | st.ip_addresses(network="fd00::/8")
of_clients = st.ip_addresses(network="203.0.113.0/24") | st.ip_addresses(network="2001:db8::/32")
anything = st.text(st.characters(codec="latin-1"), max_size=60)


def heard(**headers: str) -> Told:
    found = told(PEER, PROXIES, **{"client": "", "proto": "", "host": "", "prefix": ""} | headers)
    assert found is not None
    return found


@given(anything, anything, anything, anything, of_clients)
def test_of_others_nothing_is_believed(client: str, proto: str, host: str, prefix: str, peer: Any):
    assert told(peer, PROXIES, client=client, proto=proto, host=host, prefix=prefix) is None


@given(st.lists(anything | of_clients.map(str), max_size=5), of_clients, st.lists(of_proxies, max_size=MOST_HOPS - 1))
def test_the_first_address_from_the_right_that_is_no_proxy_is_the_client(claims, client, proxies):
    header = ", ".join([*claims, *map(str, (client, *proxies))])
    assert heard(client=header).client == str(client)


@given(st.text(st.characters(codec="latin-1", exclude_characters=","), max_size=60), st.lists(of_proxies, max_size=5))
def test_what_is_no_address_counts_as_the_nearest_one_that_is_known(nonsense, proxies):
    nearest = proxies[0] if proxies else PEER
    expected = address_in(nonsense) or nearest
    assert heard(client=",".join(["198.51.100.1", nonsense, *map(str, proxies)])).client in (
        str(expected),
        # Of an address that is a proxy's, the one before counts.
        *(["198.51.100.1"] if is_in(expected, PROXIES) and address_in(nonsense) else []),
    )


@pytest.mark.parametrize(
    "entry",
    ["unknown", "", " ", "_hidden", "fe80::1%eth0", "[fe80::1%eth0]", "1.2.3", "1.2.3.4.5", "1.2.3.4:x", "[::1", "::1]",
     "203.0.113.7:99999999", "0x7f.0.0.1", "\x00", "\xe9", "a" * 10_000, "\uff11.2.3.4", "203.0.113.7 203.0.113.8"],
)  # fmt: skip
def test_an_entry_that_is_none(entry: str):
    assert address_in(entry) is None
    assert heard(client=f"198.51.100.1, {entry}, 10.0.0.2").client == "10.0.0.2"


@pytest.mark.parametrize(
    ("entry", "address"),
    [
        ("203.0.113.7", IPv4Address("203.0.113.7")),
        ("\t203.0.113.7 ", IPv4Address("203.0.113.7")),
        ("203.0.113.7:4711", IPv4Address("203.0.113.7")),
        ("2001:db8::7", IPv6Address("2001:db8::7")),
        ("[2001:DB8::7]:4711", IPv6Address("2001:db8::7")),
        ("[2001:db8::7]", IPv6Address("2001:db8::7")),
        ("::ffff:203.0.113.7", IPv4Address("203.0.113.7")),
    ],
)
def test_an_address_in_an_entry(entry: str, address: Any):
    assert address_in(entry) == address
    assert heard(client=entry).client == str(address)


def test_a_long_chain_is_read_up_to_a_limit():
    assert heard(client=", ".join(["203.0.113.7", *["10.0.0.9"] * 5000])).client == "10.0.0.9"


def test_no_address_at_all_is_the_proxy_itself():
    assert heard().client == str(PEER)


def test_of_several_values_the_one_of_the_outermost_trusted_proxy_counts():
    forged = {"proto": "https, http", "host": "evil.example, own.example", "prefix": "/evil, /own"}
    one = heard(client="203.0.113.7", **forged)
    assert (one.scheme, one.host, one.prefix) == ("http", "own.example", "/own")
    two = heard(client="203.0.113.7, 10.0.0.2", proto="ftp, https, http", host="x, a, b", prefix="/x,/a,/b")
    assert (two.scheme, two.host, two.prefix) == ("https", "a", "/a")
    # An inner proxy that overwrites leaves one.
    assert heard(client="203.0.113.7, 10.0.0.2", proto="https").scheme == "https"


@pytest.mark.parametrize(("text", "scheme"), [("https", "https"), ("HTTP", "http"), ("wss", None), ("", None)])
def test_the_scheme_is_http_or_https(text: str, scheme: str | None):
    assert heard(proto=text).scheme == scheme


@pytest.mark.parametrize("text", ["own.example", "own.example:8443", "[2001:db8::7]:443", "203.0.113.7"])
def test_a_host(text: str):
    assert heard(host=text).host == text


@pytest.mark.parametrize("text", ["", "own.example/x", "a b", "a@b", "x" * 300, "own.example:port", "\xe9.example"])
def test_no_host(text: str):
    assert heard(host=text).host is None


@pytest.mark.parametrize(
    ("text", "prefix"), [("/a", "/a"), ("/a/", "/a"), ("/a.b/c-d_1", "/a.b/c-d_1"), ("", ""), ("/", "")]
)
def test_a_prefix(text: str, prefix: str):
    assert checked_prefix(text) == prefix
    assert heard(prefix=text).prefix == (prefix or None)


@pytest.mark.parametrize(
    ("text", "why"),
    [("a", "no path"), ("//a", "no path"), ("/a//b", "no path"), ("/a//", "no path"), ("/../a", "part"),
     ("/a/./b", "part"), ("/a/...", "part"), ("/a?b", "no path"), ('/a"b', "no path"), ("/%61", "no path"),
     ("/é", "no path"), ("/a\tb", "no path"), ("/" + "a" * MOST_PREFIX_CHARS, "no path"), ("https://a/b", "no path"),
     ("/api", "/api"), ("/monitor/x", "/monitor")],
)  # fmt: skip
def test_no_prefix(text: str, why: str):
    with pytest.raises(ValueError, match=why):
        checked_prefix(text)
    assert heard(prefix=text).prefix is None


@given(anything, anything, anything, anything)
def test_whatever_is_told_is_read_without_a_fault(client: str, proto: str, host: str, prefix: str):
    found = heard(client=client, proto=proto, host=host, prefix=prefix)
    assert found.scheme in (None, "http", "https")
    assert found.prefix is None or checked_prefix(found.prefix) == found.prefix
