"""Problem JSON: every error says what it is in the same form, and shows nothing of the server's inside."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import re
import socket
from typing import TYPE_CHECKING, Any

import pytest
from yarl import URL

from app.domain.access import Ability
from app.domain.errors import GenonautError
from app.main import create_app
from app.web.permissions import PERMISSIONS
from harness import GUARD_S, SMALL_BODY

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.test_utils import TestClient

    from app.settings import Settings

BASE = "/api/v1/generation-jobs"
POST = b"POST /api/v1/generation-jobs/"
MEMBERS = {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"}
NO_IDS = ["0", "9223372036854775807", "9223372036854775808", "9" * 19, "9" * 5000, "-1", "1.5", "abc", "1e3", "%20"]
NO_IDS += ["٣", "\uff11", "%00", "0x10", "1%0a", "null", "1;drop%20table", "%ff", "..%2f..%2fetc"]


class Leak(GenonautError):
    """One of our errors that nobody mapped to a status."""

    code = "leak"


async def expect_problem(answer: Any, status: int) -> dict[str, Any]:
    """Check the form of a problem and return it."""
    text = await answer.text()
    assert answer.status == status, text[:1000]
    assert answer.content_type == "application/problem+json"
    told: dict[str, Any] = json.loads(text)
    assert set(told) >= MEMBERS
    assert told["status"] == status
    assert told["type"] == f"urn:genonaut:problem:{told['code']}"
    assert told["request_id"] == answer.headers["X-Request-Id"]
    assert told["instance"].startswith("/")
    assert "Traceback" not in text
    return told


async def raw(client: TestClient[Any, Any], request: bytes) -> bytes:
    """Send bytes as they are, and return all that comes back until the server closes."""
    reader, writer = await asyncio.open_connection(client.server.host, client.server.port)
    try:
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(GUARD_S):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_an_unknown_path_is_404(client: TestClient[Any, Any]) -> None:
    for path in ("/", "/api", "/api/v1", "/api/v2/generation-jobs/", "/favicon.ico", "/health", f"{BASE}/1/x", "//"):
        assert (await expect_problem(await client.get(path), 404))["code"] == "not_found"


METHODS = [
    ("PUT", f"{BASE}/", {"GET", "HEAD", "POST"}),
    ("DELETE", BASE, {"GET", "HEAD", "POST"}),
    ("POST", f"{BASE}/1", {"GET", "HEAD", "PATCH", "DELETE"}),
    ("GET", f"{BASE}/1/cancel", {"POST"}),
    ("PATCH", "/api/v1/contents/1", {"GET", "HEAD"}),
    ("POST", "/health/live", {"GET", "HEAD"}),
    ("OPTIONS", f"{BASE}/1", {"GET", "HEAD", "PATCH", "DELETE"}),
    ("PROPFIND", f"{BASE}/", {"GET", "HEAD", "POST"}),
]


async def test_another_method_is_405_with_those_that_are_allowed(client: TestClient[Any, Any]) -> None:
    for method, path, allowed in METHODS:
        answer = await client.request(method, path)
        problem = await expect_problem(answer, 405)
        assert problem["code"] == "method_not_allowed"
        assert set(answer.headers["Allow"].split(",")) == allowed, path
        assert method in problem["detail"]


async def test_ids_that_are_none_are_answered_with_404(client: TestClient[Any, Any]) -> None:
    base = f"http://{client.server.host}:{client.server.port}"
    for number in NO_IDS:
        for method, path in (
            ("GET", f"{BASE}/{number}"),
            ("DELETE", f"{BASE}/{number}"),
            ("GET", f"{BASE}/{number}/events"),
            ("POST", f"{BASE}/{number}/cancel"),
            ("GET", f"/api/v1/contents/{number}"),
            ("GET", f"/api/v1/contents/1/outputs/{number}"),
            ("GET", f"/api/v1/contents/1/outputs/{number}/thumbnail"),
        ):
            async with client.session.request(method, URL(base + path, encoded=number.isascii())) as answer:
                problem = await expect_problem(answer, 404)
                assert problem["code"] in ("not_found", "job_not_found", "content_not_found"), path


async def test_the_request_id_is_the_clients_own_if_it_is_sane(client: TestClient[Any, Any]) -> None:
    for path in ("/health/live", f"{BASE}/5", f"{BASE}/"):
        answer = await client.get(path, headers={"X-Request-Id": "abc-1.2_3"})
        assert answer.headers["X-Request-Id"] == "abc-1.2_3"
    for given in ("", "a b", "x" * 65, '"><script>', "a,b", "ü"):
        answer = await client.get("/health/live", headers={"X-Request-Id": given})
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])


@pytest.mark.parametrize("kind", ["bug", "unmapped"])
async def test_a_bug_is_500_and_shows_nothing_of_itself(
    settings: Settings,
    aiohttp_client: Any,
    kind: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = settings.database_url.get_secret_value()

    async def broken(_: web.Request) -> web.Response:
        if kind == "unmapped":
            raise Leak(f"cannot reach {secret}")
        raise RuntimeError(f"cannot reach {secret}")

    monkeypatch.setitem(PERMISSIONS, "GET /broken", Ability.SEE)
    app = create_app(settings)
    app.router.add_get("/broken", broken)
    client = await aiohttp_client(app)
    answer = await client.get("/broken", headers={"X-Request-Id": "find-me"})
    problem = await expect_problem(answer, 500)
    assert (problem["code"], problem["request_id"]) == ("internal_error", "find-me")
    text = json.dumps(problem)
    assert secret not in text
    assert "RuntimeError" not in text
    assert [record for record in caplog.records if "find-me" in record.getMessage() and record.exc_info]


async def test_a_body_of_100_mb_is_refused_and_the_client_gets_the_answer(client: TestClient[Any, Any]) -> None:
    """A client that sends everything before it reads must find the answer, and no reset connection."""
    size = 100 * 2**20
    head = f"POST {BASE}/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n"

    def send() -> bytes:
        with socket.create_connection((client.server.host, client.server.port), timeout=60) as connection:
            connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
            chunk = b" " * 2**20
            for _ in range(100):
                connection.sendall(chunk)
            received = b""
            while data := connection.recv(65536):
                received += data
            return received

    answer = await asyncio.to_thread(send)
    assert answer.startswith(b"HTTP/1.1 413 ")
    problem = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (problem["code"], problem["status"]) == ("body_too_large", 413)


async def test_a_body_too_large_is_refused_without_a_length_too(client: TestClient[Any, Any]) -> None:
    async def chunks() -> Any:
        for _ in range(12):
            yield b" " * 2**20

    answer = await client.post(f"{BASE}/", data=chunks(), headers={"Content-Type": "application/json"})
    assert (await expect_problem(answer, 413))["code"] == "body_too_large"


async def test_a_body_of_just_the_limit_is_looked_at(client: TestClient[Any, Any], settings: Settings) -> None:
    body = json.dumps(SMALL_BODY).encode()
    exact = body + b" " * (settings.max_body_bytes - len(body))
    headers = {"Content-Type": "application/json"}
    for data, status in ((exact, 201), (exact + b" ", 413)):
        assert (await client.post(f"{BASE}/", data=io.BytesIO(data), headers=headers)).status == status


async def test_a_compressed_bomb_is_refused(client: TestClient[Any, Any]) -> None:
    bomb = await asyncio.to_thread(gzip.compress, b" " * (200 * 2**20), 6)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = await client.post(f"{BASE}/", data=bomb, headers=headers)
    assert (await expect_problem(answer, 413))["code"] == "body_too_large"


BROKEN = {
    "path of no UTF-8": (b"GET /api/v1/generation-jobs/\xff\xfe", b""),
    "query of no UTF-8": (b"GET /api/v1/generation-jobs/?q=\xff", b""),
    "query that is encoded and no UTF-8": (b"GET /api/v1/generation-jobs/?q=%ff%ed%a0%80", b""),
    "parameter of no UTF-8": (b"GET /api/v1/generation-jobs/?\xed\xa0\x80=1", b""),
    "header of no UTF-8": (b"GET /health/live", b"X-Request-Id: \xff\xfe\r\n\r\n"),
    "media type of no UTF-8": (POST, b"Content-Type: \xff\r\nContent-Length: 2\r\n\r\n{}"),
    "charset": (POST, b"Content-Type: application/json; charset=nonsense\r\nContent-Length: 2\r\n\r\n{}"),
    "chunks": (POST, b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"),
    "NUL": (b"GET /\0", b""),
    "unfinished address": (b"GET http://[", b""),
    "asterisk": (b"GET *", b""),
    "nonsense": (b"nonsense", b""),
}


async def test_broken_http_never_makes_the_server_fail(client: TestClient[Any, Any]) -> None:
    for name, (line, rest) in BROKEN.items():
        answer = await raw(client, line + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + (rest or b"\r\n"))
        assert re.match(rb"HTTP/1\.[01] (200|4\d\d) ", answer), (name, answer[:300])
        assert b"Traceback" not in answer
    assert (await client.get("/health/live")).status == 200


async def test_a_client_that_leaves_in_the_middle_of_a_body_does_no_harm(
    client: TestClient[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection(client.server.host, client.server.port)
    head = f"POST {BASE}/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    writer.write(head.encode() + b'{"user_id": ')
    await writer.drain()
    assert (await client.get("/health/live")).status == 200
    writer.close()
    await writer.wait_closed()
    assert (await (await client.get(f"{BASE}/")).json())["total"] == 0
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_an_expectation_that_nobody_can_meet_is_417(client: TestClient[Any, Any]) -> None:
    head = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nExpect: tea\r\nConnection: close\r\n\r\n"
    answer = await raw(client, head)
    assert answer.startswith(b"HTTP/1.1 417 ")
