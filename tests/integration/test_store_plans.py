"""A million rows must not be felt: the statements of every day go by an index, whatever plan PostgreSQL caches."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from sqlalchemy import event, text

from app.domain.job import JobStatus
from app.storage.attempts import AttemptStore, Claim
from app.storage.job_views import JobFilter, JobViews

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from app.settings import Settings
    from app.storage.database import Database

FILL = """
INSERT INTO generation_jobs (user_id, job_type, prompt, negative_prompt, checkpoint_model, lora_models, width, height,
    batch_size, sampler_params, priority, max_attempts, timeout_seconds, metadata, params, warnings, status, phase, seq,
    attempt, attempt_limit, progress, refused_by, backend_name, worker_id, lease_expires_at, created_at, updated_at,
    completed_at)
SELECT 'user' || n % 200, 'image', 'prompt ' || n, '', 'model' || n % 50, '[]', 64, 64, 1, '{}', n % 3, 4, 900, '{}',
    '{}', '{}', status, CASE status WHEN 'pending' THEN 'queued' WHEN 'running' THEN 'executing' ELSE status END, 1, 1,
    4, 0, '{}', 'b' || n % 30, CASE status WHEN 'running' THEN 'w1' END,
    CASE status WHEN 'running' THEN now() + interval '1 hour' END, now() - make_interval(secs => 20000 - n),
    now() - make_interval(secs => 20000 - n), CASE WHEN status IN ('completed', 'failed') THEN now() END
FROM (
    SELECT n, CASE WHEN n % 10 = 0 THEN 'pending' WHEN n % 1000 = 1 THEN 'running' WHEN n % 50 = 2 THEN 'failed'
        ELSE 'completed' END AS status
    FROM generate_series(1, 20000) AS n
) AS jobs
"""


@pytest.fixture
async def full(database: Database) -> Database:
    """20,000 jobs, of which 2,000 wait."""
    async with database.transaction() as session:
        await session.execute(text(FILL))
        await session.execute(text("ANALYZE generation_jobs"))
    return database


@pytest.fixture
async def plain(settings: Settings, full: Database) -> AsyncIterator[asyncpg.Connection]:
    """A connection that explains."""
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    yield connection
    await connection.close()


@contextmanager
def recorded(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """Record statements with their parameters, as they go to the driver."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    yield seen
    event.remove(database.engine.sync_engine, "before_cursor_execute", note)


async def cached_plan(connection: asyncpg.Connection, statement: str) -> str:
    """Return the generic plan: the one for parameters that are not known yet."""
    async with connection.transaction():
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE explained AS {statement}")
        known = "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'explained'"
        count = await connection.fetchval(known)
        nulls = f"({', '.join(['NULL'] * count)})" if count else ""
        rows = await connection.fetch(f"EXPLAIN EXECUTE explained{nulls}")
        await connection.execute("DEALLOCATE explained")
    return "\n".join(row[0] for row in rows)


async def test_a_claim_reads_the_queue_by_its_index(full: Database, plain: asyncpg.Connection) -> None:
    with recorded(full) as seen:
        assert await AttemptStore(full).claim("w", "b1", "p", 60) is not None
    (claim,) = (statement for statement, _ in seen if "SKIP LOCKED" in statement)
    plan = await cached_plan(plain, claim)
    assert "ix_generation_jobs_waiting" in plan
    assert "Seq Scan" not in plan, plan
    assert "Sort" not in plan, plan


async def test_the_work_of_every_second_scans_no_table(full: Database, plain: asyncpg.Connection) -> None:
    store, views = AttemptStore(full), JobViews(full)
    with recorded(full) as seen:
        job = await store.claim("w1", "b1", "p", 60)
        assert job is not None
        claim = Claim(job.job_id, job.attempt, "w1")
        await store.renew_leases("w1", {claim: 5}, 60)
        await store.take_over("w2", ["b1"], 60, 10)
        await store.executing(claim)
        await store.cancel(job.job_id, None, "x")
        await store.abandoned(60, 10)
        await views.view(job.job_id)
        await views.snapshots([job.job_id])
        waiting = await views.view(30)
        assert waiting.position
        async with full.transaction() as session:
            assert len(await views.waiting_turns(session, 100)) == 100
    statements = {statement for statement, _ in seen if "generation_jobs" in statement and "INSERT" not in statement}
    assert len(statements) >= 9
    for statement in statements:
        plan = await cached_plan(plain, statement)
        assert "Seq Scan on generation_jobs" not in plan, f"{statement}\n{plan}"


async def test_a_page_of_a_list_is_read_by_an_index(full: Database, plain: asyncpg.Connection) -> None:
    views = JobViews(full)
    filters = [
        JobFilter(),
        JobFilter(user_id="user7"),
        JobFilter(status=[JobStatus.FAILED]),
        JobFilter(backend="b3"),
        JobFilter(checkpoint_model="model9"),
        JobFilter(user_id="user7", status=[JobStatus.COMPLETED]),
    ]
    with recorded(full) as seen:
        for chosen in filters:
            for sort in ("-created_at", "created_at", "-updated_at", "updated_at"):
                page = await views.page(chosen, sort, 50, cursor=None, skip=0)
                await views.page(chosen, sort, 50, cursor=page.next_cursor, skip=0)
    pages = [(statement, values) for statement, values in seen if "LIMIT" in statement]
    assert len(pages) == 8 * len(filters)
    for statement, values in pages:
        plan = "\n".join(row[0] for row in await plain.fetch(f"EXPLAIN {statement}", *values))
        assert "Seq Scan" not in plan, f"{statement}\n{plan}"
