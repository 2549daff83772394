"""Whatever is sent, to whichever route: it is answered for what it is, and never with a 500."""

from __future__ import annotations

import itertools
import logging
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from integration.hostile import BYTES, HEADERS, TEXTS, UNKEPT, UPGRADE, Attack, request_of
from integration.monitor_fixtures import Life

from app import keys
from app.domain.access import Role
from app.environment import without_traceback_of_nonsense
from app.monitor.audit_pages import AuditAddress
from app.monitor.listing import ListAddress
from app.monitor.stats_pages import StatsAddress
from app.web.permissions import routes_of
from app.web.requests import ListQuery, NodesQuery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web
    from aiohttp.test_utils import TestClient
    from pydantic import BaseModel

    from app.storage.database import Database

pytestmark = pytest.mark.slow

BASE = "/api/v1/generation-jobs"
READY = "/health/ready"
"""Says 503, for there is no worker."""
FIVE = ("/monitor/", "/monitor/sign-in", f"{BASE}/", "/api/v1/contents/1/outputs/0", "/monitor/static/monitor.css")
"""Ways through every guard there is."""


def alike(model: type[BaseModel], but: Sequence[str] = ()) -> list[list[str]]:
    """Return the parameters of a model, those together that are read and checked in the same way."""
    groups: dict[str, list[str]] = {}
    for name, field in model.model_fields.items():
        if name not in but:
            groups.setdefault(f"{field.annotation} {field.metadata}", []).append(field.alias or name)
    return list(groups.values())


OWN = {
    f"{BASE}/": [*alike(ListQuery, but=["cursor"]), ["cursor"]],
    "/api/v1/models": [["kind"]],
    "/api/v1/nodes": [[name] for name in NodesQuery.model_fields],
    "/monitor/": [*alike(ListAddress, but=["after", "before"]), ["after"], ["before"]],
    "/monitor/bulk/delete?until_id=9&": alike(ListAddress, but=["after", "before"]),
    "/monitor/bulk/retry?": [["until_id"]],
    "/monitor/stats": [[name] for name in StatsAddress.model_fields],
    "/monitor/audit": [*alike(AuditAddress, but=["older", "newer"]), ["older"], ["newer"]],
    "/monitor/sign-in": [["next"]],
    "/monitor/jobs/1/preview": [["n"]],
    "/monitor/jobs/1": [["unknown"]],
    "/ws/jobs": [["job_ids"]],
}
"""Address → the parameters that it reads; those of a group are given the same value at once."""


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.access.OPEN_S", -1.0)
    monkeypatch.setattr("app.monitor.sessions.WRONG_S", 0.0)


@pytest.fixture
def _no_error_is_logged(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.ERROR)
    yield
    records = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    # As `set_up_logging` has it: what is no HTTP at all is no error of ours.
    found = [
        each.getMessage() for each in records if without_traceback_of_nonsense(each) and each.levelno >= logging.ERROR
    ]
    assert found == []


@pytest.fixture
async def attack(client: TestClient[Any, Any], database: Database, _no_error_is_logged: None) -> Attack:
    """A server with a job of each end, and who means it harm."""
    life = Life(client, database)
    await life.complete(await life.execute())
    await life.fail(await life.execute())
    await life.submit()
    return Attack(client)


def methods_and_places(app: web.Application) -> list[tuple[str, str]]:
    """Return method and address of every route as its router has it; what can be got answers HEAD too."""
    found = {(method, place) for method, place in map(str.split, routes_of(app.router))}
    return sorted(found | {("HEAD", place) for method, place in found if method == "GET"})


def routes(app: web.Application, *methods: str) -> list[tuple[str, str]]:
    """Return method and address of every route, of job 1 where there is a number in it."""
    found = {(method, place) for method, place in methods_and_places(app) if method in methods}
    ids = {"job_id": "1", "content_id": "1", "index": "0", "name": "x", "worker_id": "x", "task": "sweep"}
    ids |= {"version": "x", "node_class": "x", "upload_id": "x", "key_id": "1", "user_id": "x"}
    named = {(method, re.sub(r"{(\w+)}", lambda each: ids[each[1]], place)) for method, place in found}
    return sorted((method, path) for method, path in named if path != READY)


def check(attack: Attack, at_least: int) -> None:
    assert attack.wrong == [], "\n".join(attack.wrong[:20])
    assert attack.sent >= at_least


GUARDS = ("Host", "Origin", "Cookie")
"""Headers that every route looks at; each of the others concerns some."""


@pytest.mark.parametrize(
    ("header", "closed"), [*((header, False) for header in HEADERS), *((header, True) for header in GUARDS)]
)
async def test_no_header_is_a_500(client: TestClient[Any, Any], attack: Attack, header: str, closed: bool) -> None:
    if closed:
        await client.app[keys.KEYS].add("ann", Role.ADMIN)
    ways = itertools.cycle(FIVE)
    requests = {}
    for form in HEADERS[header]:
        for name, value in BYTES.items():
            line = form.replace(b"%b", value)
            for path in FIVE if header in GUARDS and len(value) < 200 else (next(ways),):
                requests[f"{path} {form!r} {name}"] = request_of("GET", path, {header: line})
            if name in ("0xff", "empty", "latin-1"):
                twice = [(header, line), (header, line)]
                requests[f"twice {form!r} {name}"] = request_of("GET", "/monitor/", twice)
                requests[f"POST {form!r} {name}"] = request_of("POST", f"{BASE}/1/cancel", {header: line})
                requests[f"sign-in {form!r} {name}"] = request_of("POST", "/monitor/sign-in", {header: line})
                upgrade = UPGRADE | {header: line}
                requests[f"events {form!r} {name}"] = request_of("GET", "/ws/events", upgrade)
    await attack.send_all(requests, 1 if header in UNKEPT else 20)
    check(attack, 20)


@pytest.mark.parametrize("closed", [False, True])
async def test_no_route_answers_a_high_byte_in_a_header_with_a_500(
    client: TestClient[Any, Any], attack: Attack, closed: bool
) -> None:
    cookie = {"Cookie": b"genonaut_session=\xff; monitor_csrf=\xff; monitor_flash=\xff"}
    if closed:
        await client.app[keys.KEYS].add("ann", Role.ADMIN)
    requests = {}
    for method, path in routes(client.app, "GET", "HEAD", "POST"):
        for headers in (
            {"Host": b"\xff"},
            {"Origin": b"http://\xff"},
            cookie,
            {"Referer": b"\xff"},
            {"Range": b"\xff"},
        ):
            requests[f"{method} {path} {headers}"] = request_of(method, path, headers)
    await attack.send_all(requests)
    check(attack, 300)


@pytest.mark.parametrize("path", OWN)
async def test_no_parameter_is_a_500(attack: Attack, path: str) -> None:
    requests = {}
    for names in OWN[path]:
        for text in TEXTS:
            url = f"{path}{'' if '?' in path else '?'}{'&'.join(f'{name}={text}' for name in names)}"
            requests[url[:200]] = request_of("GET", url, {})
    await attack.send_all(requests)
    check(attack, len(TEXTS) - 10)


async def test_no_address_is_a_500(client: TestClient[Any, Any], attack: Attack) -> None:
    """Hostile texts as parts of the path, and parameters that nobody knows."""
    requests = {}
    own = {
        "Content-Type": b"application/x-www-form-urlencoded",
        "Cookie": b"monitor_csrf=" + b"a" * 43,
        "Sec-Fetch-Site": b"same-origin",
    }
    for method, place in methods_and_places(client.app):
        if place == READY:
            continue
        for text in ("%ff", "a%00b", "%ed%a0%80", "9" * 400, "..", "%2e%2e%2f", "%2f", "-1", "%D9%A3", "x" * 3000):
            path = re.sub(r"{\w+}", text, place) or "/"
            requests[f"{method} {path[:200]} {text[:9]}"] = request_of(
                method, path, own if method == "POST" else {}, b"csrf=" + b"a" * 43 if method == "POST" else b""
            )
        requests[f"{method} {place} unknown"] = request_of(
            method, re.sub(r"{\w+}", "1", place) + "?x=%ff&x=%00&=&&x", {}
        )
    await attack.send_all(requests)
    check(attack, 500)


BOUNDARY = b"multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
FORMS = {
    "no boundary": (b"multipart/form-data", b"--x\r\n"),
    "empty": (BOUNDARY, b""),
    "another boundary": (BOUNDARY, b"--y\r\n\r\n"),
    "broken off": (BOUNDARY, PART[:30]),
    "no end": (BOUNDARY, PART % (b"key", b"", b"a")),
    "no name": (BOUNDARY, b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n"),
    "no disposition": (BOUNDARY, b"--x\r\n\r\na\r\n--x--\r\n"),
    "a file": (BOUNDARY, PART % (b"key", b'; filename="a\xff.txt"', b"\xff\x00") + b"--x--\r\n"),
    "a file as the token": (BOUNDARY, PART % (b"csrf", b'; filename="a"', b"a") + b"--x--\r\n"),
    "bytes": (BOUNDARY, PART % (b"key", b"", b"\xff\x00\xed\xa0\x80") + b"--x--\r\n"),
    "a name of bytes": (BOUNDARY, PART % (b"\xff", b"", b"a") + b"--x--\r\n"),
    "an unknown charset": (
        BOUNDARY,
        PART % (b"key", b"\r\nContent-Type: text/plain; charset=nothing", b"a") + b"--x--\r\n",
    ),
    "a codec that is none": (
        BOUNDARY,
        PART % (b"key", b"\r\nContent-Type: text/plain; charset=hex", b"zz") + b"--x--\r\n",
    ),
    "_charset_": (BOUNDARY, PART % (b"_charset_", b"", b"nothing") + PART % (b"key", b"", b"\xff") + b"--x--\r\n"),
    "_charset_ too long": (BOUNDARY, PART % (b"_charset_", b"", b"x" * 100) + b"--x--\r\n"),
    "base64 that is none": (BOUNDARY, PART % (b"key", b"\r\nContent-Transfer-Encoding: base64", b"!") + b"--x--\r\n"),
    "an unknown transfer encoding": (
        BOUNDARY,
        PART % (b"key", b"\r\nContent-Transfer-Encoding: x", b"a") + b"--x--\r\n",
    ),
    "gzip that is none": (BOUNDARY, PART % (b"key", b"\r\nContent-Encoding: gzip", b"a") + b"--x--\r\n"),
    "a header without end": (BOUNDARY, b"--x\r\n" + b"A" * 20_000),
    "many parts": (BOUNDARY, (PART % (b"key", b"", b"a")) * 2000 + b"--x--\r\n"),
    "nested": (
        BOUNDARY,
        PART % (b"key", b"\r\nContent-Type: multipart/mixed; boundary=z", b"--z\r\n\r\n") + b"--x--\r\n",
    ),
    "nested without boundary": (BOUNDARY, PART % (b"key", b"\r\nContent-Type: multipart/mixed", b"a") + b"--x--\r\n"),
    "other multipart": (b"multipart/mixed; boundary=x", PART % (b"key", b"", b"a") + b"--x--\r\n"),
    "a boundary of bytes": (b"multipart/form-data; boundary=\xff", b"--\xff\r\n"),
    "a long boundary": (b"multipart/form-data; boundary=" + b"x" * 3000, b"--" + b"x" * 3000),
    "bytes in a plain form": (b"application/x-www-form-urlencoded", b"key=\xff\x00&csrf=\xed\xa0\x80"),
    "percent in a plain form": (b"application/x-www-form-urlencoded", b"key=%ff%00&csrf=%ed%a0%80&job=%00&next=%ff"),
    "a plain form of another charset": (b"application/x-www-form-urlencoded; charset=utf-16", b"key=a"),
    "a plain form of no charset": (b"application/x-www-form-urlencoded; charset=nothing", b"key=a"),
    "a plain form of a codec": (b"application/x-www-form-urlencoded; charset=hex", b"zz"),
    "many fields": (b"application/x-www-form-urlencoded", b"a=1&" * 20_000),
    "json": (b"application/json", b'{"key": "\xff"}'),
    "no type": (b"", b"key=a"),
    "no text": (b"text/plain; charset=\xff", b"key=a"),
}


@pytest.mark.parametrize("origin", [{}, {"Sec-Fetch-Site": b"same-origin"}])
async def test_no_form_is_a_500(client: TestClient[Any, Any], attack: Attack, origin: dict[str, bytes]) -> None:
    requests = {}
    token = b"a" * 43
    for _, path in routes(client.app, "POST"):
        for name, (kind, body) in FORMS.items():
            # What the guard itself reads is read by one piece of code for all of them.
            some = ("/monitor/sign-in", "/monitor/bulk/delete", "/monitor/jobs/1/retry")
            if path.startswith("/monitor") and path not in some:
                continue
            if not path.startswith("/monitor") and name not in ("json", "bytes in a plain form", "no boundary"):
                continue
            headers = {"Content-Type": kind, "Cookie": b"monitor_csrf=" + token} | origin
            requests[f"{path} {name}"] = request_of("POST", path, headers, body)
            gzipped = headers | {"Content-Encoding": b"gzip"}
            if name in ("empty", "bytes", "json"):
                requests[f"{path} {name} as gzip"] = request_of("POST", path, gzipped, body or b"x")
    await attack.send_all(requests)
    check(attack, 100)


HOSTILE = (
    "\x00",
    "a\x00b",
    "\ud800",
    "\U0001f98a",
    "x" * 70_000,
    "9" * 30,
    "-1",
    "1,2,,3",
    "\u0661",
    "",
    " ",
    "'\"<&>",
)


async def test_no_field_of_a_form_is_a_500(client: TestClient[Any, Any], attack: Attack) -> None:
    """With the page's own token, so that it is the handler who reads it."""
    requests = {}
    token = "a" * 43
    for _, path in routes(client.app, "POST"):
        if not path.startswith("/monitor"):
            continue
        for fields in (("job", "jobs"), ("entry",), ("key", "next", "back", "scope", "asked", "seed", "press")):
            for value in HOSTILE:
                text = quote(value.encode(errors="surrogatepass"), safe="")
                others = "" if "job" in fields or "entry" in fields else "&job=1"
                body = f"csrf={token}{others}" + "".join(f"&{field}={text}" for field in fields)
                headers = {
                    "Content-Type": b"application/x-www-form-urlencoded",
                    "Cookie": f"monitor_csrf={token}".encode(),
                    "Sec-Fetch-Site": b"same-origin",
                }
                requests[f"{path} {fields} {value[:20]!r}"] = request_of("POST", path, headers, body.encode())
    await attack.send_all(requests)
    check(attack, 400)
    # Its token was right: they came through.
    assert 303 in attack.statuses


async def test_a_sign_in_that_is_broken_says_so(client: TestClient[Any, Any], attack: Attack) -> None:
    await client.app[keys.KEYS].add("ann", Role.ADMIN)
    headers = {"Content-Type": b"multipart/form-data"}
    answer = await attack.send("sign-in", request_of("POST", "/monitor/sign-in", headers, b"--x\r\n"))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"The form cannot be read" in answer
