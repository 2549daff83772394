"""The present state of jobs, for watchers: from PostgreSQL, with the last progress from Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.message import Snapshot
    from app.messaging.events import Events
    from app.storage.job_views import JobViews


class Snapshots:
    """The use case "how far are these jobs"."""

    def __init__(self, views: JobViews, events: Events) -> None:
        self._views = views
        self._events = events

    async def read(self, job_ids: Sequence[int]) -> list[Snapshot]:
        """Return the snapshots of those of the jobs that exist; raises `DatabaseUnavailable`."""
        found = await self._views.snapshots(job_ids)
        return await self._events.with_live(list(found.values()))
