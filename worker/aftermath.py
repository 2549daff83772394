"""What follows an attempt that left no outputs: its job is cancelled, has failed, or waits for another attempt."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from app.domain.errors import (
    AttemptFailed,
    BackendForgot,
    BackendLacksModel,
    BackendLost,
    DatabaseUnavailable,
    ErrorClass,
    InvalidTransition,
    JobNotFound,
    LostClaim,
    OutputNotOwn,
    Poisonous,
    QueueUnavailable,
)
from app.domain.fitting import check_against
from app.domain.job import Phase
from app.domain.verdict import after_failure, may_be_tried_again, retry_delay
from app.services.submit import graph_of

if TYPE_CHECKING:
    from app.domain.job import Attempt as AttemptRecord
    from app.domain.job import Job
    from app.messaging.queue import JobQueue
    from app.settings import Settings
    from app.storage.attempts import AttemptStore, Claim
    from app.storage.job_views import JobViews
    from worker.attempt import Attempt
    from worker.backend import Backend
    from worker.backends import BackendPool
    from worker.measures import Measures

log = logging.getLogger(__name__)


class Aftermath:
    """Decides what follows, and brings it about."""

    def __init__(
        self,
        settings: Settings,
        store: AttemptStore,
        views: JobViews,
        queue: JobQueue,
        pool: BackendPool,
        measures: Measures,
    ) -> None:
        self.failed = 0
        """Jobs that have failed here."""
        self._settings = settings
        self._store = store
        self._views = views
        self._queue = queue
        self._pool = pool
        self._measures = measures

    async def end(self, attempt: Attempt, failure: AttemptFailed | None) -> None:
        """Bring an attempt without outputs to its end: cancelled, failed, or waiting for another one."""
        claim = attempt.claim
        try:
            if attempt.cancelling:
                if isinstance(failure, BackendLost) and not isinstance(failure, BackendForgot):
                    # Not confirmed: it stays `cancelling`, and is taken over when the backend can be asked.
                    await self.let_go(claim)
                    return
                # Whatever it ended with, it runs no more, and nobody wants another attempt.
                await attempt.ledger.mark_cancelled()
                return
            await self._go_on(attempt, failure or AttemptFailed("The run ended without a word."))
        except (LostClaim, JobNotFound) as error:
            log.warning("job %s: %s", claim.job_id, error)
        except InvalidTransition as error:
            if error.phase != Phase.CANCELLING:
                raise
            # Asked for while we were about to end it otherwise.
            await attempt.ledger.mark_cancelled()

    async def _go_on(self, attempt: Attempt, failure: AttemptFailed) -> None:
        """Fail the job, or have it wait for another attempt."""
        claim, job, backend = attempt.claim, attempt.job, attempt.backend
        if failure.error_class is ErrorClass.DEVICE:
            backend.device_failed(job.job_id, job.user_id)
            self._measures.device_failed(backend.name)
        if isinstance(failure, OutputNotOwn) and failure.node_type is not None:
            backend.careless.add(failure.node_type)
        if failure.under_it:
            failure = await self._suspected(job, backend, failure)
        avoid = await self._others_offer(job, backend, failure)
        first = job.attempt_limit - job.max_attempts
        attempts = [each for each in await self._history(job.job_id) if each.number > first]
        verdict = after_failure(
            failure.error_class,
            attempts_left=job.attempt_limit - job.attempt,
            failed_alike=_failed_alike(failure, attempts, backend),
            offered_elsewhere=bool(avoid),
            delay_s=retry_delay(
                max(1, sum(each.outcome == "retried" for each in attempts) + 1),
                base_s=self._settings.retry_base_seconds,
                cap_s=self._settings.retry_max_seconds,
            ),
        )
        log.info("job %s: attempt %s failed (%s): %s", job.job_id, job.attempt, failure.code, failure)
        if not verdict.retry:
            self.failed += 1
            await attempt.ledger.persist(lambda noted: self._store.fail(claim, failure, noted=noted), Phase.FAILED)
            return
        elsewhere = avoid if verdict.elsewhere else []
        waiting = await attempt.ledger.persist(
            lambda noted: self._store.requeue(
                claim, failure, verdict.delay_s, elsewhere, suspect=failure.under_it, noted=noted
            ),
            Phase.RETRYING,
        )
        with contextlib.suppress(QueueUnavailable):
            # The reconciler gives it its turn, if Redis is away now.
            await self._queue.enqueue(waiting.job_id, waiting.attempt, waiting.available_at)

    async def _suspected(self, job: Job, backend: Backend, failure: AttemptFailed) -> AttemptFailed:
        """Return the failure of a job under which a backend stopped, which says what follows; see `Poisonous`."""
        others = await self._others_well(backend)
        if may_be_tried_again(job.suspicions, certain=failure.certain, others_well=others):
            failure.args = (f"{failure} It is tried once more, alone, when nothing else waits.",)
            return failure
        log.error("job %s is poisonous: %s", job.job_id, failure)
        if job.suspicions == 0:
            return Poisonous(f"{failure} It is sent to no other one.")
        stopped = f"{job.suspicions + 1} backends stopped while they executed this job"
        return Poisonous(f"{stopped}: it is sent to no other one. The last time: {failure}")

    async def _others_well(self, backend: Backend) -> int:
        try:
            return await self._pool.others_well(backend.name)
        except QueueUnavailable:
            return 0

    async def let_go(self, claim: Claim) -> None:
        """The worker stops: the prompt runs on in ComfyUI, and another worker takes it over at once."""
        with contextlib.suppress(DatabaseUnavailable):
            await asyncio.shield(self._store.release(claim))

    async def _history(self, job_id: int) -> list[AttemptRecord]:
        """Return a job's attempts, waiting while the database is away: an outage must not become the job's failure."""
        while True:
            try:
                return await self._views.attempts(job_id)
            except DatabaseUnavailable as error:
                log.warning("job %s: waiting for the database: %s", job_id, error)
                await asyncio.sleep(0.5)

    async def _others_offer(self, job: Job, backend: Backend, failure: AttemptFailed) -> list[str]:
        """Return the backends that the next attempt should avoid: those that failed it, if another can run it."""
        avoid = sorted({*job.refused_by, backend.name})
        if failure.error_class is ErrorClass.INVALID and not isinstance(failure, BackendLacksModel):
            return []
        if job.backend is not None:
            return []
        try:
            others = await self._pool.others(avoid)
        except QueueUnavailable:
            return []
        for other in others:
            graph = job.workflow if job.workflow is not None else graph_of(job, other)
            if graph is not None and not check_against(graph, other).faults:
                return avoid
        return []


def _failed_alike(failure: AttemptFailed, attempts: list[AttemptRecord], backend: Backend) -> int:
    """Return how often a job failed in this way before; of errors of a device, on how many other ones."""
    alike = [each for each in attempts if each.error_code == failure.code]
    if failure.error_class is ErrorClass.DEVICE:
        return len({each.backend_name for each in alike} - {backend.name})
    return len(alike)
