"""The audit: what is done by REST and page is noted with who, from where and which request, and is kept for a while."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import pytest
from integration.monitor_fixtures import act, beat, read
from plans import join_by_nested_loops
from sqlalchemy import text
from sweeping import sweeper_of

from app import keys
from app.domain.access import Caller, Role
from app.services.access import WRONG_AT_ONCE
from app.storage import audit as audit_store
from app.web.auditing import MAX_SCOPE
from harness import LIVES, SMALL_BODY, eventually

if TYPE_CHECKING:
    import asyncpg

    from app.settings import Settings
    from app.storage.database import Database

JOBS = "/api/v1/generation-jobs"
AUDIT = "/api/v1/audit"


def by(key: str) -> dict[str, str]:
    """Return the header that shows a key."""
    return {"Authorization": f"Bearer {key}"}


async def noted(database: Database, columns: str = "actor, action, target, outcome") -> list[tuple[Any, ...]]:
    """Return these columns of the audit, oldest entry first."""
    async with database.transaction() as session:
        rows = await session.execute(text(f"SELECT {columns} FROM audit_log ORDER BY id"))  # noqa: S608
        return [tuple(row) for row in rows]


@pytest.fixture
async def boss(client: Any) -> dict[str, str]:
    """An admin's key, as a header."""
    return by(await client.app[keys.KEYS].add("boss", Role.ADMIN))


async def submit(client: Any, headers: dict[str, str], **changes: Any) -> int:
    """Send a job that waits, because there is no worker."""
    answer = await client.post(f"{JOBS}/", json=SMALL_BODY | changes, headers=headers)
    assert answer.status == 201, await answer.text()
    return int((await answer.json())["job_id"])


async def test_what_changes_a_job_is_noted_with_key_address_and_request(client, boss, database):
    job_id = await submit(client, boss)
    one = f"{JOBS}/{job_id}"
    asked = [
        *(("POST", f"{one}/cancel"), ("POST", f"{one}/cancel"), ("POST", f"{one}/retry"), ("DELETE", one)),
        *(("POST", f"{one}/cancel"), ("POST", f"{one}/retry"), ("DELETE", one)),
    ]
    for number, (method, path) in enumerate(asked):
        answer = await client.request(method, path, headers=boss | {"X-Request-Id": f"request-{number}"})
        assert answer.status < 500
    columns = "actor, role, action, target, outcome, address, request_id"
    expected = [
        ("cancel", "cancelled", 0),
        ("cancel", "cancelled", 1),
        ("retry", "retried", 2),
        ("delete", "job_not_finished", 3),
        ("cancel", "cancelled", 4),
        ("retry", "retried", 5),
        ("delete", "job_not_finished", 6),
    ]
    assert await noted(database, columns) == [
        ("boss", "admin", action, f"job {job_id}", outcome, "127.0.0.1", f"request-{number}")
        for action, outcome, number in expected
    ]


async def test_without_keys_it_is_the_api_that_acts_and_the_page_has_its_own_name(client, life, database):
    first, second = await life.submit(), await life.submit()
    await client.post(f"{JOBS}/{first}/cancel")
    await act(client, f"/monitor/jobs/{second}/cancel")
    assert (await client.delete(f"{JOBS}/{first}")).status == 204
    assert await noted(database) == [
        ("api", "cancel", f"job {first}", "cancelled"),
        ("monitor", "cancel", f"job {second}", "cancelled"),
        ("api", "delete", f"job {first}", "deleted"),
    ]


async def test_reading_and_asking_for_what_is_not_there_are_not_noted(client, boss, database):
    job_id = await submit(client, boss, user_id="ann")
    ann = by(await client.app[keys.KEYS].add("bob", Role.USER))
    await client.get(f"{JOBS}/{job_id}", headers=boss)
    upload = await client.post("/api/v1/uploads?user_id=ann", data=b"P5 1 1 255\nx", headers=boss)
    assert upload.status == 201, await upload.text()
    upload_id = (await upload.json())["upload_id"]
    assert (await client.post(f"{JOBS}/check", json=SMALL_BODY, headers=boss)).status == 200
    assert (await client.post("/api/v1/ws-tickets", json={"job_ids": [job_id]}, headers=boss)).status == 201
    for path in (f"{JOBS}/{job_id}/cancel", f"{JOBS}/{job_id}/retry", f"{JOBS}/999/cancel"):
        assert (await client.post(path, headers=ann)).status == 404
    for path in (f"{JOBS}/{job_id}", f"/api/v1/uploads/{upload_id}"):
        assert (await client.delete(path, headers=ann)).status == 404
    assert (await client.delete("/api/v1/keys/999", headers=boss)).status == 404
    assert await noted(database) == [("boss", "upload", f"upload {upload_id}", "created")]


async def test_an_upload_and_a_key_leave_entries_too(client, boss, database):
    upload = await client.post("/api/v1/uploads?user_id=ann", data=b"P5 1 1 255\nx", headers=boss)
    upload_id = (await upload.json())["upload_id"]
    again = await client.post(
        "/api/v1/uploads", data={"file": io.BytesIO(b"P5 1 1 255\nx"), "user_id": "ann"}, headers=boss
    )
    assert again.status == 200, await again.text()
    assert (await client.delete(f"/api/v1/uploads/{upload_id}", headers=boss)).status == 204
    body = {"name": "ann", "role": "operator", "expires_at": "2090-01-01T00:00:00Z", "limits": {"running": 2}}
    made = await (await client.post("/api/v1/keys", json=body, headers=boss)).json()
    await client.post("/api/v1/keys", json=body, headers=boss)
    place = f"/api/v1/keys/{made['key_id']}"
    await client.patch(place, json={"limits": {"running": 3}}, headers=boss)
    await client.delete(place, headers=boss)
    await client.patch(place, json={"revoked": False}, headers=boss)
    (own,) = (await (await client.get("/api/v1/keys?name=boss", headers=boss)).json())["items"]
    await client.delete(f"/api/v1/keys/{own['key_id']}", headers=boss)
    assert await noted(database) == [
        ("boss", "upload", f"upload {upload_id}", "created"),
        ("boss", "upload", f"upload {upload_id}", "known"),
        ("boss", "delete", f"upload {upload_id}", "deleted"),
        ("boss", "key_add", "key ann", "done"),
        ("boss", "key_add", "key ann", "key_taken"),
        ("boss", "key_change", "key ann", "done"),
        ("boss", "key_revoke", "key ann", "done"),
        ("boss", "key_restore", "key ann", "done"),
        ("boss", "key_revoke", "key boss", "no_admin_left"),
    ]
    assert await noted(database, "address, data->>'user_id'") == [("127.0.0.1", "ann")] * 2 + [("127.0.0.1", None)] * 7
    (data,) = (await noted(database, "data"))[3]
    assert data == {"role": "operator", "expires_at": "2090-01-01T00:00:00+00:00", "limits": {"running": 2}}
    (data,) = (await noted(database, "data"))[5]
    assert data == {"limits": {"running": 3}, "before": {"limits": {"running": 2}}}
    assert made["key"] not in str(await noted(database, "data::text"))


@LIVES
async def test_backends_are_steered_by_rest_with_an_entry(client, boss, database):
    await beat(client)
    for action in ("drain", "resume"):
        assert (await client.post(f"/api/v1/backends/gpu-a/{action}", headers=boss)).status == 200
    assert (await client.post("/api/v1/backends/gpu-z/drain", headers=boss)).status == 404
    assert await noted(database) == [
        ("boss", "drain", "backend gpu-a", "asked"),
        ("boss", "resume", "backend gpu-a", "asked"),
        ("boss", "drain", "backend gpu-z", "backend_not_found"),
    ]


async def test_a_bulk_action_is_one_entry_that_says_for_which_jobs_it_was(client, boss, database):
    jobs = [await submit(client, boss, user_id="ann", prompt="x" * 600) for _ in range(3)]
    await client.post(f"{JOBS}/cancel", json={"job_ids": [*jobs[:2], 999]}, headers=boss)
    await client.post(f"{JOBS}/retry", json={"filter": {"user_id": "ann", "q": "x" * 600}}, headers=boss)
    await client.post(f"{JOBS}/cancel", json={"all": True}, headers=boss)
    await client.post(f"{JOBS}/cancel", json={"filter": {"user_id": "nobody"}}, headers=boss)
    await client.post(f"{JOBS}/cancel", json={"job_ids": [998, 999]}, headers=boss)
    first, second, third, fourth = await noted(database, "action, target, outcome, data")
    assert first == ("cancel", "3 named", "partly", {"acted_on": jobs[:2], "refused": 1})
    assert second[:3] == ("retry", second[1], "partly")
    assert second[1].startswith('jobs of {"user_id":"ann"')
    assert len(second[1]) == MAX_SCOPE
    assert sorted(second[3]["acted_on"]) == jobs[:2]
    assert third[:3] == ("cancel", "all jobs", "done")
    assert sorted(third[3]["acted_on"]) == jobs
    assert fourth == ("cancel", "2 named", "none", {"acted_on": [], "refused": 2})


async def test_what_takes_long_to_note_is_answered_before(
    client: Any, boss: dict[str, str], database: Database, plain: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.web.auditing.PATIENCE_S", 0.05)
    job_id = await submit(client, boss)
    async with plain.transaction():
        await plain.execute("LOCK TABLE audit_log IN ACCESS EXCLUSIVE MODE")
        answer = await client.post(f"{JOBS}/{job_id}/cancel", headers=boss)
        assert (answer.status, (await answer.json())["status"]) == (200, "cancelled")

    async def is_noted() -> bool:
        return await noted(database) == [("boss", "cancel", f"job {job_id}", "cancelled")]

    await eventually(is_noted)


async def test_what_cannot_be_noted_is_done_and_in_the_log(client, boss, plain, caplog):
    job_id = await submit(client, boss)
    await plain.execute("ALTER TABLE audit_log RENAME TO gone")
    answer = await client.post(f"{JOBS}/{job_id}/cancel", headers=boss)
    assert (answer.status, (await answer.json())["status"]) == (200, "cancelled")
    assert f"not in the audit: cancel by boss of job {job_id} was cancelled" in caplog.text


async def test_of_wrong_keys_from_an_address_one_entry_is_left(client, boss, database):
    statuses = [(await client.get(f"{JOBS}/", headers=by(f"gno_{n}"))).status for n in range(WRONG_AT_ONCE + 5)]
    assert set(statuses) == {401, 429}
    # The page says so as well, and looks at no more.
    assert (await client.get("/monitor/", headers=by("gno_x"))).status == 429
    assert await noted(database, "actor, action, target, outcome, address") == [
        ("nobody", "show_key", "127.0.0.1", "refused", "127.0.0.1")
    ]


async def test_a_wrong_key_that_is_shown_to_the_page_or_a_socket_is_noted_once(client, boss, database):
    assert (await client.get("/monitor/audit", headers=by("gno_x"))).status == 401
    assert (await client.get("/ws/events", headers=by("gno_x"))).status == 401
    assert [entry[:2] for entry in await noted(database)] == [("nobody", "show_key")]


async def test_admins_read_the_audit_by_rest_page_by_page_and_narrowed(client, boss, database):
    audit = client.app[keys.AUDIT]
    for number in range(7):
        caller = Caller("ann" if number % 2 else "bob", Role.OPERATOR, "ann", 1)
        address = f"10.0.0.{number % 3}"
        await audit.note(caller, "cancel", f"job {number}", "cancelled", address=address, request_id=f"r{number}", n=1)
    seen: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await client.get(AUDIT, params={"limit": 3} | cursor, headers=boss)
        page = await answer.json()
        seen += page["items"]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert [entry["target"] for entry in seen] == [f"job {number}" for number in range(6, -1, -1)]
    rest = {"actor": "bob", "role": "operator", "action": "cancel", "outcome": "cancelled", "data": {"n": 1}}
    assert seen[0].items() >= (rest | {"address": "10.0.0.0", "request_id": "r6"}).items()

    async def found(**query: str) -> list[str]:
        page = await (await client.get(AUDIT, params=query, headers=boss)).json()
        return [entry["target"].removeprefix("job ") for entry in page["items"]]

    assert await found(actor="ann") == ["5", "3", "1"]
    assert await found(target="job 4") == ["4"]
    assert await found(action="retry") == []
    assert await found(address="10.0.0.2", actor="ann") == ["5"]
    async with database.transaction() as session:
        await session.execute(text("UPDATE audit_log SET at = '2026-01-01' WHERE target IN ('job 0', 'job 1')"))
    assert await found(before="2026-01-01T00:00:01Z") == ["1", "0"]
    assert await found(before="2026-01-01T00:00:00Z") == []
    assert await found(after="2026-01-01T00:00:00Z", before="2026-01-01T00:00:01Z") == ["1", "0"]
    assert await found(after="2026-01-01T00:00:01Z", actor="bob") == ["6", "4", "2"]
    for query in ("nonsense=1", "before=yesterday", "after=x", "sent_jobs=perhaps", "cursor=x", "limit=1001"):
        assert (await client.get(f"{AUDIT}?{query}", headers=boss)).status == 422
    for role in (Role.USER, Role.VIEWER, Role.OPERATOR):
        other = by(await client.app[keys.KEYS].add(f"a {role}", role))
        assert (await client.get(AUDIT, headers=other)).status == 403


async def test_the_page_shows_from_where_and_which_request_and_is_narrowed_by_it(client, life):
    job_id = await life.submit()
    await client.app[keys.AUDIT].note(
        Caller("ann", Role.OPERATOR, "ann", 1), "cancel", "job 7", "x", address="10.9.9.9"
    )
    await client.post(f"{JOBS}/{job_id}/cancel", headers={"X-Request-Id": "my-request"})
    page = await read(client, "/monitor/audit")
    assert "my-request" in page.text
    (link,) = [each["href"] for each in page.all("a") if each.get("href", "").endswith("address=10.9.9.9")]
    narrowed = await read(client, link)
    assert [each["id"] for each in narrowed.all("tr") if "id" in each] == ["entry-1"]
    assert "my-request" not in narrowed.text
    (field,) = narrowed.all("input", name="address")
    assert field["value"] == "10.9.9.9"


@pytest.mark.parametrize("plan", ["as chosen", "by nested loops"])
async def test_old_entries_are_deleted_in_bounded_steps(
    client: Any, settings: Settings, database: Database, plain: asyncpg.Connection, monkeypatch: Any, plan: str
) -> None:
    if plan == "by nested loops":
        join_by_nested_loops(database)
    monkeypatch.setattr(audit_store, "MOST_DELETED", 4)
    monkeypatch.setattr(audit_store, "_DELETED_AT_ONCE", 2)
    for number in range(9):
        await client.app[keys.AUDIT].note(Caller("ann", Role.ADMIN, "ann", 1), "cancel", f"job {number}", "done")
    await plain.execute("UPDATE audit_log SET at = now() - interval '401 days' WHERE id <= 5")
    await plain.execute("UPDATE audit_log SET at = now() - interval '399 days' WHERE id = 6")
    sweeper = sweeper_of(database, settings)
    assert (await sweeper.sweep()).endswith("and 4 old entries of the audit")
    assert (await sweeper.sweep()).endswith("and 1 old entries of the audit")
    assert await noted(database, "target") == [(f"job {number}",) for number in range(5, 9)]
    kept = settings.model_copy(update={"keep_audit_days": 398})
    assert (await sweeper_of(database, kept).sweep()).endswith("and 1 old entries of the audit")


async def test_two_sweeps_at_once_do_not_wait_for_each_other(client, database, settings, plain):
    await client.app[keys.AUDIT].note(Caller("ann", Role.ADMIN, "ann", 1), "cancel", "job 1", "done")
    await plain.execute("UPDATE audit_log SET at = now() - interval '401 days'")
    async with plain.transaction():
        await plain.execute("SELECT * FROM audit_log FOR UPDATE")
        async with asyncio.timeout(30):
            assert (await sweeper_of(database, settings).sweep()).endswith("and 0 old entries of the audit")
