"""What backends do and have done lately, as the jobs' own rows tell it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import func, select, text

from app.domain.job import JobStatus
from app.storage.columns import STANDING_COLUMNS, standing_of
from app.storage.schema import IS_RUNNING, JobRow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.domain.job import Standing
    from app.storage.database import Database

FRESH_S: Final = 2.0
"""Maximum age in seconds of the figures of the last hour: all viewers of the page share one read."""
MOST_RUNNING: Final = 500
PROMPT_CHARACTERS: Final = 500
"""Maximum number of characters that are read of a running job's prompt, to name the job on the page."""
TIMED: Final = 2000
"""Maximum number of runs of the last hour that are timed, the last ones: more would give the same figures."""

_SPEEDS: Final = text("""
    SELECT run.backend_name, percentile_cont(0.5) WITHIN GROUP (ORDER BY run.took / images.count)
    FROM (
        SELECT job_id, backend_name,
            extract(epoch FROM executed_at - coalesce(executing_at, submitted_at))::float8 AS took
        FROM job_attempts WHERE outcome = 'completed' AND ended_at >= :since AND ended_at < :until
        ORDER BY ended_at DESC LIMIT :timed
    ) AS run
    JOIN contents ON contents.job_id = run.job_id
    CROSS JOIN LATERAL (
        SELECT COALESCE(NULLIF(count(*) FILTER (WHERE NOT preview), 0), count(*)) AS count
        FROM outputs WHERE outputs.content_id = contents.id AND kind = 'image'
    ) AS images
    WHERE images.count > 0 AND run.took IS NOT NULL GROUP BY run.backend_name
""")

_LOADS: Final = text("""
    SELECT backend_name, count(*), sum(load_s)::float8 FROM job_attempts
    WHERE outcome = 'completed' AND ended_at >= :since AND ended_at < :until AND load_s > 0 GROUP BY backend_name
""")


@dataclass(frozen=True, slots=True)
class Loading:
    """How many runs had to load models, and for how many seconds all of them did."""

    runs: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LastHour:
    """What backends did from `since` until just before `until`, whole milliseconds, as addresses have them."""

    since: datetime
    until: datetime
    ended: Mapping[tuple[str, str], int]
    """Backend and status → how many jobs ended so."""
    image_s: Mapping[str, float]
    """Backend → the median time that an image took, of runs that left any."""
    loading: Mapping[str, Loading]
    """Backend → its loads; one that had none is left out."""


@dataclass(frozen=True, slots=True)
class Run:
    """A job that runs, with the beginning of its prompt."""

    job: Standing
    prompt: str | None


class FleetFigures:
    """Reads them. Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._last: tuple[float, LastHour] | None = None
        """What `last_hour` returned last, and until when that holds, in seconds of the monotonic clock."""
        self._reading = asyncio.Lock()

    async def running(self) -> list[Run]:
        """Return the jobs that run, the oldest first; of very many not all."""
        prompt = func.left(JobRow.prompt, PROMPT_CHARACTERS).label("beginning")
        found = select(*STANDING_COLUMNS, prompt).where(IS_RUNNING).order_by(JobRow.id).limit(MOST_RUNNING)
        async with self._database.transaction() as session:
            rows = await session.execute(found)
            return [Run(standing_of(row), row["beginning"]) for row in rows.mappings()]

    async def last_hour(self) -> LastHour:
        """Return the figures of the hour up to now, or to `FRESH_S` ago."""
        async with self._reading:
            if self._last is None or time.monotonic() >= self._last[0]:
                self._last = time.monotonic() + FRESH_S, await self._read_last_hour()
            return self._last[1]

    async def _read_last_hour(self) -> LastHour:
        kinds = (JobRow.backend_name, JobRow.status)
        async with self._database.transaction() as session:
            until = (await session.scalars(select(func.date_trunc("milliseconds", func.now())))).one()
            since = until - timedelta(hours=1)
            ended = select(*kinds, func.count()).where(
                JobRow.completed_at >= since,
                JobRow.completed_at < until,
                JobRow.status.in_((JobStatus.COMPLETED, JobStatus.FAILED)),
                JobRow.backend_name.is_not(None),
            )
            told = (await session.execute(ended.group_by(*kinds))).all()
            counts = {(str(name), status): count for name, status, count in told}
            hour = {"since": since, "until": until}
            timed = await session.execute(_SPEEDS, hour | {"timed": TIMED})
            image_s = {name: float(each) for name, each in timed}
            loads = await session.execute(_LOADS, hour)
            loading = {name: Loading(runs, seconds) for name, runs, seconds in loads}
        return LastHour(since, until, counts, image_s, loading)
