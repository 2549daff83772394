"""Keys by REST: admins make, change and revoke them, all servers know at once, and nobody is locked out by mistake."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from app.domain.access import Role
from app.domain.errors import KeyNotFound, NoAdminLeft
from app.main import create_app
from app.storage.keys import KeyStore
from harness import eventually

if TYPE_CHECKING:
    from app.settings import Settings

KEYS = "/api/v1/keys"
JOBS = "/api/v1/generation-jobs/"
SOME_DAY = "2090-01-02T03:04:05Z"


@pytest.fixture(autouse=True)
def _only_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers learn of changes by the event alone: no time that passes helps them."""
    monkeypatch.setattr("app.services.access.KNOWN_S", 3600.0)
    monkeypatch.setattr("app.services.access.OPEN_S", 3600.0)


def by(key: str) -> dict[str, str]:
    """Return the header that shows a key."""
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
async def boss(client: Any) -> dict[str, str]:
    """An admin's key, as a header."""
    answer = await client.post(KEYS, json={"name": "boss", "role": "admin"})
    assert answer.status == 201, await answer.text()
    return by((await answer.json())["key"])


async def make(client: Any, boss: dict[str, str], **fields: Any) -> dict[str, Any]:
    """Make a key, and return the answer."""
    answer = await client.post(KEYS, json={"name": "ann"} | fields, headers=boss)
    assert answer.status == 201, await answer.text()
    return dict(await answer.json())


async def test_a_key_is_made_and_shown_once(client, boss, database):
    limits = {"running": 2, "jobs_per_day": None}
    answer = await client.post(
        KEYS, json={"name": "ann", "owner": "bob", "expires_at": SOME_DAY, "limits": limits}, headers=boss
    )
    made = await answer.json()
    assert (answer.status, answer.headers["Location"]) == (201, f"{KEYS}/{made['key_id']}")
    assert answer.headers["Cache-Control"] == "no-store"
    secret = made.pop("key")
    assert re.fullmatch(r"gno_\w{49}", secret)
    expected = {"name": "ann", "role": "user", "owner": "bob", "limits": limits, "state": "active", "revoked_at": None}
    assert made.items() >= (expected | {"last_used_at": None, "last_used_from": None}).items()
    assert datetime.fromisoformat(made["expires_at"]) == datetime.fromisoformat(SOME_DAY)
    assert (await client.get(JOBS, headers=by(secret))).status == 200
    shown = await (await client.get(answer.headers["Location"], headers=boss)).json()
    assert shown["last_used_from"] == "127.0.0.1"
    assert datetime.now(UTC) - datetime.fromisoformat(shown["last_used_at"]) < timedelta(minutes=5)
    assert made.items() <= (shown | {"last_used_at": None, "last_used_from": None}).items()
    for place in (KEYS, answer.headers["Location"]):
        assert secret not in await (await client.get(place, headers=boss)).text()
    async with database.transaction() as session:
        kept = str((await session.execute(text("SELECT k::text, a::text FROM api_keys k, audit_log a"))).all())
    assert secret not in kept


async def test_the_list_is_paged_and_narrowed(client, boss):
    for number in range(5):
        await make(client, boss, name=f"key {number}", owner="ann" if number % 2 else "bob")
    seen, cursor = [], {}
    while True:
        page = await (await client.get(KEYS, params={"limit": 2} | cursor, headers=boss)).json()
        seen += [each["name"] for each in page["items"]]
        assert len(page["items"]) <= 2
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == ["key 4", "key 3", "key 2", "key 1", "key 0", "boss"]

    async def found(**query: str) -> list[str]:
        page = await (await client.get(KEYS, params=query, headers=boss)).json()
        return [each["name"] for each in page["items"]]

    assert await found(owner="ann") == ["key 3", "key 1"]
    assert await found(name="key 2") == ["key 2"]
    assert (await client.get(KEYS, params={"cursor": "nonsense"}, headers=boss)).status == 422


async def test_a_key_is_changed_and_only_in_what_is_named(client, boss):
    made = await make(client, boss, expires_at=SOME_DAY, limits={"running": 2})
    place = f"{KEYS}/{made['key_id']}"

    async def change(**fields: Any) -> dict[str, Any]:
        answer = await client.patch(place, json=fields, headers=boss)
        assert answer.status == 200, await answer.text()
        return dict(await answer.json())

    before = await (await client.get(place, headers=boss)).json()
    assert await change() == before
    assert await change(limits={"waiting": 7}) == before | {"limits": {"waiting": 7}}
    assert await change(expires_at=None) == before | {"limits": {"waiting": 7}, "expires_at": None}
    assert await change(limits={}) == before | {"limits": {}, "expires_at": None}


async def test_a_revoked_key_opens_nothing_on_any_server_and_can_be_restored(
    client: Any, boss: dict[str, str], settings: Settings, aiohttp_client: Any
) -> None:
    other = await aiohttp_client(create_app(settings))
    made = await make(client, boss)
    place, secret = f"{KEYS}/{made['key_id']}", by(made["key"])

    async def becomes(status: int) -> None:
        for server in (client, other):

            async def is_so(server: Any = server) -> bool:
                return bool((await server.get(JOBS, headers=secret)).status == status)

            await eventually(is_so)

    await becomes(200)
    answer = await client.delete(place, headers=boss)
    assert (answer.status, await answer.read()) == (204, b"")
    await becomes(401)
    told = await (await client.get(place, headers=boss)).json()
    assert (told["state"], told["revoked_at"] is None) == ("revoked", False)
    # Again changes nothing, not even since when.
    assert (await client.delete(place, headers=boss)).status == 204
    assert await (await client.get(place, headers=boss)).json() == told
    restored = await (await client.patch(place, json={"revoked": False}, headers=boss)).json()
    assert (restored["state"], restored["revoked_at"]) == ("active", None)
    await becomes(200)


async def test_the_first_key_closes_all_servers_at_once(client, settings, aiohttp_client):
    other = await aiohttp_client(create_app(settings))
    assert (await other.get(JOBS)).status == 200
    await make(client, {}, role="admin")

    async def closed() -> bool:
        return bool((await other.get(JOBS)).status == 401)

    await eventually(closed)


async def test_the_first_key_is_an_admins(client, database):
    answer = await client.post(KEYS, json={"name": "ann", "role": "operator"})
    problem = await answer.json()
    assert (answer.status, problem["code"]) == (409, "no_admin_left")
    assert "Make another key with the role admin first" in problem["detail"]
    assert await KeyStore(database).all() == []
    assert (await client.get(JOBS)).status == 200


async def test_the_last_key_of_an_admin_is_not_revoked_by_mistake(client, boss):
    (own,) = (await (await client.get(KEYS, headers=boss)).json())["items"]
    place = f"{KEYS}/{own['key_id']}"
    answer = await client.delete(place, headers=boss)
    assert (answer.status, (await answer.json())["code"]) == (409, "no_admin_left")
    assert (await client.get(KEYS, headers=boss)).status == 200
    # One that has ended is none, and neither is another role's.
    other = await make(client, boss, name="other", role="admin")
    await make(client, boss, name="op", role="operator")
    await client.delete(f"{KEYS}/{other['key_id']}", headers=boss)
    assert (await client.delete(place, headers=boss)).status == 409
    await client.patch(f"{KEYS}/{other['key_id']}", json={"revoked": False}, headers=boss)
    assert (await client.delete(place, headers=boss)).status == 204
    last = f"{KEYS}/{other['key_id']}"
    assert (await client.delete(last, headers=by(other["key"]))).status == 409
    assert (await client.delete(f"{last}?force=true", headers=by(other["key"]))).status == 204
    assert (await client.get(KEYS, headers=by(other["key"]))).status == 401


async def test_two_admins_who_revoke_each_other_at_once_do_not_both_succeed(database):
    store = KeyStore(database)
    for attempt in range(5):
        for name in ("ann", "bob"):
            await store.add(f"{name} {attempt}", Role.ADMIN)
        ids = [(await store.named(f"{name} {attempt}")).id for name in ("ann", "bob")]
        ends = await asyncio.gather(*(store.end(each, keep_admin=True) for each in ids), return_exceptions=True)
        assert sorted(isinstance(each, NoAdminLeft) for each in ends) == [False, True]
        assert await store.has_admin()
        for each in ids:
            await store.end(each, keep_admin=False)


@pytest.mark.parametrize("role", [Role.USER, Role.VIEWER, Role.OPERATOR])
async def test_only_admins_see_or_change_keys(client, boss, role):
    made = await make(client, boss, role=role)
    place, other = f"{KEYS}/{made['key_id']}", by(made["key"])
    for method, where in (("GET", KEYS), ("POST", KEYS), ("GET", place), ("PATCH", place), ("DELETE", place)):
        answer = await client.request(method, where, headers=other, **({"json": {}} if method[0] == "P" else {}))
        assert (answer.status, (await answer.json())["code"]) == (403, "forbidden"), (method, where)
    assert (await client.get(place)).status == 401


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/name"),
        ({"name": ""}, "/name"),
        ({"name": " ann"}, "/name"),
        ({"name": "a\nb"}, "/name"),
        ({"name": "x" * 256}, "/name"),
        ({"name": "Monitor"}, "/name"),
        ({"name": "command line (root)"}, "/name"),
        ({"name": "ann", "role": "boss"}, "/role"),
        ({"name": "ann", "owner": ""}, "/owner"),
        ({"name": "ann", "expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"name": "ann", "expires_at": "tomorrow"}, "/expires_at"),
        ({"name": "ann", "limits": {"speed": 1}}, "/limits/speed"),
        ({"name": "ann", "limits": {"running": -1}}, "/limits/running"),
        ({"name": "ann", "limits": {f"x{number}": 1 for number in range(100)}}, "/limits"),
        ({"name": "ann", "key": "gno_mine"}, "/key"),
    ],
)
async def test_what_is_wrong_with_a_key_is_named(client, boss, body, pointer):
    answer = await client.post(KEYS, json=body, headers=boss)
    assert answer.status == 422
    assert pointer in {fault["pointer"] for fault in (await answer.json())["errors"]}


async def test_a_name_is_given_once_also_when_its_key_is_revoked(client, boss):
    made = await make(client, boss)
    await client.delete(f"{KEYS}/{made['key_id']}", headers=boss)
    answer = await client.post(KEYS, json={"name": "ann"}, headers=boss)
    assert (answer.status, (await answer.json())["code"]) == (409, "key_taken")


@pytest.mark.parametrize("number", ["999", "9" * 18, "9" * 60])
async def test_a_key_that_is_not_there_is_not_found(client, boss, number):
    place = f"{KEYS}/{number}"
    for method, more in (("GET", {}), ("PATCH", {"json": {"revoked": False}}), ("DELETE", {})):
        answer = await client.request(method, place, headers=boss, **more)
        assert (answer.status, (await answer.json())["code"]) == (404, "key_not_found"), method


@pytest.mark.parametrize(
    "body", [{"revoked": True}, {"role": "admin"}, {"owner": "x"}, {"expires_at": "2020-01-01T00:00:00Z"}]
)
async def test_only_limits_expiry_and_revocation_can_be_changed(client, boss, body):
    made = await make(client, boss)
    place = f"{KEYS}/{made['key_id']}"
    before = await (await client.get(place, headers=boss)).json()
    assert (await client.patch(place, json=body, headers=boss)).status == 422
    assert await (await client.get(place, headers=boss)).json() == before


async def test_an_expired_key_opens_nothing_and_says_so(client, boss, database):
    made = await make(client, boss, expires_at=SOME_DAY)
    async with database.transaction() as session:
        await session.execute(text("UPDATE api_keys SET expires_at = now() - interval '1 s' WHERE name = 'ann'"))
    assert (await client.get(JOBS, headers=by(made["key"]))).status == 401
    assert (await (await client.get(f"{KEYS}/{made['key_id']}", headers=boss)).json())["state"] == "expired"


async def test_a_number_of_no_key_is_none_for_the_store(database):
    with pytest.raises(KeyNotFound):
        await KeyStore(database).get(1)
