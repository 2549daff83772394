"""What follows an attempt without outputs: the job is cancelled, fails, or waits for another attempt."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from app.domain.errors import (
    AttemptFailed,
    BackendForgot,
    BackendLost,
    DatabaseUnavailable,
    InvalidTransition,
    JobNotFound,
    LostClaim,
    OutOfMemory,
    OutputNotOwn,
    Poisonous,
    QueueUnavailable,
)
from app.domain.failure_policy import (
    MOST_IN_A_ROUND,
    RULES,
    Against,
    Where,
    after_failure,
    may_be_tried_again,
    of_this_round,
)
from app.domain.job import Phase
from app.storage.outages import repeat_until_available

if TYPE_CHECKING:
    from app.domain.failure_policy import Backoff
    from app.domain.job import Attempt as AttemptRecord
    from app.domain.job import Job
    from app.messaging.queue import JobQueue
    from app.storage.attempts import AttemptStore, Claim
    from app.storage.job_views import JobViews
    from worker.attempts.attempt import Attempt
    from worker.attempts.attempt_metrics import AttemptMetrics
    from worker.attempts.other_backends import OtherBackends
    from worker.comfyui.backend import Backend
    from worker.comfyui.pool import BackendPool

log = logging.getLogger(__name__)


class RetryOrFail:
    """Decides what follows a failed attempt, and stores it."""

    def __init__(
        self,
        backoff: Backoff,
        store: AttemptStore,
        views: JobViews,
        queue: JobQueue,
        pool: BackendPool,
        metrics: AttemptMetrics,
        other_backends: OtherBackends,
    ) -> None:
        self.failed = 0
        """Number of jobs that failed on this worker."""
        self._backoff = backoff
        self._store = store
        self._views = views
        self._queue = queue
        self._pool = pool
        self._metrics = metrics
        self._other_backends = other_backends

    async def end(self, attempt: Attempt, failure: AttemptFailed | None) -> None:
        """End an attempt that has no outputs: its job is cancelled, fails, or waits for another attempt."""
        claim = attempt.claim
        try:
            if attempt.cancelling:
                if isinstance(failure, BackendLost) and not isinstance(failure, BackendForgot):
                    # Not confirmed: the job stays `cancelling` and is taken over when the backend can be reached.
                    await self.release(claim)
                    return
                # The prompt no longer runs, so the cancellation is complete, however the run ended.
                await attempt.ledger.mark_cancelled()
                return
            await self._retry_or_fail(attempt, failure or AttemptFailed("The run ended without giving a reason."))
        except (LostClaim, JobNotFound) as error:
            log.warning("job %s: %s", claim.job_id, error)
        except InvalidTransition as error:
            if error.phase != Phase.CANCELLING:
                raise
            # Cancellation was requested while the other ending was being stored.
            await attempt.ledger.mark_cancelled()

    async def _retry_or_fail(self, attempt: Attempt, failure: AttemptFailed) -> None:
        """Fail the job, or queue it for another attempt."""
        claim, job, backend = attempt.claim, attempt.job, attempt.backend
        if RULES[failure.error_class].against is Against.DEVICE:
            backend.device_failed(job.job_id, job.user_id)
            self._metrics.device_failed(backend.name)
        if isinstance(failure, OutOfMemory):
            backend.memory.ran_out(frozenset(job.models))
        if isinstance(failure, OutputNotOwn) and failure.node_type is not None:
            backend.stray_savers.add(failure.node_type)
        if failure.under_it:
            failure = await self._suspected(job, backend, failure)
        avoid = await self._others_offer(job, backend, failure)
        attempts = of_this_round(await self._history(job), job.attempt)
        verdict = after_failure(
            failure.error_class,
            attempts_left=job.attempt_limit - job.attempt,
            failed_alike=_failed_alike(failure, attempts, backend),
            offered_elsewhere=bool(avoid),
            delay_s=self._backoff.delay_s(attempts),
        )
        log.info("job %s: attempt %s failed (%s): %s", job.job_id, job.attempt, failure.code, failure)
        if not verdict.retry:
            self.failed += 1
            await attempt.ledger.persist(lambda noted: self._store.fail(claim, failure, noted=noted), Phase.FAILED)
            return
        elsewhere = avoid if verdict.elsewhere else []
        waiting = await attempt.ledger.persist(
            lambda noted: self._store.requeue(
                claim,
                failure,
                verdict.delay_s,
                elsewhere,
                suspect=failure.under_it,
                counted=verdict.counted,
                noted=noted,
            ),
            Phase.RETRYING,
        )
        with contextlib.suppress(QueueUnavailable):
            # If Redis is unavailable, the reconciler enqueues the job later.
            await self._queue.enqueue(waiting.job_id, waiting.attempt, waiting.available_at)

    async def _suspected(self, job: Job, backend: Backend, failure: AttemptFailed) -> AttemptFailed:
        """Return the failure to store for a job during which a backend stopped; see `Poisonous`."""
        others = await self._healthy_others(backend)
        if may_be_tried_again(job.suspicions, certain=failure.certain, others_well=others):
            failure.args = (f"{failure} It is tried once more, alone, when no other job waits.",)
            return failure
        log.error("job %s is poisonous: %s", job.job_id, failure)
        if job.suspicions == 0:
            return Poisonous(f"{failure} It is not sent to another backend.")
        stopped = f"{job.suspicions + 1} backends stopped while they executed this job"
        return Poisonous(f"{stopped}: it is not sent to another one. The last time: {failure}")

    async def _healthy_others(self, backend: Backend) -> int:
        try:
            return await self._pool.healthy_others(backend.name)
        except QueueUnavailable:
            return 0

    async def release(self, claim: Claim) -> None:
        """Release the claim: the prompt goes on running in ComfyUI, and another worker can take it over at once."""
        with contextlib.suppress(DatabaseUnavailable):
            await asyncio.shield(self._store.release(claim))

    async def _history(self, job: Job) -> list[AttemptRecord]:
        """Return a job's last attempts, waiting while PostgreSQL is unavailable: an outage must not fail the job."""
        after = max(0, job.attempt - MOST_IN_A_ROUND)
        return await repeat_until_available(
            lambda: self._views.attempts(job.job_id, after=after), f"job {job.job_id} waits for its earlier attempts"
        )

    async def _others_offer(self, job: Job, backend: Backend, failure: AttemptFailed) -> list[str]:
        """Return the backends that the next attempt avoids: those that failed the job, if another can run it."""
        avoid = sorted({*job.refused_by, backend.name})
        rule = RULES[failure.error_class]
        if rule.where in (Where.NOWHERE, Where.ANYWHERE) or job.backend is not None:
            return []
        others = self._other_backends
        if rule.where is Where.ONLY_OTHERWISE and not await others.described_otherwise(job, backend, avoid):
            return []
        return avoid if await others.offered(job, avoid) else []


def _failed_alike(failure: AttemptFailed, attempts: list[AttemptRecord], backend: Backend) -> int:
    """Return how often the job failed before with the same error.

    For device errors: on how many other backends. For errors that count against nothing: how often on this backend.
    """
    against = RULES[failure.error_class].against
    alike = [each for each in attempts if each.error_code == failure.code]
    if against is Against.DEVICE:
        return len({each.backend_name for each in alike} - {backend.name})
    if against is Against.NOTHING:
        return sum(each.backend_name == backend.name for each in alike)
    return len(alike)
