"""Metrics that a worker collects about its attempts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from app.domain.job import FINISHED, JobStatus
from app.metrics import (
    CHOICES,
    DEVICE_ERRORS,
    EXECUTION,
    IDLE_GAP,
    INPUT_BYTES,
    INPUT_FILES,
    JOBS_FINISHED,
    LOST_RACES,
    MODEL_LOADS,
    OVERTAKINGS,
    PICK_UP,
    QUEUE_WAIT,
    SAVING,
    TAKEOVERS,
    Tally,
)
from worker.comfyui.input_folder import Had

if TYPE_CHECKING:
    from app.domain.job import Job
    from app.domain.scheduling.jobs import Reason


class AttemptMetrics:
    """Collects metrics in a tally, which is added to Redis with each heartbeat. Times are of the monotonic clock."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._idle_since: dict[str, float] = {}
        """Backend → time at which its last run ended."""

    def claimed(self, job: Job) -> None:
        """Record a claim. All timestamps of the job are PostgreSQL's, so they can be subtracted."""
        self.tally.observe(PICK_UP, (job.updated_at - job.available_at).total_seconds())
        if job.started_at == job.updated_at:
            # Only for the first attempt: automatic retries keep `started_at`.
            self.tally.observe(QUEUE_WAIT, job.waited_s(job.updated_at))

    def chose(self, reason: Reason, overtook: int) -> None:
        """Record why a job was taken, and how many that were due earlier were passed over."""
        self.tally.count(CHOICES, reason)
        if overtook:
            self.tally.count(OVERTAKINGS, by=overtook)

    def lost_race(self) -> None:
        """Record that a chosen job could not be taken: another worker has it, or it was cancelled."""
        self.tally.count(LOST_RACES)

    def loaded(self, backend: str, load_s: float) -> None:
        """Record that a run had to load models, and for how many seconds it did."""
        self.tally.observe(MODEL_LOADS, load_s, backend)

    def taken_over(self) -> None:
        """Record that an attempt was taken over from a worker whose lease had expired."""
        self.tally.count(TAKEOVERS)

    def device_failed(self, backend: str) -> None:
        """Record that a job failed with an error of the backend's device."""
        self.tally.count(DEVICE_ERRORS, backend)

    def gave_input(self, backend: str, had: Had, size_bytes: int) -> None:
        """Record that a backend has an input file of a run, and how it came to have it."""
        self.tally.count(INPUT_FILES, had)
        if had is Had.SENT:
            self.tally.count(INPUT_BYTES, backend, size_bytes)

    def due_at(self, job: Job) -> float:
        """Return the time from which a job that was just claimed could have run."""
        return time.monotonic() - (job.updated_at - job.available_at).total_seconds()

    def began(self, backend: str, due_at: float | None, began_at: float) -> None:
        """Record the start of a run, and how long the backend was idle although the job was due.

        `due_at` is None for a run that was taken over; no idle time is recorded then.
        """
        idle_since = self._idle_since.pop(backend, None)
        if idle_since is not None and due_at is not None and due_at <= idle_since:
            self.tally.observe(IDLE_GAP, began_at - idle_since, backend)

    def ended(self, backend: str, began_at: float | None, ended_at: float) -> None:
        """Record the end of a run; `began_at` is None when its start was not seen."""
        self._idle_since[backend] = ended_at
        if began_at is not None:
            self.tally.observe(EXECUTION, ended_at - began_at, backend)

    def reached(self, status: JobStatus, backend: str, ended_at: float | None) -> None:
        """Record a job's new status; for a completed job `ended_at` is when its run ended."""
        if status in FINISHED:
            self.tally.count(JOBS_FINISHED, status)
        if status is JobStatus.COMPLETED and ended_at is not None:
            self.tally.observe(SAVING, time.monotonic() - ended_at, backend)
