"""What is paused, of one user or of everybody, waits: claims pass over it, and it costs them nothing."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from plans import plan, recorded
from samples import new_job
from sqlalchemy import text

from app.domain.access import Role
from app.domain.errors import StorageFailed
from app.domain.limits import Limits
from app.domain.scheduling.jobs import Choice, Reason
from app.storage.attempts import AttemptStore, By, Claim
from app.storage.job_views import JobViews
from app.storage.keys import KeyStore
from app.storage.pauses import Pauses
from app.storage.schema import JobRow
from app.storage.waiting_jobs import WaitingJobs

if TYPE_CHECKING:
    import asyncpg

    from app.storage.database import Database

_SUSPECT = text("UPDATE generation_jobs SET suspicions = 1, backend_name = 'b' WHERE id = :id")
_COPIED = ", ".join(column.name for column in JobRow.__table__.columns if column.name != "id")
_MANY = f"""
    INSERT INTO generation_jobs ({_COPIED})
    SELECT {_COPIED} FROM (SELECT * FROM generation_jobs WHERE status = 'pending' LIMIT 1) AS one,
        generate_series(1, 40000)"""  # noqa: S608
ODD = "Ünal/../%2F o'b\"rien; \\"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is paused is looked up with each claim."""
    monkeypatch.setattr("app.storage.attempts.LIMITS_S", -1.0)


@pytest.fixture
def store(database: Database) -> AttemptStore:
    return AttemptStore(database)


@pytest.fixture
def pauses(database: Database) -> Pauses:
    return Pauses(database)


async def send(store: AttemptStore, *users: str, **changes: Any) -> list[int]:
    """Send a job of each of these users, one after the other, and return their ids."""
    return [job.job_id for job in await store.create_all([new_job(user_id=each, **changes) for each in users])]


async def claimed(store: AttemptStore, most: int = 9) -> list[int]:
    """Claim up to so many jobs, and return their ids."""
    found = [job for _ in range(most) if (job := await store.claim("w", "b", "p", 60)) is not None]
    return [job.job_id for job in found]


async def test_what_is_paused_is_no_candidate_and_cannot_be_chosen(store, pauses, at_once, database):
    anns, bens = await send(store, "ann", "ann"), await send(store, "ben")
    waiting, by = WaitingJobs(database), By("w", "b", "p", 60)
    await pauses.pause("ann", None, "boss")
    for found in (await store.candidates(by, (), 32), await waiting.first(32)):
        assert [each.job_id for each in found] == bens
    chosen = Choice(anns[0], Reason.DUE, 0, (), 0.0, 0.0, 0)
    assert await store.claim_chosen(by, chosen) is None
    await pauses.pause(None, None, "boss")
    assert await store.candidates(by, (), 32) == await waiting.first(32) == []
    assert await store.claim_chosen(by, replace(chosen, job_id=bens[0])) is None
    await pauses.resume(None)
    await pauses.resume("ann")
    assert {each.job_id for each in await store.candidates(by, (), 32)} == {*anns, *bens}
    assert await store.claim_chosen(by, chosen) is not None


@pytest.mark.parametrize("paused", ["ann", ODD, "x" * 255])
async def test_a_user_that_is_paused_waits_and_the_others_go_on(store, pauses, at_once, paused):
    first, *anns = await send(store, paused, paused, paused)
    bens = await send(store, "ben", "ben")
    assert await claimed(store, 1) == [first]
    await pauses.pause(paused, "too many cats", "boss")
    assert await claimed(store) == bens
    # What runs goes on, and its next attempt waits.
    await store.saving(Claim(first, 1, "w"))
    await store.requeue(Claim(first, 1, "w"), StorageFailed("The disk is full."), 0)
    assert await claimed(store) == []
    assert (await pauses.resume(paused)).reason == "too many cats"
    assert sorted(await claimed(store)) == sorted([first, *anns])


async def test_while_everybody_is_paused_nothing_is_taken(store, pauses, at_once):
    sent = await send(store, "ann", "ben")
    await pauses.pause(None, None, "boss")
    assert await claimed(store) == []
    await pauses.pause("ann", None, "boss")
    await pauses.resume(None)
    assert await claimed(store) == sent[1:]
    await pauses.resume("ann")
    assert await claimed(store) == sent[:1]
    assert await pauses.resume("ann") is None


async def test_suspects_wait_too(store, pauses, database, at_once):
    (suspect,) = await send(store, "ann")
    async with database.transaction() as session:
        await session.execute(_SUSPECT, {"id": suspect})
    for paused in ("ann", None):
        await pauses.pause(paused, None, "boss")
        assert await store.claim_suspect("w", "b", "p", 60) is None
        await pauses.resume(paused)
    assert await store.claim_suspect("w", "b", "p", 60) is not None


async def test_what_becomes_due_waits_too(store, pauses, database, at_once):
    (later,) = await send(store, "ann")
    await pauses.pause("ann", None, "boss")
    async with database.transaction() as session:
        await session.execute(text("UPDATE generation_jobs SET fair_tag = NULL"))
    assert await claimed(store) == []
    await pauses.resume("ann")
    assert await claimed(store) == [later]


async def test_limits_hold_beside_pauses(database, pauses, at_once):
    keys, store = KeyStore(database), AttemptStore(database, limits={Role.USER: Limits(running=1)})
    for name in ("ann", "ben"):
        await keys.add(name, Role.USER)
    await send(store, "ann", "ann")
    bens = await send(store, "ben", "ben")
    await pauses.pause("ann", None, "boss")
    assert await claimed(store) == bens[:1]


async def test_the_first_pause_holds_as_soon_as_it_is_looked_for_and_each_further_one_at_once(
    store, pauses, monkeypatch
):
    await send(store, "ann", "ann", "ben", "cay")
    looked = [1000.0]
    monkeypatch.setattr("app.storage.attempts.time", SimpleNamespace(monotonic=lambda: looked[-1]))
    assert len(await claimed(store, 1)) == 1
    await pauses.pause("ann", None, "boss")
    looked.append(1001.9)
    assert len(await claimed(store, 1)) == 1, "as was known two seconds ago"
    looked.append(1002.1)
    assert store.running_limited is False
    await pauses.pause("ben", None, "boss")
    (cays,) = await claimed(store)
    assert store.running_limited
    await pauses.pause("cay", None, "boss")
    await send(store, "cay")
    assert await claimed(store) == []
    await pauses.resume("ben")
    assert cays not in await claimed(store)


async def test_with_nothing_paused_the_claim_is_the_one_that_knows_no_pauses(store, pauses, database, at_once):
    await pauses.pause("ann", None, "boss")
    await pauses.resume("ann")
    sent = await send(store, "ann", "ann")
    async with recorded(database) as seen:
        assert await claimed(store) == sent
    claims = [statement for statement, _ in seen if "SKIP LOCKED" in statement]
    assert claims
    assert not [statement for statement in claims if "pauses" in statement]


async def test_what_is_paused_is_told_with_the_jobs(store, pauses, database):
    views = JobViews(database)
    anns, bens = await send(store, "ann", "ben")
    assert (await views.view(anns)).pause is None
    said = await pauses.pause("ann", "too many cats", "boss")
    again = await pauses.pause("ann", "far too many cats", "chief")
    assert (said.since, said.by) == (again.since, "boss")
    assert (await views.view(anns)).pause == again
    assert again.words == "The jobs of this user are paused: far too many cats"
    assert (await views.view(bens)).pause is None
    everybodys = await pauses.pause(None, None, "boss")
    assert (await views.view(anns)).pause == (await views.view(bens)).pause == everybodys
    assert everybodys.words == "The queue is paused."
    assert await pauses.all() == await pauses.concerning("ann") == [everybodys, again]
    await pauses.resume(None)
    (running,) = await claimed(store, 1)
    assert (await views.view(running)).pause is None


async def test_a_claim_passes_over_a_paused_users_jobs_without_reading_them(
    store: AttemptStore, pauses: Pauses, database: Database, plain: asyncpg.Connection, at_once: None
) -> None:
    await send(store, "ann")
    await plain.execute(_MANY)
    await plain.execute("ANALYZE generation_jobs")
    bens = await send(store, "ben")
    await pauses.pause("ann", None, "boss")
    async with recorded(database) as seen:
        assert await claimed(store, 1) == bens
    await send(store, "ben")
    (claim,) = [statement for statement in seen if "owner_may_run" in statement[0]]
    await _reads_little(plain, claim)
    await pauses.pause(None, None, "boss")
    assert await claimed(store, 1) == []
    await _reads_little(plain, claim, 100)


async def _reads_little(plain: asyncpg.Connection, claim: Any, most: int = 500) -> None:
    told = await plan(plain, claim, "(ANALYZE, BUFFERS, TIMING OFF, SUMMARY OFF)")
    assert "Seq Scan on generation_jobs" not in told, told
    read = max(int(each.partition("hit=")[2].partition(" ")[0]) for each in told.splitlines() if "hit=" in each)
    assert read < most, told
