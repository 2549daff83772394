"""The life of a job as a table: phases, events, and the one place that says what may follow what."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import InvalidTransition
from app.domain.job_cost import UNKNOWN_S

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


class JobStatus(StrEnum):
    """Where a job is, as clients know it."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Phase(StrEnum):
    """Where a job is, more finely; each phase belongs to one status."""

    QUEUED = "queued"
    RETRYING = "retrying"
    ASSIGNED = "assigned"
    EXECUTING = "executing"
    SAVING = "saving"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


STATUS_OF: Final[Mapping[Phase, JobStatus]] = {
    Phase.QUEUED: JobStatus.PENDING,
    Phase.RETRYING: JobStatus.PENDING,
    Phase.ASSIGNED: JobStatus.RUNNING,
    Phase.EXECUTING: JobStatus.RUNNING,
    Phase.SAVING: JobStatus.RUNNING,
    Phase.CANCELLING: JobStatus.RUNNING,
    Phase.COMPLETED: JobStatus.COMPLETED,
    Phase.FAILED: JobStatus.FAILED,
    Phase.CANCELLED: JobStatus.CANCELLED,
}

FINISHED: Final = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})
"""Statuses in which nothing happens to a job by itself."""


class JobEvent(StrEnum):
    """What happens to a job."""

    SUBMITTED = "submitted"
    CLAIMED = "claimed"
    EXECUTING = "executing"
    SAVING = "saving"
    COMPLETED = "completed"
    FAILED = "failed"
    REQUEUED = "requeued"
    WITHDRAWN = "withdrawn"
    CANCEL_REQUESTED = "cancel_requested"
    CANCELLED = "cancelled"
    RETRIED = "retried"
    GIVEN_UP = "given_up"


class Repair(StrEnum):
    """What was put right about a job without changing its phase; stands among the events of its history."""

    TAKEN_OVER = "taken_over"
    TURN_RENEWED = "turn_renewed"


class Steering(StrEnum):
    """What somebody changed about a job that waits, without changing its phase; stands among the events too."""

    MOVED_TO_FRONT = "moved_to_front"
    PRIORITY_SET = "priority_set"


@dataclass(frozen=True, slots=True)
class Transition:
    """From which phases an event leads where."""

    sources: frozenset[Phase]
    target: Phase


WAITING: Final = frozenset({Phase.QUEUED, Phase.RETRYING})
"""Phases in which no worker has a job."""
_ON_BACKEND: Final = frozenset({Phase.ASSIGNED, Phase.EXECUTING, Phase.CANCELLING})

TRANSITIONS: Final[Mapping[JobEvent, Transition]] = {
    # A worker took it, and committed the prompt id under which it will submit it.
    JobEvent.CLAIMED: Transition(WAITING, Phase.ASSIGNED),
    # ComfyUI began to execute it.
    JobEvent.EXECUTING: Transition(frozenset({Phase.ASSIGNED}), Phase.EXECUTING),
    # ComfyUI is done with it; from `cancelling` too, for a job that ended before the interrupt took effect.
    JobEvent.SAVING: Transition(_ON_BACKEND, Phase.SAVING),
    # Files and rows are durable.
    JobEvent.COMPLETED: Transition(frozenset({Phase.SAVING}), Phase.COMPLETED),
    # A permanent error, or the attempts are used up.
    JobEvent.FAILED: Transition(_ON_BACKEND | {Phase.SAVING}, Phase.FAILED),
    # The attempt failed in a way that another one may not.
    JobEvent.REQUEUED: Transition(frozenset({Phase.ASSIGNED, Phase.EXECUTING, Phase.SAVING}), Phase.RETRYING),
    # Cancelled while no worker had it.
    JobEvent.WITHDRAWN: Transition(WAITING, Phase.CANCELLED),
    # Asked for; not confirmed yet.
    JobEvent.CANCEL_REQUESTED: Transition(frozenset({Phase.ASSIGNED, Phase.EXECUTING}), Phase.CANCELLING),
    # Confirmed by ComfyUI's own word.
    JobEvent.CANCELLED: Transition(frozenset({Phase.CANCELLING}), Phase.CANCELLED),
    # It has waited too long for models that no backend has.
    JobEvent.GIVEN_UP: Transition(WAITING, Phase.FAILED),
    # A client asked for another attempt.
    JobEvent.RETRIED: Transition(frozenset({Phase.FAILED, Phase.CANCELLED}), Phase.QUEUED),
}
"""One line an event. SQL guards, documentation and tests come from it. `submitted` is the birth, from no phase."""


def apply(phase: Phase, event: JobEvent) -> Phase:
    """Return the phase after `event`, or raise `InvalidTransition`."""
    move = TRANSITIONS.get(event)
    if move is None or phase not in move.sources:
        raise InvalidTransition(phase, event)
    return move.target


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a client asked for, but for the graph. Its fields only: who has them keeps them in slots of its own."""

    # Two classes with slots of their own cannot be bases of one.
    __slots__ = ()

    user_id: str
    job_type: str
    prompt: str | None
    negative_prompt: str
    checkpoint_model: str | None
    lora_models: list[dict[str, Any]]
    width: int
    """Pixels; 0, as the height, for the size of a picture that is still to be fetched from a URL."""
    height: int
    batch_size: int
    sampler_params: dict[str, Any]
    backend: str | None
    priority: int
    not_before: datetime | None
    max_attempts: int
    timeout_seconds: int
    metadata: dict[str, str]
    params: dict[str, Any]
    warnings: list[str]
    image: dict[str, Any] | None = None
    """Input reference (`app.domain.uploads`) to the picture to start from, of a job without a graph."""
    mask: dict[str, Any] | None = None
    """Input reference to the picture whose white parts are painted anew."""
    inputs: dict[str, Any] = field(default_factory=dict)
    """`"<node>.<input>"` → input reference, of a job with a graph."""
    upscale_model: str | None = None
    prefer: str | None = None
    """Name of a backend that is preferred, and not waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob(Asked):
    """What a client asked for, checked; `sampler_params` and `lora_models` are complete, the seed drawn."""

    workflow: dict[str, Any] | None
    extra_pnginfo: str | None = None
    """JSON, as PostgreSQL stores it. Only ComfyUI's nodes read it; parsed, it would take much memory."""
    upload_ids: tuple[str, ...] = ()
    """The uploads that it needs."""
    models: tuple[str, ...] = ()
    """The model files that it needs in memory, as `LoadedModels` names them; none where no backend could be asked."""
    model_key: str | None = None
    """Equal for jobs that load the same in the same way; None where nothing is known to be loaded."""
    cost_s: float = UNKNOWN_S
    """Seconds of a GPU that it will probably take."""
    sent: Mapping[str, str | None] | None = None
    """Who sent it, from where and with which request, for the audit; None of one that has an entry of its own there."""


_OF_ITS_OWN: Final = ("upload_ids", "models", "model_key", "cost_s", "sent")
ASKED_AGAIN: Final = tuple(name for name in NewJob.__dataclass_fields__ if name not in _OF_ITS_OWN)
"""The fields of `NewJob` that a job sent again has as well; what was found out about it is found out anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a job stands: all that its life changes, and nothing that can be long. Times are aware UTC datetimes.

    Steps, turns, repairs and watchers deal in these, as many of them at once as there may be.
    """

    job_id: int
    phase: Phase
    seq: int
    """Rises by one with each event of the job."""
    attempt: int
    """The number of the attempt that waits or runs, or of the last one; from 1."""
    attempt_limit: int
    """The number of the last attempt that may be made without being asked again."""
    progress: int
    backend_name: str | None
    worker_id: str | None
    prompt_id: str | None
    refused_by: list[str]
    """Names of backends that the job's next attempt avoids."""
    suspicions: int
    """How many backends stopped while they executed it, since it was sent or retried by hand."""
    error_code: str | None
    error_message: str | None
    cancel_reason: str | None
    content_id: int | None
    available_at: datetime
    """From when its next attempt may be made."""
    queued_at: datetime
    """From when it could be taken: sent, its time had come, or retried by hand. Attempts within a round keep it."""
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    """When a worker first took it since `queued_at`."""
    completed_at: datetime | None

    @property
    def status(self) -> JobStatus:
        """The phase's status."""
        return STATUS_OF[self.phase]

    def waited_s(self, now: datetime) -> float:
        """Return for how many seconds it has waited: from `queued_at` until a worker first took it, or it ended.

        This is what a wait is everywhere: in lists and their filters, in statistics, in timings and in metrics; SQL
        says it in `job_views` and `statistics`. A job whose time has not come has not waited.
        """
        return max(0.0, ((self.started_at or self.completed_at or now) - self.queued_at).total_seconds())

    def ran_s(self, now: datetime) -> float | None:
        """Return for how many seconds workers have had it, to its end or until now; None before one took it.

        This is what a run is wherever waits are told: ComfyUI's own queue is in it, and so are further attempts, what
        lies between them, and saving.
        """
        if self.started_at is None:
            return None
        return max(0.0, ((self.completed_at or now) - self.started_at).total_seconds())

    @property
    def task_id(self) -> str:
        """arq's id of the turn that this attempt earned."""
        return task_id(self.job_id, self.attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedJob(Standing, Asked):
    """A job without its graph: for lists, and wherever several are read at once."""

    has_workflow: bool
    """Whether the client sent a graph."""
    has_extra_pnginfo: bool = False
    models: tuple[str, ...] = ()
    """As in `NewJob`, like what follows."""
    model_key: str | None = None
    cost_s: float = UNKNOWN_S

    @property
    def repeated(self) -> bool:
        """Whether its attempt is not the first one since it was sent or retried by hand."""
        return self.attempt > self.attempt_limit - self.max_attempts + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(ListedJob):
    """A job as PostgreSQL has it, with the graph that the client sent: read one at a time."""

    workflow: dict[str, Any] | None
    extra_pnginfo: str | None = None
    """As in `NewJob`."""

    def now(self, standing: Standing) -> Job:
        """Return the job where it stands by now."""
        return replace(self, **{name: getattr(standing, name) for name in Standing.__dataclass_fields__})


@dataclass(frozen=True, slots=True)
class Turn:
    """What earns a waiting job a place in the queue."""

    job_id: int
    attempt: int
    available_at: datetime

    @property
    def task_id(self) -> str:
        """arq's id of it."""
        return task_id(self.job_id, self.attempt)


def task_id(job_id: int, attempt: int) -> str:
    """Return arq's id of the turn that an attempt earned; a new attempt gets past arq's memory of the last one."""
    return f"{job_id}:{attempt}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at a job on one backend; the graph that it sent is read by itself."""

    number: int
    worker_id: str
    backend_name: str
    prompt_id: str
    claimed_at: datetime
    submitted_at: datetime | None
    executing_at: datetime | None
    executed_at: datetime | None
    ended_at: datetime | None
    outcome: str | None
    error_code: str | None
    error_message: str | None
    node_id: str | None
    node_type: str | None
    traceback: str | None
    """As ComfyUI told it, cut; it shows a server's paths."""
    spans: list[dict[str, Any]] | None
    """When ComfyUI began and ended each node, as `app.domain.node_times` has it; None if that is not known."""
    workflow_key: str | None
    """Equal for runs that cost about the same."""
    choice: dict[str, Any] | None = None
    """Why its backend took the job, as `app.domain.scheduling.jobs.Choice.told` has it; None where nothing was
    chosen."""
    load_s: float | None = None
    """Seconds for which its nodes loaded models; None if that is not known."""


SHOWN_BY_BROWSERS: Final = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif", "image/avif", "image/bmp"})
"""Pictures that stand in for their own thumbnails while those are being made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A file of a job as we keep it. `path` and `thumbnail_path` are relative to the store."""

    index: int
    node_id: str
    kind: str
    content_type: str
    size_bytes: int
    width: int | None
    height: int | None
    sha256: str
    path: str
    thumbnail_path: str | None
    thumbnail_due: bool = False
    """Its thumbnail is still being made."""
    source: Mapping[str, str] | None = None
    """What ComfyUI called it: `filename`, `subfolder`, `type`, and the `key` of the node's `ui` under which it stood.

    A text and data have no more than the key; None of outputs that were kept before this was."""
    preview: bool = False
    """A temporary file that ComfyUI made to be looked at, beside what was saved or instead of it."""
