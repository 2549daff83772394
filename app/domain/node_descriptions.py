"""Node classes of several backends as plain data: which there are, and what each says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.domain.growing_inputs import Growth, Options, Slot
from app.domain.model_lists import in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from app.domain.model_lists import Offering
    from app.domain.node_classes import InputSpec, NodeClass

MOST_CHOICES: Final = 1_000
"""Choices of an input that are listed; their number is told all the same."""


def node_list(offerings: Iterable[Offering]) -> list[dict[str, Any]]:
    """Return all node classes, in the order of their names, each in a few words.

    Of those that backends describe differently, the words are of the first backend.
    """
    found: dict[str, tuple[NodeClass, list[str]]] = {}
    for offering in offerings:
        for name, node in offering.catalog.nodes.items():
            found.setdefault(name, (node, []))[1].extend(offering.backends)
    return [
        {**_words(name, found[name][0]), "backends": sorted(found[name][1])} for name in sorted(found, key=in_order)
    ]


def described(name: str, offerings: Sequence[Offering]) -> dict[str, Any] | None:
    """Return all that is said of a class; None when no backend has it.

    What stands at the top is what most backends say, of equally many the first one.
    """
    variants: list[tuple[NodeClass, list[str]]] = []
    for offering in offerings:
        if (node := offering.catalog.nodes.get(name)) is not None:
            same = next((backends for known, backends in variants if known == node), None)
            if same is None:
                variants.append((node, same := []))
            same.extend(offering.backends)
    if not variants:
        return None
    variants.sort(key=lambda each: (-len(each[1]), min(each[1])))
    told = [_whole(name, node) | {"backends": sorted(backends)} for node, backends in variants]
    everywhere = sorted(backend for _, backends in variants for backend in backends)
    differs = len(told) > 1
    return told[0] | {"backends": everywhere, "differs": differs, "descriptions": told if differs else []}


def weight_of(name: str, offerings: Iterable[Offering]) -> int:
    """Return about how many values describe a class, which tells how long `described` takes."""
    nodes = (offering.catalog.nodes.get(name) for offering in offerings)
    return sum(_weight(node.inputs) for node in nodes if node is not None)


def _weight(inputs: Mapping[str, InputSpec]) -> int:
    return sum(10 + len(spec.choices or ()) + sum(map(_weight, _below(spec))) for spec in inputs.values())


def _below(spec: InputSpec) -> list[Mapping[str, InputSpec]]:
    match spec.grows:
        case Growth(inputs) | Slot(inputs):
            return [inputs]
        case Options(options):
            return [inputs for _, inputs in options]
    return []


def _words(name: str, node: NodeClass) -> dict[str, Any]:
    return {
        "class": name,
        "display_name": node.display_name or name,
        "category": node.category,
        "output_node": node.is_output,
        "core": node.is_core,
    }


def _whole(name: str, node: NodeClass) -> dict[str, Any]:
    return {**_words(name, node), "inputs": _inputs(node.inputs, node.expands), "outputs": _outputs(node)}


def _inputs(inputs: Mapping[str, InputSpec], expands: bool) -> list[dict[str, Any]]:
    """Return the inputs in the order of the backend, those that are required first."""
    return [_input(spec, expands) for spec in sorted(inputs.values(), key=lambda spec: not spec.required)]


def _input(spec: InputSpec, expands: bool) -> dict[str, Any]:
    grows = spec.grows if expands else None
    choices = tuple(key for key, _ in grows.options) if isinstance(grows, Options) else spec.choices
    return {
        "name": spec.name,
        "type": spec.type,
        "required": spec.required,
        "default": spec.default,
        "min": spec.minimum,
        "max": spec.maximum,
        "step": spec.step,
        "choices": list(choices[:MOST_CHOICES]) if choices is not None else None,
        "choices_count": len(choices) if choices is not None else None,
        "multiselect": spec.multiselect,
        "uploads": spec.uploads or None,
        "folder": spec.folder or None,
        "grows": _grows(grows),
    }


def _grows(grows: Growth | Options | Slot | None) -> dict[str, Any] | None:
    match grows:
        case Growth(inputs):
            # All of them are the same but for the name.
            one = next((_input(spec, expands=True) for spec in inputs.values()), None)
            names = list(inputs)
            least = sum(spec.required for spec in inputs.values())
            return {"by": "links", "names": names, "least": least, "options": [], "inputs": [one] if one else []}
        case Options(options):
            listed = [{"value": key, "inputs": _inputs(inputs, expands=True)} for key, inputs in options[:MOST_CHOICES]]
            return {"by": "choice", "names": [], "least": 0, "options": listed, "inputs": []}
        case Slot(inputs):
            return {"by": "presence", "names": [], "least": 0, "options": [], "inputs": _inputs(inputs, expands=True)}
    return None


def _outputs(node: NodeClass) -> list[dict[str, Any]] | None:
    if node.outputs is None:
        return None
    told = []
    for at, kind in enumerate(node.outputs):
        choices = kind if isinstance(kind, tuple) else None
        named = node.output_names[at] if at < len(node.output_names) else ""
        told.append(
            {
                "name": named or (kind if isinstance(kind, str) else "COMBO"),
                "type": kind if isinstance(kind, str) else "COMBO",
                "is_list": at < len(node.output_lists) and node.output_lists[at],
                "choices": list(choices[:MOST_CHOICES]) if choices is not None else None,
                "choices_count": len(choices) if choices is not None else None,
            }
        )
    return told
