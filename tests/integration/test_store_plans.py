"""A million rows must not be felt: the statements of every day go by an index, whatever plan PostgreSQL caches."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, get_args

import asyncpg
import pytest
from plans import cached_plan, plan, recorded
from samples import new_job, output

from app.domain.job import FINISHED, JobStatus
from app.storage.attempts import AttemptStore, Claim
from app.storage.fleet_figures import FleetFigures
from app.storage.job_lists import JobFilter, Sort
from app.storage.job_views import JobViews
from app.storage.run_times import RunTimes
from app.storage.waiting_jobs import WaitingJobs
from tests.bench.filling import fill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from app.settings import Settings
    from app.storage.database import Database

pytestmark = pytest.mark.slow

JOBS = 20_000
WAITING = JOBS - 10
ENDED = JOBS // 2
HOUR_AGO = datetime.now(UTC) - timedelta(hours=1)
FILTERS: list[dict[str, Any]] = [
    {},
    {"user_id": "user0"},
    {"user_id": "seldom"},
    {"status": [JobStatus.FAILED]},
    {"status": [JobStatus.COMPLETED]},
    {"status": [JobStatus.PENDING, JobStatus.RUNNING]},
    {"job_type": "video"},
    {"job_type": "audio"},
    {"checkpoint_model": "model9.safetensors"},
    {"backend": "gpu3"},
    {"created_after": HOUR_AGO},
    {"created_before": HOUR_AGO},
    {"user_id": "user0", "status": [JobStatus.COMPLETED]},
    {"user_id": "seldom", "created_before": HOUR_AGO},
    {"checkpoint_model": "model9.safetensors", "status": [JobStatus.FAILED, JobStatus.CANCELLED]},
    {"worker": "w3"},
    {"worker": "nobody"},
    {"error_code": "out_of_memory"},
    {"error_code": "node_failed", "node_type": "VAEDecode", "status": [JobStatus.FAILED]},
    {"node_type": "VAEDecode"},
    {"ended_after": HOUR_AGO},
    {"ended_after": HOUR_AGO, "ended_before": HOUR_AGO + timedelta(minutes=5)},
    {"until_id": 1000},
]


@pytest.fixture(scope="session")
def filled(make_model: Callable[[str], str]) -> str:
    """Name of a database in which a sequential scan costs more than an index; to fill one takes seconds."""
    asyncio.run(fill(make_model("filled"), JOBS))
    return "filled"


@pytest.fixture
def model(filled: str) -> str:
    return filled


@pytest.fixture
def full(database: Database) -> Database:
    """A copy of it."""
    return database


@pytest.fixture
async def plain(settings: Settings, full: Database) -> AsyncIterator[asyncpg.Connection]:
    """A connection that explains."""
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    yield connection
    await connection.close()


async def test_a_claim_reads_the_queue_by_its_index(full: Database, plain: asyncpg.Connection) -> None:
    async with recorded(full) as seen:
        assert await AttemptStore(full).claim("w", "b1", "p", 60) is not None
    (claim,) = (statement for statement, _ in seen if "SKIP LOCKED" in statement)
    told = await cached_plan(plain, claim)
    assert "ix_generation_jobs_waiting" in told
    assert "Seq Scan" not in told, told
    assert "Sort" not in told, told


async def test_the_work_of_every_second_scans_no_table(full: Database, plain: asyncpg.Connection) -> None:
    store, views = AttemptStore(full), JobViews(full)
    async with recorded(full) as seen:
        await store.create(new_job())
        job = await store.claim("w1", "b1", "p", 60)
        assert job is not None
        claim = Claim(job.job_id, job.attempt, "w1")
        await store.submitting(claim, "p", {})
        await store.renew_leases("w1", {claim: 5}, 60)
        await store.take_over("w2", ["b1"], 60, 10)
        await store.executing(claim)
        await store.saving(claim)
        await store.complete(claim, [output()])
        await store.cancel(WAITING, None, "x")
        await store.abandoned(60, 10)
        await store.any_due()
        await store.stale_prompts(["p"])
        assert (await views.view(WAITING - 1)).position
        assert (await views.view(ENDED)).outputs
        await views.events(ENDED)
        await views.snapshots([ENDED, WAITING])
        assert sum((await views.stats()).by_status.values()) == 203
        assert await RunTimes(full).lately()
        await views.known_paths(["a", "b"])
        async with full.transaction() as session:
            assert len(await views.waiting_turns(session, 100)) == 100
    statements = {statement for statement, _ in seen}
    assert len(statements) >= 23
    for statement in statements:
        told = await cached_plan(plain, statement)
        for few in ("api_keys", "pauses", "tenants", "queue_clocks"):
            # Workers look for a limit among the keys every two seconds; the others are asked for by their keys.
            told = told.replace(f"Seq Scan on {few}", "")
        assert "Seq Scan" not in told, f"{statement}\n{told}"


async def test_what_a_forecast_and_the_figures_of_loading_are_read_from_scans_no_table(
    full: Database, plain: asyncpg.Connection
) -> None:
    store, run_times = AttemptStore(full), RunTimes(full)
    (waits, _), *_ = await WaitingJobs(full).turns(1)
    async with recorded(full) as seen:
        await WaitingJobs(full).first(200)
        await run_times.refresh()
        await FleetFigures(full).last_hour()
        await store.give_up({waits: "missing"}, "models_missing", 1e9, "test")
    assert len(seen) >= 6
    for statement in seen:
        told = await plan(plain, statement)
        assert "Seq Scan on generation_jobs" not in told, told
        assert "Seq Scan on job_attempts" not in told, told


async def test_a_page_of_a_list_is_read_by_an_index(full: Database, plain: asyncpg.Connection) -> None:
    views = JobViews(full)
    sorts: tuple[Sort, ...] = get_args(Sort)
    for chosen, sort in itertools.product(FILTERS, sorts):
        async with recorded(full) as seen:
            page = await views.page(JobFilter(**chosen), sort, 50, cursor=None, skip=0)
            if page.items:
                cursor = views.cursor_at(sort, page.items[-1].job)
                await views.page(JobFilter(**chosen), sort, 50, cursor=cursor, skip=0)
        assert len(seen) >= 2
        for statement in seen:
            told = await plan(plain, statement)
            assert "Seq Scan" not in told, f"{chosen} {sort}\n{statement}\n{told}"


async def test_what_ended_lately_is_told_by_an_index(full: Database, plain: asyncpg.Connection) -> None:
    async with recorded(full) as seen:
        assert await JobViews(full).finished_since(HOUR_AGO)
    (statement,) = seen
    assert "ix_generation_jobs_completed_at_status" in await plan(plain, statement)


async def test_of_those_that_failed_alike_no_more_are_read_than_are_counted(
    full: Database, plain: asyncpg.Connection
) -> None:
    async with recorded(full) as seen:
        kinds = [("node_failed", "KSampler"), ("out_of_memory", "VAEDecode")]
        assert [count.exact for count in await JobViews(full).alike(kinds, 99)] == [False, True]
    (statement,) = [each for each in seen if "job_attempts" in each[0]]
    told = await plan(plain, statement)
    assert "Seq Scan" not in told, told
    assert "Sort" not in told, told


BY: dict[str, dict[str, Any]] = {
    "ix_generation_jobs_created_at_id": {},
    "ix_generation_jobs_user_id_created_at_id_status": {"user_id": "user0"},
    "ix_generation_jobs_job_type_created_at_id_status": {"job_type": "image"},
    "ix_generation_jobs_checkpoint_model_created_at_id_status": {"checkpoint_model": "model0.safetensors"},
    "ix_generation_jobs_backend_name_created_at_id_status": {"backend": "gpu3"},
    "ix_generation_jobs_status_created_at_id": {"status": [JobStatus.COMPLETED]},
}


@pytest.mark.parametrize("index", BY)
async def test_a_filter_finds_its_pages_by_its_own_index(full: Database, plain: asyncpg.Connection, index: str) -> None:
    """Even one that many jobs pass, which others find soon too: unless they all have it that are old."""
    views, chosen = JobViews(full), JobFilter(**BY[index])
    async with recorded(full) as seen:
        page = await views.page(chosen, "-created_at", 50, cursor=None, skip=0)
        await views.page(chosen, "-created_at", 50, cursor=page.next_cursor, skip=0)
    pages = [statement for statement in seen if "OFFSET" in statement[0]]
    assert len(pages) == 2
    for statement in pages:
        told = await plan(plain, statement)
        assert index in told, told
        assert "Sort" not in told, told


@pytest.mark.parametrize("index", [name for name in BY if "model" in name or "backend" in name])
async def test_the_tabs_of_a_filter_are_counted_by_its_index_alone(
    full: Database, plain: asyncpg.Connection, index: str
) -> None:
    """Each is counted by itself when there are more than may be looked at; rows lie about, entries side by side."""
    async with recorded(full) as seen:
        await JobViews(full, counted=10).counts(JobFilter(**BY[index]))
    (statement,) = [each for each in seen if each[0].count("LIMIT") == len(JobStatus)]
    told = await plan(plain, statement)
    assert "Seq Scan" not in told, told
    # Jobs that wait or run are few here, and the indexes of their status cost as much: either plan is a good one.
    ended = [part for part in told.split("InitPlan") if any(f"= '{status}'" in part for status in FINISHED)]
    assert len(ended) == len(FINISHED), told
    for part in ended:
        assert f"Index Only Scan Backward using {index} on" in part, part


async def test_the_plan_of_a_filter_is_made_for_its_value(full: Database) -> None:
    """Of values that are equally frequent PostgreSQL would keep, after five rounds, one plan for all that may come."""
    views = JobViews(full)
    for _ in range(8):
        await views.page(JobFilter(backend="gpu3"), "-created_at", 50, cursor=None, skip=0)
    async with full.transaction() as session:
        connection = (await (await session.connection()).get_raw_connection()).driver_connection
        kept = "SELECT generic_plans FROM pg_prepared_statements WHERE statement LIKE $1"
        assert [row[0] for row in await connection.fetch(kept, "%FROM generation_jobs%backend_name = %")] == [0, 0]


async def test_a_renewed_lease_touches_no_index(full: Database, plain: asyncpg.Connection) -> None:
    """What happens to each running job every few seconds stays within its page (a heap-only tuple)."""
    indexed = await plain.fetch(
        "SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indexrelid "
        "WHERE indrelid = 'generation_jobs'::regclass"
    )
    columns = {row["attname"] for row in indexed}
    assert "created_at" in columns
    assert not columns & {"lease_expires_at", "progress", "seq", "phase", "worker_id", "prompt_id", "content_id"}
