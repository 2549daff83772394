"""What fell between PostgreSQL, Redis, backends and the store, put right by one at a time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from samples import new_job
from sqlalchemy import func, insert, select, text, true

from app.domain.errors import DatabaseUnavailable, QueueUnavailable
from app.domain.failure_policy import Backoff
from app.domain.job import Phase, task_id
from app.messaging.events import Events
from app.messaging.queue import JobQueue
from app.messaging.redis_connection import close, make_redis
from app.messaging.registry import Registry
from app.metrics import JOBS_FINISHED
from app.storage.attempts import AttemptStore, Claim
from app.storage.database import Database, make_engine
from app.storage.files import FileStore
from app.storage.job_views import SOON, JobViews
from app.storage.schema import JobRow
from worker.attempts.attempt_metrics import AttemptMetrics
from worker.upkeep import reconciler as reconciler_module
from worker.upkeep.reconciler import ABANDONED_LEASES, BATCH, Reconciler

if TYPE_CHECKING:
    from arq.connections import ArqRedis

    from app.domain.job import Job
    from app.messaging.channels import Names
    from app.settings import Settings

BACKOFF = Backoff(base_s=30, cap_s=600)
LEASE_S = 10.0


@pytest.fixture
def store(database: Database) -> AttemptStore:
    return AttemptStore(database)


@pytest.fixture
def queue(redis: ArqRedis, names: Names) -> JobQueue:
    return JobQueue(redis, names)


@pytest.fixture
def registry(redis: ArqRedis, names: Names) -> Registry:
    return Registry(redis, names, stale_s=30)


def reconciler_of(
    database: Database, redis: ArqRedis, names: Names, files: FileStore, metrics: AttemptMetrics | None = None
) -> Reconciler:
    return Reconciler(
        database,
        AttemptStore(database),
        JobViews(database),
        JobQueue(redis, names),
        Events(redis, names),
        Registry(redis, names, stale_s=30),
        backoff=BACKOFF,
        metrics=metrics or AttemptMetrics(),
        lease_s=LEASE_S,
    )


@pytest.fixture
def files(settings: Settings) -> FileStore:
    return FileStore(settings.storage_path)


@pytest.fixture
def metrics() -> AttemptMetrics:
    return AttemptMetrics()


@pytest.fixture
def reconciler(
    database: Database, redis: ArqRedis, names: Names, files: FileStore, metrics: AttemptMetrics
) -> Reconciler:
    return reconciler_of(database, redis, names, files, metrics)


async def accepted(store: AttemptStore, queue: JobQueue, **changes: Any) -> Job:
    job = await store.create(new_job(**changes))
    assert job is not None
    await queue.enqueue(job.job_id, job.attempt, job.available_at)
    return job


async def sql(database: Database, statement: str, **values: Any) -> None:
    async with database.transaction() as session:
        await session.execute(text(statement), values)


# Turns that were lost.


async def test_after_redis_was_emptied_each_waiting_job_has_its_turn_again_at_its_time(
    store: AttemptStore, queue: JobQueue, redis: ArqRedis, names: Names, reconciler: Reconciler
) -> None:
    soon = datetime.now(UTC) + SOON / 2
    now, later = await accepted(store, queue), await accepted(store, queue, not_before=soon)
    cancelled, running = await accepted(store, queue), await accepted(store, queue, priority=9)
    await store.cancel(cancelled.job_id, None, "x")
    assert (await store.claim("w", "b", "p", 60)).job_id == running.job_id  # type: ignore[union-attr]
    await redis.flushdb()
    assert await reconciler.run() == "enqueued 2 waiting jobs again"
    scores = dict(await redis.zrange(names.queue, 0, -1, withscores=True))
    assert set(scores) == {now.task_id.encode(), later.task_id.encode()}
    assert scores[later.task_id.encode()] == pytest.approx(soon.timestamp() * 1000, abs=1)
    assert await reconciler.run() == "nothing to do"


async def test_a_renewed_turn_stands_in_the_jobs_history_and_an_ordinary_one_does_not(
    store: AttemptStore, queue: JobQueue, reconciler: Reconciler, database: Database
) -> None:
    had = await accepted(store, queue)
    lost = await store.create(new_job())
    assert lost is not None
    await reconciler.run()
    views = JobViews(database)
    assert [event.event for event in await views.events(had.job_id)] == ["submitted"]
    assert [(event.seq, event.event, event.actor) for event in await views.events(lost.job_id)] == [
        (1, "submitted", "someone"),
        (2, "turn_renewed", "reconciler"),
    ]
    assert (await store.get(lost.job_id)).phase is Phase.QUEUED


async def test_jobs_put_off_for_long_are_not_in_the_way_of_those_that_are_due(
    store: AttemptStore, queue: JobQueue, database: Database, reconciler: Reconciler
) -> None:
    await store.create(new_job(priority=100, not_before=datetime.now(UTC) + SOON + timedelta(hours=1)))
    columns = [column for column in JobRow.__table__.columns if column.name != "id"]
    copies = select(*columns).join(func.generate_series(1, BATCH).alias(), true())
    async with database.transaction() as session:
        await session.execute(insert(JobRow).from_select([column.name for column in columns], copies))
    due = await store.create(new_job())
    assert due is not None
    await reconciler.run()
    assert await queue.missing([due.task_id]) == []


async def test_of_many_reconcilers_at_once_one_works(
    store: AttemptStore, database: Database, redis: ArqRedis, names: Names, files: FileStore, queue: JobQueue
) -> None:
    jobs = [await store.create(new_job()) for _ in range(5)]
    async with database.transaction() as session:
        await session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": reconciler_module.TURNS_LOCK})
        assert await reconciler_of(database, redis, names, files).run() == "another worker sees to the turns"
    results = await asyncio.gather(*(reconciler_of(database, redis, names, files).run() for _ in range(6)))
    assert set(results) <= {"another worker sees to the turns", "nothing to do", "enqueued 5 waiting jobs again"}
    assert results.count("enqueued 5 waiting jobs again") == 1
    assert await queue.missing([task_id(job.job_id, 1) for job in jobs if job]) == []


async def test_one_connection_to_the_database_is_enough(
    settings: Settings, redis: ArqRedis, names: Names, files: FileStore
) -> None:
    engine = make_engine(settings.model_copy(update={"database_pool_size": 1, "database_timeout_seconds": 2}))
    narrow = Database(engine)
    await AttemptStore(narrow).create(new_job())
    assert await reconciler_of(narrow, redis, names, files).run() == "enqueued 1 waiting jobs again"
    await engine.dispose()


# Jobs whose worker and backend are gone.


async def abandoned(store: AttemptStore, database: Database, backend: str = "gone", **changes: Any) -> Claim:
    """Return the claim of a job that nobody looks after, for longer than any take-over takes."""
    assert await store.create(new_job(**changes)) is not None
    job = await store.claim("dead", backend, "p", 60)
    assert job is not None
    await sql(
        database,
        "UPDATE generation_jobs SET lease_expires_at = now() - make_interval(secs => :ago) WHERE id = :id",
        ago=LEASE_S * ABANDONED_LEASES + 1,
        id=job.job_id,
    )
    return Claim(job.job_id, job.attempt, "dead")


async def test_a_job_of_a_lost_backend_gets_another_attempt_with_its_turn(
    store: AttemptStore, database: Database, queue: JobQueue, reconciler: Reconciler
) -> None:
    claim = await abandoned(store, database)
    assert await reconciler.run() == "moved 1 jobs off lost backends"
    job = await store.get(claim.job_id)
    assert (job.phase, job.attempt, job.error_code) == (Phase.RETRYING, 2, "backend_lost")
    assert await queue.missing([job.task_id]) == []
    waits_s = (job.available_at - job.updated_at).total_seconds()
    assert BACKOFF.base_s * 0.8 - 0.01 <= waits_s <= BACKOFF.base_s * 1.2 + 0.01
    assert await reconciler.run() == "nothing to do"


async def test_after_the_last_attempt_it_fails_and_is_counted(
    store: AttemptStore, database: Database, reconciler: Reconciler, metrics: AttemptMetrics
) -> None:
    claim = await abandoned(store, database, max_attempts=1)
    await reconciler.run()
    job = await store.get(claim.job_id)
    assert (job.phase, job.error_code) == (Phase.FAILED, "backend_lost")
    assert metrics.tally.take() == {f"{JOBS_FINISHED.name}|failed|total": 1}


@pytest.mark.parametrize("why", ["backend is there", "lease just ended", "to be cancelled"])
async def test_what_somebody_can_still_take_over_is_left(
    store: AttemptStore, database: Database, registry: Registry, reconciler: Reconciler, why: str
) -> None:
    claim = await abandoned(store, database)
    if why == "backend is there":
        await registry.beat("w", {}, {"gone": {"healthy": True}})
    elif why == "lease just ended":
        await store.release(claim)
    else:
        await store.cancel(claim.job_id, None, "x")
    before = await store.get(claim.job_id)
    assert await reconciler.run() == "nothing to do"
    assert await store.get(claim.job_id) == before


# Outages.


async def test_while_a_server_is_away_it_says_so_and_nothing_is_half_done(
    settings: Settings, database: Database, store: AttemptStore, redis: ArqRedis, names: Names, files: FileStore
) -> None:
    assert await store.create(new_job()) is not None
    away = settings.model_copy(
        update={
            "redis_url": SecretStr("redis://127.0.0.1:1"),
            "database_url": SecretStr("postgresql://postgres@127.0.0.1:1/nothing"),
        }
    )
    no_redis, no_engine = make_redis(away, patient=False), make_engine(away)
    with pytest.raises(QueueUnavailable):
        await reconciler_of(database, no_redis, names, files).run()
    with pytest.raises(DatabaseUnavailable):
        await reconciler_of(Database(no_engine), redis, names, files).run()
    await close(no_redis)
    await no_engine.dispose()
    assert await reconciler_of(database, redis, names, files).run() == "enqueued 1 waiting jobs again"
