"""What clients send, as models: they check bodies and queries, and make the OpenAPI document."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from app.domain.envelopes import is_graph, workflow_fault
from app.domain.job import JobStatus, NewJob
from app.domain.limits import MOST_PRIORITY
from app.domain.model_lists import ModelKind
from app.domain.seeds import random_seed
from app.runtime.json_text import dump_kept, kept_bytes
from app.storage.job_lists import JobFilter, Sort
from app.storage.job_views import MOST_STEPS
from app.web.input_references import InputReference
from app.web.request_model import RequestModel

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SEED: Final = 2**64 - 1
MAX_PARAMS_BYTES: Final = 64 * 1024
MAX_EXTRA_BYTES: Final = 8 * 2**20
MAX_PAIRS: Final = 16
"""Of `metadata`."""
MAX_INPUTS: Final = 100
"""Files that a job names by `inputs`."""
IMAGE_DENOISE: Final = 0.75
"""`denoise` of a job that starts from a picture, if it does not say another: 1 would leave nothing of the picture."""
MAX_BULK: Final = 1000
"""Jobs of one bulk action."""
MAX_FOLLOWED: Final = 500
"""Jobs that one WebSocket follows at most."""
TEMPLATED_TYPES: Final = ("image", "image_generation")
"""Job types that have a workflow template; the others bring their workflow."""


def _time_text(value: Any) -> Any:
    # pydantic would also take a number of seconds.
    if not isinstance(value, str) or not re.match(r"\d{4}-\d\d-\d\d[Tt ]\d", value, re.ASCII):
        raise ValueError("must be an RFC 3339 time, such as 2026-11-23T12:00:00Z")
    return value


def storable(value: datetime) -> datetime:
    """Return an aware time that can be kept; at the ends of the calendar an offset leads out of it."""
    if not datetime(1970, 1, 1, tzinfo=UTC) <= value < datetime(9000, 1, 1, tzinfo=UTC):
        raise ValueError("must lie between the years 1970 and 9000")
    return value


GivenTime = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_time_text), AfterValidator(storable)]
"""A time that a client sends."""


def _can_be_kept(value: dict[str, Any]) -> dict[str, Any]:
    # The body has limits of its own, but a number with an exponent is kept written out.
    if kept_bytes(value) > MAX_EXTRA_BYTES:
        raise ValueError(f"must be at most {MAX_EXTRA_BYTES} bytes of JSON")
    return value


Extra = Annotated[dict[str, Any], AfterValidator(_can_be_kept)]
"""What nodes get as `EXTRA_PNGINFO`."""


class ExtraData(RequestModel):
    """What goes with a workflow, as ComfyUI's own `POST /prompt` has it."""

    extra_pnginfo: Extra | None = None


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

    user_id: str = Field(
        min_length=1,
        max_length=255,
        description="Whose the job is: needed while no key has been made. With a key it may be left out, and is the "
        "key's owner; only an operator may name another one.",
    )
    job_type: Literal["image", "image_generation", "video", "audio", "workflow"]
    workflow: dict[str, Any] | None = Field(None, validate_default=True, description="A graph in ComfyUI's API format.")
    overrides: dict[str, Any] = Field(
        {}, description='"<node>.<input>": value, set in the workflow; both may have dots: the longest node id wins.'
    )
    inputs: dict[str, InputReference] = Field(
        {}, description='"<node>.<input>": a file for that input of the workflow, named as in `overrides`.'
    )
    extra_pnginfo: Extra | None = Field(
        None,
        description="For nodes that ask for it and into files, as ComfyUI's own page sends it: `workflow` and more.",
    )
    extra_data: ExtraData | None = Field(None, description="`extra_pnginfo`, where ComfyUI's `POST /prompt` has it.")
    image: InputReference | None = Field(
        None, description="The picture to start from, without a workflow: it is painted over by `denoise`, 0.75."
    )
    mask: InputReference | None = Field(
        None, description="A picture of the same shape as `image`: only what is white in it is painted anew."
    )
    upscale_model: str | None = Field(
        None, min_length=1, max_length=255, description="With `image` alone: it is scaled up by this model."
    )
    prompt: str | None = Field(
        None,
        min_length=1,
        max_length=10_000,
        validate_default=True,
        description="Optional when a workflow or an upscale_model is given.",
    )
    negative_prompt: str = Field("", max_length=20_000)
    checkpoint_model: str | None = Field(None, min_length=1, max_length=255)
    lora_models: list[LoraChoice] = Field([], max_length=32)
    width: int = Field(832, ge=64, le=2048, description="Pixels; rounded down to a multiple of 8.")
    height: int = Field(1216, ge=64, le=2048, description="Pixels; rounded down to a multiple of 8.")
    batch_size: int = Field(1, ge=1, le=8)
    sampler_params: SamplerParams = Field(default_factory=lambda: SamplerParams.model_construct(**_SAMPLER_DEFAULTS))
    backend: str | None = Field(None, min_length=1, max_length=255, description="The only backend that may run it.")
    prefer: str | None = Field(
        None, min_length=1, max_length=255, description="A backend that is preferred, and not waited for."
    )
    priority: int = Field(0, ge=-MOST_PRIORITY, le=MOST_PRIORITY, description="Larger first.")
    not_before: GivenTime | None = None
    max_attempts: int = Field(4, ge=1, le=10)
    timeout_seconds: int = Field(900, ge=1, le=7200)
    metadata: dict[str, str] = Field({}, max_length=MAX_PAIRS)
    params: dict[str, Any] = Field({})

    @field_validator("workflow", mode="before")
    @classmethod
    def _no_text_or_list(cls, value: Any) -> Any:
        fault = workflow_fault(value, "") if isinstance(value, str | list) else None
        if fault is not None:
            raise ValueError(fault.detail)
        return value

    @field_validator("prompt", mode="before")
    @classmethod
    def _no_graph(cls, value: Any) -> Any:
        if is_graph(value):
            raise ValueError('is a graph: send it as "workflow", with the job_type "workflow"')
        return value

    @field_validator("metadata", mode="before")
    @classmethod
    def _few(cls, value: Any) -> Any:
        # Before each of hundred thousands makes an error of its own.
        if isinstance(value, dict) and len(value) > MAX_PAIRS:
            raise ValueError(f"must have at most {MAX_PAIRS} pairs")
        return value

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

    @field_validator("inputs", mode="before")
    @classmethod
    def _few_inputs(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MAX_INPUTS:
            raise ValueError(f"must be at most {MAX_INPUTS}")
        return value

    @field_validator("inputs")
    @classmethod
    def _inputs_of_a_workflow(cls, value: dict[str, InputReference], info: ValidationInfo) -> dict[str, InputReference]:
        if value and info.data.get("workflow", {}) is None:
            raise ValueError("are for a workflow, and none is given: without one, image and mask are the pictures")
        return value

    @field_validator("image", "mask", "upscale_model")
    @classmethod
    def _without_a_workflow(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("workflow") is not None:
            raise ValueError("is for a job without a workflow: a workflow gets its files by inputs")
        if value is not None and info.field_name != "image" and info.data.get("image", value) is None:
            raise ValueError("goes with an image, and none is given")
        if value is not None and info.field_name == "upscale_model" and info.data.get("mask") is not None:
            raise ValueError("goes with an image alone, without a mask")
        return value

    @field_validator("prefer")
    @classmethod
    def _without_a_backend(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("backend") is not None:
            raise ValueError("is for a job that names no backend: one that does waits for it")
        return value

    @field_validator("prompt")
    @classmethod
    def _said(cls, value: str | None, info: ValidationInfo) -> str | None:
        is_upscale = info.data.get("upscale_model") is not None
        if value is None and info.data.get("workflow", {}) is None and not is_upscale:
            raise ValueError("is needed unless a workflow or an upscale_model is given")
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
        if kept_bytes(value) > MAX_PARAMS_BYTES:
            raise ValueError(f"must be at most {MAX_PARAMS_BYTES} bytes of JSON")
        return value

    @field_validator("extra_data")
    @classmethod
    def _given_once(cls, value: ExtraData | None, info: ValidationInfo) -> ExtraData | None:
        if value is not None and value.extra_pnginfo is not None and info.data.get("extra_pnginfo") is not None:
            raise ValueError("has the extra_pnginfo that is given as a field of its own")
        return value

    def to_new_job(self, sent: Mapping[str, str | None] | None = None) -> NewJob:
        """Return the job that is asked for: sizes rounded, the seed drawn, what was changed said in `warnings`.

        `sent` is the job's own.
        """
        warnings = []
        width, height = self.width - self.width % 8, self.height - self.height % 8
        if self.image is not None:
            # 0: as the picture has it, which is known later.
            width = width if "width" in self.model_fields_set else 0
            height = height if "height" in self.model_fields_set else 0
        rounded = [
            (name, asked, made)
            for name, asked, made in (("width", self.width, width), ("height", self.height, height))
            if made not in (0, asked)
        ]
        if width and height and rounded:
            asked_for = f"{self.width} × {self.height}"
            warnings.append(f"The size {asked_for} was rounded down to {width} × {height}, multiples of 8.")
        elif rounded:
            ((name, asked, made),) = rounded
            warnings.append(f"The {name} {asked} was rounded down to {made}, a multiple of 8.")
        extra = self.extra_pnginfo if self.extra_data is None else self.extra_data.extra_pnginfo or self.extra_pnginfo
        sampler = self.sampler_params.model_dump()
        is_given = "sampler_params" in self.model_fields_set and "denoise" in self.sampler_params.model_fields_set
        if self.image is not None and not is_given:
            sampler["denoise"] = IMAGE_DENOISE
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
            extra_pnginfo=dump_kept(extra) if extra is not None else None,
            backend=self.backend,
            prefer=self.prefer,
            priority=self.priority,
            not_before=self.not_before,
            max_attempts=self.max_attempts,
            timeout_seconds=self.timeout_seconds,
            metadata=self.metadata,
            params=self.params,
            sent=sent,
            warnings=warnings,
            image=self.image.to_reference() if self.image is not None else None,
            mask=self.mask.to_reference() if self.mask is not None else None,
            inputs={place: reference.to_reference() for place, reference in self.inputs.items()},
            upscale_model=self.upscale_model,
        )


_SAMPLER_DEFAULTS: Final[dict[str, Any]] = {name: each.default for name, each in SamplerParams.model_fields.items()}


class CancelRequest(RequestModel):
    """The body of a cancel; an empty one will do."""

    reason: str | None = Field(None, max_length=2000)


class RetryRequest(RequestModel):
    """The body of a retry; an empty one will do."""

    seed: Literal["same", "new"] = "same"


class JobChangeRequest(RequestModel):
    """What is to be changed of a job that waits."""

    priority: int = Field(ge=-MOST_PRIORITY, le=MOST_PRIORITY, description="Larger first.")


class HistoryQuery(BaseModel):
    """The query of a job's attempts, or events."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    limit: int = Field(MOST_STEPS, ge=1, le=1000)
    after: int = Field(0, ge=0, lt=2**31, description="The number, or `seq`, after which to go on: `next_after`.")


class OwnerQuery(BaseModel):
    """The query of requests about uploads."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    user_id: str | None = Field(None, min_length=1, max_length=255, description="The owner of the upload.")


class UploadListQuery(OwnerQuery):
    """The query of the list of uploads."""

    limit: int = Field(100, ge=1, le=1000)
    cursor: str | None = Field(None, max_length=1000)


class NoQuery(BaseModel):
    """The query of a route that takes none: every parameter is refused by name."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


class ModelsQuery(NoQuery):
    """The query of the models."""

    kind: list[ModelKind] = Field([], max_length=100, description="Only these lists; may be repeated.")


class NodesQuery(NoQuery):
    """The query of the node classes."""

    search: str = Field("", max_length=300, description="A text in the class, its shown name or its category.")
    limit: int = Field(100, ge=1, le=1000)
    cursor: str | None = Field(None, max_length=1000, description="next_cursor of the page before.")


class BulkFilter(RequestModel):
    """Which jobs a bulk action is for; filters combine. One that every job fits is refused: see `all`."""

    user_id: str | None = Field(None, min_length=1, max_length=255)
    status: list[Annotated[JobStatus, Field(strict=False)]] = Field([], max_length=100)
    job_type: str | None = Field(None, min_length=1, max_length=32)
    checkpoint_model: str | None = Field(None, min_length=1, max_length=255)
    backend: str | None = Field(None, min_length=1, max_length=255)
    q: str | None = Field(None, max_length=1000, description="A text that the prompt contains.")

    @property
    def narrows(self) -> bool:
        """Whether there can be a job that it does not fit: a blank text and a list of all statuses fit every one."""
        named = (self.user_id, self.job_type, self.checkpoint_model, self.backend, (self.q or "").strip())
        return any(named) or 0 < len(set(self.status)) < len(JobStatus)

    def to_filter(self) -> JobFilter:
        """Return what is meant."""
        return JobFilter(**self.model_dump())


class BulkRequest(RequestModel):
    """The body of a bulk action: the jobs themselves, or a filter, or the word that all are meant."""

    job_ids: list[Annotated[int, Field(ge=0, lt=2**63)]] | None = Field(None, min_length=1, max_length=MAX_BULK)
    filter: BulkFilter | None = None
    all: bool = Field(False, description="true: every job is meant, and no filter narrows that.")
    cursor: str | None = Field(
        None, max_length=1000, description="next_cursor of the answer before, with the same filter."
    )

    @model_validator(mode="after")
    def _which_is_said(self) -> BulkRequest:
        narrows = self.filter is not None and self.filter.narrows
        if self.all and (self.job_ids is not None or narrows):
            raise ValueError("all: every job is meant, or only some; job_ids and filter say which")
        if not self.all and (self.job_ids is None) == (self.filter is None):
            raise ValueError("job_ids: either job_ids or filter is needed, and not both")
        if not self.all and self.filter is not None and not narrows:
            raise ValueError('filter: fits every job; if every job is meant, say {"all": true} instead')
        if self.cursor is not None and self.job_ids is not None:
            raise ValueError("cursor: goes on with a filter, not with job_ids")
        return self

    def to_filter(self) -> JobFilter | None:
        """Return which jobs are meant; None when they are named."""
        if self.all:
            return JobFilter()
        return self.filter.to_filter() if self.filter is not None else None


class TicketRequest(RequestModel):
    """What a ticket of a WebSocket is to be good for: jobs, or all events."""

    job_ids: list[Annotated[int, Field(ge=0, lt=2**63)]] | None = Field(None, min_length=1, max_length=MAX_FOLLOWED)
    events: bool = Field(False, description="true: for `/ws/events`, in place of jobs.")

    @model_validator(mode="after")
    def _one_of_them(self) -> TicketRequest:
        if self.events == (self.job_ids is not None):
            raise ValueError('job_ids: either job_ids or {"events": true} is needed, and not both')
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
    status: list[JobStatus] = Field([], max_length=100)
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
        fields = JobFilter.__dataclass_fields__.keys() & type(self).model_fields.keys()
        return JobFilter(**{name: getattr(self, name) for name in fields})
