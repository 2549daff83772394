"""The reconciler: finds what fell between PostgreSQL and Redis, and puts it right."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from app.domain.job import task_id

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.messaging.queue import JobQueue
    from app.storage.database import Database
    from app.storage.job_views import JobViews

log = logging.getLogger(__name__)

BATCH: Final = 1000
"""So many of the waiting jobs that come first are looked at; the rest when these have gone."""
_LOCK: Final = 7265837416


class Reconciler:
    """Runs on any worker, on one at a time."""

    def __init__(self, database: Database, views: JobViews, queue: JobQueue) -> None:
        self._database = database
        self._views = views
        self._queue = queue

    async def run(self) -> str:
        """Put right what is wrong, and say what was done.

        Raises
        ------
        DatabaseUnavailable, QueueUnavailable
        """
        async with self._database.transaction() as session:
            # Held until the end of this transaction; whoever comes meanwhile has nothing to do.
            if not await session.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": _LOCK}):
                return "another worker is at it"
            enqueued = await self._enqueue_lost(session)
        return f"enqueued {enqueued} waiting jobs again" if enqueued else "nothing to do"

    async def _enqueue_lost(self, session: AsyncSession) -> int:
        """Give waiting jobs a turn that have none: Redis was emptied, or away when they were accepted."""
        waiting = await self._views.waiting_turns(session, BATCH)
        turns = {task_id(job.job_id, job.attempt): job for job in waiting}
        lost = await self._queue.missing(list(turns))
        for turn in lost:
            job = turns[turn]
            await self._queue.enqueue(job.job_id, job.attempt, job.available_at)
            log.info("job %s had lost its turn, and was enqueued again", job.job_id)
        return len(lost)
