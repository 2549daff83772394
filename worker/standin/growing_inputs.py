"""Inputs that grow (`images.image0`, `images.image1`…) and that choose which others there are (`resize_type.width`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from worker.standin.nodes import Input, NodeType

GROWS: Final = "COMFY_AUTOGROW_V3"
CHOOSES: Final = "COMFY_DYNAMICCOMBO_V3"
MATCHES: Final = "COMFY_MATCHTYPE_V3"

Groups = Mapping[str, Mapping[str, Input]]
"""`required` and `optional`, each name → input."""


@dataclass(slots=True)
class PresentInputs:
    """The inputs that a node has for what it is given."""

    required: dict[str, Input] = field(default_factory=dict)
    optional: dict[str, Input] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    """Where the value of an input with a dot goes, in the objects that the node's function gets."""
    empty: set[str] = field(default_factory=set)
    """Growing inputs of which nothing is there: the function gets an empty object."""

    @property
    def all(self) -> dict[str, Input]:
        """Both groups."""
        return {**self.required, **self.optional}


def present_inputs(node_type: NodeType, given: Mapping[str, Any]) -> PresentInputs:
    """Return the inputs of a node to which these values are given."""
    found = PresentInputs()
    if node_type.modern:
        _expand(found, given, {"required": node_type.required, "optional": node_type.optional}, ())
    else:
        found.required.update(node_type.required)
        found.optional.update(node_type.optional)
    return found


def put_together(values: Mapping[str, Any], present: PresentInputs) -> dict[str, Any]:
    """Return what the node's function gets: values of inputs with dots in objects of their own."""
    together = {name: value for name, value in values.items() if name not in present.paths}
    for name, path in present.paths.items():
        *above, last = path.split(".")
        place = together
        for part in above:
            place = place.setdefault(part, {})
        place[last] = {} if name in present.empty and values.get(name) is None else values.get(name)
    return together


def growing(
    template: Input, names: list[str] | None = None, *, prefix: str = "", least: int = 1, most: int = 10
) -> Input:
    """Return an input that grows: one of these names after the other, or a prefix with a number."""
    member: dict[str, Any] = {"input": {"required": {prefix or "value": template}}}
    named: dict[str, Any] = {"prefix": prefix, "min": least, "max": most}
    if names is not None:
        named = {"names": names, "min": least}
    return Input(GROWS, {"template": member | named})


def choosing(options: Mapping[str, Groups], **config: Any) -> Input:
    """Return an input whose value decides which other inputs there are."""
    listed = [{"key": key, "inputs": {"required": {}, **groups}} for key, groups in options.items()]
    return Input(CHOOSES, {**config, "options": listed})


def matching(template_id: str, allowed: str) -> Input:
    """Return an input whose type the editor alone looks at."""
    return Input(MATCHES, {"template": {"template_id": template_id, "allowed_types": allowed}})


def _expand(found: PresentInputs, given: Mapping[str, Any], groups: Groups, above: tuple[str, ...]) -> None:
    """Add the inputs of these groups; growing and choosing inputs are replaced by the inputs they expand to."""
    for group, members in groups.items():
        for name, one in members.items():
            path = (*above, name)
            whole = ".".join(path)
            if one.kind == GROWS:
                _grow(found, given, one, path)
            elif one.kind == CHOOSES:
                _choose(found, given, one, path, group)
            else:
                _group(found, group)[whole] = one
                if above:
                    found.paths[whole] = whole


def _grow(found: PresentInputs, given: Mapping[str, Any], one: Input, path: tuple[str, ...]) -> None:
    """Add all inputs that a growing input can expand to; the first ones, up to its minimum, are required."""
    template = (one.config or {})["template"]
    group, members = next((group, members) for group, members in template["input"].items() if members)
    member = next(iter(members.values()))
    names = template.get("names") or [f"{template['prefix']}{number}" for number in range(template["max"])]
    there = False
    for number, name in enumerate(names):
        whole = ".".join((*path, name))
        wanted = number < template["min"] and group == "required"
        _group(found, "required" if wanted else "optional")[whole] = member
        if whole in given:
            there = True
            found.paths[whole] = whole
    if not there:
        whole = ".".join(path)
        found.paths[whole] = whole
        found.empty.add(whole)


def _choose(found: PresentInputs, given: Mapping[str, Any], one: Input, path: tuple[str, ...], group: str) -> None:
    """Add the input and those of the chosen option; add nothing if the value is missing or is not an option."""
    whole = ".".join(path)
    if whole not in given:
        return
    options = (one.config or {})["options"]
    option = next((option for option in options if option["key"] == given[whole]), None)
    if option is not None:
        _expand(found, given, option["inputs"], path)
        _group(found, group)[whole] = one
        found.paths[whole] = f"{whole}.{path[-1]}"


def _group(found: PresentInputs, group: str) -> dict[str, Input]:
    return found.required if group == "required" else found.optional
