"""What a backend offers: its node classes as `GET /object_info` describes them, read once into plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.domain.replacements import Replacement

_UPLOADS = ("image_upload", "video_upload", "audio_upload", "file_upload", "animated_image_upload", "remote")
"""Marks of inputs whose choices change while the server runs, so that a list read earlier proves nothing."""
_SELF_DESCRIBING: Final = "COMFY_"
"""Begins the types of newer inputs, which say by themselves what else there is, and what fits."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a node class."""

    name: str
    type: str
    required: bool
    choices: tuple[Any, ...] | None = None
    """The values it takes, where they are a fixed list."""
    minimum: float | None = None
    maximum: float | None = None
    lazy: bool = False
    """Whether the node asks for it only when it needs it, in the middle of its own run."""
    choice_texts: frozenset[str] = field(init=False, repr=False, compare=False)
    """The choices as texts, made once: a graph may choose among thousands of files in each of its nodes."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "choice_texts", frozenset(map(str, self.choices or ())))

    def accepts_type(self, given: str) -> bool:
        """Whether an output of type `given` may be linked here. `*` fits everything; a comma separates alternatives."""
        if self.choices is not None:
            return True
        ours, theirs = set(self.type.split(",")), set(given.split(","))
        return bool(ours & theirs) or any(_fits_all(each) for each in ours | theirs)


@dataclass(frozen=True, slots=True)
class NodeClass:
    """A node class: its inputs by name, the types of its outputs, and whether it leaves something behind."""

    name: str
    inputs: Mapping[str, InputSpec]
    outputs: tuple[str, ...] | None
    """None when it does not say."""
    is_output: bool

    def may_grow(self, name: str) -> bool:
        """Whether an input that is not listed may be one all the same: `images.image0`, of `images` that grows."""
        parent = self.inputs.get(name.partition(".")[0])
        return parent is not None and parent.type.startswith(_SELF_DESCRIBING)


@dataclass(frozen=True, slots=True)
class Catalog:
    """All node classes of one backend."""

    nodes: Mapping[str, NodeClass]
    replacements: Mapping[str, Replacement] = field(default_factory=dict)
    """Class that the backend has not → what it takes in its place."""

    def choices(self, node_class: str, input_name: str) -> tuple[str, ...]:
        """Return what that input of that class can be set to; nothing when the class or the input is not there."""
        node = self.nodes.get(node_class)
        spec = node.inputs.get(input_name) if node else None
        return tuple(str(value) for value in spec.choices) if spec and spec.choices else ()

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Names of the checkpoint files."""
        return self.choices("CheckpointLoaderSimple", "ckpt_name")

    @property
    def loras(self) -> tuple[str, ...]:
        """Names of the LoRA files."""
        return self.choices("LoraLoader", "lora_name")

    @property
    def samplers(self) -> tuple[str, ...]:
        """Names of the samplers."""
        return self.choices("KSampler", "sampler_name")

    @property
    def schedulers(self) -> tuple[str, ...]:
        """Names of the schedulers."""
        return self.choices("KSampler", "scheduler")


def read_catalog(object_info: Mapping[str, Any]) -> Catalog:
    """Read the answer of `GET /object_info`. What a custom node describes wrongly is taken as "anything goes"."""
    return Catalog({name: _node(name, raw) for name, raw in object_info.items() if isinstance(raw, dict)})


def _node(name: str, raw: Mapping[str, Any]) -> NodeClass:
    sections = raw.get("input")
    sections = sections if isinstance(sections, dict) else {}
    inputs = {}
    for section in ("optional", "required"):
        described = sections.get(section)
        for key, spec in described.items() if isinstance(described, dict) else ():
            inputs[key] = _input(key, spec, required=section == "required")
    outputs = raw.get("output")
    # An output's type may itself be a list of choices.
    types = tuple(each if isinstance(each, str) else "COMBO" for each in outputs) if isinstance(outputs, list) else None
    return NodeClass(name, inputs, types, bool(raw.get("output_node")))


def _fits_all(kind: str) -> bool:
    # Which type a COMFY_… stands for (COMFY_MATCHTYPE_V3) is settled by the other links of its node.
    return kind in ("*", "COMBO") or kind.startswith(_SELF_DESCRIBING)


def _input(name: str, spec: Any, *, required: bool) -> InputSpec:
    kind: Any = spec[0] if isinstance(spec, list) and spec else "*"
    config = spec[1] if isinstance(spec, list) and len(spec) > 1 and isinstance(spec[1], dict) else {}
    choices = kind if isinstance(kind, list) else config.get("options") if kind == "COMBO" else None
    if any(config.get(mark) for mark in _UPLOADS):
        choices = None
    return InputSpec(
        name=name,
        type=kind if isinstance(kind, str) else "COMBO",
        # Newer, self-describing inputs (COMFY_…) expand into others; whether they are there is not ours to say.
        required=required and not (isinstance(kind, str) and kind.startswith(_SELF_DESCRIBING)),
        choices=tuple(choices) if isinstance(choices, list) and choices and not config.get("multiselect") else None,
        minimum=_number(config.get("min")),
        maximum=_number(config.get("max")),
        lazy=bool(config.get("lazy")),
    )


def _number(value: Any) -> float | None:
    # An int stays an int: the greatest seed, 2**64 - 1, is not exact as a float.
    fit = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if fit else None
