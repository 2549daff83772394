"""Statistics of finished jobs and of the queue, added up from what is recorded (`app.storage.statistics_recorder`).

What ended after `counted_until`, up to where the recorder came, is read from the jobs themselves: a page is exact up to
now.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text

from app.domain.histogram import PLACES
from app.domain.job import JobStatus
from app.domain.statistics_report import Chosen, Ends, Failures, Report, Step, TenantUse, Tiles, together
from app.storage.ended_jobs import (
    COUNTED_UNTIL,
    ENDED,
    ENDED_OF_TENANTS,
    EPOCH,
    FIVE_MINUTES_S,
    LIVE,
    NO_JIT,
    SPANS_S,
    floor,
    longest,
)
from app.storage.tenants import DEFAULT_WEIGHT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncSession

    from app.storage.database import Database

MOST_TAIL: Final = 10_000
"""Maximum number of uncounted jobs that are read from the jobs' table. If there are more, none is read: the statistics
have to catch up first."""
TILES: Final = 12
"""Points of the tiles' charts, five minutes each."""
TILES_AGE_S: Final = 5.0
TENANTS_LISTED: Final = 10


class Statistics:
    """Reads statistics. Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(self, database: Database, *, most_tail: int = MOST_TAIL) -> None:
        self._database = database
        self._most_tail = most_tail
        self._tiles: tuple[float, Tiles] | None = None
        """What `tiles` returned last, and until when that holds, in seconds of the monotonic clock."""
        self._reading_tiles = asyncio.Lock()

    async def read(self, length: timedelta, step_s: int, chosen: Chosen) -> Report:
        """Return the statistics of the last so long, from the beginning of a step on, in steps of so many seconds."""
        async with self._database.transaction() as session:
            window = await self._window(session, length, step_s)
            ends = await self._ends(session, window, chosen)
            failures = await self._failures(session, window, chosen)
            models = await self._models(session, window, chosen)
            backends = {row[0] for row in await session.execute(text(_BACKENDS), window.values())}
            depths = await self._depths(session, window)
            tenants = await self._tenants(session, window)
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
            tenants=tenants,
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
        # A generic plan, made without the actual times, would read all rows.
        await session.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))
        await session.execute(text(NO_JIT))
        now, counted_until, waiting, running = (await session.execute(text(f"{COUNTED_UNTIL}, {LIVE}"))).one()
        start = floor(now - length, step_s)
        since = max(counted_until or start, start)
        values = {"since": since, "step_s": step_s, "most": self._most_tail + 1}
        tail = [_Tail(*row) for row in await session.execute(text(_TAIL), values)]
        complete = sum(each.count for each in tail) <= self._most_tail
        span_s = max(span_s for span_s in SPANS_S if step_s % span_s == 0)
        return _Window(
            start, now, step_s, span_s, waiting, running, since, tail if complete else [], None if complete else since
        )

    async def _ends(self, session: AsyncSession, window: _Window, chosen: Chosen) -> dict[datetime, Ends]:
        ends: dict[datetime, Ends] = {}
        where, values = _narrowed(chosen)
        for at, status, count, waits, runs, longest_wait_s, longest_run_s, loads, load_s in await session.execute(
            text(_OF_STEPS.format(where=where)), window.values() | values
        ):
            step = ends.setdefault(at, Ends())
            step.counts[status] = step.of(status) + count
            step.add_loads(loads, load_s)
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

    async def _tenants(self, session: AsyncSession, window: _Window) -> list[TenantUse]:
        """Return the users whose jobs got the most, with what is not counted yet."""
        # What cannot be read of the jobs themselves is left out here as it is of all else.
        values = window.values() | {"since": window.since if window.counted_until is None else None}
        values |= {"most": self._most_tail, "listed": TENANTS_LISTED}
        rows = await session.execute(text(_OF_TENANTS), values)
        return [TenantUse(*row) for row in rows]

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
    since: datetime
    """From when on jobs are not counted yet."""
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
    loads: int
    load_s: float

    def fits(self, chosen: Chosen) -> bool:
        """Whether they are among those chosen."""
        return chosen.model in (None, self.checkpoint_model) and chosen.backend in (None, self.backend_name)

    def add_to(self, ends: Ends) -> None:
        """Count them."""
        ends.counts[self.status] = ends.of(self.status) + self.count
        ends.waits[self.wait] += self.count
        ends.add_loads(self.loads, self.load_s)
        ends.longest_wait_s = max(ends.longest_wait_s, self.longest_wait_s)
        if self.run is not None and self.status == JobStatus.COMPLETED:
            ends.runs[self.run] += self.count
            ends.longest_run_s = max(ends.longest_run_s, self.longest_run_s)


def _summed(column: str) -> str:
    """Return the SQL of the sum of a column of histograms."""
    return f"ARRAY[{', '.join(f'sum({column}[{place}])' for place in range(1, PLACES + 1))}]::bigint[]"


_TAIL: Final = f"""
    SELECT date_bin(make_interval(secs => :step_s), completed_at, {EPOCH}) AS at, status, backend_name,
        checkpoint_model, error_code, node_type, wait, run, count(*), {longest("wait_s")}, {longest("run_s")},
        count(*) FILTER (WHERE load_s > 0), sum(load_s)
    FROM ({ENDED} WHERE job.completed_at >= :since ORDER BY job.completed_at LIMIT :most) AS ended
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8"""  # noqa: S608  # of our own words only
_IN_RANGE: Final = "span_s = :span_s AND bucket >= :start"
_OF_STEPS: Final = f"""
    SELECT date_bin(make_interval(secs => :step_s), bucket, {EPOCH}) AS at, status, sum(count),
        {_summed("waits")}, {_summed("runs")}, max(longest_wait_s), max(longest_run_s), sum(loads), sum(load_s)
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
_OF_TENANTS: Final = f"""
    SELECT tenant, COALESCE(weight, {DEFAULT_WEIGHT}), sum(count)::int, sum(gpu_s)::float8 AS gpu_s, sum(wait_s)::float8
    FROM (
        SELECT tenant, count, gpu_s, wait_s FROM tenant_statistics WHERE {_IN_RANGE} AND tenant <> ''
        UNION ALL
        SELECT tenant, 1, gpu_s, wait_s FROM (
            {ENDED_OF_TENANTS} WHERE job.completed_at >= CAST(:since AS timestamptz)
            ORDER BY job.completed_at LIMIT :most
        ) AS ended
    ) AS use LEFT JOIN tenants USING (tenant)
    GROUP BY 1, 2 ORDER BY gpu_s DESC, tenant LIMIT :listed"""  # noqa: S608  # of our own words only
_DEPTHS: Final = f"""
    SELECT date_bin(make_interval(secs => :step_s), at, {EPOCH}), max(waiting), max(running)
    FROM queue_statistics WHERE at >= :start GROUP BY 1"""  # noqa: S608  # of our own words only


def _narrowed(chosen: Chosen, *, by_model: bool = False) -> tuple[str, dict[str, str]]:
    """Return the SQL that narrows to the rows of what is chosen, and its parameters; `by_model` tells models apart."""
    scopes = {(False, False): "all", (True, False): "model", (False, True): "backend", (True, True): "each"}
    scope = scopes[by_model or chosen.model is not None, chosen.backend is not None]
    narrowing = {"checkpoint_model": chosen.model, "backend_name": chosen.backend}
    values = {column: value for column, value in narrowing.items() if value is not None}
    return " AND ".join([f"scope = '{scope}'", *(f"{column} = :{column}" for column in values)]), values
