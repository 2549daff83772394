"""Who gets in, and who may do what: keys, sessions, roles, the read-only switch, and the audit of it all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, CookieJar, WSMsgType, WSServerHandshakeError, web
from integration.hostile import raw
from integration.monitor_fixtures import Document, Life, entries, read
from sqlalchemy import text
from yarl import URL

from app import keys
from app.domain.access import Caller, Role
from app.domain.errors import KeyNotFound, KeyTaken
from app.main import create_app, create_monitor_app
from app.monitor.audit_pages import show_audit
from app.monitor.guard import SECURITY_HEADERS
from app.monitor.routes import create_monitor
from app.web.permissions import PAGE, PERMISSIONS, PUBLIC, UnlistedRoute, require_listed, routes_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import ClientWebSocketResponse
    from aiohttp.test_utils import TestClient

    from app.settings import Settings
    from app.storage.database import Database


class Visitor:
    """A browser of its own: cookies, and forms with the page's token."""

    def __init__(self, client: TestClient[Any, Any]) -> None:
        self.base = str(client.make_url("/")).rstrip("/")
        self.session = ClientSession(cookie_jar=CookieJar(unsafe=True))

    async def get(self, path: str, **headers: str) -> tuple[int, str, Any]:
        """Return status, text and headers of a page, unfollowed."""
        async with self.session.get(self.base + path, headers=headers, allow_redirects=False) as answer:
            return answer.status, await answer.text(), answer.headers

    async def send(self, path: str, *, token: bool = True, origin: str | None = None, **fields: Any) -> Any:
        """Send a form as the page does, or as somebody else would; return the answer, read."""
        if token:
            await self.get("/monitor/sign-in")
            jar = self.session.cookie_jar.filter_cookies(URL(f"{self.base}/monitor/"))
            if "monitor_csrf" not in jar:
                await self.get("/monitor/workers")
                jar = self.session.cookie_jar.filter_cookies(URL(f"{self.base}/monitor/"))
            fields["csrf"] = jar["monitor_csrf"].value
        headers = {"Origin": origin or self.base}
        async with self.session.post(self.base + path, data=fields, headers=headers, allow_redirects=False) as answer:
            await answer.read()
            return answer

    async def sign_in(self, secret: str, wanted: str = "") -> Any:
        """Sign in."""
        return await self.send("/monitor/sign-in", key=secret, next=wanted)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.access.OPEN_S", -1.0)
    monkeypatch.setattr("app.monitor.sessions.WRONG_S", 0.0)
    monkeypatch.setattr("app.web.websockets.KEYS_S", 0.05)


@pytest.fixture
async def visitor(client: TestClient[Any, Any]) -> AsyncIterator[Visitor]:
    found = Visitor(client)
    yield found
    await found.session.close()


@pytest.fixture
async def secret(client: TestClient[Any, Any]) -> str:
    """An operator's key: from here on the page is closed."""
    return await client.app[keys.KEYS].add("ann", Role.OPERATOR)


async def test_without_any_key_the_page_is_open_to_this_machine(client, visitor):
    status, page, _ = await visitor.get("/monitor/")
    assert status == 200
    assert "Sign out" not in page
    assert (await visitor.get("/monitor/sign-in"))[0] == 303
    assert (await visitor.get("/monitor/audit"))[0] == 200


async def test_without_any_key_the_page_is_closed_to_other_machines(client, visitor, monkeypatch):
    monkeypatch.setattr("app.web.callers.is_loopback", lambda host: False)
    assert (await visitor.get("/monitor/"))[0] == 303
    status, page, _ = await visitor.get("/monitor/workers", **{"X-Fragment": "1"})
    assert status == 401
    assert "open on its own machine only" in page


@pytest.mark.parametrize("path", ["/monitor/", "/monitor/workers", "/api/v1/generation-jobs/", "/health/live"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:8001", "127.0.0.1.evil.example", "[::", ""])
async def test_what_is_asked_for_under_another_name_is_refused(client, visitor, path, host):
    # A page whose own name was turned on this address: to the browser everything it sends is same-origin.
    status, text_, _ = await visitor.get(path, Host=host)
    assert status == 421
    assert "foreign_host" in text_


async def test_another_name_cannot_open_the_events_either(client, visitor):
    with pytest.raises(WSServerHandshakeError) as refused:
        await visitor.session.ws_connect(f"{visitor.base}/ws/events", headers={"Host": "evil.example"})
    assert refused.value.status == 421


@pytest.mark.parametrize("host", ["localhost:8001", "127.0.0.1", "[::1]:8001"])
async def test_this_machines_own_names_are_served(client, visitor, host):
    assert (await visitor.get("/monitor/", Host=host))[0] == 200


async def test_a_name_that_is_allowed_is_served_but_the_page_asks_for_a_key(settings, aiohttp_client):
    client = await aiohttp_client(create_app(settings.model_copy(update={"allowed_hosts": "queue.example, other"})))
    visitor = Visitor(client)
    assert (await visitor.get("/health/live", Host="Queue.example"))[0] == 200
    # Behind a proxy everybody comes from this machine: without keys all is for its own names only.
    assert (await visitor.get("/api/v1/generation-jobs/", Host="Queue.example"))[0] == 401
    assert (await visitor.get("/monitor/", Host="queue.example"))[0] == 303
    assert (await visitor.get("/monitor/", Host="localhost"))[0] == 200
    await visitor.session.close()


@pytest.mark.parametrize("path", ["/monitor/", "/monitor/jobs/1?x=1", "/monitor/audit", "/monitor/nothing"])
async def test_who_is_not_signed_in_is_led_to_the_form_and_back(secret, visitor, path):
    status, _, headers = await visitor.get(path)
    assert (status, headers["Location"].partition("?")[0]) == (303, "/monitor/sign-in")
    status, page, headers = await visitor.get(headers["Location"])
    assert status == 200
    assert dict(headers).items() >= SECURITY_HEADERS.items()
    (wanted,) = Document(page).all("input", name="next")
    assert wanted["value"] == path
    answer = await visitor.sign_in(secret, path)
    assert (answer.status, answer.headers["Location"]) == (303, path)


async def test_who_is_not_signed_in_learns_nothing(secret, visitor, client, database):
    await Life(client, database).submit(prompt="a secret plan")
    for path in ("/monitor/sign-in", "/monitor/static/nothing", "/monitor/static/monitor.css"):
        _, page, _ = await visitor.get(path)
        assert "secret plan" not in page
        assert "Queue <b>1</b>" not in page
    status, page, _ = await visitor.get("/monitor/", **{"X-Fragment": "1"})
    assert status == 401
    assert "<b>unknown</b>" in page
    with pytest.raises(WSServerHandshakeError) as refused:
        await visitor.session.ws_connect(f"{visitor.base}/ws/events")
    assert refused.value.status == 401
    assert (await visitor.send("/monitor/jobs/1/cancel")).status == 401


async def test_a_session_begins_and_ends(secret, visitor, client, database):
    answer = await visitor.sign_in(secret)
    cookie = answer.cookies["genonaut_session"]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/")
    status, page, _ = await visitor.get("/monitor/")
    assert status == 200
    assert "ann" in page
    async with visitor.session.ws_connect(f"{visitor.base}/ws/events") as events:
        assert (await events.receive_json())["type"] == "hello"
    kept = cookie.value
    assert (await visitor.send("/monitor/sign-out")).headers["Location"] == "/monitor/sign-in"
    assert (await visitor.get("/monitor/"))[0] == 303
    # Also for who has kept the cookie.
    assert (await visitor.get("/monitor/", Cookie=f"genonaut_session={kept}"))[0] == 303
    assert await entries(database) == [
        ("ann", "sign_in", "127.0.0.1", "done"),
        ("ann", "sign_out", "127.0.0.1", "done"),
    ]


async def test_only_hashes_are_kept(secret, visitor, database):
    cookie = (await visitor.sign_in(secret)).cookies["genonaut_session"].value
    async with database.transaction() as session:
        rows = await session.execute(text("SELECT k::text, s::text FROM api_keys k, monitor_sessions s"))
        kept = str(rows.all())
    assert secret not in kept
    assert cookie not in kept


@pytest.mark.parametrize("wrong", ["", "gn_nothing", "x" * 5000, "gn_\0", "ünïcode"])
async def test_a_wrong_key_opens_nothing_and_is_noted(secret, visitor, database, wrong):
    answer = await visitor.sign_in(wrong)
    assert answer.status == 403
    assert "genonaut_session" not in answer.cookies
    assert (await entries(database))[-1] == ("nobody", "sign_in", "127.0.0.1", "refused")
    assert (await visitor.get("/monitor/"))[0] == 303


async def test_a_revoked_key_ends_its_sessions_and_closes_no_door_again(secret, visitor, client):
    await visitor.sign_in(secret)
    store = client.app[keys.KEYS]
    await store.revoke("ann")
    assert (await visitor.get("/monitor/"))[0] == 303
    assert (await visitor.sign_in(secret)).status == 403
    with pytest.raises(KeyTaken):
        await store.add("ann", Role.ADMIN)
    with pytest.raises(KeyNotFound):
        await store.revoke("bob")
    (key,) = await store.all()
    assert key.revoked_at is not None


async def test_a_session_ends_when_it_is_not_used_and_lasts_while_it_is(secret, visitor, client, database):
    await visitor.sign_in(secret)

    async def shift(hours: float) -> float:
        """Let time pass, use the page, and return the hours that are left then."""
        async with database.transaction() as session:
            await session.execute(
                text("UPDATE monitor_sessions SET expires_at = expires_at - make_interval(secs => :s)"),
                {"s": hours * 3600},
            )
        await visitor.get("/monitor/")
        async with database.transaction() as session:
            left = await session.scalar(
                text("SELECT extract(epoch FROM expires_at - now()) / 3600 FROM monitor_sessions")
            )
        return float(left)

    assert 11.9 < await shift(11) <= 12
    assert await shift(12.1) < 0
    assert (await visitor.get("/monitor/"))[0] == 303
    assert await client.app[keys.KEYS].prune() == 1


@pytest.mark.parametrize("wanted", ["//evil.example", "https://evil.example/", "/api/v1", "/monitor/\\evil", "x"])
async def test_the_way_back_is_never_another_site(secret, visitor, wanted):
    assert (await visitor.sign_in(secret, wanted)).headers["Location"] == "/monitor/"


def posts(app: web.Application) -> list[str]:
    """Return every address of the page that takes a form from somebody, as its router has it, one for each action."""
    taking = {route for route in of_the_page(app) if route.startswith("POST ")}
    return sorted(route.removeprefix("POST ") for route in taking - PUBLIC)


def of_the_page(app: web.Application) -> set[str]:
    """Return every route of the page as the table names it."""
    return {route for route in routes_of(app.router) if re.match(rf"\w+ {PAGE}(/|$)", route)}


def concrete(place: str) -> str:
    """Return an address of this kind, of what does not exist."""
    return re.sub(r"{(\w+)}", lambda name: {"job_id": "1", "name": "x"}.get(name[1], "x"), place)


async def test_of_every_address_it_is_said_who_may_use_it(client, settings):
    routes = set(routes_of(client.app.router))
    assert len(routes) > 60
    assert routes <= PERMISSIONS.keys() | PUBLIC
    # And nothing is listed that is not there; the first address is the stand-alone page's.
    assert (PERMISSIONS.keys() | PUBLIC) - {"GET /"} <= routes
    assert set(routes_of(create_monitor_app(settings).router)) <= PERMISSIONS.keys() | PUBLIC
    assert not PERMISSIONS.keys() & PUBLIC


@pytest.mark.parametrize(
    "pattern", ["/audit/all", "/{action:quiet|explode}", "/{action}", "/backends/{name}/{action}", "/jobs/{job_id}.png"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "*"])
async def test_a_page_with_an_address_that_is_not_listed_does_not_start(method, pattern):
    page = create_monitor()

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text="a secret")

    page.router.add_route(method, pattern, handler)
    with pytest.raises(UnlistedRoute, match=re.escape(re.sub(":.*}", "}", pattern).replace("{action}", ""))):
        require_listed(page.router, PAGE)


async def test_a_form_where_only_reading_is_listed_does_not_start():
    page = create_monitor()
    page.router.add_post("/audit", show_audit)
    with pytest.raises(UnlistedRoute, match="POST /monitor/audit"):
        require_listed(page.router, PAGE)


async def test_an_address_that_is_not_listed_is_refused_to_everybody(client, visitor, monkeypatch):
    monkeypatch.delitem(PERMISSIONS, "GET /monitor/stats")
    monkeypatch.delitem(PERMISSIONS, "POST /monitor/sign-out")
    await visitor.sign_in(await client.app[keys.KEYS].add("somebody", Role.ADMIN))
    for path in ("/monitor/stats", "/monitor/stats/"):
        assert (await visitor.get(path))[0] == 403
    assert (await visitor.send("/monitor/sign-out")).status == 403


@pytest.mark.parametrize("role", [None, *Role])
async def test_each_address_is_read_by_those_who_may(client, visitor, role):
    await client.app[keys.KEYS].add("ann", Role.ADMIN)
    if role is not None:
        await visitor.sign_in(await client.app[keys.KEYS].add("somebody", role))
    for route in sorted(of_the_page(client.app) - PUBLIC):
        method, place = route.split()
        if method == "POST":
            continue
        for path in (concrete(place), concrete(place) + "/"):
            url, headers = visitor.base + path, {"X-Fragment": "1"}
            async with visitor.session.request(method, url, headers=headers, allow_redirects=False) as answer:
                status = answer.status
            if role is None:
                assert status == 401, (method, path)
            elif not Caller("x", role, "x").may(PERMISSIONS[route]):
                # Or there is no such address with a slash.
                assert status == 403 or (status == 404 and path.endswith("/")), (method, path, status)
            else:
                assert status not in (401, 403, 500), (method, path, status)


WRITINGS = [
    "/monitor/audit", "/monitor/audit/", "/monitor/audit//", "//monitor/audit", "/monitor//audit",
    "/monitor/audit%2f", "/monitor%2faudit", "/monitor%2Faudit%2F", "/monitor/%61udit", "/monitor/AUDIT",
    "/Monitor/audit", "/monitor/audit?", "/monitor/./audit", "/monitor/x/../audit", "/monitor/audit/.",
    "/monitor/audit;x", "/monitor/audit%00", "/monitor/static/../audit", "/monitor/static/%2e%2e/audit",
    "/monitor/static/..%2faudit", "/monitor/sign-in/../audit", "/monitor/static/audit",
    "/monitor/sign-in%2f..%2faudit", "/monitor/jobs/..%2faudit", "/monitor/jobs/%2e%2e/audit",
    "/health/../monitor/audit", "http://127.0.0.1/monitor/audit", "/monitor/audit#x", "/monitor/audit\t",
]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "TRACE", "get"])
async def test_no_other_writing_of_an_address_opens_it(client, visitor, method):
    """By a bare socket, which sends it as it stands."""
    await client.app[keys.KEYS].add("ann", Role.ADMIN)
    await visitor.sign_in(await client.app[keys.KEYS].add("eve", Role.VIEWER))
    cookies = visitor.session.cookie_jar.filter_cookies(URL(f"{visitor.base}/monitor/"))
    cookie = "; ".join(f"{name}={morsel.value}" for name, morsel in cookies.items())
    for path in WRITINGS:
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Cookie: {cookie}", "Connection: close", "", ""]
        answer = await raw(client, "\r\n".join(lines).encode())
        assert 400 <= int(answer.split(b" ", 2)[1]) < 500, (path, answer[:200])
        # eve's sign-in stands in it.
        assert b"sign_in" not in answer


@pytest.mark.parametrize("role", list(Role))
async def test_each_form_is_for_those_who_may_send_it(client, visitor, role):
    secret = await client.app[keys.KEYS].add("somebody", role)
    await visitor.sign_in(secret)
    forms = [place for place in posts(client.app) if place != "/monitor/sign-out"]
    for place in forms:
        path = concrete(place)
        allowed = Caller("x", role, "x").may(PERMISSIONS[f"POST {place}"])
        status = (await visitor.send(path)).status
        assert (status != 403) is allowed, (place, role, status)
        assert (await visitor.send(path, token=False)).status == 403, place
        assert (await visitor.send(path, origin="https://evil.example")).status == 403, place
        assert (await visitor.get(path))[0] in (200, 400, 405, 422) or not allowed, place


@pytest.mark.parametrize("role", list(Role))
async def test_the_audit_is_for_admins(client, visitor, role):
    await visitor.sign_in(await client.app[keys.KEYS].add("somebody", role))
    status, _, headers = await visitor.get("/monitor/audit")
    assert status == (200 if role is Role.ADMIN else 403)
    assert headers["Content-Security-Policy"] == SECURITY_HEADERS["Content-Security-Policy"]
    _, page, _ = await visitor.get("/monitor/")
    assert ("/monitor/audit" in page) is (role is Role.ADMIN)


async def test_a_viewer_sees_no_button(client, visitor, database):
    life = Life(client, database)
    failed = await life.fail(await life.execute())
    await life.submit()
    await visitor.sign_in(await client.app[keys.KEYS].add("eve", Role.VIEWER))
    for path in ("/monitor/", f"/monitor/jobs/{failed.job_id}"):
        _, page, _ = await visitor.get(path)
        sent_to = {form["action"] for form in Document(page).all("form", method="post")}
        assert sent_to == {"/monitor/sign-out"}


@pytest.mark.parametrize("end", ["sign out", "revoke"])
async def test_the_events_end_with_the_session(client, visitor, secret, end):
    await visitor.sign_in(secret)
    other = Visitor(client)
    await other.sign_in(await client.app[keys.KEYS].add("bob", Role.VIEWER))
    url = f"{visitor.base}/ws/events"
    async with visitor.session.ws_connect(url) as mine, other.session.ws_connect(url) as others:
        assert (await mine.receive_json())["type"] == (await others.receive_json())["type"] == "hello"
        if end == "revoke":
            await client.app[keys.KEYS].revoke("ann")
        else:
            await visitor.send("/monitor/sign-out")
        assert await code_of_close(mine) == 4401
        await others.send_json({"type": "ping"})
        while (await others.receive_json())["type"] != "pong":
            pass
    await other.session.close()


async def test_the_events_of_an_open_page_end_with_the_first_key(client, visitor):
    async with visitor.session.ws_connect(f"{visitor.base}/ws/events") as events:
        await events.receive_json()
        await client.app[keys.KEYS].add("ann", Role.OPERATOR)
        assert await code_of_close(events) == 4401


async def code_of_close(socket: ClientWebSocketResponse) -> int | None:
    """Read to the end, and return the code with which the server closed."""
    async for message in socket:
        assert message.type is WSMsgType.TEXT
    return socket.close_code


async def test_a_read_only_page_changes_nothing(settings: Settings, aiohttp_client: Any, database: Database):
    client = await aiohttp_client(create_app(settings.model_copy(update={"monitor_read_only": True})))
    life = Life(client, database)
    job_id = await life.submit()
    visitor = Visitor(client)
    try:
        for place in posts(client.app):
            if place != "/monitor/sign-out":
                path = re.sub(r"{\w+}", str(job_id), place)
                assert (await visitor.send(path)).status == 403, place
        _, page, _ = await visitor.get("/monitor/")
        assert not Document(page).all("form", method="post")
        assert (await life.store.get(job_id)).phase == "queued"
    finally:
        await visitor.session.close()


async def test_what_is_done_is_noted_with_who_did_it(secret, visitor, client, database):
    life = Life(client, database)
    job_id = await life.submit()
    await visitor.sign_in(secret)
    for action in ("cancel", "retry", "cancel", "delete"):
        assert (await visitor.send(f"/monitor/jobs/{job_id}/{action}")).status == 303
    other = await life.submit()
    await visitor.send("/monitor/bulk/cancel", job=str(other))
    assert (await entries(database))[1:] == [
        ("ann", "cancel", f"job {job_id}", "cancelled"),
        ("ann", "retry", f"job {job_id}", "retried"),
        ("ann", "cancel", f"job {job_id}", "cancelled"),
        ("ann", "delete", f"job {job_id}", "deleted"),
        ("ann", "cancel", "1 selected", "done"),
    ]
    events = await client.app[keys.VIEWS].events(other)
    assert events[-1].actor == "ann"


async def test_what_was_done_can_be_undone_from_where_it_is_said(visitor, client, database):
    job_id = await Life(client, database).submit()
    await visitor.send(f"/monitor/jobs/{job_id}/cancel", back="/monitor/")
    _, page, _ = await visitor.get("/monitor/")
    (undo,) = Document(page).all("form", class_="undo")
    await visitor.send(undo["action"], seed="same", back="/monitor/")
    assert (await client.app[keys.VIEWS].view(job_id)).job.phase == "queued"
    _, page, _ = await visitor.get("/monitor/")
    (undo,) = Document(page).all("form", class_="undo")
    assert undo["action"] == f"/monitor/jobs/{job_id}/cancel"


async def test_the_audit_is_read_page_by_page_and_narrowed(client, database):
    audit = client.app[keys.AUDIT]
    for number in range(120):
        caller = Caller("ann" if number % 2 else "bob", Role.OPERATOR, "ann", 1)
        await audit.note(caller, "cancel", f"job {number}", "cancelled", reason="<b>why</b>")
    seen: list[str] = []
    path: str | None = "/monitor/audit"
    while path:
        page = await read(client, path)
        seen += [found["id"] for found in page.all("tr") if "id" in found]
        path = next((link["href"] for link in page.all("a", rel="next")), None)
    assert len(seen) == len(set(seen)) == 120
    back = await read(client, next(link["href"] for link in page.all("a", rel="prev")))
    assert [found["id"] for found in back.all("tr") if "id" in found] == seen[50:100][-50:]
    narrowed = await read(client, "/monitor/audit?actor=ann&target=job+3")
    assert len([found for found in narrowed.all("tr") if "id" in found]) == 1
    assert "<b>why</b>" in narrowed.text
    assert {"href": "/monitor/jobs/3"} in narrowed.all("a")
    assert "No entry fits" in (await read(client, "/monitor/audit?actor=nobody")).text


async def test_the_page_alone_shows_nothing_without_a_session(settings: Settings, aiohttp_client: Any):
    client = await aiohttp_client(create_monitor_app(settings))
    visitor = Visitor(client)
    try:
        for path in ("/api/v1/generation-jobs/", "/health/live", "/metrics"):
            assert (await visitor.get(path))[0] == 200
        await visitor.sign_in(await client.app[keys.KEYS].add("ann", Role.VIEWER))
        assert (await visitor.get("/api/v1/generation-jobs/"))[0] == 200
        await visitor.send("/monitor/sign-out")
        status, body, _ = await visitor.get("/api/v1/generation-jobs/")
        assert status == 401
        assert "sign_in_needed" in body
        assert (await visitor.get("/metrics"))[0] == 401
        assert (await visitor.get("/health/live"))[0] == 200
    finally:
        await visitor.session.close()
