"""The reconciler: finds what fell between PostgreSQL, Redis and backends, and puts it right."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from app.domain.errors import BackendLost, InvalidTransition, LostClaim
from app.domain.failure_policy import MOST_IN_A_ROUND, after_failure, of_this_round
from app.domain.job import Phase, Standing
from app.domain.message import snapshot_of
from app.storage.attempts import Claim

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.domain.failure_policy import Backoff
    from app.messaging.events import Events
    from app.messaging.queue import JobQueue
    from app.messaging.registry import Registry
    from app.storage.attempts import AttemptStore
    from app.storage.database import Database
    from app.storage.job_views import JobViews
    from worker.attempts.attempt_metrics import AttemptMetrics
    from worker.outputs.thumbnails import Thumbnails
    from worker.upkeep.model_wait import ModelWait

log = logging.getLogger(__name__)

BATCH: Final = 1000
"""Maximum number of waiting jobs, the first ones, that one run checks; later runs check the rest."""
ACTOR: Final = "reconciler"
ABANDONED_LEASES: Final = 4
"""Number of leases after which a running job that no worker took over has lost its backend: its driver would have."""
TURNS_LOCK: Final = 7265837416


class Reconciler:
    """Runs on any worker, on one at a time."""

    def __init__(
        self,
        database: Database,
        store: AttemptStore,
        views: JobViews,
        queue: JobQueue,
        events: Events,
        registry: Registry,
        thumbnails: Thumbnails | None = None,
        model_wait: ModelWait | None = None,
        *,
        backoff: Backoff,
        metrics: AttemptMetrics,
        lease_s: float,
    ) -> None:
        self._database = database
        self._store = store
        self._views = views
        self._queue = queue
        self._events = events
        self._registry = registry
        self._thumbnails = thumbnails
        self._model_wait = model_wait
        self._backoff = backoff
        self._metrics = metrics
        self._lease_s = lease_s

    async def run(self) -> str:
        """Put right what is wrong with jobs, and say what was done.

        Raises
        ------
        DatabaseUnavailable, QueueUnavailable
        """
        # Guarded by the fence of each job, so that it needs no lock.
        moved = await self._move_abandoned()
        done = [f"moved {moved} jobs off lost backends"] if moved else []
        late = await self._thumbnails.take_up() if self._thumbnails is not None else 0
        done += [f"took up {late} thumbnails that were due"] if late else []
        ended = await self._model_wait.end_overdue(ACTOR) if self._model_wait is not None else 0
        done += [f"ended {ended} jobs whose models no backend has"] if ended else []
        async with self._database.transaction() as session:
            # Held until the end of this transaction; other workers have nothing to do meanwhile.
            if not await session.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": TURNS_LOCK}):
                return ", ".join([*done, "another worker sees to the turns"])
            renewed = await self._enqueue_lost(session)
        for job_id in renewed:
            await self._store.note_turn_renewed(job_id, ACTOR)
        done += [f"enqueued {len(renewed)} waiting jobs again"] if renewed else []
        return ", ".join(done) or "nothing to do"

    async def _enqueue_lost(self, session: AsyncSession) -> list[int]:
        """Give waiting jobs a turn that have none: Redis was emptied, or away when they were accepted."""
        waiting = await self._views.waiting_turns(session, BATCH)
        turns = {turn.task_id: turn for turn in waiting}
        renewed = []
        for task_id in await self._queue.missing(list(turns)):
            turn = turns[task_id]
            if await self._queue.enqueue(turn.job_id, turn.attempt, turn.available_at):
                log.info("job %s had lost its turn, and was enqueued again", turn.job_id)
                renewed.append(turn.job_id)
        return renewed

    async def _move_abandoned(self) -> int:
        """Let jobs run elsewhere whose worker and backend are both gone.

        A live worker that drives the backend takes them over by itself; this is for a backend that no worker can reach.
        """
        over_for_s = self._lease_s * ABANDONED_LEASES
        abandoned = await self._store.abandoned(over_for_s, BATCH)
        if not abandoned:
            return 0
        usable = {beat.name for beat in await self._registry.backends() if beat.live and beat.healthy}
        # A cancellation is only confirmed by ComfyUI's own word; it waits for the backend to come back.
        lost = {job.backend_name for job in abandoned if job.phase is not Phase.CANCELLING} - usable - {None}
        names = sorted(filter(None, lost))
        # Taken over first, guarded by the lease: a worker that is slow, and renews it now, keeps its job.
        taken = await self._store.take_over(ACTOR, names, self._lease_s, BATCH, over_for_s=over_for_s) if names else []
        return sum([await self._move(job) for job in taken if job.phase is not Phase.CANCELLING])

    async def _move(self, job: Standing) -> bool:
        """Retry or fail a job by the rule of a lost backend; False when another worker has it by now."""
        claim = Claim(job.job_id, job.attempt, ACTOR)
        error = BackendLost("The worker and the backend that ran the job are both gone.")
        try:
            earlier = await self._views.attempts(job.job_id, after=max(0, job.attempt - MOST_IN_A_ROUND))
            verdict = after_failure(
                error.error_class,
                attempts_left=job.attempt_limit - job.attempt,
                failed_alike=0,  # the rule of a lost backend counts attempts alone
                offered_elsewhere=False,
                delay_s=self._backoff.delay_s(of_this_round(earlier, job.attempt)),
            )
            if verdict.retry:
                ended = await self._store.requeue(claim, error, verdict.delay_s)
                await self._queue.enqueue(ended.job_id, ended.attempt, ended.available_at)
            else:
                ended = await self._store.fail(claim, error)
        except (LostClaim, InvalidTransition):
            return False
        self._metrics.reached(ended.status, job.backend_name or "", None)
        log.warning("job %s: its backend %s is gone, it is %s", job.job_id, job.backend_name, ended.phase)
        await self._events.publish(snapshot_of(ended))
        return True
