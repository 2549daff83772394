"""How long runs of a kind usually take, by what the last ones of them took."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import DatabaseUnavailable
from app.domain.job_cost import Comparable, ModelRunTime
from app.domain.run_times import RunTime
from app.domain.scheduling.learned_times import Loads
from app.runtime.end_tasks import end_tasks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.storage.database import Database

LAST: Final = 30
"""Maximum number of runs of a kind that are compared."""
AGE_S: Final = 5.0
"""Seconds for which an answer is kept: viewers of a live job ask for it again and again."""
MOST_KEPT: Final = 1000
AT_HAND_S: Final = 30.0
"""Seconds after which what is at hand is read again behind those who ask: what a job will cost is a guess anyway."""
LATER_S: Final = 1.0
"""Seconds for which keys are gathered before they are read: one statement a second at most, however many jobs come."""
MOST_WANTED: Final = 256
"""Keys that one of these statements reads; further ones are asked for again by later jobs."""
OF_MODELS: Final = 500
"""The last runs of all kinds, of which those with the same models are compared."""

log = logging.getLogger(__name__)

_USUAL: Final = f"""
    SELECT asked.workflow_key, count(last.took) AS count,
        percentile_cont(ARRAY[0.1, 0.5, 0.9]) WITHIN GROUP (ORDER BY last.took) AS took
    FROM unnest($1::text[]) AS asked (workflow_key), LATERAL (
        SELECT extract(epoch FROM executed_at - COALESCE(executing_at, submitted_at))::float8 AS took
        FROM job_attempts AS tried
        WHERE tried.workflow_key = asked.workflow_key AND tried.outcome = 'completed'
        ORDER BY tried.ended_at DESC LIMIT {LAST}
    ) AS last
    WHERE last.took IS NOT NULL
    GROUP BY asked.workflow_key"""  # noqa: S608  # of our own words only

_LATELY: Final = f"""
    SELECT count(took) AS count, percentile_cont(ARRAY[0.1, 0.5, 0.9]) WITHIN GROUP (ORDER BY took) AS took
    FROM (
        SELECT extract(epoch FROM executed_at - COALESCE(executing_at, submitted_at))::float8 AS took
        FROM job_attempts WHERE outcome = 'completed' ORDER BY ended_at DESC LIMIT {LAST}
    ) AS last"""  # noqa: S608  # of our own words only


# One by one: where few jobs have models PostgreSQL would look for those in all of them.
_THEIR_JOBS: Final = "CROSS JOIN LATERAL (SELECT * FROM generation_jobs WHERE id = last.job_id LIMIT 1) AS job"
_BY_MODELS: Final = f"""
    SELECT model_key, percentile_cont(0.5) WITHIN GROUP (ORDER BY took) AS p50,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY took / work) FILTER (WHERE work > 0) AS per_work_s
    FROM (
        SELECT job.model_key, last.took, CASE WHEN job.workflow IS NULL AND job.upscale_model IS NULL
            THEN job.width::float8 * job.height * job.batch_size * (job.sampler_params ->> 'steps')::float8 END AS work
        FROM (
            SELECT job_id, extract(epoch FROM executed_at - COALESCE(executing_at, submitted_at))::float8 AS took
            FROM job_attempts WHERE outcome = 'completed' ORDER BY ended_at DESC LIMIT {OF_MODELS}
        ) AS last {_THEIR_JOBS}
        WHERE last.took IS NOT NULL AND job.model_key IS NOT NULL
    ) AS known
    GROUP BY model_key"""  # noqa: S608  # of our own words only
"""Of the last runs only, so that neither an index nor a table of its own has to be kept with each job. How much work a
client's own graph was is not read from it: it may have megabytes."""


_LOADS: Final = f"""
    SELECT job.models, last.load_s FROM (
        SELECT job_id, ended_at, load_s FROM job_attempts WHERE outcome = 'completed'
        ORDER BY ended_at DESC LIMIT {OF_MODELS}
    ) AS last {_THEIR_JOBS}
    WHERE last.load_s > 0 ORDER BY last.ended_at"""  # noqa: S608  # of our own words only
"""The last one last, as they are learned from."""


class RunTimes:
    """Execution times by workflow key. Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, tuple[float, RunTime | None]] = {}
        """What was read last of a kind, and until when that holds by the monotonic clock."""
        self._lately: tuple[float, RunTime] | None = None
        """The same of runs of all kinds."""
        self._of_models: dict[str, ModelRunTime] = {}
        self._compared_at = float("-inf")
        """When `_of_models`, `_lately` and `loads` were read behind `at_hand`."""
        self.loads = Loads()
        """How long models take to load, as far as that was read. Which of a run's models it loaded is not kept: all."""
        self._wanted: set[str] = set()
        self._refreshing: asyncio.Task[None] | None = None

    def at_hand(self, workflow_key: str | None, model_key: str | None) -> Comparable:
        """Return at once what is known of such runs, and begin to read what is not, or is old, for later calls."""
        now = time.monotonic()
        read_until, same = self._known.get(workflow_key or "", (float("-inf"), None))
        if workflow_key is not None and read_until + AT_HAND_S <= now and len(self._wanted) < MOST_WANTED:
            self._wanted.add(workflow_key)
        is_due = self._wanted or self._compared_at + AT_HAND_S <= now
        if is_due and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.create_task(self._refresh_later(), name="run times")
        lately = self._lately[1] if self._lately is not None else None
        return Comparable(same, self._of_models.get(model_key or ""), lately)

    async def refresh(self) -> None:
        """Read what `at_hand` did not know."""
        wanted, self._wanted = self._wanted, set()
        if wanted:
            await self.usual(list(wanted))
        if self._compared_at + AT_HAND_S <= time.monotonic():
            await self.lately()
            async with self._database.driver() as connection:
                rows = await connection.fetch(_BY_MODELS)
                loads = await connection.fetch(_LOADS)
            self._of_models = {row["model_key"]: ModelRunTime(row["p50"], row["per_work_s"]) for row in rows}
            learned = Loads()
            for row in loads:
                learned = learned.learned(frozenset(row["models"]), row["load_s"])
            self.loads = learned
            self._compared_at = time.monotonic()

    async def close(self) -> None:
        """Read no more behind those who ask."""
        if self._refreshing is not None:
            await end_tasks([self._refreshing])

    async def _refresh_later(self) -> None:
        await asyncio.sleep(LATER_S)
        try:
            await self.refresh()
        except DatabaseUnavailable as error:
            log.debug("how long runs take is read later: %s", error)

    async def usual(self, workflow_keys: Sequence[str]) -> dict[str, RunTime]:
        """Return how long runs of these kinds take, of those of which any has been completed."""
        now = time.monotonic()
        asked = set(workflow_keys)
        due = [key for key in asked if key not in self._known or self._known[key][0] <= now]
        if due:
            found = await self._read(due)
            if len(self._known) > MOST_KEPT:
                self._known = {key: known for key, known in self._known.items() if known[0] > now}
            self._known |= {key: (now + AGE_S, found.get(key)) for key in due}
        usual = {key: self._known[key][1] for key in asked if key in self._known}
        return {key: run_time for key, run_time in usual.items() if run_time is not None}

    async def lately(self) -> RunTime | None:
        """Return how long the last runs took, whatever they were; None before any was completed."""
        if self._lately is not None and time.monotonic() < self._lately[0]:
            return self._lately[1]
        async with self._database.driver() as connection:
            row = await connection.fetchrow(_LATELY)
        if not row["count"]:
            # Not kept: the first run is to be seen at once.
            return None
        self._lately = time.monotonic() + AGE_S, _run_time(row)
        return self._lately[1]

    async def _read(self, workflow_keys: Sequence[str]) -> dict[str, RunTime]:
        async with self._database.driver() as connection:
            rows = await connection.fetch(_USUAL, workflow_keys)
        return {row["workflow_key"]: _run_time(row) for row in rows}


def _run_time(row: Mapping[str, Any]) -> RunTime:
    p10, p50, p90 = row["took"]
    return RunTime(p10, p50, p90, row["count"])
