"""How many jobs of an owner run at a time: the claim leaves out those of owners who have as many as they may."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from plans import plan, recorded
from samples import new_job, text_to_image
from sqlalchemy import text

from app import keys
from app.domain.access import Role
from app.domain.errors import StorageFailed
from app.domain.limits import Limits
from app.storage.attempts import AttemptStore, Claim
from app.storage.keys import KeyStore
from app.storage.schema import JobRow
from harness import eventually

if TYPE_CHECKING:
    import asyncpg

    from app.domain.job import Job
    from app.storage.database import Database

_SUSPECT = text("UPDATE generation_jobs SET suspicions = 1, backend_name = 'b' WHERE id = :id")
_COPIED = ", ".join(column.name for column in JobRow.__table__.columns if column.name != "id")
_MANY = f"""
    INSERT INTO generation_jobs ({_COPIED})
    SELECT {_COPIED} FROM (SELECT * FROM generation_jobs WHERE status = 'pending' LIMIT 1) AS one,
        generate_series(1, 40000)"""  # noqa: S608
_STATUSES = text("SELECT status FROM generation_jobs")
_FAILURE = StorageFailed("The disk is full.")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.storage.attempts.LIMITS_S", -1.0)


class Fleet:
    """Jobs that are sent and claimed."""

    def __init__(self, database: Database, **of_roles: int) -> None:
        self.keys = KeyStore(database)
        limits = {Role(role): Limits(running=running) for role, running in of_roles.items()}
        self.store = AttemptStore(database, limits=limits)

    async def send(self, *owners: str, **changes: Any) -> list[int]:
        """Send a job of each of these owners, one after the other, and return their ids."""
        return [
            job.job_id for job in await self.store.create_all([new_job(user_id=each, **changes) for each in owners])
        ]

    async def claim(self, worker: str = "w") -> Job | None:
        return await self.store.claim(worker, "b", "p", 60)

    async def claimed(self, most: int) -> list[int]:
        """Claim up to so many jobs, and return their ids."""
        found = [job for _ in range(most) if (job := await self.claim()) is not None]
        return [job.job_id for job in found]


async def test_an_owner_has_no_more_jobs_running_than_may(database):
    fleet = Fleet(database)
    await fleet.keys.add("ann", Role.USER, limits={"running": 2})
    anns = await fleet.send("ann", "ann", "ann")
    bens = await fleet.send("ben", "ben", "ben")
    # They take turns, until one may have no more.
    assert await fleet.claimed(9) == [anns[0], bens[0], anns[1], bens[1], bens[2]]
    assert fleet.store.running_limited
    await fleet.store.fail(Claim(anns[0], 1, "w"), _FAILURE)
    assert await fleet.claimed(9) == [anns[2]]


async def test_without_a_limit_the_claim_is_the_one_that_knows_none(database):
    fleet = Fleet(database)
    await fleet.keys.add("ann", Role.USER, limits={"waiting": 2})
    sent = await fleet.send("ann", "ann")
    async with recorded(database) as seen:
        assert await fleet.claimed(9) == sent
    assert not [statement for statement, _ in seen if "owner_may_run" in statement]
    assert not fleet.store.running_limited


async def test_the_turns_of_the_others_are_by_priority_and_then_by_time(database):
    fleet = Fleet(database)
    await fleet.keys.add("ann", Role.USER, limits={"running": 1})
    (first,) = await fleet.send("ann")
    await fleet.send("ann", "ann", priority=90)
    late, early = await fleet.send("cay", priority=10), await fleet.send("ben", priority=20)
    between = await fleet.send("cay", priority=20)
    # One of ann's runs: the first by priority.
    assert (await fleet.claimed(1)) != [first]
    assert await fleet.claimed(9) == [*early, *between, *late]


async def test_a_roles_limit_holds_for_keys_that_have_none_of_their_own(database):
    fleet = Fleet(database, user=1)
    for name, limits in (("ann", {}), ("ben", {"running": 2}), ("cay", {"running": None})):
        await fleet.keys.add(name, Role.USER, limits=limits)
    await fleet.keys.add("dan", Role.OPERATOR)
    for owner, most in (("ann", 1), ("ben", 2), ("cay", 3), ("dan", 3)):
        sent = await fleet.send(owner, owner, owner)
        assert await fleet.claimed(9) == sent[:most]


async def test_of_several_keys_of_an_owner_the_most_generous_counts(database):
    fleet = Fleet(database)
    await fleet.keys.add("tight", Role.USER, owner="ann", limits={"running": 1})
    await fleet.keys.add("wide", Role.USER, owner="ann", limits={"running": 2})
    sent = await fleet.send("ann", "ann", "ann")
    assert await fleet.claimed(9) == sent[:2]
    await fleet.keys.add("free", Role.USER, owner="ann")
    assert await fleet.claimed(9) == sent[2:]


async def test_who_has_lost_all_keys_may_not_run_more_than_before(database):
    fleet = Fleet(database)
    await fleet.keys.add("wide", Role.USER, owner="ann", limits={"running": 3})
    await fleet.keys.add("tight", Role.USER, owner="ann", limits={"running": 1})
    await fleet.keys.revoke("wide")
    sent = await fleet.send("ann", "ann", "ann", "ann")
    assert await fleet.claimed(9) == sent[:1]
    await fleet.keys.revoke("tight")
    assert await fleet.claimed(9) == sent[1:3]


async def test_of_many_claims_at_once_no_more_than_may_run_succeed(database):
    fleet = Fleet(database)
    await fleet.keys.add("ann", Role.USER, limits={"running": 3})
    await fleet.send(*["ann"] * 30)
    found = await asyncio.gather(*(fleet.claim(f"w{number}") for number in range(20)))
    assert len([job for job in found if job is not None]) == 3


async def test_suspects_are_held_back_too(database):
    fleet = Fleet(database)
    await fleet.keys.add("ann", Role.USER, limits={"running": 1})
    first, second = await fleet.send("ann", "ann")
    assert await fleet.claimed(1) == [first]
    async with database.transaction() as session:
        await session.execute(_SUSPECT, {"id": second})
    assert await fleet.store.claim_suspect("w", "b", "p", 60) is None
    await fleet.store.fail(Claim(first, 1, "w"), _FAILURE)
    assert (await fleet.store.claim_suspect("w", "b", "p", 60)) is not None


@pytest.mark.slow
async def test_a_claim_passes_over_the_jobs_of_who_may_run_none_without_reading_them(
    database: Database, plain: asyncpg.Connection
) -> None:
    fleet = Fleet(database)
    await fleet.keys.add("ann", Role.USER, limits={"running": 1})
    await fleet.send("ann")
    assert len(await fleet.claimed(1)) == 1
    await fleet.send(*["ann"] * 500)
    await plain.execute(_MANY)
    await plain.execute("ANALYZE generation_jobs")
    bens = await fleet.send("ben")
    async with recorded(database) as seen:
        assert await fleet.claimed(1) == bens
    (claim,) = [statement for statement in seen if "owner_may_run" in statement[0]]
    await fleet.send("ben")
    told = await plan(plain, claim, "(ANALYZE, BUFFERS, TIMING OFF, SUMMARY OFF)")
    assert "Seq Scan on generation_jobs" not in told, told
    read = max(int(each.partition("hit=")[2].partition(" ")[0]) for each in told.splitlines() if "hit=" in each)
    assert read < 500, told


async def test_a_worker_runs_no_more_of_an_owner_than_may_and_goes_on_when_one_has_ended(
    client, start_standin, start_worker
):
    await client.app[keys.KEYS].add("boss", Role.ADMIN, limits={"running": 1})
    most = 0

    async def count() -> bool:
        nonlocal most
        async with client.app[keys.DATABASE].transaction() as session:
            rows = (await session.execute(_STATUSES)).all()
        statuses = [row[0] for row in rows]
        most = max(most, statuses.count("running"))
        return statuses.count("completed") == 4

    store = client.app[keys.SUBMITTING]
    standin = await start_standin()
    await start_worker(f"standin={standin.url}")
    for number in range(4):
        graph = text_to_image(prompt=f"house {number}")
        await store.submit(new_job(user_id="boss", job_type="workflow", prompt=None, workflow=graph), {})
    await eventually(count, timeout_s=60)
    assert most == 1
