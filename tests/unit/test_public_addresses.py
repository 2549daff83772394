"""Which addresses are public, and which URLs may be asked for: whatever else a text says, it is refused."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from app.domain.errors import UrlRefused
from app.domain.public_addresses import (
    MAX_URL_CHARS,
    SHOWN_CHARS,
    judged_url,
    may_be_reached,
    parse_networks,
    shown_url,
)

NOT_PUBLIC = """
    0.0.0.0 0.1.2.3 10.0.0.0 10.255.255.255 100.64.0.0 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.254
    168.63.129.16 169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.0 172.31.255.255 192.0.0.0 192.0.0.9 192.0.0.170
    192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.0 192.168.255.255 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.7
    224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::2 ::7f00:1 ::127.0.0.1 ::8.8.8.8 ::ffff:0:8.8.8.8 ::ffff:0:127.0.0.1
    ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0.0.0.0
    64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::169.254.169.254 64:ff9b::168.63.129.16
    64:ff9b:1::1 64:ff9b:1::8.8.8.8 64:ff9b::1:8.8.8.8
    100::1 100:0:0:1::1 200::1 400::1 1000::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:2::1 2001:10::1
    2001:20::1 2001:1ff:ffff::1 2001:db8::1 2002::1 2002:7f00:1::1 2002:808:808::1 3fff::1 3fff:fff::1 4000::1
    5f00::1 8000::1 e000::1 fc00::1 fd00::1 fd00:ec2::254 fd20:ce::254 fdff:ffff::1 fe00::1 fe80::1 febf::1 fec0::1
    feff::1 ff02::1 ff0e::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
    2606:4700::5efe:10.0.0.1 2606:4700::5efe:8.8.8.8 2606:4700::200:5efe:192.168.0.1
    fe80::1%eth0 fe80::1%1 2606:4700::1111%eth0
""".split()
PUBLIC = """
    1.0.0.1 1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 168.63.129.15
    168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.88.98.1 192.167.255.255
    192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255
    2001:200::1 2001:4860:4860::8888 2003::1 2606:4700::1111 2a00:1450::1 3ffe::1 2001:db7::1 2001:db9::1
    ::ffff:8.8.8.8 64:ff9b::8.8.8.8
""".split()
NO_ADDRESSES = [
    "",
    "localhost",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "127.1",
    "0177.0.0.1",
    "1.1.1.1.",
    " 1.1.1.1",
    "1",
]


@pytest.mark.parametrize("address", [*NOT_PUBLIC, *NO_ADDRESSES])
def test_an_address_that_is_not_public_may_not_be_reached(address: str) -> None:
    assert not may_be_reached(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_may_be_reached(address: str) -> None:
    assert may_be_reached(address)


@given(st.ip_addresses())
def test_what_python_knows_not_to_be_public_is_not(address: IPv4Address | IPv6Address) -> None:
    if isinstance(address, IPv6Address) and (address.ipv4_mapped or address in parse_networks("64:ff9b::/96")[0]):
        return
    special = (address.is_private, address.is_multicast, address.is_reserved, address.is_link_local)
    assert not (may_be_reached(address) and any(special))


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_within_ipv6_is_judged_as_itself(address: IPv4Address) -> None:
    for within in (f"::ffff:{address}", f"64:ff9b::{address}"):
        assert may_be_reached(within) == may_be_reached(address)


@given(st.ip_addresses(v=4), st.integers(0, 2**16 - 1))
def test_tunnels_to_any_ipv4_address_are_none(address: IPv4Address, rest: int) -> None:
    for prefix, shift in (0x2002 << 112, 80), (0x2001 << 112, 0), (0x2606_4700_0000_0000_0000_5EFE << 32, 0):
        assert not may_be_reached(IPv6Address(prefix | int(address) << shift | (rest if shift else 0)))


@pytest.mark.parametrize(
    ("networks", "inside", "outside"),
    [
        ("10.0.0.0/8", ["10.1.2.3", "::ffff:10.1.2.3", "8.8.8.8"], ["11.0.0.1/8", "192.168.0.1", "64:ff9b::10.1.2.3"]),
        ("127.0.0.1", ["127.0.0.1", "::ffff:127.0.0.1"], ["127.0.0.2", "::1"]),
        ("169.254.0.0/16,fe80::/10", ["169.254.169.254", "fe80::1"], ["fe80::1%eth0", "fec0::1"]),
        ("::/0", ["::1", "fd00::1", "2002:7f00:1::"], ["127.0.0.1", "::ffff:127.0.0.1"]),
        ("fd00::/8", ["fd00::1"], ["fc00::1", "::1", "127.0.0.1"]),
        ("", ["8.8.8.8"], ["127.0.0.1"]),
    ],
)
def test_networks_are_allowed_besides(networks: str, inside: list[str], outside: list[str]) -> None:
    allowed = parse_networks(networks)
    assert [address for address in inside if not may_be_reached(address, allowed)] == []
    assert [address for address in outside if may_be_reached(address, allowed)] == []


NO_NETWORKS = """
    host 10.0.0.0/8/8 10.0.0.0/ 10.0.0.0/255.0.0.0 10.0.0/8 10.0.0.0/33 10.0.0.0/-1 fd00::/129 * http://h fe80::%eth0/64
    10.0.0.1/8 fd00::1/8 10.0.0.0/8;fd00::/8 ::ffff:10.0.0.0/104
""".split()


@pytest.mark.parametrize("text", NO_NETWORKS)
def test_what_is_no_network_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"^has '") as refused:
        parse_networks(f"192.168.0.0/16, {text}")
    assert repr(text) in str(refused.value)


LONG = "http://h.example/" + "a" * MAX_URL_CHARS
REFUSED = {
    "does not begin with http": """
        h.example ftp://h/ file:///etc/passwd //h/x http:/h/ http:h javascript:x http\u017f://h/ gopher://h/ unix:///x
        data:,x xhttp://h""",
    "user name or a password": """
        http://u@h.example/ http://u:p@h.example/ http://u:p@x@h.example/ http://:@h.example http://@h.example/
        http://127.0.0.1:80@h.example/ http://h.example:80@127.0.0.1/""",
    "has no host": "http:// http:///x http://:80/ http://?x http://#x",
    "its port is no number": "http://h:0/ http://h:65536/ http://h:99999999999/",
    r"port \d+ is not one for http": "http://h:22/ https://h:25/ http://h:79/ http://h:6000/ http://h:6667/ http://8.8.8.8:81/",
    "its host cannot be read": """
        http://h:-1/ http://h:8_0/ http://h:x/ http://h:80:80/ http://h:\uff18\uff10/ http://h:+1/ http://[::1/ http://::1]/
        http://::1/ http://[::1]x/ http://x[::1]/ http://[[::1]]/ http://h\\x.example/ http://h.example\\ http://h\\@x/""",
    "has a %": "http://%31%32%37.0.0.1/ http://h%2eexample/ http://h%00/ http://[fe80::1%eth0]/ http://[fe80::1%25eth0]/",
    "beyond ASCII": """
        http://127\u30020\u30020\u30021/ http://\u2460\u2461\u2466.0.0.1/ http://\uff4cocalhost/ http://b\u00fccher.example/
        http://\u212a.example/ http://\u0661\u0662\u0667.0.0.1/ http://h\u200b.example/""",
    "in a spelling that is not read": """
        http://2130706433/ http://0x7f.1/ http://0x7f000001/ http://0x/ http://127.1/ http://017700000001/ http://127.0.0.1./
        http://0177.0.0.1/ http://127.0.0.01/ http://1.1.1.1.1/ http://0X7F.1/ http://256.1.1.1/ http://h.1/ http://h.0x/
        http://1.1.1.1../ http://[v1.x]/ http://[1.1.1.1]/ http://[]/ http://8.8.8.08/""",
    "its host is no name": f"""
        http://h..example/ http://./ http://../ http://.h/ http://h../ http://-h/ http://h-/ http://{"a" * 64}/ http://h!/
        http://{".".join(["a" * 60] * 5)}/ http://h,example/ http://*.example/ http://h;x/ http://h'/""",
    "not public": """
        http://127.0.0.1/ http://10.0.0.1:8080/ http://[::1]/ http://[::ffff:127.0.0.1]/ https://169.254.169.254/latest
        https://[fd00:ec2::254]/ http://[::]/ http://0.0.0.0/ http://[0:0:0:0:0:ffff:7f00:1]/ http://[64:ff9b::7f00:1]/
        http://[fe80::1]/ http://100.100.100.200/ http://255.255.255.255/""",
}
SPACED = {
    "control characters": [
        *(f"http://h/{bad}" for bad in ("\n", "\0", "\r\nX: y", "\t", "\x85", "\u2028", chr(0xD800))),
        "http://h\n.example/",
    ],
    "a space": [" http://h/", "http://h/ ", "http://h/a b", "http://h /", "http://h/\u3000", "http://h/\xa0"],
    "does not begin with http": [""],
    "more than 4096 characters": [LONG],
}


@pytest.mark.parametrize(
    ("text", "reason"),
    [(text, reason) for reason, texts in REFUSED.items() for text in texts.split()]
    + [(text, reason) for reason, texts in SPACED.items() for text in texts],
)
def test_a_url_that_says_what_is_not_allowed_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(UrlRefused, match=reason) as refused:
        judged_url(text)
    assert str(refused.value).startswith(f"{shown_url(text)} cannot be used: ")
    assert not refused.value.may_help


@pytest.mark.parametrize(
    ("text", "url", "host", "port"),
    [
        ("http://h.example", "http://h.example/", "h.example", 80),
        ("HTTPS://H.Example/A?b=C#d", "https://h.example/A?b=C", "h.example", 443),
        ("http://h.example:/", "http://h.example/", "h.example", 80),
        ("http://h.example:80?x", "http://h.example/?x", "h.example", 80),
        ("https://h.example:80/", "https://h.example:80/", "h.example", 80),
        ("http://h.example.:8080/", "http://h.example.:8080/", "h.example.", 8080),
        ("http://my_store/@u:v/x", "http://my_store/@u:v/x", "my_store", 80),
        ("http://xn--bcher-kva.example/", "http://xn--bcher-kva.example/", "xn--bcher-kva.example", 80),
        ("http://8.8.8.8:65535/", "http://8.8.8.8:65535/", "8.8.8.8", 65535),
        ("http://[2606:4700:0::1111]/", "http://[2606:4700::1111]/", "2606:4700::1111", 80),
        # Of a signed URL every character counts; only what cannot be sent is escaped.
        ("http://h/a%2Fb+%41/../c?s=%2B+/%3d%zz&t=a=b", "http://h/a%2Fb+%41/../c?s=%2B+/%3d%zz&t=a=b", "h", 80),
        ('http://h/\u00fc\\|"<>?q=\u00fc', "http://h/%C3%BC%5C%7C%22%3C%3E?q=%C3%BC", "h", 80),
    ],
)
def test_what_is_asked_for_is_the_url_as_it_was_spelled(text: str, url: str, host: str, port: int) -> None:
    target = judged_url(text)
    assert (target.url, target.host, target.port) == (url, host, port)
    assert str(URL(target.url, encoded=True)) == url


def test_an_address_in_an_allowed_network_may_be_named() -> None:
    networks = parse_networks("127.0.0.0/8,::1")
    for text in ("http://127.0.0.1:8188/x", "http://[::1]/", "http://[::ffff:127.0.0.1]/"):
        assert judged_url(text, networks).url
    with pytest.raises(UrlRefused, match="spelling"):
        judged_url("http://2130706433/", networks)


URLS = (
    st.text()
    | st.text("ht:/@[]%.\\#?1270xaf\u3002\u2170\t \u212a-_~").map("http://".__add__)
    | st.from_regex(r"https?://[a-z0-9.\[\]:@%x-]{1,20}(/[a-z%?#@:]{0,9})?", fullmatch=True)
)


@given(URLS)
def test_others_read_a_url_that_passes_as_we_do(text: str) -> None:
    try:
        target = judged_url(text)
    except UrlRefused:
        return
    url, plain = URL(target.url, encoded=True), urlsplit(target.url)
    assert (url.raw_host, url.port, url.scheme) == (target.host, target.port, target.scheme)
    assert (plain.hostname, plain.port or url.port, plain.username) == (target.host, target.port, None)
    assert target.url.isascii()
    assert target.url.isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://h.example/a/b?key=SECRET&x#SECRET", "http://h.example/a/b?…"),
        ("HTTP://h.example", "http://h.example/"),
        ("https://u:SECRET@h.example/a", "https://…@h.example/a"),
        ("https://SECRET@h.example/a@b?SECRET", "https://…@b"),
        ("https://u:SEC/RET@h.example/a?SECRET", "https://…@h.example/a"),
        ("https://u:SEC?RET@h.example/a#SECRET", "https://…@h.example/a"),
        ("ftp://u:SECRET@h/a", "ftp://…@h/a"),
        ("u:SECRET@h/a?SECRET", "…@h/a"),
        ("http://h/a\nb\x1b[1m\u202e\ud800", "http://h/a�b�[1m��"),
        ("http://h/@user/a", "http://h/@user/a"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(text: str, shown: str) -> None:
    assert shown_url(text) == shown


def test_a_long_url_is_cut() -> None:
    assert len(shown_url(LONG)) == SHOWN_CHARS
    assert shown_url(LONG, 20) == "http://h.example/aa…"


@given(st.text("abc@:.\\[", max_size=20), st.text("abc/?#@:.", max_size=20), st.text(max_size=20))
def test_no_secret_is_ever_shown(user: str, path: str, anything: str) -> None:
    assert "SECRET" not in shown_url(f"http://{user}:SECRET@h.example/{path}")
    assert "SECRET" not in shown_url(f"http://h.example/{path}?{anything}SECRET")
    assert shown_url(anything).isprintable()
