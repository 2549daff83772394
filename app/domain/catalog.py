"""What a backend offers: its node classes as `GET /object_info` describes them, read once into plain data."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from app.domain.growing_inputs import MOST, Growth, Options, Slot
from app.domain.model_files import ModelFiles, read_model_files
from app.domain.node_classes import InputSpec, NodeClass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.domain.replacements import Replacement

_UPLOADS: Final = {
    "image_upload": "image",
    "animated_image_upload": "image",
    "video_upload": "video",
    "audio_upload": "audio",
    "file_upload": "file",
    "remote": "remote",
}
"""Marks of inputs whose choices change while the server runs → the kind of file that they take."""
_CORE: Final = ("comfy_extras.", "comfy_api_nodes.")
"""Begin the modules of ComfyUI's own classes, besides `nodes`."""
_NEWER: Final = "has_intermediate_output"
"""A key of each class in ComfyUI 0.33.0, and not yet in 0.3.64."""
_EXPANDED: Final = "output_matchtypes"
"""A key of each class whose growing inputs ComfyUI expands."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """All node classes of one backend."""

    nodes: Mapping[str, NodeClass]
    newer: bool = False
    """Whether it is known to be as new as ComfyUI 0.33.0, which checks what 0.3.64 let pass."""
    replacements: Mapping[str, Replacement] = field(default_factory=dict)
    """Class that the backend has not → what it takes in its place."""
    model_files: ModelFiles = field(init=False, repr=False, compare=False)
    """Read once: a catalog lives long, and each job that is accepted needs it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "model_files", read_model_files(self.nodes))

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
    described = {name: raw for name, raw in object_info.items() if isinstance(raw, dict)}
    newer = any(_NEWER in raw for raw in described.values())
    return Catalog({name: _node(name, raw) for name, raw in described.items()}, newer)


def _node(name: str, raw: Mapping[str, Any]) -> NodeClass:
    outputs, module = raw.get("output"), raw.get("python_module")
    names, lists = raw.get("output_name"), raw.get("output_is_list")
    return NodeClass(
        name=name,
        inputs=_inputs(raw.get("input")),
        outputs=tuple(map(_type, outputs)) if isinstance(outputs, list) else None,
        is_output=bool(raw.get("output_node")),
        is_core=isinstance(module, str) and (module == "nodes" or module.startswith(_CORE)),
        expands=_EXPANDED in raw,
        display_name=_text(raw.get("display_name")),
        category=_text(raw.get("category")),
        output_names=tuple(map(_text, names)) if isinstance(names, list) else (),
        output_lists=tuple(map(bool, lists)) if isinstance(lists, list) else (),
    )


def _text(value: Any) -> str:
    # Thousands of classes share the same few categories and names.
    return sys.intern(value) if isinstance(value, str) else ""


def _type(output: Any) -> str | tuple[Any, ...]:
    """Return the type of an output, which may itself be a list of choices."""
    return tuple(output) if isinstance(output, list) else output if isinstance(output, str) else "*"


def _inputs(sections: Any, above: str = "") -> dict[str, InputSpec]:
    """Return the inputs of a class, or of one that others come of: those have its name before their own."""
    inputs = {}
    for section in ("optional", "required"):
        described = sections.get(section) if isinstance(sections, dict) else None
        for key, spec in described.items() if isinstance(described, dict) else ():
            read = _input(f"{above}{key}", spec, required=section == "required")
            # Those with dots are not looked up again when the graph runs: none of them is lazy then.
            inputs[read.name] = replace(read, lazy=False) if above and read.lazy else read
    return inputs


def _input(name: str, spec: Any, *, required: bool) -> InputSpec:
    kind: Any = spec[0] if isinstance(spec, list) and spec else "*"
    config = spec[1] if isinstance(spec, list) and len(spec) > 1 and isinstance(spec[1], dict) else {}
    listed = isinstance(kind, list)
    choices = kind if listed else config.get("options", []) if kind == "COMBO" else None
    bounds = [config[key] for key in ("min", "max") if key in config]
    folder = config.get("image_folder")
    return InputSpec(
        name=name,
        type="COMBO" if listed else kind if isinstance(kind, str) else "*",
        required=required,
        choices=tuple(choices) if isinstance(choices, list) else None,
        minimum=_number(config.get("min")),
        maximum=_number(config.get("max")),
        lazy=bool(config.get("lazy")),
        drawn=bool(config.get("control_after_generate")),
        listed=listed,
        multiselect=bool(config.get("multiselect")),
        uploads=next((file for mark, file in _UPLOADS.items() if config.get(mark)), ""),
        folder=folder if isinstance(folder, str) else "",
        default=config.get("default"),
        step=_number(config.get("step")),
        odd_bounds=any(not isinstance(bound, int | float) for bound in bounds),
        grows=_growing(name, kind, config, required=required),
    )


def _growing(name: str, kind: Any, config: Mapping[str, Any], *, required: bool) -> Growth | Options | Slot | None:
    """Return how other inputs come of one of this type; None when none do."""
    match kind:
        case "COMFY_AUTOGROW_V3":
            return Growth(_grown(name, config.get("template")))
        case "COMFY_DYNAMICCOMBO_V3":
            options = config.get("options")
            listed = [each for each in options if isinstance(each, dict)] if isinstance(options, list) else []
            return Options(tuple((each.get("key"), _inputs(each.get("inputs"), f"{name}.")) for each in listed))
        case "COMFY_DYNAMICSLOT_V3":
            return Slot(_inputs(config.get("inputs"), f"{name}."))
    return None


def _grown(name: str, template: Any) -> dict[str, InputSpec]:
    template = template if isinstance(template, dict) else {}
    names, prefix, least, most = (template.get(key) for key in ("names", "prefix", "min", "max"))
    if not isinstance(names, list) and isinstance(prefix, str) and isinstance(most, int):
        names = [f"{prefix}{number}" for number in range(min(most, MOST))]
    sections = template.get("input")
    # ComfyUI takes the first that is described, and demands it only if it is described as required.
    first = next(((section, each) for section, each in _described(sections)), None)
    if first is None or not isinstance(names, list):
        return {}
    demanded = least if first[0] == "required" and isinstance(least, int) else 0
    spec = replace(_input(name, first[1], required=False), lazy=False)
    wholes = [f"{name}.{each}" for each in names[:MOST] if isinstance(each, str)]
    return {whole: replace(spec, name=whole, required=at < demanded) for at, whole in enumerate(wholes)}


def _described(sections: Any) -> list[tuple[str, Any]]:
    listed = sections.items() if isinstance(sections, dict) else ()
    return [(section, spec) for section, inside in listed if isinstance(inside, dict) for spec in inside.values()]


def _number(value: Any) -> float | None:
    # An int stays an int: the greatest seed, 2**64 - 1, is not exact as a float.
    fit = isinstance(value, int | float) and not (isinstance(value, float) and not math.isfinite(value))
    return value if fit else None
