"""Statistics are what plain SQL says of the jobs, and each end of a job is counted once, whatever comes between."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from integration.counting import JOBS, count_all, ended, within_a_step
from plans import plan, recorded
from samples import new_job

from app.domain.errors import NodeFailed
from app.domain.histogram import histogram, quantile
from app.domain.job import JobStatus
from app.domain.statistics_report import Chosen
from app.storage.attempts import AttemptStore, Claim
from app.storage.ended_jobs import DAY_S, FIVE_MINUTES_S, HOUR_S, KEPT, SPANS_S
from app.storage.statistics import Statistics
from app.storage.statistics_recorder import MOST_TENANTS, StatisticsRecorder
from harness import eventually

if TYPE_CHECKING:
    import asyncpg

    from app.storage.database import Database
    from harness import Service

DAYS_30, DAY = timedelta(days=30), timedelta(days=1)
ALL_COUNTED = """
    SELECT scope, span_s, sum(count)::int, sum((SELECT sum(n) FROM unnest(waits) AS n))::int
    FROM job_statistics GROUP BY 1, 2"""


async def rows_of(plain: asyncpg.Connection) -> set[str]:
    return {row[0] for row in await plain.fetch("SELECT kept::text FROM job_statistics AS kept")}


async def test_what_is_recorded_is_what_the_jobs_say(full: Database, plain: asyncpg.Connection) -> None:
    assert await count_all(StatisticsRecorder(full, at_once=300, margin_s=0)) == await ended(plain)
    told = await plain.fetch("""
        SELECT completed_at, status, COALESCE(job.backend_name, '') AS backend, COALESCE(checkpoint_model, '') AS model,
            COALESCE(job.error_code, '') AS error, COALESCE(node_type, '') AS node,
            extract(epoch FROM COALESCE(started_at, completed_at) - queued_at)::float8 AS wait,
            extract(epoch FROM completed_at - started_at)::float8 AS run
        FROM generation_jobs AS job LEFT JOIN job_attempts ON job_id = id AND number = attempt
        WHERE completed_at IS NOT NULL""")
    now = await plain.fetchval("SELECT now()")
    wanted: dict[tuple[Any, ...], tuple[list[float], list[float]]] = {}
    for row in told:
        for span_s in SPANS_S:
            if row["completed_at"] < floor(now - KEPT[span_s], span_s):
                continue
            for scope, backend, model in (
                ("all", "", ""),
                ("backend", row["backend"], ""),
                ("model", "", row["model"]),
                ("each", row["backend"], row["model"]),
            ):
                key = (span_s, scope, floor(row["completed_at"], span_s), row["status"], backend, model)
                waits, runs = wanted.setdefault((*key, row["error"], row["node"]), ([], []))
                waits.append(row["wait"])
                runs += [row["run"]] if row["run"] is not None else []
    found = {
        tuple(row.values())[:8]: tuple(row.values())[8:]
        for row in await plain.fetch("""SELECT span_s, scope, bucket, status, backend_name, checkpoint_model,
            error_code, node_type, count, waits, runs, longest_wait_s, longest_run_s FROM job_statistics""")
    }
    assert found == {
        key: (len(waits), histogram(waits), histogram(runs), max(waits), max(runs, default=0))
        for key, (waits, runs) in wanted.items()
    }
    assert {key[0] for key in found} == set(SPANS_S)
    assert {key[6:] for key in found} >= {("", ""), ("node_failed", "KSampler"), ("out_of_memory", "VAEDecode")}


def floor(at: datetime, step_s: int) -> datetime:
    return datetime.fromtimestamp(at.timestamp() // step_s * step_s, UTC)


async def test_stretches_of_each_length_hold_the_same_jobs(full: Database, plain: asyncpg.Connection) -> None:
    await count_all(StatisticsRecorder(full, margin_s=0))
    lately = await plain.fetchval(
        "SELECT count(*) FROM generation_jobs WHERE completed_at > now() - interval '40 hours'"
    )
    sums = Counter[tuple[int, str]]()
    for scope, span_s, jobs, waits in await plain.fetch(ALL_COUNTED):
        assert jobs == waits
        sums[span_s, scope] = jobs
    scopes = ("all", "backend", "model", "each")
    assert {sums[FIVE_MINUTES_S, scope] for scope in scopes} == {sums[HOUR_S, scope] for scope in scopes} == {lately}
    assert {sums[DAY_S, scope] for scope in scopes} == {await ended(plain)}


async def test_counting_again_counts_nothing_twice(full: Database, plain: asyncpg.Connection) -> None:
    await count_all(StatisticsRecorder(full, margin_s=0))
    before = await rows_of(plain)
    assert await count_all(StatisticsRecorder(full, margin_s=0)) == 0
    assert await rows_of(plain) == before


async def test_workers_that_count_at_once_count_nothing_twice(full: Database, plain: asyncpg.Connection) -> None:
    several = [StatisticsRecorder(full, at_once=100, margin_s=0) for _ in range(4)]
    counted, goes_on = 0, True
    while goes_on:
        steps = [step for step in await asyncio.gather(*(one.record() for one in several)) if step]
        counted += sum(step[0] for step in steps)
        goes_on = all(step[1] for step in steps)
    assert counted + await count_all(several[0]) == await ended(plain)
    assert {row[2] for row in await plain.fetch(ALL_COUNTED) if row[1] == DAY_S} == {await ended(plain)}


async def test_only_one_counts_at_a_time(full: Database, plain: asyncpg.Connection) -> None:
    async with plain.transaction():
        await plain.execute("SELECT pg_advisory_xact_lock(7265837417)")
        assert await StatisticsRecorder(full).record() is None
        assert await StatisticsRecorder(full).run() == "another worker counts"
    assert await plain.fetchval("SELECT count(*) FROM job_statistics") == 0
    assert (await StatisticsRecorder(full).run()).startswith("counted ")


async def test_what_breaks_off_is_counted_by_the_next_run(full: Database, plain: asyncpg.Connection) -> None:
    """How far it went is told in the transaction that counts: either both, or neither."""
    recorder = StatisticsRecorder(full, at_once=500, margin_s=0)
    first = await recorder.record()
    assert first is not None
    await plain.execute("""
        CREATE FUNCTION break_off() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''broken off''; END';
        CREATE TRIGGER breaking BEFORE UPDATE ON statistics_progress EXECUTE FUNCTION break_off()""")
    before = await rows_of(plain)
    for _ in range(2):
        with pytest.raises(Exception, match="broken off"):
            await recorder.record()
    assert await rows_of(plain) == before
    await plain.execute("DROP TRIGGER breaking ON statistics_progress")
    assert first[0] + await count_all(StatisticsRecorder(full, margin_s=0)) == await ended(plain)


async def test_after_an_outage_it_catches_up_in_bounded_steps(full: Database, plain: asyncpg.Connection) -> None:
    recorder = StatisticsRecorder(full, at_once=400, margin_s=0)
    steps = []
    while (step := await recorder.record()) and step[1]:
        steps.append(step[0])
    assert set(steps) == {400}
    assert len(steps) == (await ended(plain) - 1) // 400


async def test_of_many_that_ended_at_one_moment_none_is_left_behind(full: Database, plain: asyncpg.Connection) -> None:
    await plain.execute(
        "UPDATE generation_jobs SET completed_at = now() - interval '1 h' WHERE completed_at IS NOT NULL"
    )
    assert await count_all(StatisticsRecorder(full, at_once=100, margin_s=0)) == await ended(plain)


async def test_a_first_start_counts_what_had_ended_before(full: Database, plain: asyncpg.Connection) -> None:
    await plain.execute("UPDATE generation_jobs SET completed_at = now() - interval '100 days' WHERE id < 100")
    lately = await plain.fetchval(
        "SELECT count(*) FROM generation_jobs WHERE completed_at > now() - interval '90 days'"
    )
    assert await count_all(StatisticsRecorder(full, margin_s=0)) == lately


async def test_what_nobody_counted_for_longer_than_is_kept_is_passed_over(
    full: Database, plain: asyncpg.Connection
) -> None:
    await plain.execute("UPDATE generation_jobs SET completed_at = now() - interval '100 days' WHERE id < 100")
    await plain.execute("INSERT INTO statistics_progress VALUES (1, now() - interval '200 days')")
    lately = await plain.fetchval(
        "SELECT count(*) FROM generation_jobs WHERE completed_at > now() - interval '90 days'"
    )
    assert await count_all(StatisticsRecorder(full, margin_s=0)) == lately


async def test_a_job_that_was_tried_again_counts_at_each_of_its_ends(database: Database) -> None:
    store = AttemptStore(database)
    recorder, statistics = StatisticsRecorder(database, margin_s=0), Statistics(database)
    await store.create(new_job())
    for _ in range(2):
        job = await store.claim("w", "b1", "p", 60)
        assert job is not None
        await store.fail(Claim(job.job_id, job.attempt, "w"), NodeFailed("It fell.", node_id="1", node_type="KSampler"))
        assert await count_all(recorder) == 1
        await store.retry(job.job_id, None, "somebody")
    assert await count_all(recorder) == 0
    report = await statistics.read(DAY, HOUR_S, Chosen())
    assert report.whole.counts == {JobStatus.FAILED: 2}


async def test_statistics_stay_when_jobs_are_deleted(full: Database, plain: asyncpg.Connection) -> None:
    recorder, statistics = StatisticsRecorder(full, margin_s=0), Statistics(full)
    await count_all(recorder)
    before = (await statistics.read(DAYS_30, DAY_S, Chosen())).whole.counts
    await plain.execute("DELETE FROM generation_jobs WHERE completed_at IS NOT NULL")
    assert (await statistics.read(DAYS_30, DAY_S, Chosen())).whole.counts == before
    assert sum(before.values()) > JOBS // 2


@pytest.mark.parametrize(
    ("length", "step_s"),
    [(timedelta(hours=1), FIVE_MINUTES_S), (DAY, HOUR_S), (timedelta(days=7), 6 * HOUR_S), (DAYS_30, DAY_S)],
)
@pytest.mark.parametrize(
    "chosen",
    [Chosen(), Chosen(model="model0.safetensors"), Chosen(backend="gpu3"), Chosen("model0.safetensors", "gpu3")],
)
async def test_a_report_is_what_the_jobs_say(
    full: Database, plain: asyncpg.Connection, length: timedelta, step_s: int, chosen: Chosen
) -> None:
    recorder, statistics = StatisticsRecorder(full, at_once=1000), Statistics(full)
    await within_a_step(step_s)
    early = await statistics.read(length, step_s, chosen)
    # What is not counted yet is read from the jobs: it makes no difference how far the counting went.
    assert await recorder.record() is not None
    between = await statistics.read(length, step_s, chosen)
    await count_all(recorder)
    report = await statistics.read(length, step_s, chosen)
    for other in (early, between):
        assert [step.ends for step in other.steps] == [step.ends for step in report.steps]
        assert (other.failures, other.models.keys(), other.backends) == (
            report.failures,
            report.models.keys(),
            report.backends,
        )
    told = await plain.fetch(
        """SELECT completed_at, status, checkpoint_model, job.error_code, node_type, job.backend_name,
            extract(epoch FROM COALESCE(started_at, completed_at) - queued_at)::float8 AS wait,
            extract(epoch FROM completed_at - started_at)::float8 AS run
        FROM generation_jobs AS job LEFT JOIN job_attempts ON job_id = id AND number = attempt
        WHERE completed_at >= $1 AND ($2::text IS NULL OR job.backend_name = $2)""",
        report.start, chosen.backend,
    )  # fmt: skip
    fitting = [row for row in told if chosen.model in (None, row["checkpoint_model"])]
    assert report.whole.counts == Counter(row["status"] for row in fitting)
    assert report.whole.waits == histogram(row["wait"] for row in fitting)
    runs = [row["run"] for row in fitting if row["status"] == "completed"]
    assert report.whole.runs == histogram(runs)
    assert report.whole.longest_run_s == max(runs, default=0)
    assert report.whole.longest_wait_s == max((row["wait"] for row in fitting), default=0)
    steps = Counter((floor(row["completed_at"], step_s), row["status"]) for row in fitting)
    assert {(step.start, status): count for step in report.steps for status, count in step.ends.counts.items()} == steps
    failures = Counter((row["error_code"], row["node_type"]) for row in fitting if row["status"] == "failed")
    assert {(each.error_code, each.node_type): each.count for each in report.failures} == failures
    assert {name: ends.counts for name, ends in report.models.items()} == {
        name: Counter(row["status"] for row in told if (row["checkpoint_model"] or "") == name)
        for name in {row["checkpoint_model"] or "" for row in told}
    }
    assert report.steps[0].start == report.start <= report.now - length
    assert report.steps[-1].start <= report.now < report.steps[-1].end


async def test_what_is_counted_while_a_report_is_read_is_not_in_it_twice(
    full: Database, plain: asyncpg.Connection
) -> None:
    recorder, statistics = StatisticsRecorder(full, margin_s=0), Statistics(full)
    await count_all(recorder)
    await plain.execute("""
        CREATE TEMPORARY TABLE counted AS SELECT * FROM job_statistics;
        DELETE FROM job_statistics;
        UPDATE statistics_progress SET counted_until = now() - interval '60 days'""")
    blocked = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'job_statistics'::regclass AND NOT granted)"
    async with plain.transaction():
        await plain.execute("LOCK job_statistics")
        reading = asyncio.create_task(statistics.read(DAYS_30, DAY_S, Chosen()))
        while not await plain.fetchval(blocked):
            assert not reading.done()
            await asyncio.sleep(0)
        await plain.execute("""
            INSERT INTO job_statistics SELECT * FROM counted;
            UPDATE statistics_progress SET counted_until = now()""")
    assert (await reading).whole.total == await ended(plain)


async def test_while_it_catches_up_a_report_says_how_far_it_came(full: Database, plain: asyncpg.Connection) -> None:
    recorder, statistics = StatisticsRecorder(full, at_once=1000, margin_s=0), Statistics(full, most_tail=500)
    await recorder.record()
    report = await statistics.read(DAYS_30, DAY_S, Chosen())
    assert report.counted_until == await plain.fetchval("SELECT counted_until FROM statistics_progress")
    assert report.whole.total == 1000
    await count_all(recorder)
    report = await statistics.read(DAYS_30, DAY_S, Chosen())
    assert report.counted_until is None
    assert report.whole.total == await ended(plain)


async def test_the_depth_of_the_queue_is_noted_and_its_present_one_shown(full: Database) -> None:
    recorder, statistics = StatisticsRecorder(full), Statistics(full)
    assert [step.waiting for step in (await statistics.read(DAY, HOUR_S, Chosen())).steps] == [None] * 24 + [200]
    await recorder.run()
    await recorder.run()
    last = (await statistics.read(DAY, HOUR_S, Chosen())).steps[-1]
    assert (last.waiting, last.running) == (200, 4)


async def test_the_tiles_show_how_deep_the_queue_was_in_the_last_hour(
    full: Database, plain: asyncpg.Connection
) -> None:
    await within_a_step(FIVE_MINUTES_S)
    ago = floor(await plain.fetchval("SELECT now()"), FIVE_MINUTES_S) - timedelta(minutes=9)
    note = "INSERT INTO queue_statistics (at, waiting, running) VALUES ($1, $2, $3)"
    await plain.executemany(note, [(ago, 7, 2), (ago + timedelta(minutes=1), 9, 1)])
    tiles = await Statistics(full).tiles()
    assert list(tiles.waiting) == [None] * 9 + [9, None, 200]
    assert list(tiles.running) == [None] * 9 + [2, None, 4]


async def test_old_depths_are_folded_into_hours_and_keep_the_most(
    database: Database, plain: asyncpg.Connection
) -> None:
    await plain.execute("""
        INSERT INTO queue_statistics
        SELECT at, (random() * 1000)::int, (random() * 10)::int
        FROM generate_series(date_trunc('minute', now()) - interval '95 days', now(), '10 minutes') AS at""")
    hours = """SELECT date_bin('1 hour', at, timestamptz 'epoch') AS hour, max(waiting), max(running)
        FROM queue_statistics WHERE at >= $1 GROUP BY 1 ORDER BY 1"""
    kept_from = floor(datetime.now(UTC) - KEPT[DAY_S], DAY_S)
    before = await plain.fetch(hours, kept_from)
    for _ in range(2):
        await StatisticsRecorder(database).fold()
        assert await plain.fetch(hours, kept_from) == before
        assert await plain.fetchval("SELECT min(at) FROM queue_statistics") == kept_from
        assert await plain.fetchval("SELECT count(*) FROM queue_statistics") < 93 * 24 + 50 * 6


async def test_stretches_that_no_chart_reaches_are_deleted(full: Database, plain: asyncpg.Connection) -> None:
    recorder = StatisticsRecorder(full, margin_s=0)
    await count_all(recorder)
    days = await plain.fetchval("SELECT count(*) FROM job_statistics WHERE span_s = 86400")
    await plain.execute("UPDATE job_statistics SET bucket = bucket - interval '40 days' WHERE span_s <> 86400")
    await recorder.fold()
    assert await plain.fetchval("SELECT count(*) FROM job_statistics") == days
    await plain.execute("UPDATE job_statistics SET bucket = bucket - interval '95 days'")
    await recorder.fold()
    assert await plain.fetchval("SELECT count(*) FROM job_statistics") == 0


async def test_tiles_show_the_last_hour(full: Database, plain: asyncpg.Connection) -> None:
    await within_a_step(FIVE_MINUTES_S)
    now = await plain.fetchval("SELECT now()")
    start = floor(now, FIVE_MINUTES_S) - timedelta(minutes=55)
    tiles = await Statistics(full).tiles()
    told = await plain.fetch(
        """SELECT completed_at, status,
            extract(epoch FROM COALESCE(started_at, completed_at) - queued_at)::float8 AS wait
        FROM generation_jobs WHERE completed_at >= $1""",
        start,
    )
    points = Counter((floor(row["completed_at"], FIVE_MINUTES_S), row["status"]) for row in told)
    places = [start + timedelta(minutes=5) * number for number in range(12)]
    assert list(tiles.finished) == [points[place, "completed"] for place in places]
    assert list(tiles.failed) == [points[place, "failed"] for place in places]
    assert sum(tiles.finished) > 0
    waits = [row["wait"] for row in told]
    assert tiles.wait_p95_s == min(quantile(histogram(waits), 0.95) or 0, max(waits))
    assert len(tiles.waits_p95_s) == 12


async def test_tiles_are_read_once_for_all_who_ask(full: Database) -> None:
    statistics = Statistics(full)
    async with recorded(full) as seen:
        several = await asyncio.gather(*(statistics.tiles() for _ in range(5)))
    assert all(tiles is several[0] for tiles in several)
    assert len([statement for statement, _ in seen if "job_statistics" in statement]) == 1


async def test_neither_counting_nor_reading_scans_the_jobs(full: Database, plain: asyncpg.Connection) -> None:
    recorder, statistics = StatisticsRecorder(full), Statistics(full)
    await count_all(recorder)
    await plain.execute("VACUUM ANALYZE")
    async with recorded(full) as seen:
        await count_all(recorder)
        await recorder.note_queue()
        await statistics.read(timedelta(hours=1), FIVE_MINUTES_S, Chosen())
        await statistics.read(DAYS_30, DAY_S, Chosen("model0.safetensors", "gpu3"))
        await statistics.tiles()
    assert len(seen) >= 15
    for query, values in seen:
        told = await plan(plain, (query, values))
        assert "Seq Scan on generation_jobs" not in told, f"{query}\n{told}"
        assert "Seq Scan on job_attempts" not in told, f"{query}\n{told}"
        if "FROM job_statistics" in query:
            assert "pk_job_statistics" in told, f"{query}\n{told}"


async def test_a_worker_counts_without_being_asked(service: Service, plain: asyncpg.Connection) -> None:
    result = "SELECT result FROM periodic_tasks WHERE name = 'record_statistics' AND NOT failed"
    assert await eventually(lambda: plain.fetchval(result)) == "counted 0 finished jobs"
    assert await plain.fetchval("SELECT count(*) FROM queue_statistics") >= 1
    assert await plain.fetchval("SELECT counted_until < now() FROM statistics_progress")


async def test_loads_and_what_users_got_are_what_the_jobs_say_counted_or_not(
    full: Database, plain: asyncpg.Connection
) -> None:
    await plain.execute(
        "UPDATE job_attempts SET load_s = CASE WHEN job_id % 3 = 0 THEN 2.5 WHEN job_id % 3 = 1 THEN 0 END"
    )
    await plain.execute("""UPDATE job_attempts SET executing_at = claimed_at,
        executed_at = CASE WHEN job_id % 5 > 0 THEN claimed_at + interval '4 s' END,
        ended_at = claimed_at + interval '6 s' WHERE ended_at IS NOT NULL""")
    await plain.execute("UPDATE generation_jobs SET user_id = 'user' || id % 13")
    await plain.execute("INSERT INTO tenants (tenant, weight) VALUES ('user3', 2)")
    told = await plain.fetch("""
        SELECT user_id, count(*), sum(GREATEST(0, COALESCE(
            extract(epoch FROM COALESCE(executed_at, ended_at) - executing_at), 0)))::float8 AS gpu_s,
            sum(GREATEST(0, extract(epoch FROM COALESCE(started_at, completed_at) - queued_at)))::float8,
            count(*) FILTER (WHERE load_s > 0), sum(COALESCE(load_s, 0))::float8
        FROM generation_jobs AS job LEFT JOIN job_attempts ON job_id = id AND number = attempt
        WHERE completed_at >= now() - interval '89 days' GROUP BY 1 ORDER BY gpu_s DESC, user_id""")
    assert len(told) == 13
    statistics = Statistics(full)
    for _ in range(2):
        report = await statistics.read(timedelta(days=90), 3 * DAY_S, Chosen())
        found = [(each.tenant, each.count, round(each.gpu_s, 3), round(each.wait_s, 3)) for each in report.tenants]
        assert found == [(row[0], row[1], round(row[2], 3), round(row[3], 3)) for row in told][:10]
        assert {each.tenant: each.weight for each in report.tenants}.get("user3", 2) == 2
        assert report.whole.loads == sum(row[4] for row in told)
        assert report.whole.load_s == pytest.approx(sum(row[5] for row in told))
        # Once more, from what was counted.
        await count_all(StatisticsRecorder(full, at_once=300, margin_s=0))


async def test_of_very_many_users_those_who_got_the_most_are_told_apart(
    full: Database, plain: asyncpg.Connection
) -> None:
    await plain.execute("""UPDATE job_attempts SET executing_at = claimed_at,
        executed_at = claimed_at + make_interval(secs => job_id % 400) WHERE ended_at IS NOT NULL""")
    await plain.execute("UPDATE generation_jobs SET user_id = 'user' || id % 400")
    recorder = StatisticsRecorder(full, at_once=150, margin_s=0)
    jobs = await count_all(recorder)
    await recorder.fold()
    rows = await plain.fetch("""SELECT span_s, bucket, count(*) FILTER (WHERE tenant <> '') AS users, sum(count) AS jobs
        FROM tenant_statistics GROUP BY 1, 2""")
    assert max(row["users"] for row in rows) == MOST_TENANTS
    assert sum(row["jobs"] for row in rows if row["span_s"] == DAY_S) == jobs
