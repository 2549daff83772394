"""The form that sends a job: the request that its fields make, and the field at which each fault stands."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import Fault
from app.domain.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from app.domain.job import Job
    from app.monitor.new_job_graph import GraphFields

LORA_ROWS: Final = 3
MOST_LORA_ROWS: Final = 32
SIZES: Final = ("832x1216", "1216x832", "1024x1024")
PICTURES: Final = ("image", "mask")
DEFAULTS: Final = {
    "sampler_name": "euler",
    "scheduler": "normal",
    "steps": "28",
    "cfg": "5.5",
    "batch_size": "1",
    "priority": "0",
}
LABELS: Final = {
    "user_id": "User",
    "checkpoint_model": "Checkpoint",
    "sampler_name": "Sampler",
    "batch_size": "Pictures",
    "cfg": "CFG",
    "image": "Picture",
    "workflow_text": "Workflow",
}
"""What fields are called whose names do not tell."""
WORKFLOW: Final = "workflow"
"""Value of the field `kind`."""
_WHOLE: Final = "/workflow"
_TEXTS: Final = ("negative_prompt", "checkpoint_model", "upscale_model")
_COMMON: Final = ("user_id", "prompt", "backend", "prefer", "priority")
_SAMPLER: Final = ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")
_FRACTIONS: Final = ("cfg", "denoise")
_INTEGER: Final = re.compile(r"[+-]?\d{1,30}", re.ASCII)
_FRACTION: Final = re.compile(r"[+-]?(?:\d{1,30}(?:[.,]\d{0,30})?|[.,]\d{1,30})", re.ASCII)
_REFERENCE: Final = re.compile(r"content:(\d{1,18}):(\d{1,9})|upload:([\w-]{1,64})|url:(.{1,4000})", re.ASCII)


@dataclass(slots=True)
class Form:
    """What is filled in, and what is said of it."""

    values: dict[str, str] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    """Field → what is wrong with it."""
    summary: list[tuple[str | None, str]] = field(default_factory=list)
    """Everything that is wrong, each with its field; None where there is none."""
    places: dict[str, str] = field(default_factory=dict)
    """Pointer into the request → the field that it was made of."""
    graph: GraphFields | None = None
    """The workflow that is filled in."""

    @property
    def lora_rows(self) -> int:
        """How many rows of LoRAs there are."""
        filled = (int(found[1]) for name in self.values if (found := re.fullmatch(r"lora_(\d{1,2})_name", name)))
        return min(MOST_LORA_ROWS, max(LORA_ROWS, *filled, 0))

    def blame(self, fault: Fault) -> None:
        """Say what is wrong at the field that it is about."""
        pointer = fault.pointer
        while pointer and pointer not in self.places:
            pointer = pointer.rpartition("/")[0]
        name, detail = self.places.get(pointer), printable(_said(fault))
        if pointer in ("", _WHOLE) and pointer != fault.pointer:
            # Of the field alone one would not know where it is.
            detail = f"{printable(fault.pointer)}: {detail}"
        if name is not None:
            self.faults.setdefault(name, []).append(detail)
        self.summary.append((name, detail))

    def blame_all(self, faults: Iterable[Fault]) -> None:
        """Say everything that is wrong."""
        for fault in faults:
            self.blame(fault)

    def text(self, name: str, pointer: str | None = None) -> str | None:
        """Return what is filled into a field, None when that is nothing, and note where it goes in the request."""
        self.places[pointer or f"/{name}"] = name
        value = self.values.get(name, "")
        return value if value.strip() else None

    def number(self, name: str, pointer: str | None = None, *, whole: bool = True) -> Any:
        """Return the number in a field; a text that is none is blamed, and left out."""
        text = (self.text(name, pointer) or "").strip()
        if not text:
            return None
        if not (_INTEGER if whole else _FRACTION).fullmatch(text):
            what = "a whole number" if whole else "a number"
            self.blame(Fault(pointer or f"/{name}", "no_number", f"This is to be {what}."))
            return None
        return int(text) if whole else float(text.replace(",", "."))

    def request(self) -> dict[str, Any]:
        """Return the request that the simple fields make, without the files; what cannot be read is blamed."""
        body = self.common() | {"job_type": "image"}
        body |= {name: self.text(name) for name in _TEXTS} | {"batch_size": self.number("batch_size")}
        sampler = {}
        for name in _SAMPLER:
            pointer = f"/sampler_params/{name}"
            is_text = name in ("sampler_name", "scheduler")
            found = self.text(name, pointer) if is_text else self.number(name, pointer, whole=name not in _FRACTIONS)
            sampler[name] = found
        body["sampler_params"] = _given(sampler)
        body |= self._size()
        body["lora_models"] = self._loras()
        return _given(body)

    def common(self) -> dict[str, Any]:
        """Return what jobs with and without a workflow ask for."""
        body = {name: self.text(name) for name in ("user_id", "prompt", "backend", "prefer")}
        return _given({"job_type": WORKFLOW} | body | {"priority": self.number("priority")})

    @property
    def is_workflow(self) -> bool:
        """Whether it is of the kind that sends a workflow."""
        return self.values.get("kind") == WORKFLOW

    @property
    def labels(self) -> dict[str, str]:
        """What fields are called whose names do not tell."""
        inputs = (
            ((each.name, f"{node.title}, {each.label}") for node in self.graph.nodes for each in node.inputs)
            if self.graph
            else ()
        )
        return LABELS | dict(inputs)

    def _size(self) -> dict[str, Any]:
        """Return width and height: what is filled in, else of the size that is chosen; None of neither."""
        own = {name: self.number(name) for name in ("width", "height")}
        preset = self.values.get("size", "")
        chosen = preset.split("x") if preset in SIZES else ()
        return own | {name: int(side) for name, side in zip(own, chosen, strict=False) if own[name] is None}

    def _loras(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for row in range(1, self.lora_rows + 1):
            pointer = f"/lora_models/{len(found)}"
            name = self.text(f"lora_{row}_name", f"{pointer}/name")
            if name is None:
                continue
            model = self.number(f"lora_{row}_strength", f"{pointer}/strength_model", whole=False)
            clip = self.number(f"lora_{row}_clip", f"{pointer}/strength_clip", whole=False)
            if f"lora_{row}_clip" not in self.values:
                clip, self.places[f"{pointer}/strength_clip"] = model, f"lora_{row}_strength"
            found.append(_given({"name": name, "strength_model": model, "strength_clip": clip}))
        return found


def reference_in(text: str) -> dict[str, Any] | None:
    """Return the input reference that a hidden field holds; None when it is none."""
    found = _REFERENCE.fullmatch(text)
    if found is None:
        return None
    content, output, upload, url = found.groups()
    if content is not None:
        return {"content": int(content), "output": int(output)}
    return {"upload": upload} if upload is not None else {"url": url}


def text_of(reference: Mapping[str, Any]) -> str:
    """Return an input reference that a job keeps as a hidden field holds it."""
    if "upload" in reference:
        return f"upload:{reference['upload']}"
    if "content" in reference:
        return f"content:{reference['content']}:{reference.get('output', 0)}"
    return f"url:{reference.get('url', '')}"


def values_of(job: Job) -> dict[str, str]:
    """Return the fields as they ask for what a job did."""
    found: dict[str, Any] = {name: getattr(job, name) for name in _COMMON}
    if job.workflow is not None:
        return {name: str(value) for name, value in found.items() if value is not None} | {"kind": WORKFLOW}
    found |= {name: getattr(job, name) for name in (*_TEXTS, "batch_size")}
    found |= {name: job.sampler_params.get(name) for name in _SAMPLER}
    if job.width and job.height and job.upscale_model is None:
        size = f"{job.width}x{job.height}"
        found |= {"size": size} if size in SIZES else {"width": job.width, "height": job.height}
    for row, lora in enumerate(job.lora_models[:MOST_LORA_ROWS], 1):
        model, clip = lora.get("strength_model"), lora.get("strength_clip")
        found |= {f"lora_{row}_name": lora.get("name"), f"lora_{row}_strength": model}
        found |= {f"lora_{row}_clip": clip} if clip != model else {}
    found |= {name: text_of(each) for name in PICTURES if (each := getattr(job, name)) is not None}
    return {name: str(value) for name, value in found.items() if value is not None}


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _said(fault: Fault) -> str:
    if fault.code in ("missing", "string_too_short"):
        return "This is needed."
    # Of a field's own check: "must not be blank".
    detail = f"This {fault.detail}" if fault.detail[:1].islower() else fault.detail
    if not detail.endswith((".", "?", "!")):
        detail += "."
    return f"{detail} Did you mean {fault.suggestion}?" if fault.suggestion else detail
