"""Runs attempts: gives each turn a job and a slot, has the outputs saved, and renews the leases."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from app.domain.errors import (
    AttemptFailed,
    BackendLost,
    DatabaseUnavailable,
    InvalidTransition,
    JobNotFound,
    LostClaim,
)
from app.domain.job import Job, JobStatus, Phase
from app.domain.message import snapshot_of
from app.domain.scheduling.jobs import Leave, Reason
from app.runtime.end_tasks import end_tasks
from app.storage.attempts import Claim
from worker.attempts.attempt import Attempt
from worker.attempts.save_outputs import save_outputs

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from app.messaging.events import Events
    from app.settings import Settings
    from app.storage.attempts import AttemptStore
    from worker.attempts.attempt_metrics import AttemptMetrics
    from worker.attempts.input_files import InputFiles
    from worker.attempts.job_choice import JobChoice
    from worker.attempts.retry_or_fail import RetryOrFail
    from worker.comfyui.backend import Backend
    from worker.comfyui.pool import BackendPool
    from worker.outputs.collector import Collector
    from worker.outputs.preview_feed import PreviewFeeds
    from worker.outputs.thumbnails import Thumbnails

log = logging.getLogger(__name__)

TAKEN_OVER: Final = 20
"""Maximum number of attempts taken over with one heartbeat."""
_SOON_S: Final = 0.3
REST_S: Final = 0.5
"""Seconds for which no turns are taken after one for which there are only jobs that may not run yet: as many turns as
jobs wait would find nothing either. A job that ends here, or is sent, ends the rest."""


@dataclass(frozen=True, slots=True)
class Again:
    """When a turn that could not be used is to be tried again."""

    after_s: float
    rest_s: float = 0.0
    """For how long no other turn of this worker would find anything either, unless something happens."""
    left_to: frozenset[str] = frozenset()
    """Backends to which jobs were left."""


class Runner:
    """Runs this worker's attempts."""

    def __init__(
        self,
        worker_id: str,
        settings: Settings,
        store: AttemptStore,
        events: Events,
        pool: BackendPool,
        choice: JobChoice,
        retry_or_fail: RetryOrFail,
        collector: Collector,
        thumbnails: Thumbnails,
        metrics: AttemptMetrics,
        previews: PreviewFeeds,
        input_files: InputFiles,
    ) -> None:
        self.worker_id = worker_id
        self.done = 0
        self._settings = settings
        self._store = store
        self._events = events
        self._pool = pool
        self._choice = choice
        self._retry_or_fail = retry_or_fail
        self._collector = collector
        self._thumbnails = thumbnails
        self._metrics = metrics
        self._previews = previews
        self._input_files = input_files
        self._running: dict[int, Attempt] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._saving: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._renewed_at = time.monotonic()
        self._gone: set[Claim] = set()
        """Claims that were missing when the leases were last renewed."""

    @property
    def failed(self) -> int:
        """Number of jobs that failed on this worker."""
        return self._retry_or_fail.failed

    @property
    def running(self) -> list[int]:
        """Ids of the jobs that this worker holds, those being saved included."""
        return sorted(self._running)

    def on(self, backend: Backend) -> list[int]:
        """Ids of the jobs that this worker has on a backend, those being saved included."""
        return sorted(job_id for job_id, attempt in self._running.items() if attempt.backend is backend)

    async def take_turn(self, job_id: int) -> Again | None:
        """Run the job whose turn it is, until its slot is free again.

        Returns None when the turn is used up, or when it is to be tried again.
        """
        left: list[Leave] = []
        for backend in self._pool.by_preference():
            if left and not backend.load.free:
                # Another turn has taken the slot meanwhile.
                continue
            backend.take_slot()
            try:
                asked_at = time.monotonic()
                found = await self._choice.claim(backend)
                if not isinstance(found, Leave):
                    self._metrics.claimed(found)
                    await self._run(found, backend, claimed_at=asked_at)
                    return None
                left.append(found)
            except DatabaseUnavailable as error:
                log.warning("no turns while the database is unavailable: %s", error)
                return Again(1.0)
            finally:
                backend.free_slot()
        if not left:
            # Without a free slot nothing was claimed, so the turn is still unused.
            return Again(_SOON_S)
        if any(each.reason is not Reason.EMPTY for each in left):
            # Jobs wait, and each is left to a backend that will finish it sooner.
            rest_s = min(each.until_s for each in left if each.reason is not Reason.EMPTY)
            return Again(rest_s, rest_s, frozenset().union(*(each.left_to for each in left)))
        wait_s = await self._wait_s(job_id)
        if wait_s is None:
            return None
        # Jobs wait, and this worker may begin none of them. That may be so of a million, each of which has its turn.
        if wait_s <= _SOON_S and self._store.running_limited:
            return Again(wait_s, REST_S)
        # What is due may be for backends of others.
        return Again(wait_s, 0.0, self._choice.others if wait_s <= _SOON_S else frozenset())

    async def take_over(self) -> None:
        """Take over attempts whose lease has expired, on backends that this worker drives."""
        names = [backend.name for backend in self._pool.driven if backend.healthy]
        if not names or self._stopping.is_set():
            return
        for _ in range(TAKEN_OVER):
            # One by one: twenty graphs at once could fill the memory, and leases run while they are read.
            taken = await self._store.take_over(
                self.worker_id, names, self._settings.lease_seconds, limit=1, held=self.running
            )
            if not taken:
                return
            job = await self._store.whole(taken[0].job_id)
            if self._stopping.is_set():
                # This worker began to stop in the meantime: leave the attempt to another worker.
                await self._retry_or_fail.release(Claim(job.job_id, job.attempt, self.worker_id))
                return
            log.info("job %s: attempt %s is taken over", job.job_id, job.attempt)
            self._metrics.taken_over()
            task = asyncio.create_task(self._resume(job), name=f"resume-{job.job_id}")
            self._saving.add(task)
            task.add_done_callback(self._saving.discard)

    async def stop_stale(self) -> None:
        """Stop our prompts whose attempts are over; a backend that was given up may come back with them."""
        for backend in self._pool.driven:
            if backend.standstill is not None or not (backend.healthy and (backend.load.foreign or backend.stale)):
                continue
            with contextlib.suppress(BackendLost):
                held = {attempt.ledger.prompt_id for attempt in self._running.values()}
                marked = await backend.comfyui.marked_prompts()
                # PostgreSQL knows a prompt by the id an old server assigned, and one that a node queued by its run's.
                runs = {prompt_id: {prompt_id, run} for prompt_id, run in marked.items() if not {prompt_id, run} & held}
                ended = set(await self._store.stale_prompts(list(set().union(*runs.values()))) if runs else ())
                stale = frozenset(prompt_id for prompt_id, known_as in runs.items() if known_as & ended)
                for prompt_id in stale - backend.stale:
                    log.warning(
                        "backend %s: prompt %s belongs to an attempt that is over: stopping it", backend.name, prompt_id
                    )
                # The last one first: what waits would begin in the moment in which the running one ends.
                for prompt_id in reversed([each for each in runs if each in stale]):
                    await backend.comfyui.stop(prompt_id)
                backend.set_stale(stale)

    async def promote(self) -> None:
        """Give jobs that are due their places: while jobs are always found, no claim does so."""
        await self._store.promote()

    async def learn_of_devices(self) -> None:
        """Look up which jobs that failed with a device error have succeeded on other backends."""
        for backend in self._pool.driven:
            if unproven := backend.breaker.unproven:
                backend.device_proven(await self._store.completed_elsewhere(unproven, backend.name))

    def request_cancel(self, job_id: int) -> None:
        """Cancel a job if it runs here."""
        if attempt := self._running.get(job_id):
            attempt.request_cancel()

    async def renew(self) -> None:
        """Renew the leases of all running attempts; drop those that were taken away, pass on requested cancellations.

        Raises
        ------
        DatabaseUnavailable
        """
        held = {attempt.claim: attempt.ledger.percent for attempt in self._running.values()}
        asked_at = time.monotonic()
        try:
            phases = await self._store.renew_leases(self.worker_id, held, self._settings.lease_seconds) if held else {}
        except DatabaseUnavailable:
            if time.monotonic() - self._renewed_at > self._settings.lease_seconds:
                self._give_up()
            raise
        self._renewed_at = asked_at
        gone = {claim for claim in held if claim.job_id not in phases}
        for claim in held:
            attempt = self._running.get(claim.job_id)
            if attempt is None or attempt.claim != claim:
                continue
            if phases.get(claim.job_id) is Phase.CANCELLING:
                attempt.request_cancel()
            elif claim in gone & self._gone and (task := self._tasks.get(claim.job_id)):
                # Missing once: this worker may just have ended it. Missing twice: another worker holds it.
                log.warning("job %s: attempt %s was taken away", claim.job_id, claim.attempt)
                task.cancel("taken away")
        self._gone = gone

    def _give_up(self) -> None:
        """Drop all attempts, because the leases expired while PostgreSQL was unavailable.

        The prompts go on running in ComfyUI; the first worker that reaches PostgreSQL takes them over.
        """
        if self._tasks:
            log.warning("cut off from the database for longer than a lease: giving up jobs %s", sorted(self._tasks))
        for task in self._tasks.values():
            task.cancel("cut off")

    async def drain(self, grace_s: float) -> None:
        """Wait up to `grace_s` for runs being saved, then release all attempts for other workers to take over."""
        self._stopping.set()
        if self._saving:
            await asyncio.wait(self._saving, timeout=grace_s)
        # In a loop: a run that ends meanwhile starts a task that saves it.
        while pending := {task for task in (*self._saving, *self._tasks.values()) if not task.done()}:
            await end_tasks(pending)
        await self._previews.close()
        self._collector.close()
        await self._thumbnails.close()

    async def _wait_s(self, job_id: int) -> float | None:
        """Return in how many seconds a turn that found no job may be tried again; None when it is not needed.

        A turn may run a different job than the one that earned it, whose own turn must then stay in the queue: a turn
        is kept as long as any job is due.
        """
        try:
            job = await self._store.get(job_id)
            if job.status is not JobStatus.PENDING:
                return _SOON_S if await self._store.any_due() else None
        except JobNotFound:
            return None
        except DatabaseUnavailable:
            return 1.0
        return max(_SOON_S, (job.available_at - datetime.now(UTC)).total_seconds())

    async def _resume(self, job: Job) -> None:
        backend = self._pool.backends[job.backend_name or ""]
        backend.take_slot()
        try:
            (live,) = await self._events.with_live([snapshot_of(job)])
            self._choice.took(backend, job)
            await self._run(replace(job, progress=live.progress), backend, claimed_at=None)
        finally:
            backend.free_slot()

    async def _run(self, job: Job, backend: Backend, *, claimed_at: float | None) -> None:
        """Run one attempt on the backend, and start saving its outputs."""
        attempt = Attempt(
            job,
            Claim(job.job_id, job.attempt, self.worker_id),
            backend,
            self._store,
            self._events,
            poll_s=self._settings.comfyui_poll_seconds,
            stall_s=self._settings.comfyui_stall_seconds,
            metrics=self._metrics,
            previews=self._previews,
            inputs=self._input_files,
            outputs=self._collector.collection(backend.comfyui),
        )
        self._running[job.job_id] = attempt
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine always runs in a task
        self._tasks[job.job_id] = task
        goes_on = False
        try:
            if claimed_at is not None:
                attempt.ledger.announce()
                # Let the event go out first: preparing a large graph blocks the event loop for a while.
                await asyncio.sleep(0)
            goes_on = await self._unless_it_fails(attempt, self._run_prompts(attempt, claimed_at))
        finally:
            backend.memory.dropped(job.job_id)
            if not goes_on:
                await self._leave(attempt)

    async def _run_prompts(self, attempt: Attempt, claimed_at: float | None) -> bool:
        """Run the prompts, which need the slot; True when a task is now saving the outputs."""
        try:
            ran = await attempt.run(claimed_at=claimed_at)
        finally:
            self._choice.ended(attempt)
        if not ran:
            await self._retry_or_fail.end(attempt, None)
            return False
        # In a task of its own, so that the slot is free for the next prompt.
        task = asyncio.create_task(self._save(attempt), name=f"save-{attempt.job.job_id}")
        self._tasks[attempt.job.job_id] = task
        self._saving.add(task)
        attempt.backend.begin_saving()
        task.add_done_callback(partial(self._saved, attempt.backend))
        return True

    async def _save(self, attempt: Attempt) -> None:
        try:
            await self._unless_it_fails(attempt, self._save_outputs(attempt))
        finally:
            await self._leave(attempt)

    async def _save_outputs(self, attempt: Attempt) -> bool:
        ending = await attempt.ending()
        if ending.failure is not None:
            await self._retry_or_fail.end(attempt, ending.failure)
            return False
        attempt.backend.device_succeeded()
        self._choice.succeeded(attempt)
        with self._thumbnails.giving_way():
            outputs = await save_outputs(attempt, ending)
        if attempt.job.content_id is not None:
            self._thumbnails.want(attempt.job.content_id, outputs)
        self.done += 1
        return True

    def _saved(self, backend: Backend, task: asyncio.Task[None]) -> None:
        self._saving.discard(task)
        backend.end_saving()
        if self._store.running_limited:
            # Another job of its owner may run now.
            backend.on_slot()

    async def _unless_it_fails(self, attempt: Attempt, part: Awaitable[bool]) -> bool:
        """Return the result of `part`; on a failure end the attempt and return False."""
        claim = attempt.claim
        try:
            return await part
        except (LostClaim, InvalidTransition) as error:
            log.warning("job %s: %s", claim.job_id, error)
        except AttemptFailed as error:
            await self._retry_or_fail.end(attempt, error)
        except asyncio.CancelledError:
            await self._retry_or_fail.release(claim)
            raise
        except Exception:
            log.exception("job %s: unexpected error in attempt %s", claim.job_id, claim.attempt)
            await self._retry_or_fail.end(
                attempt, AttemptFailed("Something went wrong in the worker; its log says what.")
            )
        return False

    async def _leave(self, attempt: Attempt) -> None:
        self._tasks.pop(attempt.job.job_id, None)
        self._running.pop(attempt.job.job_id, None)
        attempt.leave()
        await attempt.outputs.downloads.drop()
