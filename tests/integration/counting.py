"""Counting ended jobs for the statistics, as tests of them and of their page do it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncpg

    from app.storage.statistics_recorder import StatisticsRecorder

JOBS = 2000
"""Number of jobs in the fixture `full`."""


async def count_all(recorder: StatisticsRecorder) -> int:
    """Record until nothing is left, and return how many jobs were counted."""
    counted = 0
    while True:
        step = await recorder.record()
        assert step is not None
        counted += step[0]
        if not step[1]:
            return counted


async def within_a_step(step_s: int) -> None:
    """Wait over the end of a step if it is near, so that several reads are of the same steps."""
    left_s = step_s - datetime.now(UTC).timestamp() % step_s
    await asyncio.sleep(left_s if left_s < 5 else 0)


async def ended(plain: asyncpg.Connection) -> int:
    """Return how many jobs have ended."""
    return int(await plain.fetchval("SELECT count(*) FROM generation_jobs WHERE completed_at IS NOT NULL"))
