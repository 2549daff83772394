"""Keys that open nothing, names and origins that are not ours, and keys that are revoked: what each is answered."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, DummyCookieJar, TCPConnector
from integration.access_world import CSRF, World, code_of_close, serve, statements
from integration.closed_ports import closed
from integration.hostile import raw, request_of

from app import keys
from app.domain.access import Role
from app.domain.errors import DatabaseUnavailable, TooManyWrongKeys, WrongKey
from app.domain.key_format import new_key
from app.main import NoAdminKey, create_app, run
from app.services.access import Access, Shown, WrongKeys
from app.storage.keys import KeyStore
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.access import Caller

JOBS = "/api/v1/generation-jobs/"
UPGRADE = [
    ("Upgrade", b"websocket"),
    ("Connection", b"Upgrade"),
    ("Sec-WebSocket-Version", b"13"),
    ("Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
]


def wrong_checksum(key: str) -> str:
    """Return a key of which one character was mistyped."""
    return key[:-1] + ("a" if key[-1] != "a" else "b")


async def sent(world: World, headers: list[tuple[str, bytes]], path: str = JOBS, method: str = "GET") -> Any:
    """Send these headers byte for byte, and return status, code and detail."""
    answer = await raw(world.client, request_of(method, path, headers))
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    told = json.loads(body) if b"application/problem+json" in head else {}
    return status, told.get("code", ""), told.get("detail", "")


async def end(world: World, how: str) -> str:
    """Return a key that opens nothing any more, or never did."""
    store = world.client.app[keys.KEYS]
    if how == "of elsewhere":
        return new_key()
    secret = await store.add(how, Role.ADMIN)
    if how == "revoked":
        await store.revoke(how)
    if how == "expired":
        async with world.database.driver() as connection:
            await connection.execute("UPDATE api_keys SET expires_at = now() - interval '1 s' WHERE name = $1", how)
    return secret


def ways(key: bytes) -> dict[str, tuple[list[tuple[str, bytes]], str]]:
    """Return every way to show a key, as headers and the address that takes it."""
    return {
        "Authorization": ([("Authorization", b"Bearer " + key)], JOBS),
        "X-API-Key": ([("X-API-Key", key)], JOBS),
        "subprotocol": ([*UPGRADE, ("Sec-WebSocket-Protocol", b"genonaut.key." + key)], "/ws/events"),
    }


@pytest.mark.parametrize("way", list(ways(b"")))
async def test_which_kind_of_wrong_key_it_is_is_not_told(world, way):
    answers, counts = [], []
    for how in ("of elsewhere", "revoked", "expired"):
        secret = await end(world, how)
        async with statements(world.client.app[keys.DATABASE]) as seen:
            answers.append(await sent(world, *ways(secret.encode())[way]))
        counts.append(len(but_notes(seen)))
    assert answers == [(401, "wrong_key", "The key is wrong, was revoked, or has expired.")] * 3
    assert counts == [1] * 3


def but_notes(seen: list[str]) -> list[str]:
    """Return the statements without the note in the audit: there is one for each address that begins to guess."""
    return [statement for statement in seen if "audit_log" not in statement]


MADE = [
    wrong_checksum,
    lambda key: key[:-1],
    lambda key: key + "a",
    lambda key: key.upper(),
    lambda key: key[4:],
    lambda key: key[:20] + " " + key[20:],
    lambda key: "gno_" + "0" * 49,
    lambda key: key[:20] + "ü" + key[21:],
    lambda key: "x" * 7000,
    lambda key: key * 20,
    lambda key: "",
    lambda key: '"' + key + '"',
]


@pytest.mark.parametrize("way", list(ways(b"")))
async def test_what_cannot_be_a_key_costs_no_statement(world, way):
    for number, made in enumerate(MADE):
        headers, path = ways(made(world.secrets["ada"]).encode())[way]
        async with statements(world.client.app[keys.DATABASE]) as seen:
            status, code, detail = await sent(world, headers, path)
        assert (status, code) == (401, "wrong_key"), number
        assert world.secrets["ada"] not in detail
        assert but_notes(seen) == []


BYTES = [
    b"\xff\xfe",
    b"gno_\xff",
    b"gno_\x80" * 10,
    b"\xed\xa0\x80",
    "gno_ключ".encode(),
    b"\t",
    b"a\tb",
    b"x" * 10_000,
]


async def test_any_bytes_as_a_key_are_refused(world):
    for value in (*BYTES, b"\0", b"gno_\0abc"):
        for headers, path in ways(value).values():
            status, code, _ = await sent(world, headers, path)
            assert status in (400, 401), (headers, status, code)


SCHEMES = {
    200: ["Bearer {}", "bearer {}", "BEARER {}", "Bearer   {}", "  Bearer {}   "],
    401: ["{}", "Bearer", "Bearer ", "", "Basic {}", "Basic YTpi", "Digest {}", "Token {}", "Bearer {} {}",
          "Bearer {}, Bearer {}", "Bearer:{}", "Bearer\t{}"],
}  # fmt: skip


@pytest.mark.parametrize("status", list(SCHEMES))
async def test_the_scheme_is_bearer_however_it_is_written(world, status):
    for value in SCHEMES[status]:
        found = await sent(world, [("Authorization", value.replace("{}", world.secrets["ann"]).encode())])
        assert found[:2] == (status, "" if status == 200 else "wrong_key"), value


QUERIES = [
    "key={}", "access_token={}", "KEY=x", "api_key=", "apikey=1", "token={}", "q={}", "x=Bearer%20{}", "{}", "{}=1",
    "a=1&authorization=x", "q=gn_" + "a" * 43, "%6bey={}",
]  # fmt: skip


async def test_a_key_in_the_address_is_refused_and_it_is_said_why(world, caplog):
    secret = world.secrets["ada"]
    for path in (JOBS, "/monitor/", "/monitor/jobs/1", "/ws/events", "/api/v1/uploads/x", "/metrics"):
        for query in QUERIES:
            answer = await world.ask("ada", "GET", f"{path}?{query.format(secret)}")
            assert (answer.status, answer.code) in ((400, "key_in_address"), (400, "")), (path, query)
            assert "does not belong in an address" in answer.text
            assert secret not in answer.text + caplog.text


async def test_a_key_twice_is_refused(world):
    good = world.secrets["ann"].encode()
    bearer, plain = ("Authorization", b"Bearer " + good), ("X-API-Key", good)
    protocol = ("Sec-WebSocket-Protocol", b"genonaut.key." + good)
    twice = [[bearer, bearer], [bearer, plain], [plain, plain], [bearer, protocol], [protocol, protocol]]
    twice += [[("Sec-WebSocket-Protocol", b"genonaut.key." + good + b", genonaut.key." + good)]]
    for headers in twice:
        for path in (JOBS, "/ws/events"):
            assert (await sent(world, [*UPGRADE, *headers], path))[:2] == (400, "bad_parameter"), headers


COOKIES = ["", "x", "x" * 6000, "\xff", "ü", '"', "gno_nothing", "a=b", "%00", ";", "null", "{}"]


async def test_a_wrong_session_is_as_none(world):
    none = await sent(world, [])
    assert none[:2] == (401, "sign_in_needed")
    for value in COOKIES:
        cookie = f"genonaut_session={value}; monitor_csrf={CSRF}".encode(errors="surrogateescape")
        assert await sent(world, [("Cookie", cookie)]) == none, value


async def test_a_session_that_has_ended_is_as_one_that_never_was(world):
    answers = []
    # That there are keys is looked for once.
    await sent(world, [])
    for how in ("never", "signed out", "over", "key revoked", "key expired"):
        store = world.client.app[keys.KEYS]
        token, _ = await store.sign_in(await store.add(f"with {how}", Role.ADMIN))
        async with world.database.driver() as connection:
            if how == "over":
                await connection.execute("UPDATE monitor_sessions SET expires_at = now()")
            if how == "key expired":
                await connection.execute("UPDATE api_keys SET expires_at = now() WHERE name = $1", f"with {how}")
        if how == "key revoked":
            await store.revoke(f"with {how}")
        if how == "signed out":
            await store.sign_out(token)
        cookie = f"genonaut_session={'x' if how == 'never' else token}".encode()
        async with statements(world.client.app[keys.DATABASE]) as seen:
            answers.append((await sent(world, [("Cookie", cookie)]), len(seen)))
    assert len(set(answers)) == 1
    assert answers[0][0][:2] == (401, "sign_in_needed")


FOREIGN_ORIGINS = [
    b"https://evil.example", b"null", b"", b" ", b"\xff", b"http://127.0.0.1@evil.example",
    b"http://127.0.0.1.evil.example", b"http://evil.example#127.0.0.1", b"http://evil.example/127.0.0.1",
    b"http://localhost.", b"http://localhost.evil.example", b"http://xn--lcalhost-x8a",
    "http://\uff11\uff12\uff17.0.0.1".encode(), "http://löcalhost".encode(), b"http://2130706433",
    b"http://0x7f.0.0.1", b"http://[::1", b"http://[::2]", b"http://0.0.0.0", b"file://", b"chrome-extension://abc",
    b"localhost", b"http://", b"http:///", b"http://localhost, https://evil.example",
    b"https://evil.example http://localhost", b"*", b"http://127.1", b"//", b"javascript:1", b"http://\x80",
    b"http://evil.example\\@127.0.0.1",
]  # fmt: skip


ODD = ((400, "bad_request"), (400, ""))
"""What aiohttp itself refuses."""


@pytest.mark.parametrize("mode", ["open", "keys"])
async def test_a_page_of_elsewhere_can_do_nothing(make_world, mode):
    world = await make_world(mode)
    cookie = [("Cookie", f"genonaut_session={world.sessions['ada']}".encode())] if mode == "keys" else []
    routes = ((JOBS, "GET"), (JOBS, "POST"), ("/ws/events", "GET"), ("/api/v1/backends/gpu-a/drain", "POST"))
    for origin in FOREIGN_ORIGINS:
        for path, method in routes:
            headers = [("Origin", origin), *cookie, *(UPGRADE if path.startswith("/ws") else [])]
            found = await sent(world, headers, path, method)
            assert found[:2] in ((403, "foreign_origin"), *ODD), (origin, path, found)


async def test_two_origins_are_refused_whichever_comes_first(make_world):
    world = await make_world("open")
    own, foreign = ("Origin", b"http://localhost"), ("Origin", b"https://evil.example")
    assert (await sent(world, [own]))[0] == 200
    for headers in ([own, foreign], [foreign, own]):
        assert (await sent(world, headers))[:2] in ((403, "foreign_origin"), (400, "bad_request"), (400, ""))


async def test_with_a_session_only_our_own_page_may(world):
    cookie = ("Cookie", f"genonaut_session={world.sessions['ada']}".encode())
    for origin in (
        b"http://localhost:3000",
        b"http://[::1]:8001",
        b"null",
        b"https://evil.example",
    ):
        assert (await sent(world, [("Origin", origin), cookie]))[:2] == (403, "foreign_origin"), origin
    own = f"{world.client.host}:{world.client.port}".encode()
    assert (await sent(world, [("Host", own), ("Origin", b"http://" + own), cookie]))[0] == 200


FOREIGN_HOSTS = [
    b"evil.example", b"", b" ", b"\xff", b"null", b"127.0.0.1@evil.example", b"evil.example@127.0.0.1",
    b"127.0.0.1.evil.example", b"localhost.", b"LOCALHOST.EVIL.EXAMPLE", b"[::1", b"[::2]", b"127.0.0.1/evil",
    b"127.0.0.1?x", b"127.0.0.1#x", b"evil.example:8001", b"192.0.2.1", b"0.0.0.0", b"xn--e1afmkfd.xn--p1ai",
    "пример.рф".encode(), "\uff11\uff12\uff17.0.0.1".encode(), b"2130706433", b"127.1", b"0x7f000001",
    b"127.0.0.1, evil.example", b"evil.example, 127.0.0.1", b"*", b"[::ffff:7f00:1].example", b"http://127.0.0.1",
    b"127.0.0.1\\evil.example", b"user:pass@localhost", b"-", b".", b":8001", b"[::1]evil.example",
]  # fmt: skip


async def test_what_is_not_our_name_is_not_served(make_world):
    world = await make_world("open")
    for host in FOREIGN_HOSTS:
        for path in ("/health/live", JOBS, "/monitor/", "/ws/events"):
            headers = [("Host", host), *(UPGRADE if path.startswith("/ws") else [])]
            found = await sent(world, headers, path)
            assert found[:2] in ((421, "foreign_host"), *ODD), (host, path, found)


async def test_two_hosts_are_refused(make_world):
    world = await make_world("open")
    for hosts in ([b"localhost", b"evil.example"], [b"evil.example", b"localhost"], [b"localhost", b"localhost"]):
        status, _, _ = await sent(world, [("Host", each) for each in hosts])
        assert status in (400, 421)


async def test_the_names_of_this_machine_are_served(make_world):
    world = await make_world("open")
    names = (b"localhost", b"LocalHost:1", b"127.0.0.1:8001", b"127.0.0.2", b"[::1]", b"[::1]:8001", b"127.0.0.1:")
    for host in names:
        assert (await sent(world, [("Host", host)]))[0] == 200, host


FORWARDING = [
    "Forwarded", "forwarded", "FORWARDED", "Via", "X-Real-IP", "x-real-ip", "X-Forwarded", "X-Forwarded-For",
    "x-forwarded-for", "X-FORWARDED-FOR", "X_Forwarded_For", "X-Forwarded-Host", "X-Forwarded-Proto",
    "X-Forwarded-Port", "X-Forwarded-Server", "X-Forwarded-Prefix", "X-Forwarded-User", "X-Forwarded-Anything",
    "X-Original-Forwarded-For", "Forwarded-For", "X-Client-IP", "X-Cluster-Client-IP", "CF-Connecting-IP", "CF-Ray",
    "True-Client-IP", "Fly-Client-IP", "Fastly-Client-IP", "X-Original-Host", "X-Envoy-External-Address",
    "X-Amzn-Trace-Id", "X-Azure-ClientIP", "CDN-Loop",
]  # fmt: skip


async def test_while_it_is_open_nothing_that_came_through_a_proxy_is_of_this_machine(make_world):
    world = await make_world("open")
    assert (await sent(world, []))[0] == 200
    for header in FORWARDING:
        for value in (b"127.0.0.1", b"for=127.0.0.1;host=localhost", b"", b"\xff"):
            for path in (JOBS, "/ws/events"):
                headers = [(header, value), *(UPGRADE if path.startswith("/ws") else [])]
                assert (await sent(world, headers, path))[:2] == (401, "sign_in_needed"), (header, path, value)
        answer = await raw(world.client, request_of("GET", "/monitor/", [(header, b"127.0.0.1")]))
        assert answer.startswith(b"HTTP/1.1 303 See Other")


@dataclass
class Clock:
    """The time that the service's memory of keys goes by."""

    now: float = 1000.0

    def monotonic(self) -> float:
        """Return it, in seconds."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("app.services.access.time", SimpleNamespace(monotonic=found.monotonic))
    return found


async def guess(world: World, times: int) -> set[int]:
    """Send so many keys that might be ones, and return the statuses of the answers."""
    return {(await sent(world, [("X-API-Key", new_key().encode())]))[0] for _ in range(times)}


async def test_a_good_key_that_was_never_shown_is_let_in_from_where_a_guesser_is(world, clock, monkeypatch):
    monkeypatch.setattr("app.services.access.WRONG_AT_ONCE", 3)
    access, store = world.client.app[keys.ACCESS], world.client.app[keys.KEYS]
    assert await guess(world, 6) == {401, 429}
    assert (await world.ask("otto", "GET", JOBS)).status == 200
    # Made by another server just now; and one whose revocation was taken back.
    world.secrets["new"] = await KeyStore(world.database).add("new", Role.ADMIN)
    assert (await world.ask("new", "GET", JOBS)).status == 429
    await access.tell_of_change((await store.named("new")).id)
    assert (await world.ask("new", "GET", JOBS)).status == 200
    await access.tell_of_change(await store.revoke("new"))
    assert (await world.ask("new", "GET", JOBS)).status == 429
    await access.tell_of_change(await store.restore("new"))
    assert (await world.ask("new", "GET", JOBS)).status == 200
    # If no news of it comes it is known a little later.
    world.secrets["newer"] = await KeyStore(world.database).add("newer", Role.ADMIN)
    assert await guess(world, 1) == {429}
    clock.now += 5.1
    assert await guess(world, 4) == {401, 429}
    assert (await world.ask("newer", "GET", JOBS)).status == 200
    # The page lets its holder sign in too.
    for key, status in ((new_key(), 429), ("x", 429), (world.secrets["newer"], 303)):
        assert (await world.ask("nobody", "POST", "/monitor/sign-in", form={"key": key})).status == status


async def test_who_guesses_too_often_costs_one_statement_in_some_seconds(world, clock, monkeypatch):
    monkeypatch.setattr("app.services.access.WRONG_AT_ONCE", 3)
    assert await guess(world, 6) == {401, 429}
    expired = await end(world, "expired")
    for wait_s, count in ((0, 0), (4.9, 0), (0.2, 1), (0, 0)):
        clock.now += wait_s
        # Nothing is forgiven meanwhile.
        world.client.app[keys.ACCESS].wrong._until["127.0.0.1"] = clock.now + 1e6  # noqa: SLF001
        async with statements(world.client.app[keys.DATABASE]) as seen:
            assert await guess(world, 10) == {429}
            assert (await sent(world, [("X-API-Key", expired.encode())]))[0] == 429
        assert len(seen) == count, seen


async def test_a_key_that_has_just_ended_is_looked_for_once(world, clock, monkeypatch):
    monkeypatch.setattr("app.services.access.WRONG_AT_ONCE", 3)
    world.secrets["over"] = await KeyStore(world.database).add("over", Role.ADMIN)
    assert await guess(world, 6) == {401, 429}
    await KeyStore(world.database).revoke("over")
    async with statements(world.client.app[keys.DATABASE]) as seen:
        assert [(await world.ask("over", "GET", JOBS)).status for _ in range(5)] == [429] * 5
    assert len(seen) == 1, seen


class AbsentKeys(KeyStore):
    """Keys that cannot be read."""

    asked = 0

    async def good(self, chars: int) -> set[str]:
        """Fail, and count how often."""
        self.asked += 1
        raise DatabaseUnavailable("It is away.")


async def test_while_the_database_is_away_guesses_do_not_ask_for_it_each(world, clock, monkeypatch):
    monkeypatch.setattr("app.services.access.WRONG_AT_ONCE", 3)
    store = AbsentKeys(world.database)
    access = Access(store, world.client.app[keys.EVENTS], read_only=False)
    for _ in range(3):
        access.wrong.count("10.0.0.1")
    with pytest.raises(DatabaseUnavailable):
        await access.admit(new_key(), "10.0.0.1")
    for _ in range(5):
        with pytest.raises(TooManyWrongKeys):
            await access.admit(new_key(), "10.0.0.1")
    assert store.asked == 1
    await access.admit(new_key(), "10.0.0.2")


async def test_a_guesser_does_not_shut_out_who_shares_the_address(world, clock, monkeypatch):
    monkeypatch.setattr("app.services.access.WRONG_AT_ONCE", 5)
    assert (await world.ask("ann", "GET", JOBS)).status == 200
    good = [("Authorization", f"Bearer {world.secrets['ann']}".encode())]
    wrong = [[("X-API-Key", new_key().encode())] for _ in range(12)]
    statuses = [(await sent(world, each))[:2] for each in wrong]
    assert statuses[:5] == [(401, "wrong_key")] * 5
    assert set(statuses[5:]) == {(429, "too_many_wrong_keys")}
    # What is in use is served meanwhile, and what has a session.
    assert (await sent(world, good))[0] == 200
    clock.now += 60
    assert (await sent(world, good))[0] == 200
    assert (await world.ask("eve", "GET", "/monitor/")).status == 200
    for each in wrong[:6]:
        await sent(world, each)
    async with statements(world.client.app[keys.DATABASE]) as seen:
        answer = await raw(world.client, request_of("GET", JOBS, wrong[0]))
    assert seen == []
    seconds = int(re.search(rb"Retry-After: (\d+)", answer)[1])
    assert 1 <= seconds <= 60
    # Signing in is guarded by the same count; and it says when to come back.
    page = await world.ask("nobody", "POST", "/monitor/sign-in", form={"key": new_key()})
    assert (page.status, int(page.headers["Retry-After"]) >= 1) == (429, True)
    # From another address nothing has come.
    connector = TCPConnector(local_addr=("127.0.0.2", 0))
    async with ClientSession(connector=connector, cookie_jar=DummyCookieJar()) as elsewhere:
        headers = {"X-API-Key": world.secrets["otto"]}
        async with elsewhere.get(world.client.make_url(JOBS), headers=headers) as other:
            assert other.status == 200
    clock.now += seconds
    assert (await sent(world, wrong[0]))[:2] == (401, "wrong_key")


def test_what_is_counted_of_wrong_keys_is_bounded():
    wrong = WrongKeys()
    for number in range(10_100):
        wrong.count(f"2001:db8::{number:x}")
    assert len(wrong._until) == 10_000  # noqa: SLF001 - how much is kept has no other sign
    assert wrong.counted == 10_100


async def test_what_is_known_of_keys_is_bounded(world, monkeypatch):
    monkeypatch.setattr("app.services.access.MOST_KNOWN", 3)
    for who in ("ann", "bob", "eve", "otto", "ada", "ann", "ada"):
        assert (await world.ask(who, "GET", JOBS)).status == 200
    known = world.client.app[keys.ACCESS]._known  # noqa: SLF001 - how much is kept has no other sign
    assert {caller.name for _, caller in known.values()} <= {"otto", "ann", "ada"}
    for _ in range(5):
        await sent(world, [("X-API-Key", new_key().encode())])
    assert len(known) <= 3


async def test_a_revoked_key_is_refused_by_another_server_as_soon_as_it_hears_of_it(
    world, settings, database, aiohttp_client, monkeypatch
):
    # Only the event can have done it.
    monkeypatch.setattr("app.services.access.KNOWN_S", 1e9)
    monkeypatch.setattr("app.web.websockets.KEYS_S", 1e9)
    other = World(await aiohttp_client(create_app(settings), cookie_jar=DummyCookieJar()), database, world.secrets)
    await eventually(other.hears_events)
    headers = other.credentials("eve", of_page=False)
    for each in (world, other):
        assert (await each.ask("eve", "GET", JOBS)).status == 200
    number = world.things["queued"]["job_id"]
    async with (
        other.client.ws_connect("/ws/events", headers=headers) as all_events,
        other.client.ws_connect(f"/ws/jobs/{number}", headers=headers) as of_one,
        other.client.ws_connect(f"/ws/jobs/{number}", headers=other.credentials("ada", of_page=False)) as of_another,
    ):
        app = world.client.app
        await app[keys.ACCESS].tell_of_change(await app[keys.KEYS].revoke("eve"))
        assert (await world.ask("eve", "GET", JOBS)).status == 401

        async def refused() -> bool:
            return bool((await other.ask("eve", "GET", JOBS)).status == 401)

        await eventually(refused, 10)
        assert [await code_of_close(each) for each in (all_events, of_one)] == [4401, 4401]
        await of_another.send_json({"type": "ping"})
        while (await of_another.receive_json()).get("type") != "pong":
            pass
    assert (await other.ask("ada", "GET", JOBS)).status == 200


async def test_with_redis_away_a_revoked_key_is_refused_when_it_is_looked_for_again(
    settings, database, aiohttp_client, clock, monkeypatch
):
    monkeypatch.setattr("app.services.access.OPEN_S", -1.0)
    world = World(await aiohttp_client(create_app(closed(settings, "redis_url"))), database)
    store, access = world.client.app[keys.KEYS], world.client.app[keys.ACCESS]
    world.secrets["ann"] = await store.add("ann", Role.ADMIN)
    assert (await world.ask("ann", "GET", "/api/v1/uploads")).status == 200
    # By another process, which cannot tell.
    key_id = await KeyStore(database).revoke("ann")
    assert (await world.ask("ann", "GET", "/api/v1/uploads")).status == 200
    clock.now += 5.0
    assert (await world.ask("ann", "GET", "/api/v1/uploads")).status == 401
    # By this one: at once, and that nobody else can be told is no error.
    await store.restore("ann")
    assert (await world.ask("ann", "GET", "/api/v1/uploads")).status == 200
    await store.revoke("ann")
    await access.tell_of_change(key_id)
    assert (await world.ask("ann", "GET", "/api/v1/uploads")).status == 401


class HeldKeys(KeyStore):
    """Keys whose finding takes until it is let go."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.read, self.go = asyncio.Event(), asyncio.Event()

    async def find(self, asked: Sequence[tuple[str, str | None]]) -> list[Caller | None]:
        """Return what was found before it is let go."""
        found = await super().find(asked)
        self.read.set()
        await self.go.wait()
        return found


async def test_what_was_read_before_a_revocation_is_not_remembered(world, monkeypatch):
    monkeypatch.setattr("app.services.access.KNOWN_S", 1e9)
    store = HeldKeys(world.database)
    access = Access(store, world.client.app[keys.EVENTS], read_only=False)
    shown = Shown(world.secrets["eve"], None, "127.0.0.1", is_local=True)
    asking = asyncio.create_task(access.caller(shown))
    await store.read.wait()
    access.forget(await store.revoke("eve"))
    store.go.set()
    # It came before; the next one did not.
    assert (await asking).name == "eve"
    with pytest.raises(WrongKey):
        await access.caller(shown)


@pytest.mark.parametrize("state", ["none", "viewer", "revoked", "expired"])
async def test_for_others_it_is_not_started_without_an_admin(settings, database, unused_tcp_port, state):
    store = KeyStore(database)
    if state != "none":
        await store.add("ann", Role.VIEWER if state == "viewer" else Role.ADMIN)
    async with database.driver() as connection:
        if state == "revoked":
            await store.revoke("ann")
        if state == "expired":
            await connection.execute("UPDATE api_keys SET expires_at = now()")
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        chosen = settings.model_copy(update={"api_host": host})
        app = create_app(chosen)
        with pytest.raises(NoAdminKey, match=r"make keys-add-test NAME=ann ROLE=admin"):
            await run(app, chosen, unused_tcp_port, "make migrate-test")
        # The process would end here.
        await app[keys.DATABASE].close()


async def test_for_others_it_is_started_with_an_admin(settings, database, unused_tcp_port):
    secret = await KeyStore(database).add("ann", Role.ADMIN)
    chosen = settings.model_copy(update={"api_host": "0.0.0.0"})
    running = asyncio.create_task(run(create_app(chosen), chosen, unused_tcp_port, "make migrate-test"))
    try:
        async with ClientSession() as session:

            async def served() -> bool:
                assert not running.done(), running.exception()
                try:
                    async with session.get(
                        f"http://127.0.0.1:{unused_tcp_port}{JOBS}", headers={"X-API-Key": secret}
                    ) as answer:
                        return answer.status == 200
                except OSError:
                    return False

            assert await eventually(served)
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


HOSTS = {
    200: [b"192.0.2.7", b"192.0.2.7:8001", b"[2001:db8::1]:8001", b"localhost", b"10.0.0.1"],
    421: [b"unknown.example", b"192.0.2.7.example", b"evil@192.0.2.7", b"192.0.2", b""],
}


async def test_for_others_it_is_served_by_address_and_by_names_that_are_allowed(settings, database, aiohttp_client):
    chosen = settings.model_copy(update={"api_host": "0.0.0.0"})
    world = await serve("keys", chosen, database, aiohttp_client)
    key = ("X-API-Key", world.secrets["ann"].encode())
    for status, hosts in HOSTS.items():
        for host in hosts:
            assert (await sent(world, [("Host", host), key]))[0] == status, host
            # The name alone opens nothing.
            assert (await sent(world, [("Host", host)]))[0] == (401 if status == 200 else 421), host
