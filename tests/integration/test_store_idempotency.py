"""A request with an idempotency key is carried out once, in the very transaction that accepts its job."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from samples import new_job
from sqlalchemy import text

from app.domain.errors import IdempotencyKeyReused
from app.storage.idempotency import Once
from app.storage.jobs import JobStore

if TYPE_CHECKING:
    from app.storage.database import Database


def once(key: str = "k", fingerprint: str = "f", user_id: str = "someone") -> Once:
    return Once(user_id, key, fingerprint, lambda job: f"job {job.job_id}")


async def count(database: Database) -> int:
    async with database.transaction() as session:
        return int(await session.scalar(text("SELECT count(*) FROM generation_jobs")) or 0)


async def test_a_repetition_gets_the_first_answer(database: Database) -> None:
    store = JobStore(database)
    assert await store.replay(once()) is None
    job = await store.create(new_job(), once())
    assert job is not None
    assert await store.create(new_job(), once()) is None
    assert await store.replay(once()) == f"job {job.job_id}"
    assert await count(database) == 1


async def test_keys_of_different_users_do_not_meet(database: Database) -> None:
    store = JobStore(database)
    assert await store.create(new_job(), once()) is not None
    assert await store.create(new_job(), once(user_id="other")) is not None


async def test_another_body_under_the_same_key_is_refused(database: Database) -> None:
    store = JobStore(database)
    await store.create(new_job(), once())
    with pytest.raises(IdempotencyKeyReused):
        await store.replay(once(fingerprint="another"))


async def test_of_many_at_once_one_is_carried_out(database: Database) -> None:
    store = JobStore(database)
    made: list[Any] = await asyncio.gather(*(store.create(new_job(), once()) for _ in range(9)))
    assert sum(job is not None for job in made) == 1
    assert await count(database) == 1


async def test_what_was_not_accepted_after_all_can_be_asked_for_again(database: Database) -> None:
    store = JobStore(database)
    job = await store.create(new_job(), once())
    assert job is not None
    assert await store.withdraw_unaccepted([job.job_id])
    assert await store.replay(once()) is None
    assert await store.create(new_job(), once()) is not None


async def test_a_key_is_good_for_another_request_after_a_day_and_outlives_its_job(database: Database) -> None:
    store = JobStore(database)
    job = await store.create(new_job(), once())
    assert job is not None
    await store.cancel(job.job_id, None, "x")
    await store.delete(job.job_id)
    assert await store.replay(once()) == f"job {job.job_id}"
    async with database.transaction() as session:
        await session.execute(text("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'"))
    assert await store.replay(once()) is None
    assert await store.create(new_job(), once()) is not None


async def test_if_the_job_is_not_kept_neither_is_the_key(database: Database) -> None:
    def broken(_job: Any) -> str:
        raise RuntimeError("bug")

    store = JobStore(database)
    with pytest.raises(RuntimeError):
        await store.create(new_job(), Once("someone", "k", "f", broken))
    assert await count(database) == 0
    assert await store.create(new_job(), once()) is not None
