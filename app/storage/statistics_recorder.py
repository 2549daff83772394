"""Records statistics of finished jobs and of the queue; they are kept when jobs are deleted.

Each end of a job is counted by when it was, `completed_at`, once: `counted_until` moves in the transaction that counts.
It is counted in stretches of three lengths (`SPANS_S`) and in four scopes, so that any chart of any range adds up few
rows (`app.storage.statistics`).
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from app.domain.histogram import PLACES
from app.storage.ended_jobs import (
    COUNTED_UNTIL,
    DAY_S,
    ENDED,
    ENDED_OF_TENANTS,
    EPOCH,
    FIVE_MINUTES_S,
    HOUR_S,
    KEPT,
    LIVE,
    NO_JIT,
    floor,
    longest,
)

if TYPE_CHECKING:
    from datetime import datetime

    from app.storage.database import Database

MARGIN_S: Final = 15
"""Minimum seconds since a job's end before it is counted: an end has the time at which its transaction began, but is
visible only after the commit."""
AT_ONCE: Final = 10_000
"""About so many jobs are counted in one transaction."""
CATCHING_UP_S: Final = 40.0
"""Maximum seconds that one run spends on catching up after an outage; the next run, a minute later, continues."""

_LOCK: Final = 7265837417

_SCOPE: Final = """CASE GROUPING(backend_name, checkpoint_model)
    WHEN 0 THEN 'each' WHEN 1 THEN 'backend' WHEN 2 THEN 'model' ELSE 'all' END"""


def _counted(column: str) -> str:
    """Return the SQL of a histogram of a column of places."""
    return f"ARRAY[{', '.join(f'count(*) FILTER (WHERE {column} = {place})' for place in range(PLACES))}]::int[]"


def _added(column: str) -> str:
    """Return the SQL of the sum of what a row has already and of what it would have been."""
    both = f"unnest(kept.{column}, excluded.{column}) WITH ORDINALITY AS place (old, new, number)"
    return f"(SELECT array_agg(place.old + place.new ORDER BY place.number) FROM {both})"  # noqa: S608


_RECORD: Final = f"""
    INSERT INTO job_statistics AS kept (span_s, scope, bucket, status, backend_name, checkpoint_model, error_code,
        node_type, count, waits, runs, longest_wait_s, longest_run_s, loads, load_s)
    SELECT span_s, {_SCOPE}, bucket, status, COALESCE(backend_name, ''), COALESCE(checkpoint_model, ''), error_code,
        node_type, count(*), {_counted("wait")}, {_counted("run")}, {longest("wait_s")}, {longest("run_s")},
        count(*) FILTER (WHERE load_s > 0), sum(load_s)
    FROM (
        SELECT span.span_s, date_bin(make_interval(secs => span.span_s), completed_at, {EPOCH}) AS bucket, ended.*
        FROM ({ENDED} WHERE job.completed_at >= :since AND job.completed_at < :until) AS ended
        JOIN unnest(CAST(:spans AS int[]), CAST(:oldest AS timestamptz[])) AS span (span_s, oldest)
            ON ended.completed_at >= span.oldest
    ) AS counted
    GROUP BY span_s, bucket, status, error_code, node_type, CUBE (backend_name, checkpoint_model)
    ON CONFLICT (span_s, scope, bucket, status, backend_name, checkpoint_model, error_code, node_type) DO UPDATE
    SET count = kept.count + excluded.count, waits = {_added("waits")}, runs = {_added("runs")},
        longest_wait_s = GREATEST(kept.longest_wait_s, excluded.longest_wait_s),
        longest_run_s = GREATEST(kept.longest_run_s, excluded.longest_run_s),
        loads = kept.loads + excluded.loads, load_s = kept.load_s + excluded.load_s
    """  # noqa: S608  # of our own words only

MOST_TENANTS: Final = 100
"""Users who are told apart in a stretch of time; the others, who got less, are kept as one, whose name is empty."""
_ADD_TENANTS: Final = """ON CONFLICT (span_s, bucket, tenant) DO UPDATE SET count = kept.count + excluded.count,
        gpu_s = kept.gpu_s + excluded.gpu_s, wait_s = kept.wait_s + excluded.wait_s"""
_RECORD_TENANTS: Final = f"""
    INSERT INTO tenant_statistics AS kept (span_s, bucket, tenant, count, gpu_s, wait_s)
    SELECT span_s, bucket, CASE WHEN place <= {MOST_TENANTS} THEN tenant ELSE '' END,
        sum(count), sum(gpu_s), sum(wait_s)
    FROM (
        SELECT span.span_s, date_bin(make_interval(secs => span.span_s), completed_at, {EPOCH}) AS bucket, tenant,
            count(*) AS count, sum(gpu_s) AS gpu_s, sum(wait_s) AS wait_s,
            row_number() OVER (PARTITION BY span.span_s, date_bin(make_interval(secs => span.span_s), completed_at,
                {EPOCH}) ORDER BY sum(gpu_s) DESC, tenant) AS place
        FROM ({ENDED_OF_TENANTS} WHERE job.completed_at >= :since AND job.completed_at < :until) AS ended
        JOIN unnest(CAST(:spans AS int[]), CAST(:oldest AS timestamptz[])) AS span (span_s, oldest)
            ON ended.completed_at >= span.oldest
        GROUP BY 1, 2, 3
    ) AS of_tenants
    GROUP BY 1, 2, 3 {_ADD_TENANTS}"""  # noqa: S608  # of our own words only
_FOLD_TENANTS: Final = f"""
    WITH ranked AS (
        SELECT bucket, tenant, row_number() OVER (PARTITION BY bucket ORDER BY gpu_s DESC, tenant) AS place
        FROM tenant_statistics WHERE span_s = :span_s AND bucket >= :since AND tenant <> ''
    ), folded AS (
        DELETE FROM tenant_statistics AS kept USING ranked
        WHERE kept.span_s = :span_s AND kept.bucket = ranked.bucket AND kept.tenant = ranked.tenant
            AND place > {MOST_TENANTS}
        RETURNING kept.*
    )
    INSERT INTO tenant_statistics AS kept (span_s, bucket, tenant, count, gpu_s, wait_s)
    SELECT span_s, bucket, '', sum(count), sum(gpu_s), sum(wait_s) FROM folded GROUP BY 1, 2 {_ADD_TENANTS}"""  # noqa: S608
"""Each transaction that counts may have brought other users."""
_DELETE_TENANTS: Final = "DELETE FROM tenant_statistics WHERE span_s = :span_s AND bucket < :oldest"
_BEGIN: Final = """
    INSERT INTO statistics_progress (id, counted_until)
    VALUES (1, COALESCE(
        (SELECT completed_at FROM generation_jobs WHERE completed_at >= :oldest ORDER BY completed_at LIMIT 1), :until))
    ON CONFLICT (id) DO NOTHING RETURNING counted_until"""
_FOLLOWING: Final = """
    SELECT completed_at FROM generation_jobs WHERE completed_at >= :since ORDER BY completed_at OFFSET :among LIMIT 1"""
_HOW_MANY: Final = "SELECT count(*) FROM generation_jobs WHERE completed_at >= :since AND completed_at < :until"
_MOVE: Final = "UPDATE statistics_progress SET counted_until = :until WHERE id = 1"
_NOTE_QUEUE: Final = f"""
    INSERT INTO queue_statistics AS kept (at, waiting, running)
    SELECT date_bin('1 minute', now(), {EPOCH}), {LIVE}
    ON CONFLICT (at) DO UPDATE SET waiting = GREATEST(kept.waiting, excluded.waiting),
        running = GREATEST(kept.running, excluded.running)"""
_HOUR: Final = f"date_bin('1 hour', at, {EPOCH})"
_FOLD_QUEUE: Final = f"""
    INSERT INTO queue_statistics AS kept (at, waiting, running)
    SELECT {_HOUR}, max(waiting), max(running) FROM queue_statistics WHERE at < :before AND at <> {_HOUR} GROUP BY 1
    ON CONFLICT (at) DO UPDATE SET waiting = GREATEST(kept.waiting, excluded.waiting),
        running = GREATEST(kept.running, excluded.running)"""  # noqa: S608  # of our own words only
_FOLDED: Final = f"DELETE FROM queue_statistics WHERE at < :oldest OR (at < :before AND at <> {_HOUR})"  # noqa: S608
_DELETE: Final = "DELETE FROM job_statistics WHERE span_s = :span_s AND bucket < :oldest"


class StatisticsRecorder:
    """Records statistics. Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(self, database: Database, *, at_once: int = AT_ONCE, margin_s: float = MARGIN_S) -> None:
        self._database = database
        self._at_once = at_once
        self._margin = timedelta(seconds=margin_s)
        self._counted_since: datetime | None = None
        """From when on this recorder has counted since it last folded."""

    async def run(self) -> str:
        """Count what has ended, note the queue's depth, tidy up, and say what was done."""
        ends_at = time.monotonic() + CATCHING_UP_S
        counted, behind = 0, True
        await self.note_queue()
        while behind and time.monotonic() < ends_at:
            recorded = await self.record()
            if recorded is None:
                return "another worker counts"
            counted, behind = counted + recorded[0], recorded[1]
        await self.fold()
        return f"counted {counted} finished jobs" + (", and goes on with the others" if behind else "")

    async def record(self) -> tuple[int, bool] | None:
        """Count what has ended since the last time, up to a bound, in one transaction with how far it went.

        Returns how many jobs were counted, and whether there are more; None while another worker counts.
        """
        async with self._database.transaction() as session:
            # Held until the end of this transaction: each sees how far the one before it went.
            if not await session.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": _LOCK}):
                return None
            await session.execute(text(NO_JIT))
            now, since = (await session.execute(text(COUNTED_UNTIL))).one()
            latest, oldest = now - self._margin, _oldest(now)
            if since is None:
                values = {"oldest": oldest[DAY_S], "until": latest}
                since = await session.scalar(text(_BEGIN), values)
            since = max(since, oldest[DAY_S])
            if since >= latest:
                return 0, False
            following = await session.scalar(text(_FOLLOWING), {"since": since, "among": self._at_once})
            behind = following is not None and following < latest
            # Of many that ended at the same moment none is left behind.
            until = max(following, since + timedelta(microseconds=1)) if behind else latest
            window = {"since": since, "until": until}
            self._counted_since = min(self._counted_since or since, since)
            jobs = await session.scalar(text(_HOW_MANY), window)
            if jobs:
                spans = {"spans": list(oldest), "oldest": list(oldest.values())}
                for statement in (_RECORD, _RECORD_TENANTS):
                    await session.execute(text(statement), window | spans)
            await session.execute(text(_MOVE), {"until": until})
        return int(jobs or 0), behind

    async def note_queue(self) -> None:
        """Note how many jobs wait and run; within a minute the most that were seen."""
        async with self._database.transaction() as session:
            await session.execute(text(_NOTE_QUEUE))

    async def fold(self) -> None:
        """Keep of the queue's older minutes the most in each hour, and delete what no chart reaches any more."""
        async with self._database.transaction() as session:
            now = await session.scalar(text("SELECT now()"))
            oldest = _oldest(now)
            for span_s, bucket in oldest.items():
                for statement in (_DELETE, _DELETE_TENANTS):
                    await session.execute(text(statement), {"span_s": span_s, "oldest": bucket})
                since = min(now - timedelta(seconds=2 * span_s), floor(self._counted_since or now, span_s))
                await session.execute(text(_FOLD_TENANTS), {"span_s": span_s, "since": since})
            before = {"before": floor(now - KEPT[FIVE_MINUTES_S], HOUR_S)}
            await session.execute(text(_FOLD_QUEUE), before)
            await session.execute(text(_FOLDED), before | {"oldest": oldest[DAY_S]})
        self._counted_since = None


def _oldest(now: datetime) -> dict[int, datetime]:
    """Return for each length of stretches the beginning of the oldest one that is kept."""
    return {span_s: floor(now - kept, span_s) for span_s, kept in KEPT.items()}
