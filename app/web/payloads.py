"""What the API answers, as models: they shape answers, and make the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    PlainSerializer,
)

from app.domain.job import JobStatus, Phase
from app.domain.message import timestamp
from app.domain.uploads import UploadKind

Time = Annotated[datetime, PlainSerializer(timestamp, return_type=str, when_used="json")]


class SourceAnswer(BaseModel):
    """What ComfyUI called an output: as its history has it, folder of the run included."""

    filename: str | None = Field(description="Null, as are `subfolder` and `type`, of a text and of data.")
    subfolder: str | None
    type: str | None = Field(description="output, temp or input")
    key: str | None = Field(
        description="The key of the node's `ui` under which it stood: `images`, `gifs`, `text`. Null of what came by "
        "another way."
    )


class OutputAnswer(BaseModel):
    """One output of a job: a file, a text, or data. They stand in the order of nodes' ids, numbers as numbers."""

    index: int
    node_id: str
    kind: str = Field(
        description="image, video, audio, text, file, or data: as JSON what a node shows besides files and texts, "
        "all of one key together."
    )
    content_type: str
    size_bytes: int
    width: int | None
    height: int | None
    sha256: str
    url: str
    thumbnail_url: str | None
    signed_url: str = Field(
        description="The `url` as a link: whoever has it is shown the output, without a key, for LINK_SECONDS (1 h)."
    )
    signed_thumbnail_url: str | None
    preview: bool = Field(description="A temporary file that was made to be looked at, beside what was saved or alone.")
    source: SourceAnswer | None = Field(description="Null of outputs that were kept before this was noted.")


class TicketAnswer(BaseModel):
    """A ticket of a WebSocket: it opens one, once, within a minute."""

    ticket: str
    expires_at: Time
    url: str = Field(description="Where it opens one, with the ticket.")


class ChoiceAnswer(BaseModel):
    """Why a backend took a job. The event `claimed` has the same in its `data`."""

    reason: str | None = Field(
        description="due: the first, its models loaded. warm: its models were loaded, and not those of earlier jobs. "
        "load: they had to be loaded, and nowhere would it have ended sooner. ahead: queued behind a running job that "
        "leaves them loaded."
    )
    rank: int | None = Field(description="Its place among the jobs that the backend could have taken, from 0.")
    overtook: int | None = Field(description="How many jobs before it were passed over.")
    load_s: float | None = Field(description="Seconds that its models were expected to take to load.")
    alternatives: int | None = Field(description="How many other jobs were compared; null if it was simply the first.")


class AttemptAnswer(BaseModel):
    """One try at a job on one backend."""

    number: int
    worker: str
    backend: str
    prompt_id: str
    started_at: Time
    submitted_at: Time | None
    executing_at: Time | None
    executed_at: Time | None
    ended_at: Time | None
    outcome: str | None
    error_code: str | None
    error: str | None
    node_id: str | None
    node_type: str | None
    choice: ChoiceAnswer | None = Field(description="Null where nothing was chosen.")
    load_s: float | None = Field(description="Seconds for which its nodes loaded models; null if that is not known.")


class Timings(BaseModel):
    """Where the time went, in milliseconds; null for what has not begun.

    Queued is from when the job could be taken (sent, its time had come, or retried) until a worker first took it.
    """

    queued_ms: int | None
    execution_ms: int | None
    saving_ms: int | None
    total_ms: int | None


class RangeAnswer(BaseModel):
    """A number of seconds as it will probably be, and between which bounds it mostly is."""

    low: float
    likely: float
    high: float


class JobAnswer(BaseModel):
    """A job."""

    job_id: int
    id: int
    task_id: str
    celery_task_id: str = Field(
        description="The same as `task_id`, for clients of the old service.", json_schema_extra={"deprecated": True}
    )
    user_id: str
    job_type: str
    prompt: str | None
    negative_prompt: str
    checkpoint_model: str | None
    lora_models: list[dict[str, Any]]
    width: int | None = Field(description="Null, as the height, until a picture is fetched that brings its own size.")
    height: int | None
    batch_size: int
    sampler_params: dict[str, Any]
    workflow: dict[str, Any] | None = Field(
        description="The graph that the client sent, if it sent one. Null in lists: `links.self` has it, and "
        "`links.workflow` the graph as it was run."
    )
    extra_pnginfo: dict[str, Any] | None = Field(description="As the client sent it, if it did. Null in lists.")
    image: dict[str, Any] | None = Field(
        description="The input reference, with the `upload` that holds the bytes; data became an upload."
    )
    mask: dict[str, Any] | None
    inputs: dict[str, dict[str, Any]] = Field(description="`<node>.<input>` → input reference, as `image`.")
    upscale_model: str | None
    backend: str | None
    prefer: str | None = Field(description="The backend that is preferred, and not waited for.")
    priority: int
    not_before: Time | None
    max_attempts: int
    timeout_seconds: int
    metadata: dict[str, str]
    params: dict[str, Any]
    status: JobStatus
    phase: Phase
    seq: int
    progress: int = Field(description="Per cent, 0–100.")
    attempt: int
    created_at: Time
    updated_at: Time
    started_at: Time | None
    completed_at: Time | None
    queue_position: int | None = Field(
        description="1 is the next; null unless the job waits, and when it was just submitted."
    )
    eta_seconds: float | None = Field(
        description="Seconds until the job will probably end: of a running job by the last runs of its workflow, of a "
        "waiting one by playing the queue forward over the backends. Null if nothing is known, while the job is "
        "paused, and in lists."
    )
    eta_range: RangeAnswer | None = Field(description="The same, with the bounds between which it mostly is.")
    begin_range: RangeAnswer | None = Field(description="Seconds until the run of a waiting job begins; null as above.")
    waits_because: str | None = Field(
        description="Why no worker takes the job, in words: the queue is paused, or the jobs of its user are, or no "
        "live backend has its models. Null of one that waits for its turn only, and in lists."
    )
    backend_name: str | None
    comfyui_prompt_id: str | None
    content_id: int | None
    output_paths: list[str] = Field(description="Relative to STORAGE_DIR.")
    outputs: list[OutputAnswer]
    error_message: str | None
    error_code: str | None
    cancel_reason: str | None
    attempts: list[AttemptAnswer] = Field(description="The last 50; `GET …/{job_id}/attempts` has them all.")
    timings: Timings
    warnings: list[str]
    links: dict[str, str]


class JobListAnswer(BaseModel):
    """A page of the list."""

    items: list[JobAnswer] = Field(
        description="Fewer than `limit` where they are long: a page has about 4 MiB, or one job. A search for `q` "
        "looks at 50,000 jobs at a time and may find few, or none. `next_cursor` leads on."
    )
    total: int = Field(description="How many jobs there are beyond this page too; at least so many, if not exact.")
    total_exact: bool = Field(description="False when there are more than 10,000 jobs, or that many to search for `q`.")
    skip: int
    limit: int
    next_cursor: str | None = Field(description="Leads to the jobs that follow; null at the end of the list.")


class ProblemError(BaseModel):
    """One fault of a request."""

    pointer: str
    code: str
    detail: str
    allowed: list[str] | None = None
    suggestion: str | None = None


class ForeseenAnswer(BaseModel):
    """What one backend would do with a job."""

    backend: str
    eligible: bool = Field(description="It would run the job, now or when it can take work.")
    idle_reason: str | None = Field(description="Why it can take no work at the moment; null if it can.")
    known: bool = Field(description="False while it is not known what the backend offers.")
    faults: list[ProblemError] = Field(description="Why it would not run the job.")
    warnings: list[str]


class CheckAnswer(BaseModel):
    """What would become of a job that was submitted now."""

    accepted: bool = Field(description="False when no backend that may take it would run it.")
    faults: list[ProblemError] = Field(description="As the 422 would have them, of a job that is not accepted.")
    warnings: list[str]
    eligible_backends: list[str]
    backends: list[ForeseenAnswer]
    checkpoint_model: str | None
    width: int | None
    height: int | None
    position: int = Field(description="Its place among the waiting jobs: 1 is the next; at most 10,001.")
    wait_seconds: RangeAnswer | None = Field(description="Until its run begins; null if nothing is known, or paused.")
    waits_because: str | None = Field(description="What is paused, in words, so that no worker would take the job.")
    run_seconds: RangeAnswer | None = Field(description="By the last runs of its workflow, or of all; null: not known.")


class BulkResult(BaseModel):
    """What became of one job of a bulk action."""

    job_id: int
    ok: bool
    status: JobStatus | None = None
    phase: Phase | None = None
    code: str | None = Field(None, description="Why not, as in a problem document.")
    detail: str | None = None


class BulkAnswer(BaseModel):
    """A result for each job, in the order asked for; `matched` counts what a filter matches, these and others."""

    results: list[BulkResult]
    matched: int = Field(description="At least so many, if not exact.")
    matched_exact: bool = Field(description="False when there are more than 10,000, or that many to search for `q`.")
    next_cursor: str | None = Field(
        None,
        description="Send it as `cursor` to go on with the others: 1000 jobs are done, or 200,000 searched for `q`.",
    )


class EventAnswer(BaseModel):
    """A step of a job's life."""

    seq: int
    timestamp: Time
    event: str
    phase: Phase
    attempt: int
    actor: str
    data: dict[str, Any]


class EventListAnswer(BaseModel):
    """Steps of a job's life, the first one first."""

    items: list[EventAnswer]
    next_after: int | None = Field(description="As `after` it leads to those that follow; null at the end.")


class AttemptListAnswer(BaseModel):
    """Attempts of a job, the first one first."""

    items: list[AttemptAnswer]
    next_after: int | None = Field(description="As `after` it leads to those that follow; null at the end.")


class PauseAnswer(BaseModel):
    """That jobs which wait are not taken."""

    since: Time
    by: str
    reason: str | None


class QueueStatsAnswer(BaseModel):
    """Figures of the queue."""

    pending_jobs: int
    running_jobs: int
    oldest_wait_seconds: float | None
    by_priority: dict[str, int]
    by_model: dict[str, int] = Field(description="Of the 200 models that most jobs wait for.")
    workers_online: int
    backends_online: int
    paused: PauseAnswer | None = Field(description="Null: the queue is not paused as a whole.")


class BackendAnswer(BaseModel):
    """A backend, as its driver told of it last; null is what is not known."""

    name: str
    live: bool = Field(description="Its heartbeat is young enough for its driver to be alive.")
    state: Literal["healthy", "unhealthy", "undriven", "lost", "unknown"] = Field(
        description="undriven: no worker drives it. lost: its driver is silent. unknown: without any heartbeat."
    )
    healthy: bool | None
    reason: str | None = Field(description="What ails it.")
    since: Time | None = Field(description="When it last became healthy, or unhealthy.")
    age_seconds: float | None = Field(description="Age of its heartbeat.")
    drained: bool = Field(description="Its driver says that it is given no more prompts.")
    asked: Literal["drain", "resume"] | None = Field(description="What was decided and its driver has not confirmed.")
    driver: str | None = Field(description="The worker that drives it.")
    version: str | None = Field(description="Of ComfyUI.")
    slots: int | None = Field(description="Jobs that it is given at once.")
    used: int | None
    current: list[int] = Field(description="Ids of the jobs that it works on.")
    queue_own: int | None = Field(description="Prompts in ComfyUI's queue that are ours.")
    queue_foreign: int | None = Field(description="Those of other people.")
    models: list[str] = Field(
        description="Models of all kinds that are probably in memory, or will be when what it was given has run; the "
        "most recent first."
    )
    speed: float | None = Field(description="How fast it runs, 1 being the average.")
    loads_last_hour: int | None = Field(description="Runs that had to load models; null if that cannot be read.")
    load_seconds_last_hour: float | None = Field(description="For how many seconds all of them did.")
    vram_total_bytes: float | None
    vram_used_bytes: float | None


class BackendListAnswer(BaseModel):
    """All backends that told of themselves within a day, or are drained, by name."""

    items: list[BackendAnswer]


class WorkerAnswer(BaseModel):
    """A worker, as it told of itself last; null is what is not known."""

    name: str
    live: bool = Field(description="Its heartbeat is young enough for it to be alive; else it is lost.")
    state: str | None = Field(description="working, quiet or stopping")
    asked: str | None = Field(description="The state that it was asked to be in, and has not confirmed.")
    age_seconds: float = Field(description="Age of its heartbeat.")
    host: str | None
    pid: int | None
    version: str | None
    started_at: Time | None
    backends: list[str] = Field(description="Those that it drives.")
    slots: int | None
    used: int | None
    running: list[int] = Field(description="Ids of the jobs that it runs.")
    done: int | None = Field(description="Jobs completed since it started.")
    failed: int | None
    memory_bytes: float | None = Field(description="The most that it ever took.")


class WorkerListAnswer(BaseModel):
    """All workers that told of themselves within a day and have not left, by name."""

    items: list[WorkerAnswer]


class BackendStateAnswer(BaseModel):
    """What was decided about a backend."""

    name: str
    drained: bool
    """It is given no more prompts, and finishes those that it has."""
    confirmed: bool
    """The worker that drives it says so."""
    changed_at: Time
    changed_by: str


class UploadAnswer(BaseModel):
    """A file that a client handed over."""

    upload_id: str
    user_id: str
    sha256: str
    kind: UploadKind
    content_type: str
    size_bytes: int
    width: int | None
    height: int | None
    duration_seconds: float | None
    created_at: Time
    expires_at: Time = Field(
        description="From when it may be deleted, unless a job that waits or runs needs it. Each use puts this off."
    )
    url: str


class UploadWorkflowAnswer(BaseModel):
    """What ComfyUI has written into an upload."""

    workflow: dict[str, Any] = Field(description="The graph in API format, as a job takes it.")
    extra_pnginfo: dict[str, Any] | None = Field(
        description="What else was written, as a job takes it: `workflow` is the graph of ComfyUI's page."
    )


class UploadListAnswer(BaseModel):
    """A page of the list of uploads."""

    items: list[UploadAnswer]
    next_cursor: str | None = Field(description="Leads to the uploads that follow; null at the end of the list.")


class LimitsAnswer(BaseModel):
    """What a key may use; null is no limit."""

    requests_per_second: float | None
    burst: int | None = Field(description="Requests at once; null: twice `requests_per_second`.")
    sockets: int | None
    waiting: int | None = Field(description="Jobs of the owner that wait; those below are the owner's too.")
    running: int | None
    jobs_per_day: int | None = Field(description="Accepted since midnight, UTC.")
    upload_bytes: int | None
    priority: int | None = Field(description="The highest that jobs of the owner may have.")


class UseAnswer(BaseModel):
    """What a key and its owner use."""

    requests_left: int | None = Field(description="That may be sent now; null where they are not limited.")
    sockets: int = Field(description="Open at the server that answers.")
    waiting: int = Field(description="At most 10,000 are counted.")
    running: int
    jobs_today: int | None = Field(description="Null where they are not limited: then nobody counts them.")
    upload_bytes: int


class MeAnswer(BaseModel):
    """Who the caller is."""

    name: str | None = Field(description="The key's name; null while there are no keys, as are the others but `role`.")
    role: str
    owner: str | None = Field(description="The `user_id` of the jobs that it sends.")
    limits: LimitsAnswer | None
    use: UseAnswer | None


class ContentAnswer(BaseModel):
    """What a completed job left."""

    content_id: int
    job_id: int
    created_at: Time
    outputs: list[OutputAnswer]


class Check(BaseModel):
    """The state of one thing that the service needs."""

    status: Literal["ok", "away", "none"]
    detail: str | None = None
    age_seconds: float | None = None


class ReadyAnswer(BaseModel):
    """Whether the service can do its work."""

    status: Literal["ready", "not_ready"]
    checks: dict[str, Check]
    workers: list[dict[str, Any]]
    backends: list[dict[str, Any]]


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[ProblemError] = []
