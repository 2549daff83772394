"""Jobs that are sent by REST are in the audit too: their first events tell of them, for as long as entries are kept."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from integration.monitor_fixtures import read
from plans import plan, recorded
from samples import new_job
from sqlalchemy import text
from sweeping import sweeper_of

from app import keys
from app.domain.access import Caller, Role
from app.domain.limits import UNLIMITED, Limits
from app.storage import audit as audit_store
from app.storage.audit import Audit, Chosen, Entry
from app.storage.jobs import JobStore
from harness import SMALL_BODY

if TYPE_CHECKING:
    import asyncpg

    from app.settings import Settings
    from app.storage.database import Database

JOBS = "/api/v1/generation-jobs"
AUDIT = "/api/v1/audit"
ANN = Caller("ann", Role.ADMIN, "ann", 1)


@pytest.fixture
async def boss(client: Any) -> dict[str, str]:
    """An admin's key, as a header."""
    return {"Authorization": f"Bearer {await client.app[keys.KEYS].add('boss', Role.ADMIN)}"}


async def send(client: Any, headers: dict[str, str], **changes: Any) -> int:
    """Send a job that waits, because there is no worker."""
    answer = await client.post(f"{JOBS}/", json=SMALL_BODY | changes, headers=headers)
    assert answer.status == 201, await answer.text()
    return int((await answer.json())["job_id"])


async def listed(client: Any, headers: dict[str, str], **query: str) -> list[dict[str, Any]]:
    answer = await client.get(AUDIT, params=query, headers=headers)
    assert answer.status == 200, await answer.text()
    items: list[dict[str, Any]] = (await answer.json())["items"]
    return items


def sent_by(actor: str, address: str = "10.1.1.1") -> dict[str, str | None]:
    return {"actor": actor, "role": "user", "address": address, "request_id": f"of-{actor}"}


async def test_who_sent_a_job_from_where_is_listed_with_what_was_done_to_it(client, boss):
    job_id = await send(client, boss | {"X-Request-Id": "my-request"}, user_id="ann")
    await client.post(f"{JOBS}/{job_id}/cancel", headers=boss)
    cancelled, sent = await listed(client, boss)
    assert (cancelled["action"], cancelled["target"]) == ("cancel", f"job {job_id}")
    assert sent.pop("timestamp") < cancelled["timestamp"]
    assert sent == {
        "entry_id": None,
        "actor": "boss",
        "role": "admin",
        "action": "send",
        "target": f"job {job_id}",
        "outcome": "accepted",
        "address": "127.0.0.1",
        "request_id": "my-request",
        "data": {"user_id": "ann"},
    }


async def test_without_keys_it_is_the_api_that_sent_it(client):
    job_id = await send(client, {})
    assert [(each["actor"], each["target"]) for each in await listed(client, {})] == [("api", f"job {job_id}")]


async def test_what_is_sent_twice_or_refused_is_listed_once_or_not(client, boss):
    for _ in range(2):
        await send(client, boss | {"Idempotency-Key": "once"})
    assert (await client.post(f"{JOBS}/", json=SMALL_BODY | {"width": 1}, headers=boss)).status == 422
    assert len(await listed(client, boss)) == 1


async def test_each_filter_finds_sent_jobs_and_one_leaves_them_out(client, boss, database):
    store = JobStore(database)
    for actor, address in (("ann", "10.1.1.1"), ("ben", "10.1.1.1"), ("ann", "10.2.2.2")):
        await store.create(new_job(sent=sent_by(actor, address)))
    await client.app[keys.AUDIT].note(ANN, "cancel", "job 1", "cancelled", address="10.1.1.1")
    # One that the page has sent has an entry of its own.
    await store.create(new_job())
    async with database.transaction() as session:
        await session.execute(text("UPDATE job_events SET at = '2026-01-01T00:00:00Z' WHERE job_id = 2"))

    async def found(**query: str) -> list[str]:
        return [f"{each['action']} {each['target']}" for each in await listed(client, boss, **query)]

    assert await found() == ["cancel job 1", "send job 3", "send job 1", "send job 2"]
    assert await found(sent_jobs="false") == ["cancel job 1"]
    assert await found(action="send") == ["send job 3", "send job 1", "send job 2"]
    assert await found(action="cancel") == ["cancel job 1"]
    assert await found(actor="ann") == ["cancel job 1", "send job 3", "send job 1"]
    assert await found(actor="ann", action="send", address="10.2.2.2") == ["send job 3"]
    assert await found(address="10.1.1.1") == ["cancel job 1", "send job 1", "send job 2"]
    assert await found(target="job 1") == ["cancel job 1", "send job 1"]
    for nothing in ("job 01", "job 999", "job " + "9" * 400, "backend 1", "job 1 "):
        assert await found(target=nothing) == []
    assert await found(before="2026-01-02T00:00:00Z") == ["send job 2"]
    assert await found(after="2026-01-02T00:00:00Z", action="send") == ["send job 3", "send job 1"]


async def test_pages_of_both_kinds_leave_out_none_and_show_none_twice(database, plain):
    audit, store, moment = Audit(database), JobStore(database), datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(9):
        await audit.note(ANN, "cancel", f"job {number}", "x")
        await store.create(new_job(sent=sent_by("ann")))
    # Three moments, in each of which several things happened.
    for table in ("audit_log", "job_events"):
        await plain.execute(f"UPDATE {table} SET at = $1::timestamptz + (id % 3) * interval '1 s'", moment)  # noqa: S608
    everything = (await audit.page(limit=100)).entries
    assert len(everything) == 18
    assert [entry.place for entry in everything] == sorted((entry.place for entry in everything), reverse=True)
    for size in (1, 2, 4, 5):
        down: list[Entry] = []
        page = await audit.page(limit=size)
        assert not page.newer
        while True:
            down += page.entries
            if not page.older:
                break
            page = await audit.page(before=page.entries[-1].place, limit=size)
            assert page.newer
        assert down == everything
        up = page.entries
        while page.newer:
            page = await audit.page(after=page.entries[0].place, limit=size)
            up = page.entries + up
        assert up == everything


async def test_the_page_shows_them_and_turns_and_leaves_them_out(client, life, database):
    job_id = await send(client, {"X-Request-Id": "my-request"})
    audit = client.app[keys.AUDIT]
    for number in range(50):
        await audit.note(ANN, "cancel", f"job {number + 100}", "x")
    first = await read(client, "/monitor/audit")
    assert "my-request" not in first.text
    (older,) = [each["href"] for each in first.all("a") if "older=" in each.get("href", "")]
    second = await read(client, older)
    assert "my-request" in second.text
    assert [each["id"] for each in second.all("tr") if "id" in each] == ["sent-1"]
    assert any(each.get("href") == f"/monitor/jobs/{job_id}" for each in second.all("a"))
    (newer,) = [each["href"] for each in second.all("a") if "newer=" in each.get("href", "")]
    again = await read(client, newer)
    assert len([each for each in again.all("tr") if each.get("id", "").startswith("entry-")]) == 50
    without = await read(client, "/monitor/audit?sent=no&from=2026-01-01T00:00:00&action=send")
    assert "my-request" not in without.text
    assert [each["value"] for each in without.all("input", name="from")] == ["2026-01-01T00:00:00"]
    assert "checked" in without.all("input", name="sent")[0]
    assert "my-request" in (await read(client, "/monitor/audit?from=2026-01-01T00:00:00&action=send")).text
    assert "my-request" not in (await read(client, "/monitor/audit?to=2026-01-01T00:00:00")).text


async def test_whose_the_job_is_does_not_see_from_where_another_has_sent_it(client, boss):
    job_id = await send(client, boss, user_id="ann")
    ann = {"Authorization": f"Bearer {await client.app[keys.KEYS].add('ann', Role.USER)}"}
    told = await client.get(f"{JOBS}/{job_id}/events", headers=ann)
    assert [(each["event"], each["actor"], each["data"]) for each in (await told.json())["items"]] == [
        ("submitted", "ann", {})
    ]
    page = await (await client.get(f"/monitor/jobs/{job_id}", headers=ann)).text()
    assert "127.0.0.1" not in page.replace(str(client.make_url("/")), "")


async def test_of_jobs_accepted_together_each_has_its_own_sender(database):
    limits = Limits(waiting=1)
    asked = [
        *(
            (new_job(user_id="ann", sent=sent_by("ann-1")), limits),
            (new_job(user_id="ann", sent=sent_by("ann-2")), limits),
        ),
        *((new_job(user_id="ben", sent=sent_by("ben")), limits), (new_job(user_id="cay"), UNLIMITED)),
        (new_job(user_id="dan", sent=sent_by("dan")), UNLIMITED),
    ]
    await JobStore(database).create_limited(asked)
    await JobStore(database).create_all([new_job(user_id="eva", sent=sent_by("eva")), new_job(user_id="fay")])
    entries = (await Audit(database).page()).entries
    assert [(entry.actor, entry.data["user_id"]) for entry in entries] == [
        *(("eva", "eva"), ("dan", "dan"), ("ben", "ben"), ("ann-1", "ann"))
    ]


async def test_a_deleted_job_leaves_behind_who_had_sent_it(client, boss):
    job_id = await send(client, boss | {"X-Request-Id": "my-request"}, user_id="ann")
    (before,) = await listed(client, boss)
    assert (await client.delete(f"{JOBS}/{job_id}", headers=boss)).status == 409
    await client.post(f"{JOBS}/{job_id}/cancel", headers=boss)
    assert (await client.delete(f"{JOBS}/{job_id}", headers=boss)).status == 204
    kept = [each for each in await listed(client, boss) if each["action"] == "send"]
    assert len(kept) == 1
    assert kept[0].pop("entry_id") > 0
    assert kept[0] == {name: value for name, value in before.items() if name != "entry_id"}
    assert [each["action"] for each in await listed(client, boss, target=f"job {job_id}")] == [
        *("delete", "cancel", "delete", "send")
    ]


async def test_who_sent_a_job_is_forgotten_as_an_entry_of_its_age_would_be(
    client: Any, settings: Settings, database: Database, plain: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_store, "MOST_DELETED", 4)
    monkeypatch.setattr(audit_store, "_DELETED_AT_ONCE", 2)
    for _ in range(9):
        await send(client, {})
    await plain.execute("UPDATE job_events SET at = now() - interval '401 days' WHERE job_id <= 5")
    await plain.execute("UPDATE job_events SET at = now() - interval '399 days' WHERE job_id = 6")
    sweeper = sweeper_of(database, settings)
    assert (await sweeper.sweep()).endswith("and 4 old entries of the audit")
    assert (await sweeper.sweep()).endswith("and 1 old entries of the audit")
    assert {each["target"] for each in await listed(client, {})} == {f"job {number}" for number in range(6, 10)}
    left = await plain.fetch("SELECT data::text, count(*) FROM job_events WHERE job_id <= 5 GROUP BY 1")
    assert [tuple(row) for row in left] == [("{}", 5)]
    async with plain.transaction():
        await plain.execute("SELECT * FROM job_events FOR UPDATE")
        async with asyncio.timeout(30):
            kept = settings.model_copy(update={"keep_audit_days": 398})
            assert (await sweeper_of(database, kept).sweep()).endswith("and 0 old entries of the audit")


BY: dict[str, Chosen] = {
    "at_id": Chosen(),
    "actor_at_id": Chosen(actor="ann"),
    "address_at_id": Chosen(address="10.0.0.1"),
    "target_at_id": Chosen(target="job 7"),
    "action_at_id": Chosen(action="send"),
}


@pytest.mark.parametrize("index", BY)
async def test_a_filter_of_the_audit_finds_its_pages_by_its_own_index(
    database: Database, plain: asyncpg.Connection, index: str
) -> None:
    await plain.execute("""
        SET session_replication_role = replica;
        INSERT INTO audit_log (at, actor, role, action, target, outcome, address, data)
        SELECT now() - n * interval '1 min', 'a' || n % 50, 'user', 'c' || n % 50, 'job ' || n, 'x',
            '10.0.0.' || n % 50, '{}' FROM generate_series(1, 5000) AS n;
        INSERT INTO job_events (job_id, seq, at, event, phase, attempt, actor, data)
        SELECT n, 1, now() - n * interval '1 min', 'submitted', 'queued', 1, 'u', jsonb_build_object('sent',
            jsonb_build_object('actor', 'a' || n % 50, 'role', 'user', 'address', '10.0.0.' || n % 50,
            'request_id', NULL)) FROM generate_series(1, 5000) AS n;
        ANALYZE audit_log, job_events""")
    audit = Audit(database)
    async with recorded(database) as seen:
        page = await audit.page(BY[index], limit=5)
        later = datetime.now(UTC) + timedelta(hours=1)
        await audit.page(BY[index], before=audit_store.Place(later, of_job=False, id=1), limit=5)
    assert len(page.entries) <= 5
    assert len(seen) == 4
    for statement in seen:
        told = await plan(plain, statement)
        assert "Seq Scan" not in told, told
        of_jobs = "job_events" in statement[0]
        special = {"target_at_id": "uq_job_events_job_id_seq", "action_at_id": "ix_job_events_sent_at_id"}
        wanted = special.get(index, f"ix_job_events_sent_{index}") if of_jobs else f"ix_audit_log_{index}"
        assert wanted in told, told
