"""Inputs that other inputs come of: `images` grows `images.image0`, and `resize_type` decides what else there is.

ComfyUI makes the whole list anew for each node, from what is given to it. The rules are those of 0.33.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from app.domain.node_classes import InputSpec

MOST: Final = 100
"""No input may grow into more."""


@dataclass(frozen=True, slots=True)
class Growth:
    """An input in whose place stand as many others as there are links: all that there can be, by their whole names."""

    inputs: Mapping[str, InputSpec]


@dataclass(frozen=True, slots=True)
class Options:
    """An input whose value decides which others there are: key and inputs of each option."""

    options: tuple[tuple[Any, Mapping[str, InputSpec]], ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """An input with which others come when it is given at all."""

    inputs: Mapping[str, InputSpec]


def expanded(inputs: Mapping[str, InputSpec], given: Mapping[str, Any]) -> Mapping[str, InputSpec]:
    """Return the inputs that there are when these values are given, by their whole names."""
    required: dict[str, InputSpec] = {}
    optional: dict[str, InputSpec] = {}
    for spec in _expanded(inputs, given):
        (required if spec.required else optional)[spec.name] = spec
    # One that is both is required.
    return optional | required


def _expanded(inputs: Mapping[str, InputSpec], given: Mapping[str, Any]) -> Iterable[InputSpec]:
    for name, spec in inputs.items():
        match spec.grows:
            case None:
                yield spec
            case Growth(below):
                yield from below.values()
            case Slot(below) if name in given:
                yield from _expanded(below, given)
                yield spec
            case Options(options) if name in given:
                chosen = next((below for key, below in options if key == given[name]), None)
                if chosen is not None:
                    yield from _expanded(chosen, given)
                    yield spec
