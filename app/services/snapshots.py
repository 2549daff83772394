"""The present state of jobs, for watchers: from PostgreSQL, with the last progress from Redis."""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import TYPE_CHECKING, Final

from app.messaging.events import merged
from app.runtime.batching import Batcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.message import Snapshot
    from app.messaging.events import Events
    from app.storage.job_views import JobViews

MOST_AT_ONCE: Final = 100
"""Watchers whose jobs are read together: with more, the first of them would wait noticeably for the last."""


class Snapshots:
    """The use case "how far are these jobs"."""

    def __init__(self, views: JobViews, events: Events) -> None:
        self._views = views
        self._events = events
        # One read at a time: requests that come meanwhile share the next one, which begins after all of them.
        self._reading = Batcher(self._read_all, most=MOST_AT_ONCE, flights=1)

    async def read(self, job_ids: Sequence[int], owner: str | None = None) -> list[Snapshot]:
        """Return the snapshots of those of the jobs that exist; raises `DatabaseUnavailable`.

        Another's than `owner`'s are left out, unless that is None. What is asked for at the same time is one query and
        one MGET; an owner's is a query of its own.
        """
        if owner is not None:
            return (await self._read_all([job_ids], owner))[0]
        return await self._reading.do(job_ids)

    async def settle(self) -> None:
        """Return when no read is under way."""
        await self._reading.settle()

    async def _read_all(self, asked: Sequence[Sequence[int]], owner: str | None = None) -> list[list[Snapshot]]:
        wanted = list(set(chain.from_iterable(asked)))
        # At the same time: the asker watches already, and is sent what comes after the first of the two.
        live = asyncio.create_task(self._events.live(wanted), name="live")
        try:
            found = await self._views.seen_by(owner).snapshots(wanted)
        finally:
            told = await live
        present = {each.job_id: each for each in merged(list(found.values()), told)}
        return [[present[job_id] for job_id in job_ids if job_id in present] for job_ids in asked]
