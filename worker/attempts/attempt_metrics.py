"""What a worker counts of its attempts, for the figures of the fleet."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from app.domain.job import FINISHED, JobStatus
from app.metrics import DEVICE_ERRORS, EXECUTION, IDLE_GAP, JOBS_FINISHED, PICK_UP, QUEUE_WAIT, SAVING, TAKEOVERS, Tally

if TYPE_CHECKING:
    from app.domain.job import Job


class AttemptMetrics:
    """Counts into a tally, which goes to Redis with the heartbeat. Moments are of the monotonic clock."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._idle_since: dict[str, float] = {}
        """Backend → when its last run ended."""

    def claimed(self, job: Job) -> None:
        """The job has just been claimed, which PostgreSQL noted by the same clock as all before."""
        self.tally.observe(PICK_UP, (job.updated_at - job.available_at).total_seconds())
        if job.started_at == job.updated_at:
            # Not between the attempts of one round: they keep the moment at which a worker first took the job.
            self.tally.observe(QUEUE_WAIT, job.waited_s(job.updated_at))

    def taken_over(self) -> None:
        """An attempt was taken over from a worker that had fallen silent."""
        self.tally.count(TAKEOVERS)

    def device_failed(self, backend: str) -> None:
        """A job met an error of the backend's device."""
        self.tally.count(DEVICE_ERRORS, backend)

    def due_at(self, job: Job) -> float:
        """Return when a job just claimed could have begun."""
        return time.monotonic() - (job.updated_at - job.available_at).total_seconds()

    def began(self, backend: str, due_at: float | None, began_at: float) -> None:
        """A run has begun; `due_at` is None of one taken over. Was the backend idle before, though there was work?"""
        idle_since = self._idle_since.pop(backend, None)
        if idle_since is not None and due_at is not None and due_at <= idle_since:
            self.tally.observe(IDLE_GAP, began_at - idle_since, backend)

    def ended(self, backend: str, began_at: float | None, ended_at: float) -> None:
        """A run has ended; `began_at` is None when its start was not seen."""
        self._idle_since[backend] = ended_at
        if began_at is not None:
            self.tally.observe(EXECUTION, ended_at - began_at, backend)

    def reached(self, status: JobStatus, backend: str, ended_at: float | None) -> None:
        """A job has reached this status; of a completed one `ended_at` is when its run had ended."""
        if status in FINISHED:
            self.tally.count(JOBS_FINISHED, status)
        if status is JobStatus.COMPLETED and ended_at is not None:
            self.tally.observe(SAVING, time.monotonic() - ended_at, backend)
