"""What goes over the wire, as models: they check bodies and queries, shape answers, and make the OpenAPI document."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from app.domain.catalog import nearest
from app.domain.errors import Fault, InvalidRequest, MalformedJson
from app.domain.job import JobStatus, NewJob, Phase
from app.domain.message import timestamp
from app.services.control import random_seed
from app.storage.job_views import JobFilter, Sort

MAX_SEED: Final = 2**64 - 1
MAX_PARAMS_BYTES: Final = 64 * 1024
MAX_BULK: Final = 1000
"""Jobs of one bulk action."""
MAX_JSON_DEPTH: Final = 64
MAX_FAULTS: Final = 100
"""So many are named; a body with more is wrong as a whole, and the answer stays one that can be read."""
_SHOWN_CHARS: Final = 200
TEMPLATED_TYPES: Final = ("image", "image_generation")
"""Job types that have a workflow template; the others bring their workflow."""

T = TypeVar("T", bound=BaseModel)
Time = Annotated[datetime, PlainSerializer(timestamp, return_type=str, when_used="json")]


def _time_text(value: Any) -> Any:
    # pydantic would also take a number of seconds.
    if not isinstance(value, str) or not re.match(r"\d{4}-\d\d-\d\d[Tt ]\d", value, re.ASCII):
        raise ValueError("must be an RFC 3339 time, such as 2026-11-23T12:00:00Z")
    return value


def _storable(value: datetime) -> datetime:
    # At the ends of the calendar an offset leads out of it.
    if not datetime(1970, 1, 1, tzinfo=UTC) <= value < datetime(9000, 1, 1, tzinfo=UTC):
        raise ValueError("must lie between the years 1970 and 9000")
    return value


GivenTime = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_time_text), AfterValidator(_storable)]
"""A time that a client sends."""


class RequestModel(BaseModel):
    """Base of what clients send: unknown fields are refused by name, and texts are not taken for numbers."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)


class LoraChoice(RequestModel):
    """A LoRA and how strongly it is applied."""

    name: str = Field(min_length=1, max_length=255)
    strength_model: float = Field(0.8, ge=-100, le=100, allow_inf_nan=False)
    strength_clip: float = Field(0.8, ge=-100, le=100, allow_inf_nan=False)


class SamplerParams(RequestModel):
    """How the picture is sampled."""

    seed: int | None = Field(None, ge=-1, le=MAX_SEED, description="Absent or -1: a random one is drawn.")
    steps: int = Field(28, ge=1, le=150)
    cfg: float = Field(5.5, ge=0, le=30, allow_inf_nan=False)
    sampler_name: str = Field("euler", min_length=1, max_length=64)
    scheduler: str = Field("normal", min_length=1, max_length=64)
    denoise: float = Field(1.0, ge=0, le=1, allow_inf_nan=False)


class JobRequest(RequestModel):
    """The body of `POST /api/v1/generation-jobs/`."""

    user_id: str = Field(min_length=1, max_length=255)
    job_type: Literal["image", "image_generation", "video", "audio", "workflow"]
    workflow: dict[str, Any] | None = Field(None, validate_default=True, description="A graph in ComfyUI's API format.")
    overrides: dict[str, Any] = Field({}, description='"<node>.<input>": value, set in the workflow.')
    prompt: str | None = Field(
        None,
        min_length=1,
        max_length=10_000,
        validate_default=True,
        description="Optional when a workflow is given.",
    )
    negative_prompt: str = Field("", max_length=20_000)
    checkpoint_model: str | None = Field(None, min_length=1, max_length=255)
    lora_models: list[LoraChoice] = Field([], max_length=32)
    width: int = Field(832, ge=64, le=2048, description="Pixels; rounded down to a multiple of 8.")
    height: int = Field(1216, ge=64, le=2048, description="Pixels; rounded down to a multiple of 8.")
    batch_size: int = Field(1, ge=1, le=8)
    sampler_params: SamplerParams = Field(default_factory=lambda: SamplerParams.model_construct(**_SAMPLER_DEFAULTS))
    backend: str | None = Field(None, min_length=1, max_length=255)
    priority: int = Field(0, ge=-100, le=100, description="Larger first.")
    not_before: GivenTime | None = None
    max_attempts: int = Field(4, ge=1, le=10)
    timeout_seconds: int = Field(900, ge=1, le=7200)
    metadata: dict[str, str] = Field({}, max_length=16)
    params: dict[str, Any] = {}

    @field_validator("workflow")
    @classmethod
    def _brought_where_needed(cls, value: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        job_type = info.data.get("job_type", TEMPLATED_TYPES[0])
        if value is None and job_type not in TEMPLATED_TYPES:
            raise ValueError(f"a job of type {job_type} brings its workflow")
        return value

    @field_validator("overrides")
    @classmethod
    def _of_a_workflow(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if value and info.data.get("workflow", {}) is None:
            raise ValueError("are for a workflow, and none is given")
        return value

    @field_validator("prompt")
    @classmethod
    def _said(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("workflow", {}) is None:
            raise ValueError("is needed unless a workflow is given")
        if value is not None and not value.strip():
            raise ValueError("must not be blank")
        return value

    @field_validator("metadata")
    @classmethod
    def _short_pairs(cls, value: dict[str, str]) -> dict[str, str]:
        if any(len(key) > 255 or len(text) > 2000 for key, text in value.items()):
            raise ValueError("keys have at most 255 characters, values at most 2000")
        return value

    @field_validator("params")
    @classmethod
    def _small(cls, value: dict[str, Any]) -> dict[str, Any]:
        if _json_size(value) > MAX_PARAMS_BYTES:
            raise ValueError(f"must be at most {MAX_PARAMS_BYTES} bytes of JSON")
        return value

    def to_new_job(self) -> NewJob:
        """Return the job that is asked for: sizes rounded, the seed drawn, what was changed said in `warnings`."""
        warnings = []
        width, height = self.width - self.width % 8, self.height - self.height % 8
        if (width, height) != (self.width, self.height):
            asked = f"{self.width} × {self.height}"
            warnings.append(f"The size {asked} was rounded down to {width} × {height}, multiples of 8.")
        sampler = self.sampler_params.model_dump()
        if sampler["seed"] in (None, -1):
            sampler["seed"] = random_seed()
        return NewJob(
            user_id=self.user_id,
            job_type=self.job_type,
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            checkpoint_model=self.checkpoint_model,
            lora_models=[lora.model_dump() for lora in self.lora_models],
            width=width,
            height=height,
            batch_size=self.batch_size,
            sampler_params=sampler,
            workflow=self.workflow,
            backend=self.backend,
            priority=self.priority,
            not_before=self.not_before,
            max_attempts=self.max_attempts,
            timeout_seconds=self.timeout_seconds,
            metadata=self.metadata,
            params=self.params,
            warnings=warnings,
        )


_SAMPLER_DEFAULTS: Final[dict[str, Any]] = {name: each.default for name, each in SamplerParams.model_fields.items()}


class CancelRequest(RequestModel):
    """The body of a cancel; an empty one will do."""

    reason: str | None = Field(None, max_length=2000)


class RetryRequest(RequestModel):
    """The body of a retry; an empty one will do."""

    seed: Literal["same", "new"] = "same"


class BulkFilter(RequestModel):
    """Which jobs a bulk action is for; filters combine, and an empty one is refused: it would mean every job."""

    user_id: str | None = Field(None, max_length=255)
    status: list[Annotated[JobStatus, Field(strict=False)]] = []
    job_type: str | None = Field(None, max_length=32)
    checkpoint_model: str | None = Field(None, max_length=255)
    backend: str | None = Field(None, max_length=255)
    q: str | None = Field(None, max_length=1000, description="A text that the prompt contains.")

    @model_validator(mode="after")
    def _not_everything(self) -> BulkFilter:
        if not self.model_dump(exclude_defaults=True):
            raise ValueError("needs at least one field, or it would mean every job")
        return self

    def to_filter(self) -> JobFilter:
        """Return what is meant."""
        return JobFilter(**self.model_dump())


class BulkRequest(RequestModel):
    """The body of a bulk action: either the jobs themselves, or a filter."""

    job_ids: list[Annotated[int, Field(ge=0, lt=2**63)]] | None = Field(None, min_length=1, max_length=MAX_BULK)
    filter: BulkFilter | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> BulkRequest:
        if (self.job_ids is None) == (self.filter is None):
            raise ValueError("job_ids: either job_ids or filter is needed, and not both")
        return self


class BulkCancelRequest(BulkRequest):
    """Cancel many jobs."""

    reason: str | None = Field(None, max_length=2000)


class BulkRetryRequest(BulkRequest):
    """Retry many jobs."""

    seed: Literal["same", "new"] = "same"


class ListQuery(BaseModel):
    """The query of the list; filters combine."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    user_id: str | None = Field(None, max_length=255)
    status: list[JobStatus] = []
    job_type: str | None = Field(None, max_length=32)
    checkpoint_model: str | None = Field(None, max_length=255)
    backend: str | None = Field(None, max_length=255)
    created_after: GivenTime | None = None
    created_before: GivenTime | None = None
    q: str | None = Field(None, max_length=1000, description="A text that the prompt contains.")
    sort: Sort = "-created_at"
    limit: int = Field(100, ge=1, le=1000)
    cursor: str | None = Field(None, max_length=1000)
    skip: int = Field(0, ge=0, le=1_000_000)

    def to_filter(self) -> JobFilter:
        """Return what the list is narrowed to."""
        return JobFilter(**{name: getattr(self, name) for name in JobFilter.__dataclass_fields__})


class OutputAnswer(BaseModel):
    """One file of a job."""

    index: int
    node_id: str
    kind: str = Field(description="image, video, audio, text or file")
    content_type: str
    size_bytes: int
    width: int | None
    height: int | None
    sha256: str
    url: str
    thumbnail_url: str | None


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


class Timings(BaseModel):
    """Where the time went, in milliseconds; null for what has not begun. Waits between attempts count as queued."""

    queued_ms: int | None
    execution_ms: int | None
    saving_ms: int | None
    total_ms: int | None


class JobAnswer(BaseModel):
    """A job."""

    job_id: int
    id: int
    task_id: str
    user_id: str
    job_type: str
    prompt: str | None
    negative_prompt: str
    checkpoint_model: str | None
    lora_models: list[dict[str, Any]]
    width: int
    height: int
    batch_size: int
    sampler_params: dict[str, Any]
    workflow: dict[str, Any] | None
    backend: str | None
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
    eta_seconds: float | None = Field(description="Estimated from the last runs; null when there is nothing to go by.")
    backend_name: str | None
    comfyui_prompt_id: str | None
    content_id: int | None
    output_paths: list[str] = Field(description="Relative to STORAGE_DIR.")
    outputs: list[OutputAnswer]
    error_message: str | None
    error_code: str | None
    cancel_reason: str | None
    attempts: list[AttemptAnswer]
    timings: Timings
    warnings: list[str]
    links: dict[str, str]


class JobListAnswer(BaseModel):
    """A page of the list."""

    items: list[JobAnswer]
    total: int
    skip: int
    limit: int
    next_cursor: str | None


class BulkResult(BaseModel):
    """What became of one job of a bulk action."""

    job_id: int
    ok: bool
    status: JobStatus | None = None
    phase: Phase | None = None
    code: str | None = Field(None, description="Why not, as in a problem document.")
    detail: str | None = None


class BulkAnswer(BaseModel):
    """A result for each job, in the order asked for; `matched` counts what a filter matches beyond these."""

    results: list[BulkResult]
    matched: int


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
    """All steps of a job's life, the first one first."""

    items: list[EventAnswer]


class AttemptListAnswer(BaseModel):
    """All attempts of a job, the first one first."""

    items: list[AttemptAnswer]


class QueueStatsAnswer(BaseModel):
    """Figures of the queue."""

    pending_jobs: int
    running_jobs: int
    oldest_wait_seconds: float | None
    by_priority: dict[str, int]
    by_model: dict[str, int]
    workers_online: int
    backends_online: int


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


class ProblemError(BaseModel):
    """One fault of a request."""

    pointer: str
    code: str
    detail: str
    allowed: list[str] | None = None
    suggestion: str | None = None


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


def check(model: type[T], data: Any, *, pointer: str = "/") -> T:
    """Return the data as the model, or raise `InvalidRequest` with every fault; `pointer` goes before a field's name.

    `pointer` is "/" for a body, whose faults are named by JSON pointer, and "" for a query.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        faults = [_fault(each, pointer, model) for each in found[:MAX_FAULTS]]
        listed = "; ".join(f"{fault.pointer or 'body'}: {fault.detail}" for fault in faults[:3])
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        raise InvalidRequest(f"The request is not valid. {listed}{more}", faults) from error


def check_texts(value: Any) -> list[Fault]:
    """Return where a value holds what neither PostgreSQL nor ComfyUI can take: NUL and lone surrogates in texts.

    Numbers without a JSON form are found too, for those who parse JSON loosely.

    Raises
    ------
    MalformedJson
        It is nested too deep.
    """
    faults: list[Fault] = []
    _look_into(value, "", 0, faults)
    return faults


def _look_into(value: Any, pointer: str, depth: int, faults: list[Fault]) -> None:
    if depth > MAX_JSON_DEPTH:
        raise MalformedJson(f"The body is nested deeper than {MAX_JSON_DEPTH} levels.")
    if len(faults) >= MAX_FAULTS:
        return
    if isinstance(value, str):
        faults += _text_faults(value, pointer)
    elif isinstance(value, float) and not math.isfinite(value):
        faults.append(Fault(pointer, "not_finite", "NaN and infinite numbers are no JSON."))
    elif isinstance(value, dict):
        for key, each in value.items():
            below = f"{pointer}/{_token(key)}"
            faults += _text_faults(key, below)
            _look_into(each, below, depth + 1, faults)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            _look_into(each, f"{pointer}/{index}", depth + 1, faults)


def _text_faults(text: str, pointer: str) -> list[Fault]:
    if "\0" in text:
        return [Fault(pointer, "nul_character", "A text must not contain the NUL character.")]
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        return [Fault(pointer, "lone_surrogate", "A text must not contain a lone surrogate: it is no Unicode.")]
    return []


def _token(key: str) -> str:
    """Return a key as a part of a pointer that can be shown: of reasonable length, and Unicode."""
    shown = key if len(key) <= _SHOWN_CHARS else f"{key[:_SHOWN_CHARS]}…"
    return shown.encode("utf-8", "replace").decode().replace("\0", "?").replace("~", "~0").replace("/", "~1")


def _fault(error: Any, pointer: str, model: type[BaseModel]) -> Fault:
    location = [str(part) for part in error["loc"]]
    detail = error["msg"].removeprefix("Value error, ")
    if not location and (match := re.match(r"^(\w+): (.*)$", detail)):
        # Of a model as a whole: it says itself which field is meant.
        location, detail = [match[1]], match[2]
    code, suggestion = error["type"], None
    if code == "extra_forbidden":
        code, detail = "unknown_field", "There is no such field."
        if len(location) == 1:
            suggestion = nearest(location[0][:_SHOWN_CHARS], model.model_fields)
    expected = error.get("ctx", {}).get("expected", "") if code in ("literal_error", "enum") else ""
    allowed = re.findall(r"'([^']*)'", expected)
    where = pointer + "/".join(map(_token, location)) if location else ""
    return Fault(where, code, detail, tuple(allowed), suggestion)


def _json_size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
