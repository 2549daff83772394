"""Who the client is when a proxy is in between, and what it asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from integration.hostile import raw

from app import keys
from app.domain.access import Role
from app.main import create_app
from app.web.permissions import PUBLIC
from app.web.proxies import asked_host, came_through_proxy, client_address, root_path, scheme

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.test_utils import TestClient

    from app.settings import Settings

    Start = Callable[..., Awaitable[TestClient[Any, Any]]]

CLIENT = "203.0.113.7"


@pytest.fixture
def serve(settings: Settings, aiohttp_client: Any, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a server with some settings, and one more address, which tells anybody what was asked."""
    monkeypatch.setattr("app.web.callers.PUBLIC", PUBLIC | {"GET /health/asked"})

    async def start(**changes: Any) -> TestClient[Any, Any]:
        app = create_app(settings.model_copy(update=changes))
        app.router.add_get("/health/asked", tell)
        found: TestClient[Any, Any] = await aiohttp_client(app)
        return found

    return start


async def tell(request: web.Request) -> web.Response:
    told = [client_address(request), scheme(request), asked_host(request), root_path(request)]
    return web.json_response([*told, came_through_proxy(request)])


async def asked(client: TestClient[Any, Any], **headers: str) -> list[Any]:
    """Return what the server takes a request with these headers for: client, scheme, host, root, by proxy."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await client.get("/health/asked", headers=sent)
    assert answer.status == 200
    found: list[Any] = await answer.json()
    return found


TOLD = {
    "X_Forwarded_For": f"198.51.100.1, {CLIENT}",
    "X_Forwarded_Proto": "https",
    "X_Forwarded_Host": "localhost:8443",
    "X_Forwarded_Prefix": "/images",
}


async def test_a_trusted_proxy_is_believed(serve: Start) -> None:
    client = await serve(trusted_proxies="127.0.0.1")
    assert await asked(client, **TOLD) == [CLIENT, "https", "localhost:8443", "/images", True]


@pytest.mark.parametrize("trusted", ["", "10.0.0.0/8, ::1"])
async def test_anybody_else_is_not(serve: Start, trusted: str) -> None:
    client = await serve(trusted_proxies=trusted, root_path="/pictures" if trusted else "")
    own = f"127.0.0.1:{client.port}"
    assert await asked(client, **TOLD) == ["127.0.0.1", "http", own, "/pictures" if trusted else "", True]
    assert (await asked(client))[-1] is False


async def test_what_a_proxy_does_not_tell_is_as_the_connection_and_the_settings_say(serve: Start) -> None:
    client = await serve(trusted_proxies="127.0.0.0/8", root_path="/pictures")
    assert await asked(client) == ["127.0.0.1", "http", f"127.0.0.1:{client.port}", "/pictures", False]


@pytest.mark.parametrize("name", ["Forwarded", "X_Forwarded_For", "X_Forwarded_Anything", "X_Real_IP", "Via"])
async def test_a_proxy_is_noticed_by_any_of_its_headers(serve: Start, name: str) -> None:
    assert (await asked(await serve(), **{name: ""}))[-1] is True


@pytest.mark.parametrize(
    "value",
    [b"not known", b"\xff\xfe", b"a" * 8000, b"," * 8000, b"[::1%lo]:80", b"\x80" * 500, b"127.0.0.1," * 700],
)
@pytest.mark.parametrize("name", ["For", "Proto", "Host", "Prefix"])
async def test_nonsense_is_no_fault(serve: Start, name: str, value: bytes) -> None:
    client = await serve(trusted_proxies="127.0.0.0/8")
    start = b"GET /health/asked HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    header = b"X-Forwarded-" + name.encode() + b": " + value + b"\r\n"
    for headers in (header, header * 2):
        answer = await raw(client, start + headers + b"\r\n")
        assert answer.split(b" ", 2)[1] == b"200", answer
        assert b'"127.0.0.1", "http", "127.0.0.1", ""' in answer


async def test_a_name_that_a_proxy_tells_must_be_one_of_ours(serve: Start) -> None:
    client = await serve(trusted_proxies="127.0.0.1", allowed_hosts="own.example")
    assert (await asked(client, X_Forwarded_Host="own.example"))[2] == "own.example"
    answer = await client.get("/health/asked", headers={"X-Forwarded-Host": "evil.example"})
    assert (answer.status, (await answer.json())["code"]) == (421, "foreign_host")


async def test_a_forwarded_name_does_not_hide_the_one_that_was_connected_to(serve: Start) -> None:
    """A script whose site's name was made to lead here can send it."""
    client = await serve(trusted_proxies="127.0.0.1")
    answer = await client.get("/health/asked", headers={"Host": "evil.example", "X-Forwarded-Host": "localhost"})
    assert answer.status == 421


async def test_a_page_of_the_name_that_was_asked_for_is_our_own(serve: Start) -> None:
    client = await serve(trusted_proxies="127.0.0.1", allowed_hosts="own.example")
    body = {"user_id": "u", "job_type": "image", "prompt": "p"}
    key = await client.app[keys.KEYS].add("ann", Role.ADMIN)
    headers = {"X-API-Key": key, "X-Forwarded-Host": "own.example", "Origin": "https://own.example"}
    assert (await client.post("/api/v1/generation-jobs/check", json=body, headers=headers)).status != 403
    headers |= {"Origin": "https://other.example"}
    assert (await client.post("/api/v1/generation-jobs/check", json=body, headers=headers)).status == 403


@pytest.mark.parametrize("proto", ["http", "https"])
async def test_cookies_are_secure_when_the_client_came_by_https(serve: Start, proto: str) -> None:
    client = await serve(trusted_proxies="127.0.0.1")
    answer = await client.get("/monitor/", headers={"X-Forwarded-Proto": proto})
    assert bool(answer.cookies["monitor_csrf"]["secure"]) is (proto == "https")


async def test_who_signed_in_is_noted_with_the_address_of_the_client(serve: Start) -> None:
    client = await serve(trusted_proxies="127.0.0.1")
    secret = await client.app[keys.KEYS].add("ann", Role.ADMIN)
    headers = {"X-Forwarded-For": CLIENT}
    token = (await client.get("/monitor/sign-in", headers=headers)).cookies["monitor_csrf"].value
    form = {"csrf": token, "key": secret}
    await client.post("/monitor/sign-in", data=form, headers=headers, allow_redirects=False)
    page = await client.app[keys.AUDIT].page()
    assert [entry.target for entry in page.entries] == [CLIENT]
