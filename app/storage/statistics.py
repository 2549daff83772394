"""Statistics of finished jobs and of the queue: recorded by the service itself, and kept when jobs are deleted.

Each end of a job is counted by when it was, `completed_at`, once: `counted_until` moves in the transaction that counts.
It is counted in stretches of three lengths (`SPANS_S`) and in four scopes, so that any chart of any range adds up few
rows. What ended after `counted_until` is read from the jobs themselves: a page is exact up to now.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text

from app.domain.histogram import BOUNDS, PLACES
from app.domain.job import JobStatus
from app.domain.report import Chosen, Ends, Failures, Report, Step, Tiles, together

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from app.storage.database import Database

FIVE_MINUTES_S: Final = 300
HOUR_S: Final = 3600
DAY_S: Final = 86400
SPANS_S: Final = (FIVE_MINUTES_S, HOUR_S, DAY_S)
"""The lengths of the stretches in which jobs are counted. Stretches begin at whole multiples, in UTC."""
KEPT: Final = {
    FIVE_MINUTES_S: timedelta(hours=48),
    HOUR_S: timedelta(days=9),
    DAY_S: timedelta(days=93),
}
"""How long the stretches of each length are kept: the longer ones have the same jobs in them."""
MARGIN_S: Final = 15
"""What ended so long ago is counted: an end bears its transaction's first moment, and is seen after its last."""
AT_ONCE: Final = 10_000
"""About so many jobs are counted in one transaction."""
CATCHING_UP_S: Final = 40.0
"""So long a run goes on catching up after an outage; the next run, a minute later, goes on."""
MOST_TAIL: Final = 10_000
"""Of more jobs that are not counted yet none is read from the jobs: the statistics have to catch up first."""
TILES: Final = 12
"""Points of the tiles' charts, five minutes each."""
TILES_AGE_S: Final = 5.0

_LOCK: Final = 7265837417
_EPOCH: Final = "timestamptz 'epoch'"


# What counts as an end, with `Job.waited_s` and `Job.ran_s` in SQL: the very expressions that the filters
# `waited_over_s` and `ran_over_s` of a list compare.
_WAIT_S: Final = "extract(epoch FROM COALESCE(job.started_at, job.completed_at) - job.queued_at)::float8"
_RUN_S: Final = "extract(epoch FROM job.completed_at - job.started_at)::float8"
_ENDED: Final = f"""
    SELECT job.completed_at, job.status, COALESCE(job.backend_name, '') AS backend_name,
        COALESCE(job.checkpoint_model, '') AS checkpoint_model, COALESCE(job.error_code, '') AS error_code,
        CASE job.status WHEN 'failed' THEN COALESCE((SELECT node_type FROM job_attempts
            WHERE job_id = job.id AND number = job.attempt AND error_code = job.error_code), '') ELSE '' END
            AS node_type,
        {_WAIT_S} AS wait_s, width_bucket({_WAIT_S}, ARRAY{list(BOUNDS)}::float8[]) AS wait,
        {_RUN_S} AS run_s, width_bucket({_RUN_S}, ARRAY{list(BOUNDS)}::float8[]) AS run
    FROM generation_jobs AS job"""  # noqa: S608  # of our own words only

_SCOPE: Final = """CASE GROUPING(backend_name, checkpoint_model)
    WHEN 0 THEN 'each' WHEN 1 THEN 'backend' WHEN 2 THEN 'model' ELSE 'all' END"""


def _counted(column: str) -> str:
    """Return the SQL of a histogram of a column of places."""
    return f"ARRAY[{', '.join(f'count(*) FILTER (WHERE {column} = {place})' for place in range(PLACES))}]::int[]"


def _summed(column: str) -> str:
    """Return the SQL of the sum of a column of histograms."""
    return f"ARRAY[{', '.join(f'sum({column}[{place}])' for place in range(1, PLACES + 1))}]::bigint[]"


def _added(column: str) -> str:
    """Return the SQL of the sum of what a row has already and of what it would have been."""
    both = f"unnest(kept.{column}, excluded.{column}) WITH ORDINALITY AS place (old, new, number)"
    return f"(SELECT array_agg(place.old + place.new ORDER BY place.number) FROM {both})"  # noqa: S608


def _longest(column: str) -> str:
    """Return the SQL of the longest of lengths of time; without any it is 0."""
    return f"GREATEST(0, max({column}))"


_RECORD: Final = f"""
    INSERT INTO job_statistics AS kept (span_s, scope, bucket, status, backend_name, checkpoint_model, error_code,
        node_type, count, waits, runs, longest_wait_s, longest_run_s)
    SELECT span_s, {_SCOPE}, bucket, status, COALESCE(backend_name, ''), COALESCE(checkpoint_model, ''), error_code,
        node_type, count(*), {_counted("wait")}, {_counted("run")}, {_longest("wait_s")}, {_longest("run_s")}
    FROM (
        SELECT span.span_s, date_bin(make_interval(secs => span.span_s), completed_at, {_EPOCH}) AS bucket, ended.*
        FROM ({_ENDED} WHERE job.completed_at >= :since AND job.completed_at < :until) AS ended
        JOIN unnest(CAST(:spans AS int[]), CAST(:oldest AS timestamptz[])) AS span (span_s, oldest)
            ON ended.completed_at >= span.oldest
    ) AS counted
    GROUP BY span_s, bucket, status, error_code, node_type, CUBE (backend_name, checkpoint_model)
    ON CONFLICT (span_s, scope, bucket, status, backend_name, checkpoint_model, error_code, node_type) DO UPDATE
    SET count = kept.count + excluded.count, waits = {_added("waits")}, runs = {_added("runs")},
        longest_wait_s = GREATEST(kept.longest_wait_s, excluded.longest_wait_s),
        longest_run_s = GREATEST(kept.longest_run_s, excluded.longest_run_s)
    """  # noqa: S608  # of our own words only

_NO_JIT: Final = "SET LOCAL jit = off"
"""Compiling a hundred sums takes longer than adding up the few rows that there are."""
_COUNTED_UNTIL: Final = "SELECT now(), (SELECT counted_until FROM statistics_progress WHERE id = 1)"
_BEGIN: Final = """
    INSERT INTO statistics_progress (id, counted_until)
    VALUES (1, COALESCE(
        (SELECT completed_at FROM generation_jobs WHERE completed_at >= :oldest ORDER BY completed_at LIMIT 1), :until))
    ON CONFLICT (id) DO NOTHING RETURNING counted_until"""
_FOLLOWING: Final = """
    SELECT completed_at FROM generation_jobs WHERE completed_at >= :since ORDER BY completed_at OFFSET :among LIMIT 1"""
_HOW_MANY: Final = "SELECT count(*) FROM generation_jobs WHERE completed_at >= :since AND completed_at < :until"
_MOVE: Final = "UPDATE statistics_progress SET counted_until = :until WHERE id = 1"
_LIVE: Final = """
    (SELECT count(*)::int FROM generation_jobs WHERE status = 'pending'),
    (SELECT count(*)::int FROM generation_jobs WHERE status = 'running')"""
_NOTE_QUEUE: Final = f"""
    INSERT INTO queue_statistics AS kept (at, waiting, running)
    SELECT date_bin('1 minute', now(), {_EPOCH}), {_LIVE}
    ON CONFLICT (at) DO UPDATE SET waiting = GREATEST(kept.waiting, excluded.waiting),
        running = GREATEST(kept.running, excluded.running)"""
_HOUR: Final = f"date_bin('1 hour', at, {_EPOCH})"
_FOLD_QUEUE: Final = f"""
    INSERT INTO queue_statistics AS kept (at, waiting, running)
    SELECT {_HOUR}, max(waiting), max(running) FROM queue_statistics WHERE at < :before AND at <> {_HOUR} GROUP BY 1
    ON CONFLICT (at) DO UPDATE SET waiting = GREATEST(kept.waiting, excluded.waiting),
        running = GREATEST(kept.running, excluded.running)"""  # noqa: S608  # of our own words only
_FOLDED: Final = f"DELETE FROM queue_statistics WHERE at < :oldest OR (at < :before AND at <> {_HOUR})"  # noqa: S608
_DELETE: Final = "DELETE FROM job_statistics WHERE span_s = :span_s AND bucket < :oldest"


class Statistics:
    """Records and reads statistics. Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(
        self, database: Database, *, at_once: int = AT_ONCE, most_tail: int = MOST_TAIL, margin_s: float = MARGIN_S
    ) -> None:
        self._database = database
        self._at_once = at_once
        self._most_tail = most_tail
        self._margin = timedelta(seconds=margin_s)
        self._tiles: tuple[float, Tiles] | None = None
        """What `tiles` returned last, and until when that holds, in seconds of the monotonic clock."""
        self._reading_tiles = asyncio.Lock()

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
            await session.execute(text(_NO_JIT))
            now, since = (await session.execute(text(_COUNTED_UNTIL))).one()
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
            jobs = await session.scalar(text(_HOW_MANY), window)
            if jobs:
                await session.execute(text(_RECORD), window | {"spans": list(oldest), "oldest": list(oldest.values())})
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
                await session.execute(text(_DELETE), {"span_s": span_s, "oldest": bucket})
            before = {"before": _floor(now - KEPT[FIVE_MINUTES_S], HOUR_S)}
            await session.execute(text(_FOLD_QUEUE), before)
            await session.execute(text(_FOLDED), before | {"oldest": oldest[DAY_S]})

    async def read(self, length: timedelta, step_s: int, chosen: Chosen) -> Report:
        """Return the statistics of the last so long, from the beginning of a step on, in steps of so many seconds."""
        async with self._database.transaction() as session:
            window = await self._window(session, length, step_s)
            ends = await self._ends(session, window, chosen)
            failures = await self._failures(session, window, chosen)
            models = await self._models(session, window, chosen)
            backends = {row[0] for row in await session.execute(text(_BACKENDS), window.values())}
            depths = await self._depths(session, window)
        for each in window.tail:
            backends.add(each.backend_name)
            if not each.fits(Chosen(backend=chosen.backend)):
                continue
            each.add_to(models.setdefault(each.checkpoint_model, Ends()))
            if each.fits(chosen):
                each.add_to(ends.setdefault(each.at, Ends()))
                if each.status == JobStatus.FAILED:
                    alike = (each.error_code, each.node_type)
                    failures[alike] = failures.get(alike, 0) + each.count
        steps = []
        for start in window.starts():
            end = start + timedelta(seconds=step_s)
            steps.append(Step(start, end, ends.get(start, Ends()), *depths[start]))
        ranked = sorted(failures.items(), key=lambda item: (-item[1], item[0]))
        return Report(
            start=window.start,
            now=window.now,
            steps=steps,
            failures=[Failures(*alike, count) for alike, count in ranked],
            models=models,
            backends=sorted(backends - {""}),
            counted_until=window.counted_until,
        )

    async def tiles(self) -> Tiles:
        """Return the last hour in short; it may be `TILES_AGE_S` old."""
        async with self._reading_tiles:
            if self._tiles is None or time.monotonic() >= self._tiles[0]:
                self._tiles = time.monotonic() + TILES_AGE_S, await self._read_tiles()
            return self._tiles[1]

    async def _read_tiles(self) -> Tiles:
        length = timedelta(seconds=FIVE_MINUTES_S * (TILES - 1))
        async with self._database.transaction() as session:
            window = await self._window(session, length, FIVE_MINUTES_S)
            found = await self._ends(session, window, Chosen())
            depths = await self._depths(session, window)
        for each in window.tail:
            each.add_to(found.setdefault(each.at, Ends()))
        ends = [found.get(start, Ends()) for start in window.starts()]
        return Tiles(
            finished=[each.of(JobStatus.COMPLETED) for each in ends],
            failed=[each.of(JobStatus.FAILED) for each in ends],
            waits_p95_s=[each.wait_s(0.95) for each in ends],
            wait_p95_s=together(ends).wait_s(0.95),
            waiting=[depths[start][0] for start in window.starts()],
            running=[depths[start][1] for start in window.starts()],
        )

    async def _window(self, session: AsyncSession, length: timedelta, step_s: int) -> _Window:
        """Begin to read: all statements of this transaction see the same moment, so that no job is missed or twice."""
        await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        # A plan for any time would read all of them.
        await session.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))
        await session.execute(text(_NO_JIT))
        now, counted_until, waiting, running = (await session.execute(text(f"{_COUNTED_UNTIL}, {_LIVE}"))).one()
        start = _floor(now - length, step_s)
        since = max(counted_until or start, start)
        values = {"since": since, "step_s": step_s, "most": self._most_tail + 1}
        tail = [_Tail(*row) for row in await session.execute(text(_TAIL), values)]
        complete = sum(each.count for each in tail) <= self._most_tail
        span_s = max(span_s for span_s in SPANS_S if step_s % span_s == 0)
        return _Window(
            start, now, step_s, span_s, waiting, running, tail if complete else [], None if complete else since
        )

    async def _ends(self, session: AsyncSession, window: _Window, chosen: Chosen) -> dict[datetime, Ends]:
        ends: dict[datetime, Ends] = {}
        where, values = _narrowed(chosen)
        for at, status, count, waits, runs, longest_wait_s, longest_run_s in await session.execute(
            text(_OF_STEPS.format(where=where)), window.values() | values
        ):
            step = ends.setdefault(at, Ends())
            step.counts[status] = step.of(status) + count
            step.add_waits(waits, longest_wait_s)
            if status == JobStatus.COMPLETED:
                step.add_runs(runs, longest_run_s)
        return ends

    async def _depths(self, session: AsyncSession, window: _Window) -> dict[datetime, tuple[int | None, int | None]]:
        """Return for each step the most that waited and ran; None where it was not noted. The present counts too."""
        noted = {row[0]: (row[1], row[2]) for row in await session.execute(text(_DEPTHS), window.values())}
        depths = {start: noted.get(start, (None, None)) for start in window.starts()}
        last = max(depths)
        waiting, running = depths[last]
        return depths | {last: (max(waiting or 0, window.waiting), max(running or 0, window.running))}

    async def _failures(self, session: AsyncSession, window: _Window, chosen: Chosen) -> dict[tuple[str, str], int]:
        where, values = _narrowed(chosen)
        rows = await session.execute(text(_OF_FAILURES.format(where=where)), window.values() | values)
        return {(error_code, node_type): count for error_code, node_type, count in rows}

    async def _models(self, session: AsyncSession, window: _Window, chosen: Chosen) -> dict[str, Ends]:
        """Return the counts and runs of each model; its waits are not asked for."""
        models: dict[str, Ends] = {}
        where, values = _narrowed(Chosen(backend=chosen.backend), by_model=True)
        values = window.values() | values
        for model, status, count in await session.execute(text(_OF_MODELS.format(where=where)), values):
            models.setdefault(model, Ends()).counts[status] = count
        for model, runs, longest_s in await session.execute(text(_RUNS_OF_MODELS.format(where=where)), values):
            models[model].add_runs(runs, longest_s)
        return models


@dataclass(frozen=True, slots=True)
class _Window:
    """What is read, and what had not been counted when it was."""

    start: datetime
    now: datetime
    step_s: int
    span_s: int
    """The length of the stretches that are added up."""
    waiting: int
    running: int
    tail: Sequence[_Tail]
    counted_until: datetime | None

    def starts(self) -> list[datetime]:
        """Return the beginnings of the steps."""
        count = int((self.now - self.start).total_seconds() // self.step_s) + 1
        return [self.start + timedelta(seconds=self.step_s * number) for number in range(count)]

    def values(self) -> dict[str, Any]:
        """Return the parameters of the statements on statistics."""
        return {"span_s": self.span_s, "step_s": self.step_s, "start": self.start}


@dataclass(frozen=True, slots=True)
class _Tail:
    """Jobs alike that have ended and are not counted yet."""

    at: datetime
    status: str
    backend_name: str
    checkpoint_model: str
    error_code: str
    node_type: str
    wait: int
    run: int | None
    count: int
    longest_wait_s: float
    longest_run_s: float

    def fits(self, chosen: Chosen) -> bool:
        """Whether they are among those chosen."""
        return chosen.model in (None, self.checkpoint_model) and chosen.backend in (None, self.backend_name)

    def add_to(self, ends: Ends) -> None:
        """Count them."""
        ends.counts[self.status] = ends.of(self.status) + self.count
        ends.waits[self.wait] += self.count
        ends.longest_wait_s = max(ends.longest_wait_s, self.longest_wait_s)
        if self.run is not None and self.status == JobStatus.COMPLETED:
            ends.runs[self.run] += self.count
            ends.longest_run_s = max(ends.longest_run_s, self.longest_run_s)


_TAIL: Final = f"""
    SELECT date_bin(make_interval(secs => :step_s), completed_at, {_EPOCH}) AS at, status, backend_name,
        checkpoint_model, error_code, node_type, wait, run, count(*), {_longest("wait_s")}, {_longest("run_s")}
    FROM ({_ENDED} WHERE job.completed_at >= :since ORDER BY job.completed_at LIMIT :most) AS ended
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8"""  # noqa: S608  # of our own words only
_IN_RANGE: Final = "span_s = :span_s AND bucket >= :start"
_OF_STEPS: Final = f"""
    SELECT date_bin(make_interval(secs => :step_s), bucket, {_EPOCH}) AS at, status, sum(count),
        {_summed("waits")}, {_summed("runs")}, max(longest_wait_s), max(longest_run_s)
    FROM job_statistics WHERE {_IN_RANGE} AND {{where}} GROUP BY 1, 2"""  # noqa: S608  # of our own words only
_OF_MODELS: Final = f"""
    SELECT checkpoint_model, status, sum(count) FROM job_statistics WHERE {_IN_RANGE} AND {{where}} GROUP BY 1, 2"""  # noqa: S608
_RUNS_OF_MODELS: Final = f"""
    SELECT checkpoint_model, {_summed("runs")}, max(longest_run_s)
    FROM job_statistics WHERE {_IN_RANGE} AND status = 'completed' AND {{where}} GROUP BY 1"""  # noqa: S608  # of our own words only
_OF_FAILURES: Final = f"""
    SELECT error_code, node_type, sum(count)
    FROM job_statistics WHERE {_IN_RANGE} AND status = 'failed' AND {{where}} GROUP BY 1, 2"""  # noqa: S608
_BACKENDS: Final = f"SELECT DISTINCT backend_name FROM job_statistics WHERE {_IN_RANGE} AND scope = 'backend'"  # noqa: S608
_DEPTHS: Final = f"""
    SELECT date_bin(make_interval(secs => :step_s), at, {_EPOCH}), max(waiting), max(running)
    FROM queue_statistics WHERE at >= :start GROUP BY 1"""  # noqa: S608  # of our own words only


def _narrowed(chosen: Chosen, *, by_model: bool = False) -> tuple[str, dict[str, str]]:
    """Return the SQL that narrows to the rows of what is chosen, and its parameters; `by_model` tells models apart."""
    scopes = {(False, False): "all", (True, False): "model", (False, True): "backend", (True, True): "each"}
    scope = scopes[by_model or chosen.model is not None, chosen.backend is not None]
    narrowing = {"checkpoint_model": chosen.model, "backend_name": chosen.backend}
    values = {column: value for column, value in narrowing.items() if value is not None}
    return " AND ".join([f"scope = '{scope}'", *(f"{column} = :{column}" for column in values)]), values


def _oldest(now: datetime) -> dict[int, datetime]:
    """Return for each length of stretches the beginning of the oldest one that is kept."""
    return {span_s: _floor(now - kept, span_s) for span_s, kept in KEPT.items()}


def _floor(at: datetime, step_s: int) -> datetime:
    """Return the beginning of the step, a whole multiple of its length, that holds this moment."""
    seconds = int(at.timestamp())
    return datetime.fromtimestamp(seconds - seconds % step_s, UTC)
