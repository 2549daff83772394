"""How long runs of a kind usually take, by what the last ones of them took."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from app.domain.run_times import RunTime

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.storage.database import Database

LAST: Final = 30
"""Maximum number of runs of a kind that are compared."""
AGE_S: Final = 5.0
"""Seconds for which an answer is kept: viewers of a live job ask for it again and again."""
MOST_KEPT: Final = 1000

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


class RunTimes:
    """Execution times by workflow key. Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, tuple[float, RunTime | None]] = {}
        """What was read last of a kind, and until when that holds by the monotonic clock."""
        self._lately: tuple[float, RunTime] | None = None
        """The same of runs of all kinds."""

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
