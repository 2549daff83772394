"""What the pages show beyond one job: figures of the queue, workers and backends, and what cannot be reached."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from app.domain.errors import Unavailable
from app.domain.job import JobStatus
from app.domain.message import snapshot_of
from app.keys import DATABASE, EVENTS, HUB, QUEUE_CONTROL, REGISTRY
from app.web.callers import CALLER, views_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp import web

    from app.domain.heartbeats import BackendBeat, WorkerBeat
    from app.domain.message import Snapshot
    from app.domain.pauses import Pause
    from app.storage.job_views import QueueStats
    from app.storage.whole_jobs import JobView

GONE_S: Final = 3600.0
"""A backend that was silent for longer is no alarm any more, only listed."""
PATIENCE_S: Final = 2.0
"""A page that waits longer for one of its figures shows it as unknown."""


@dataclass(frozen=True, slots=True)
class Health:
    """The service at one moment. What is None is not known: what would tell it is away."""

    stats: QueueStats | None
    finished: Mapping[str, int] | None
    """How many jobs ended in each way within the last hour."""
    workers: Sequence[WorkerBeat] | None
    backends: Sequence[BackendBeat] | None
    events: bool
    """Whether changes arrive by push."""
    pauses: Sequence[Pause] = ()
    """What is paused, everybody first: of a user's own jobs, or for who sees all, of all."""

    @property
    def pause(self) -> Pause | None:
        """Why nobody's jobs are taken; None if they are."""
        return next((each for each in self.pauses if each.user_id is None), None)

    @property
    def paused_users(self) -> list[str]:
        """Whose jobs are not taken, by name."""
        return [each.user_id for each in self.pauses if each.user_id is not None]

    @property
    def waiting(self) -> int | None:
        """How many jobs wait."""
        return self.stats.by_status.get(JobStatus.PENDING, 0) if self.stats else None

    @property
    def running(self) -> int | None:
        """How many jobs run."""
        return self.stats.by_status.get(JobStatus.RUNNING, 0) if self.stats else None

    @property
    def slots(self) -> int | None:
        """How many jobs the live workers can hold; None when no worker says."""
        known = [beat.slots for beat in self.workers or () if beat.live and beat.slots is not None]
        return sum(known) if known else None

    @property
    def workers_live(self) -> int | None:
        """How many workers are alive."""
        return sum(beat.live for beat in self.workers) if self.workers is not None else None

    @property
    def workers_lost(self) -> int:
        """How many workers went silent within the last day."""
        return sum(not beat.live for beat in self.workers or ())

    @property
    def backends_down(self) -> list[str]:
        """Names of backends that cannot be given jobs; one that went silent long ago has probably been taken away."""
        return [beat.name for beat in self.backends or () if not (beat.live and beat.healthy) and beat.age_s < GONE_S]

    def ended(self, status: str) -> int | None:
        """How many jobs ended so within the last hour."""
        return self.finished.get(status, 0) if self.finished is not None else None

    @property
    def failed_share(self) -> float | None:
        """Failed ones in per cent of all that were completed or failed within the last hour; None without any."""
        failed, done = self.ended("failed"), self.ended("completed")
        return 100 * failed / (failed + done) if failed is not None and done is not None and failed + done else None


NOT_KNOWN: Final = Health(None, None, None, None, events=False)
"""What is shown to who has not signed in."""


async def read_health(request: web.Request) -> Health:
    """Read the figures; never raises, and takes no longer than `PATIENCE_S`, whatever is away."""
    (stats, finished, pauses), (workers, backends) = await asyncio.gather(_figures(request), _beats(request))
    return Health(stats, finished, workers, backends, request.config_dict[HUB].connected, pauses)


async def read_snapshots(request: web.Request, views: Sequence[JobView]) -> list[Snapshot]:
    """Return the jobs' snapshots, with the last progress if Redis tells it in time."""
    snapshots = [snapshot_of(view.job) for view in views]
    if not request.config_dict[HUB].connected:
        return snapshots
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await request.config_dict[EVENTS].with_live(snapshots)
    except TimeoutError:
        return snapshots


async def _figures(
    request: web.Request,
) -> tuple[QueueStats | None, Mapping[str, int] | None, Sequence[Pause]]:
    views, control, scope = views_of(request), request.config_dict[QUEUE_CONTROL], request[CALLER].scope
    try:
        async with asyncio.timeout(PATIENCE_S):
            # Ping first: in a pool whose connections are all dead, each statement would get another dead one.
            await request.config_dict[DATABASE].ping()
            stats = await views.stats()
            finished = await views.finished_since(datetime.now(UTC) - timedelta(hours=1))
            return stats, finished, await (control.pauses() if scope is None else control.concerning(scope))
    except (Unavailable, TimeoutError):
        return None, None, ()


async def _beats(request: web.Request) -> tuple[list[WorkerBeat] | None, list[BackendBeat] | None]:
    registry = request.config_dict[REGISTRY]
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await registry.workers(), await registry.backends()
    except (Unavailable, TimeoutError):
        return None, None
