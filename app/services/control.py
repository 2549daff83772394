"""What a client may do with a job after it was accepted: cancel, retry, move it in the queue, delete."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final, TypeVar

from app.domain.errors import GenonautError, JobAlreadyFinished, QueueUnavailable, Unavailable
from app.domain.job import FINISHED, JobStatus, Phase, Standing
from app.domain.limits import check_priority
from app.domain.message import snapshot_of
from app.metrics import JOBS_FINISHED, Tally
from app.runtime.end_tasks import end_tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from app.domain.access import Caller
    from app.messaging.events import Events
    from app.messaging.figures import Figures
    from app.messaging.hub import Hub
    from app.messaging.queue import JobQueue
    from app.services.seeds import Seeds
    from app.storage.files import FileStore
    from app.storage.jobs import JobStore
    from app.storage.moves import Moved

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_AGAIN_S: Final = 1.0
"""Seconds between two reads of a job whose cancellation is awaited, in case its last event was lost."""
_AT_ONCE: Final = 16
"""Jobs of a bulk action that are dealt with at the same time; each may wait for ComfyUI's word."""


class Control:
    """The use cases that change an accepted job."""

    def __init__(
        self,
        store: JobStore,
        queue: JobQueue,
        events: Events,
        hub: Hub,
        figures: Figures,
        files: FileStore,
        seeds: Seeds,
        cancel_wait_s: float,
        look_again_s: float = LOOK_AGAIN_S,
    ) -> None:
        self._store = store
        self._queue = queue
        self._events = events
        self._hub = hub
        self._figures = figures
        self._files = files
        self._seeds = seeds
        self._cancel_wait_s = cancel_wait_s
        self._look_again_s = look_again_s
        self._tally = Tally()

    async def cancel(self, job_id: int, reason: str | None, actor: str, owner: str | None = None) -> Standing:
        """Cancel a job: a waiting one at once; of a running one wait a while for ComfyUI's own word.

        What is returned is what is true then: `cancelled`, or still `cancelling`. Another's than `owner`'s job is not
        found, unless that is None; nor does one of the methods below find it.

        Raises
        ------
        JobNotFound
        JobAlreadyFinished
            It ended before it could be cancelled.
        """
        ending = _Ending()
        # Before anything is asked for, so that the end cannot come unnoticed.
        self._hub.watch(ending, [job_id])
        try:
            job, changed = await self._store.cancel(job_id, reason, actor, owner)
            if job.phase is not Phase.CANCELLED:
                await self._events.ask_to_cancel(job_id)
                await self._events.publish(*await self._events.with_live([snapshot_of(job)]))
                job = await self._confirmed(job, ending)
            elif changed:
                await self._tell_withdrawn(job)
        finally:
            self._hub.unwatch(ending, [job_id])
        if job.status in FINISHED and job.status is not JobStatus.CANCELLED:
            raise JobAlreadyFinished(f"Job {job_id} was {job.status} before it could be cancelled.")
        return job

    async def _tell_withdrawn(self, job: Standing) -> None:
        """Publish that a waiting job was cancelled; no harm is done when Redis is away."""
        self._tally.count(JOBS_FINISHED, job.status)
        # A turn that stays in the queue finds nothing to do; a figure is handed over with the next one.
        turn, figure = self._queue.take_back(job.job_id, job.attempt), self._figures.add(self._tally)
        faults = await asyncio.gather(turn, figure, self._events.publish(snapshot_of(job)), return_exceptions=True)
        for fault in faults:
            if fault is not None and not isinstance(fault, QueueUnavailable):
                raise fault

    async def _confirmed(self, job: Standing, ending: _Ending) -> Standing:
        """Return the job as soon as it has ended, or as it is when the wait is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._cancel_wait_s):
                while job.status not in FINISHED:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._look_again_s):
                            await ending.seen.wait()
                    job = await self._store.get(job.job_id)
        return job

    async def in_bulk(
        self, job_ids: Sequence[int], act: Callable[[int], Awaitable[T]]
    ) -> list[tuple[int, T | GenonautError]]:
        """Do the same to each of the jobs, some at a time, and return what became of each.

        Raises
        ------
        DatabaseUnavailable
            In the middle perhaps: what was done stays done, and doing it again does no harm.
        """
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(job_id: int) -> tuple[int, T | GenonautError]:
            async with room:
                try:
                    return job_id, await act(job_id)
                except Unavailable:
                    raise
                except GenonautError as error:
                    return job_id, error

        tasks = [asyncio.create_task(one(job_id)) for job_id in dict.fromkeys(job_ids)]
        try:
            return await asyncio.gather(*tasks)
        finally:
            await end_tasks(tasks)

    async def retry(
        self, job_id: int, *, new_seed: bool, actor: str, owner: str | None = None, sender: Caller | None = None
    ) -> Standing:
        """Give a failed or cancelled job another attempt.

        Raises
        ------
        JobNotFound, JobNotRetryable
        NoSeedToChange
            Its workflow has no seed of its own; nothing has changed.
        TooManyWaiting, TooManyToday
            By the limits of the sender, of a job of its own.
        """
        drawing = await self._seeds.drawing() if new_seed else None
        job = await self._store.retry(job_id, drawing, actor, owner, sender=sender)
        try:
            await self._queue.enqueue(job_id, job.attempt)
        except QueueUnavailable as error:
            log.warning("job %s waits for the reconciler to enqueue it: %s", job_id, error)
        await self._events.publish(snapshot_of(job))
        return job

    async def to_front(self, job_id: int, actor: str, owner: str | None = None) -> Moved:
        """Let a waiting job come before the others of its user and priority.

        Raises
        ------
        JobNotFound, JobNotWaiting, JobNotMovable
        """
        return await self._told(await self._store.to_front(job_id, actor, owner))

    async def set_priority(
        self, job_id: int, priority: int, actor: str, owner: str | None = None, *, sender: Caller | None = None
    ) -> Moved:
        """Give a waiting job another priority.

        Raises
        ------
        JobNotFound, JobNotWaiting
        InvalidRequest
            It is higher than the sender's limits let, of a job of its own.
        """
        if sender is not None and sender.limits.priority is not None:
            check_priority(sender.limits_for(await self._store.user_of(job_id, owner)), priority)
        return await self._told(await self._store.set_priority(job_id, priority, actor, owner))

    async def _told(self, moved: Moved) -> Moved:
        if moved.changed:
            await self._events.publish(snapshot_of(moved.job))
        return moved

    async def delete(self, job_id: int, owner: str | None = None) -> None:
        """Delete a finished job: its rows, then its files.

        Raises
        ------
        JobNotFound, JobNotFinished
        """
        # Afterwards nobody can look up whose it was, and so who is told.
        user_id = await self._store.user_of(job_id, owner)
        await self._files.delete(await self._store.delete(job_id, owner))
        await self._events.publish_event({"type": "deleted", "job_id": job_id, "user_id": user_id})


class _Ending:
    """Watches for the end of a job."""

    def __init__(self) -> None:
        self.seen: Final = asyncio.Event()

    def offer(self, job_id: int, order: int, message: bytes, *, finished: bool) -> None:
        """Take a frame."""
        del job_id, order, message
        if finished:
            self.seen.set()

    def offer_event(self, message: bytes) -> None:
        """Take an event of the service: there are none for who watches a job."""

    def forget(self, job_id: int) -> None:
        """The job is gone."""
        del job_id
        self.seen.set()

    def dismiss(self) -> None:
        """The server shuts down, and lets its handlers end."""
