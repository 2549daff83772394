"""A key for workflows that cost about the same: what was seen of one says how long another one will take."""

from __future__ import annotations

import json
import re
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from app.domain.values import link_of

if TYPE_CHECKING:
    from app.domain.workflow import Graph

_MODEL: Final = re.compile(r"\.(safetensors|ckpt|pth?|bin|gguf|sft|onnx)$")
_CHOICE: Final = re.compile(r"_name\d*$")
"""Ends the name of an input that chooses a model or a sampler."""
_OWN: Final = re.compile(
    r"text|prompt|positive|negative|string|caption|title|file|path|folder|prefix|url|image|video|audio|mask"
)
"""In the name of an input: its text is of this job alone, such as a prompt or the name of a picture."""
_COSTS_NOTHING: Final = re.compile(r"seed|^denoise$|^strength")
"""Matches names of inputs whose number does not change the run time. For `denoise`: a sampler makes all its steps in
any case."""
_MOST_CHARS: Final = 100
"""Maximum characters of a text that may be one of a few choices; a longer one is free text."""
_WRITTEN: Final = json.JSONEncoder(sort_keys=True).encode
"""`json.dumps` would make an encoder for each graph, which takes longer than to write a small one."""


def workflow_key(graph: Graph) -> str:
    """Return 32 hexadecimal digits, equal for graphs that cost about the same.

    What counts is classes, links, models, samplers, and all numbers such as sizes, steps and batches; what does not is
    seeds, prompts, names of files, titles, and how strongly a guidance or a LoRA acts. The graph has passed
    `check_structure`.
    """
    costly = {node_id: [node["class_type"], _costly_inputs(node["inputs"])] for node_id, node in graph.items()}
    return blake2b(_WRITTEN(costly).encode(), digest_size=16).hexdigest()


def _costly_inputs(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value if link_of(value) is not None else _costly(name, value) for name, value in inputs.items()}


def _costly(name: str, value: Any) -> Any:
    """Return what of the value says how much work it makes; None for nothing."""
    match value:
        case dict():
            return {key: _costly(key, each) for key, each in value.items()}
        case list():
            return [_costly(name, each) for each in value]
        case str():
            chosen = _MODEL.search(value) or _CHOICE.search(name)
            own = len(value) > _MOST_CHARS or _OWN.search(name.lower())
            return value if chosen or not own else None
        case _ if _COSTS_NOTHING.search(name.lower()):
            return None
        case int() | float() if name == "cfg":
            # Without guidance there is no second pass in each step.
            return value == 1
    return value
