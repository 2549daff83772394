"""URLs of other people's choice: nothing is connected to that is not allowed, and what comes is read with limits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from aiohttp import ClientError, web
from hostile import bomb, drip, says, serving
from integration.wire import BROKEN, Wire, chunked, ok
from yarl import URL

from app.domain.errors import (
    ErrorClass,
    InputAway,
    InputUnavailable,
    OutputInvalid,
    UrlAway,
    UrlFailed,
    UrlRefused,
    UrlUnusable,
)
from app.domain.public_addresses import parse_networks
from app.runtime import guarded_http
from app.runtime.guarded_http import WIRE_ERRORS, GuardedHttp, Limits, Resolver, failure, input_chunks
from app.storage.files import FileStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

OWN: Final = parse_networks("127.0.0.1")
"""Where the servers of these tests are: 127.0.0.2 is as forbidden with it as any private address."""
PRIVATE: Final = "10.1.2.3"
CERTIFICATE: Final = Path(__file__).parents[1] / "data" / "tls" / "files.example.pem"
A_MINUTE: Final = Limits(max_bytes=2**20, total_s=60, silence_s=60, slowest_bytes_s=0)


class Names:
    """Looks names up: each has a list of answers, one a look-up, of which the last one stays. No DNS is asked."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self.asked: list[str] = []
        self._answers = {name.replace("_", "."): list(given) for name, given in answers.items()}

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        del port
        self.asked.append(host)
        given = self._answers.get(host)
        if given is None:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return given.pop(0) if len(given) > 1 else given[0]


@contextlib.asynccontextmanager
async def client(networks: Any = OWN, names: Names | None = None, **more: Any) -> AsyncIterator[GuardedHttp]:
    http = GuardedHttp(networks, lookup=names or Names(), **more)
    try:
        yield http
    finally:
        http.close()


async def fetched(
    url: str, networks: Any = OWN, *, names: Names | None = None, limits: Limits = A_MINUTE, **more: Any
) -> bytes:
    """Return all that is found under a URL."""
    async with client(networks, names, **more) as http, contextlib.aclosing(http.chunks(url, limits)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def collect(url: str, into: list[bytes], limits: Limits = A_MINUTE) -> None:
    """Append what is found under a URL, for when an error comes after some of it."""
    async with client() as http, contextlib.aclosing(http.chunks(url, limits)) as chunks:
        async for chunk in chunks:
            into.append(chunk)  # noqa: PERF401  # a comprehension would keep nothing of it


async def refusal(url: str, *arguments: Any, **more: Any) -> UrlFailed:
    """Return the error in place of what is found under a URL; it shows the URL, and no private address."""
    with pytest.raises(UrlFailed) as failed:
        await fetched(url, *arguments, **more)
    assert PRIVATE not in str(failed.value)
    assert str(failed.value).startswith(f"{failed.value.url} cannot be used: ")
    return failed.value


def port_of(url: str) -> int:
    port = URL(url).port
    assert port is not None
    return port


def redirects(location: str, status: int = 302) -> Answer:
    """Answer with a redirect."""

    async def answer(request: web.Request) -> web.StreamResponse:
        del request
        return web.Response(status=status, headers={"Location": location})

    return answer


def status(code: int) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        del request
        return web.Response(status=code, body=b"why")

    return answer


async def until_it_leaves(request: web.Request) -> None:
    """Wait until the client has closed its connection."""
    while request.transport is not None and not request.transport.is_closing():
        await asyncio.sleep(0.01)


async def silent(request: web.Request) -> web.StreamResponse:
    await until_it_leaves(request)
    return web.Response()


async def stops(request: web.Request) -> web.StreamResponse:
    """Send the beginning of a body, and nothing more."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"x")
    await until_it_leaves(request)
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b"x" * 65536)
    return response


async def announces_too_much(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(A_MINUTE.max_bytes + 1)})
    await response.prepare(request)
    await until_it_leaves(request)
    return response


@pytest.fixture
async def wire() -> AsyncIterator[tuple[str, Wire]]:
    """A server that answers with bytes of the test's choice, and its URL."""
    found = Wire()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", found
    server.close()
    await server.wait_closed()


# What may be reached.


async def test_a_file_comes_whole_from_an_allowed_network() -> None:
    data = bytes(range(256)) * 4000
    async with serving({"/a b": says(data)}) as (url, asked):
        assert await fetched(f"{url}/a%20b?key=1#part") == data
        assert asked == ["/a b"]


async def test_without_that_network_nobody_connects() -> None:
    names = Names(h_example=[["127.0.0.1"]])
    async with serving({}) as (url, asked):
        by_address = await refusal(url, ())
        by_name = await refusal(f"http://h.example:{port_of(url)}/", (), names=names)
    for error in by_address, by_name:
        assert isinstance(error, UrlRefused)
        assert error.reason == "it leads to an address that is not public"
    assert (asked, names.asked) == ([], ["h.example"])


SPELLINGS: Final = """
    127.0.0.1 2130706433 0x7f000001 0x7f.1 127.1 0177.0.0.1 017700000001 127.0.0.1. [::1] [::ffff:127.0.0.1] [::]
    127\u30020\u30020\u30021 %31%32%37.0.0.1 \u2460\u2461\u2466.0.0.1 0.0.0.0 0 localhost localhost. [::127.0.0.1]
""".split()


@pytest.mark.parametrize("host", SPELLINGS)
async def test_no_spelling_of_an_address_leads_inside(host: str) -> None:
    async with serving({"/": says(b"inside")}) as (url, asked), client((), lookup_of_the_system()) as http:
        there = f"http://{host}:{port_of(url)}/"
        with pytest.raises(UrlFailed) as failed:
            await anext(http.chunks(there, A_MINUTE))
        assert not failed.value.may_help
        # The judgement of the text left out, the connection is judged.
        async with http.session() as session:
            with pytest.raises(WIRE_ERRORS) as broken:
                await session.get(there)
        assert type(failure(there, broken.value)) in (UrlRefused, UrlUnusable)
    assert asked == []


def lookup_of_the_system() -> Any:
    """Look names up as the system does, which reads odd addresses, but ask no DNS: all other names are this machine."""

    async def look_up(host: str, port: int) -> Sequence[str]:
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            return ["127.0.0.1", "::1"]
        return [str(info[4][0]) for info in infos]

    return look_up


async def test_a_socket_to_a_forbidden_address_is_not_even_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*arguments: Any) -> None:
        raise AssertionError(f"a socket was made: {arguments}")

    async with serving({}) as (url, _), client(()) as http, http.session() as session:
        with monkeypatch.context() as patch:
            patch.setattr(guarded_http.socket, "socket", made)
            with pytest.raises(ClientError) as broken:
                await session.get(url)
    assert isinstance(failure(url, broken.value), UrlRefused)


async def test_of_the_addresses_of_a_name_only_allowed_ones_reach_the_connector() -> None:
    names = Names(h_example=[[PRIVATE, "127.0.0.2", "8.8.8.8", "fe80::1%eth0", "127.0.0.1", "::1", "2606:4700::1"]])
    found = await Resolver(names, OWN).resolve("h.example", 80)
    assert [each["host"] for each in found] == ["8.8.8.8", "127.0.0.1", "2606:4700::1"]
    assert {each["family"] for each in found} == {socket.AF_INET, socket.AF_INET6}
    assert {each["port"] for each in found} == {80}


async def test_a_name_is_looked_up_once_for_each_connection_and_judged_each_time() -> None:
    names = Names(h_example=[["127.0.0.1"], [PRIVATE]])
    async with serving({"/": says(b"x")}) as (url, asked), client(OWN, names) as http:
        there = f"http://h.example:{port_of(url)}/"
        assert [chunk async for chunk in http.chunks(there, A_MINUTE)] == [b"x"]
        assert names.asked == ["h.example"]
        # No cache of names and no open connection is left of the first time.
        with pytest.raises(UrlRefused, match=r"h\.example:\d+/ cannot be used: it leads to an address that is not pub"):
            await anext(http.chunks(there, A_MINUTE))
        assert (names.asked, asked) == (["h.example"] * 2, ["/"])


async def test_operators_find_the_refused_address_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "app.runtime.guarded_http")
    await refusal("http://h.example/", names=Names(h_example=[[PRIVATE]]))
    assert f"h.example has only addresses that are not allowed: {PRIVATE}" in caplog.text


async def test_the_system_looks_names_up_in_threads_of_its_own() -> None:
    http = GuardedHttp(parse_networks("127.0.0.0/8, ::1"))
    forbidding = GuardedHttp()
    try:
        async with serving({"/": says(b"x")}) as (url, _):
            there = f"http://localhost:{port_of(url)}/"
            assert [chunk async for chunk in http.chunks(there, A_MINUTE)] == [b"x"]
            with pytest.raises(UrlRefused):
                await anext(forbidding.chunks(there, A_MINUTE))
    finally:
        http.close()
        forbidding.close()


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), UrlUnusable, "its host is not known"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), UrlAway, "its host could not be looked up"),
        (OSError("x"), UrlAway, "its host could not be looked up"),
    ],
)
async def test_a_name_that_has_no_address(error: OSError, kind: type[UrlFailed], reason: str) -> None:
    async def look_up(host: str, port: int) -> Sequence[str]:
        raise error

    async with client(OWN, look_up) as http:  # type: ignore[arg-type]
        with pytest.raises(UrlFailed) as failed:
            await anext(http.chunks("http://h.example/", A_MINUTE))
    assert (type(failed.value), failed.value.reason) == (kind, reason)
    nothing = await refusal("http://h.example/", names=Names(h_example=[[]]))
    assert (type(nothing), nothing.reason) == (UrlUnusable, "its host is not known")


async def test_a_name_that_is_never_answered_is_waited_for_a_limited_time() -> None:
    async def look_up(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    async with client(OWN, look_up) as http:  # type: ignore[arg-type]
        with pytest.raises(UrlAway, match=r"nothing answered within 0\.05 s"):
            await anext(http.chunks("http://h.example/", Limits(max_bytes=1, silence_s=0.05)))


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving({"/": says(b"direct")}) as (url, asked), serving({"*": says(b"proxy")}) as (proxy, proxied):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert await fetched(f"{url}/") == b"direct"
        assert (asked, proxied) == (["/"], [])


async def test_what_is_sent_says_little_and_nothing_of_before() -> None:
    seen: list[dict[str, str]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append({name.title(): value for name, value in request.headers.items()})
        response = web.Response(status=302, headers={"Location": "/again"}) if len(seen) < 3 else web.Response()
        response.set_cookie("a", "b")
        return response

    async with serving({"*": answer}) as (url, _):
        await fetched(f"{url}/")
    plain = {"Host": URL(url).authority, "Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "Genonaut"}
    assert seen == [plain | {"Connection": "close"}] * 3


# Redirects.


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed(code: int) -> None:
    async with serving({"/a": redirects("../b c?d", code), "/b c": says(b"x")}) as (url, asked):
        assert await fetched(f"{url}/a") == b"x"
        assert asked == ["/a", "/b c"]


async def test_five_redirects_are_followed_and_six_are_not() -> None:
    answers = {f"/{number}": redirects(f"/{number + 1}") for number in range(6)}
    async with serving(answers | {"/6": says(b"x"), "/loop": redirects("/loop")}) as (url, asked):
        assert await fetched(f"{url}/1") == b"x"
        assert len(asked) == 6
        for path in ("/0", "/loop"):
            asked.clear()
            error = await refusal(url + path)
            assert (type(error), error.reason) == (UrlUnusable, "it redirects more than 5 times")
            assert len(asked) == 6


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        (
            "http://127.0.0.2:{port}/secret?a",
            "it redirects to http://127.0.0.2:{port}/secret?…: it leads to an address",
        ),
        ("//inside.example:{port}/", "it redirects to http://inside.example:{port}/: it leads to an address that is n"),
        ("http://[::ffff:10.1.2.3]/", None),
        ("http://2130706433:{port}/", "spelling that is not read"),
        ("http://127.0.0.1:22/", "port 22"),
        ("http://u:SECRET@127.0.0.1:{port}/", "it redirects to http://…@127.0.0.1:{port}/: it has a user name"),
        ("file:///etc/passwd", "does not begin with http"),
        ("gopher://127.0.0.1:{port}/", "does not begin with http"),
        ("http://[", "cannot be asked for"),
        ("/\u00fc" + "x" * 5000, "more than 4096 characters"),
    ],
)
async def test_where_a_redirect_leads_is_judged_like_the_url_itself(location: str, reason: str | None) -> None:
    async with serving({}) as (inside, inside_asked):
        port = port_of(inside)
        async with serving({"/": redirects(location.format(port=port))}) as (url, asked):
            with pytest.raises(UrlFailed) as failed:
                await fetched(f"{url}/", names=Names(inside_example=[[PRIVATE]]))
        assert (reason or "not public").format(port=port) in str(failed.value)
        assert str(failed.value).startswith(f"{url}/ cannot be used: ")
        assert "SECRET" not in str(failed.value)
        assert not failed.value.may_help
        assert (asked, inside_asked) == (["/"], [])


@pytest.mark.parametrize("code", [300, 302, 304])
async def test_a_redirect_to_nowhere_is_an_error(code: int) -> None:
    async with serving({"/": status(code)}) as (url, _):
        error = await refusal(f"{url}/")
    assert isinstance(error, UrlUnusable)
    assert f"status {code}" in error.reason


# Encryption.


@contextlib.asynccontextmanager
async def encrypted(answer: Answer) -> AsyncIterator[int]:
    """Serve with the certificate of files.example; yields the port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


FILES: Final = {"files_example": [["127.0.0.1"]], "other_example": [["127.0.0.1"]]}


async def test_the_certificate_is_that_of_the_name_although_the_address_is_connected_to() -> None:
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    async with encrypted(says(b"x")) as port:
        url = f"https://files.example:{port}/"
        assert await fetched(url, names=Names(**FILES), tls=trusting) == b"x"
        for error in (
            await refusal(url, names=Names(**FILES)),
            await refusal(f"https://other.example:{port}/", names=Names(**FILES), tls=trusting),
            await refusal(f"https://127.0.0.1:{port}/", tls=trusting),
        ):
            assert (type(error), error.reason) == (UrlUnusable, "its certificate is not valid for it, or not trusted")


async def test_no_redirect_leads_from_https_to_http() -> None:
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    async with serving({"/": says(b"x")}) as (url, asked), encrypted(redirects(f"{url}/")) as port:
        error = await refusal(f"https://files.example:{port}/", names=Names(**FILES), tls=trusting)
        assert isinstance(error, UrlRefused)
        assert error.reason == f"it redirects to {url}/: that leads from https to http"
        assert asked == []
        async with (
            encrypted(says(b"safe")) as safe,
            serving({"/": redirects(f"https://files.example:{safe}/")}) as (plain, _),
        ):
            assert await fetched(f"{plain}/", names=Names(**FILES), tls=trusting) == b"safe"


async def test_https_where_http_is_spoken_is_an_error() -> None:
    async with serving({}) as (url, asked):
        error = await refusal(url.replace("http:", "https:"))
    assert (type(error), error.reason, asked) == (UrlUnusable, "no encrypted connection could be made", [])


# What answers.


@pytest.mark.parametrize(
    ("code", "kind"),
    [(code, UrlUnusable) for code in (204, 206, 400, 401, 403, 404, 405, 410, 451)]
    + [(code, UrlAway) for code in (408, 425, 429, 500, 502, 503, 504)],
)
async def test_the_status_tells_whether_another_try_may_help(code: int, kind: type[UrlFailed]) -> None:
    async with serving({"/": status(code)}) as (url, _):
        error = await refusal(f"{url}/?secret")
    assert type(error) is kind
    assert str(error) == f"{url}/?… cannot be used: it answered with status {code}."
    assert error.may_help is (kind is UrlAway)


async def test_where_nobody_listens_another_try_may_help() -> None:
    async with serving({}) as (url, _):
        pass
    error = await refusal(url)
    assert (type(error), error.reason) == (UrlAway, "no connection could be made")


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        # An announced length that lies: more than comes, …
        (ok(b"abc" + BROKEN, 1000), UrlAway, "the connection broke off"),
        # … a chunk that is not whole, and a last one that does not come.
        (chunked(b"abc") + b"ff\r\nab" + BROKEN, UrlAway, "the connection broke off"),
        (chunked(b"abc") + b"3\r\nab" + BROKEN, UrlUnusable, "what answers there is not valid HTTP"),
        (chunked(b"abc") + b"zz\r\n" + BROKEN, UrlUnusable, "what answers there is not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + BROKEN, UrlAway, "the connection broke off"),
        (None, UrlAway, "the connection broke off"),
        (b"SSH-2.0-OpenSSH_9.2\r\n" + BROKEN, UrlUnusable, "what answers there is not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", UrlUnusable, "what answers there is not valid HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n" + BROKEN,
            UrlUnusable,
            "what answers there is not valid HTTP",
        ),
        (ok(b"", 2**20 + 1), UrlUnusable, "it is larger than 1048576 bytes"),
    ],
)
async def test_what_is_broken_off_may_come_later_and_what_is_no_http_never(
    wire: tuple[str, Wire], answer: bytes | None, kind: type[UrlFailed], reason: str
) -> None:
    url, server = wire
    # aiohttp asks once more by itself when a connection ends without an answer.
    server.answers = [answer, answer]
    error = await refusal(url)
    assert (type(error), error.reason) == (kind, reason)


async def test_more_than_was_announced_is_never_taken(wire: tuple[str, Wire]) -> None:
    url, server = wire
    server.answers = [ok(b"abcdef", 3) + BROKEN]
    got: list[bytes] = []
    # What comes with it makes it no HTTP; what comes later is not read.
    with contextlib.suppress(UrlUnusable):
        await collect(url, got)
    assert b"".join(got) in (b"", b"abc")


async def test_a_file_without_a_length_ends_with_the_connection(wire: tuple[str, Wire]) -> None:
    url, server = wire
    server.answers = [b"HTTP/1.0 200 OK\r\n\r\nabc" + BROKEN]
    assert await fetched(url) == b"abc" + BROKEN


async def test_a_signed_url_is_sent_as_it_is_spelled(wire: tuple[str, Wire]) -> None:
    url, server = wire
    server.answers = [ok(b"x")]
    await fetched(f"{url}a%2Fb+%41%7e?s=%2B+%3d%2f&t=a=b")
    assert server.requests == ["GET /a%2Fb+%41%7e?s=%2B+%3d%2f&t=a=b"]


@pytest.mark.parametrize("answer", [endless, announces_too_much])
async def test_more_than_the_limit_is_not_read(answer: Answer) -> None:
    got: list[bytes] = []
    async with serving({"/": answer}) as (url, _):
        with pytest.raises(UrlUnusable, match=r"it is larger than 1048576 bytes"):
            await collect(f"{url}/", got)
    assert sum(map(len, got)) <= A_MINUTE.max_bytes


async def test_exactly_the_limit_is_read() -> None:
    data = b"x" * 1000
    async with serving({"/": says(data)}) as (url, _):
        assert await fetched(f"{url}/", limits=Limits(max_bytes=1000)) == data
        assert isinstance(await refusal(f"{url}/", limits=Limits(max_bytes=999)), UrlUnusable)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip", "GZIP"])
async def test_what_is_packed_is_neither_unpacked_nor_taken(encoding: str) -> None:
    packed = bomb(b"", 100, b"")
    assert len(packed) < A_MINUTE.max_bytes
    async with serving({"/": says(packed, **{"Content-Encoding": encoding})}) as (url, _):
        error = await refusal(f"{url}/")
    assert (type(error), error.reason) == (UrlUnusable, "it is sent compressed, which was not asked for")


async def test_a_packed_file_that_is_no_packed_answer_is_taken_as_it_is() -> None:
    packed = bomb(b"a", 1, b"b")
    async with serving({"/": says(packed, **{"Content-Encoding": "identity"})}) as (url, _):
        assert await fetched(f"{url}/") == packed


# Time.


async def test_a_server_that_does_not_answer_is_left() -> None:
    async with serving({"/": silent}) as (url, _):
        error = await refusal(f"{url}/", limits=Limits(max_bytes=1, silence_s=0.1))
    assert (type(error), error.reason) == (UrlAway, "nothing answered within 0.1 s")


async def test_a_body_that_stops_is_left() -> None:
    limits = Limits(max_bytes=2000, silence_s=2, slowest_bytes_s=0)
    got: list[bytes] = []
    async with serving({"/": stops}) as (url, _):
        with pytest.raises(UrlAway, match=r"nothing more came within 2 s"):
            await collect(f"{url}/", got, limits)
    assert got == [b"x"]


async def test_a_body_that_drips_is_left() -> None:
    limits = Limits(max_bytes=2**20, total_s=60, silence_s=2, slowest_bytes_s=8192)
    async with serving({"/": drip}) as (url, _):
        error = await refusal(f"{url}/", limits=limits)
    assert (type(error), error.reason) == (UrlAway, "it is sent with less than 8192 bytes a second")


@pytest.mark.parametrize("answer", [drip, silent])
async def test_all_of_it_has_a_time(answer: Answer) -> None:
    limits = Limits(max_bytes=2**20, total_s=0.5, silence_s=3600, slowest_bytes_s=0)
    async with serving({"/": answer}) as (url, _), asyncio.timeout(60):
        error = await refusal(f"{url}/", limits=limits)
    assert (type(error), error.reason) == (UrlAway, "it took longer than 0.5 s")


async def test_redirects_share_that_time() -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.4)
        return web.Response(status=302, headers={"Location": f"{request.path}x"})

    async with serving({"*": slow}) as (url, asked):
        error = await refusal(f"{url}/", limits=Limits(max_bytes=1, total_s=1, silence_s=60))
    assert isinstance(error, UrlAway)
    assert error.reason.endswith("it took longer than 1 s")
    assert len(asked) <= 3


async def test_the_time_of_the_caller_does_not_count() -> None:
    limits = Limits(max_bytes=2**20, total_s=3, silence_s=3, slowest_bytes_s=1)
    async with serving({"/": says(b"x" * 500_000)}) as (url, _), client() as http:
        size = 0
        async for chunk in http.chunks(f"{url}/", limits):
            if not size:
                await asyncio.sleep(3.2)
            size += len(chunk)
    assert size == 500_000


async def test_who_stops_reading_leaves_no_connection() -> None:
    left = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await endless(request)
        finally:
            left.set()

    async with serving({"/": answer}) as (url, _), client() as http:
        chunks = http.chunks(f"{url}/", A_MINUTE)
        assert await anext(chunks)
        await chunks.aclose()
        async with asyncio.timeout(30):
            await left.wait()


# For a job.


async def stored(http: GuardedHttp, files: FileStore, url: str, max_bytes: int = 2**20) -> bytes:
    received = await files.receive(input_chunks(http, url, A_MINUTE), max_bytes)
    with received.open() as file:
        data = file.read()
    received.discard()
    return data


async def test_a_file_goes_into_the_store_and_a_failure_ends_the_attempt(tmp_path: Path) -> None:
    files = FileStore(tmp_path)
    answers: dict[str, Answer] = {"/": says(b"x"), "/404": status(404), "/503": status(503), "/endless": endless}
    async with serving(answers) as (url, _), client() as http:
        assert await stored(http, files, f"{url}/") == b"x"
        for path, kind, error_class in (
            ("/404", InputUnavailable, ErrorClass.INPUT),
            ("/503", InputAway, ErrorClass.INPUT_AWAY),
            ("/endless", InputUnavailable, ErrorClass.INPUT),
        ):
            with pytest.raises(InputUnavailable, match=rf"^http://127.0.0.1:\d+{path} cannot be used: ") as ended:
                await stored(http, files, url + path)
            assert type(ended.value) is kind
            assert (ended.value.error_class, ended.value.code) == (error_class, "input_unavailable")
        with pytest.raises(OutputInvalid):
            await stored(http, files, f"{url}/endless", 100_000)
    # An OSError of the connection is none of the disk's.
    async with client() as http:
        with pytest.raises(InputAway):
            await stored(http, files, url)


def test_every_error_of_aiohttp_is_told_without_its_own_text() -> None:
    def below(kind: type[BaseException]) -> Iterable[type[BaseException]]:
        yield kind
        for each in kind.__subclasses__():
            yield from below(each)

    for kind in set(below(ClientError)):
        error = kind.__new__(kind)
        error.args = (PRIVATE,)
        if hasattr(kind, "os_error"):
            error._os_error = OSError(PRIVATE)  # type: ignore[attr-defined]  # noqa: SLF001
        assert PRIVATE not in str(failure("http://h/", error))  # type: ignore[arg-type]
