"""What is told of a job: the frames of the WebSocket contract (manual, api.md), made from a snapshot of the job."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from app.domain.job import FINISHED, STATUS_OF, JobStatus, Phase

if TYPE_CHECKING:
    from app.domain.job import Standing

SEQ_STRIDE: Final = 1_000_000
"""Room for progress ticks between two events of a job, so that one number orders both; 2**53 / stride events fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The whole of a job at one moment, as far as watchers are told of it."""

    job_id: int
    phase: Phase
    seq: int
    """Number of the job's last event."""
    tick: int = 0
    """Number of the last progress since that event."""
    at: datetime
    attempt: int
    progress: int = 0
    node: dict[str, Any] | None = None
    """The running node with its own step, as `Spans.at_work` returns it; for clients that watch all events."""
    backend_name: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    cancel_reason: str | None = None
    content_id: int | None = None
    output_paths: list[str] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen by itself."""
        return STATUS_OF[self.phase] in FINISHED

    @property
    def order(self) -> int:
        """The `seq` of the frame: of two frames of a job the greater is the later."""
        return self.seq * SEQ_STRIDE + min(self.tick, SEQ_STRIDE - 1)


def snapshot_of(job: Standing, output_paths: list[str] | None = None) -> Snapshot:
    """Return what watchers are told of this job."""
    return Snapshot(
        job_id=job.job_id,
        phase=job.phase,
        seq=job.seq,
        at=job.updated_at,
        attempt=job.attempt,
        progress=job.progress,
        backend_name=job.backend_name,
        error_code=job.error_code,
        error_message=job.error_message,
        cancel_reason=job.cancel_reason,
        content_id=job.content_id,
        output_paths=output_paths or [],
    )


def timestamp(at: datetime) -> str:
    """Return RFC 3339 in UTC with milliseconds and `Z`."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def frame(snapshot: Snapshot) -> dict[str, Any]:
    """Return the text frame that tells of this state of the job."""
    told: dict[str, Any] = {
        "job_id": snapshot.job_id,
        "status": _word(snapshot),
        "timestamp": timestamp(snapshot.at),
        "seq": snapshot.order,
    }
    match STATUS_OF[snapshot.phase]:
        case JobStatus.PENDING:
            told["attempt"] = snapshot.attempt
            if snapshot.phase is Phase.RETRYING:
                told["reason"] = snapshot.error_message
        case JobStatus.RUNNING if told["status"] == "started":
            told |= {"attempt": snapshot.attempt, "backend": snapshot.backend_name}
        case JobStatus.RUNNING:
            told["progress"] = snapshot.progress
        case JobStatus.COMPLETED:
            told |= {"progress": 100, "content_id": snapshot.content_id, "output_paths": snapshot.output_paths}
        case JobStatus.FAILED:
            told |= {"error": snapshot.error_message, "error_code": snapshot.error_code}
        case JobStatus.CANCELLED:
            told |= {"error": snapshot.cancel_reason or "Cancelled.", "reason": snapshot.cancel_reason}
    return told


def _word(snapshot: Snapshot) -> str:
    """Return the frame's `status`, which is finer than the job's while it runs."""
    if STATUS_OF[snapshot.phase] is JobStatus.RUNNING:
        return "started" if snapshot.phase is Phase.ASSIGNED else "processing"
    return STATUS_OF[snapshot.phase].value
