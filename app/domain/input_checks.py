"""What ComfyUI finds wrong with one input of a node: rule by rule as 0.3.64 and 0.33.0 do before they take a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from app.domain.errors import Fault
from app.domain.hints import shown
from app.domain.self_checking import Whose, checks_types, checks_value
from app.domain.structure import dangling
from app.domain.text import is_plain
from app.domain.uploads import id_in
from app.domain.values import unwrap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from app.domain.catalog import Catalog
    from app.domain.hints import Hints
    from app.domain.node_classes import InputSpec, NodeClass
    from app.domain.workflow import Graph

NOT_CORE: Final = "Its class is not ComfyUI's own, and may take it all the same."
BY_ITSELF: Final = "The class looks itself when the graph is sent."
NOT_ALL: Final = "Not every version of ComfyUI looks."
CHANGES: Final = "What there is to choose may have changed since."
_SHOWN: Final = 20
"""Maximum number of allowed values listed in a fault; the most similar one is named in addition."""
_NEVER_FILES: Final = {
    **dict.fromkeys(("INT", "FLOAT", "BOOLEAN", "LATENT", "MODEL", "CLIP", "VAE", "CONDITIONING"), ""),
    "IMAGE": "LoadImage",
    "MASK": "LoadImageMask",
    "AUDIO": "LoadAudio",
    "VIDEO": "LoadVideo",
}
"""Types of which no value is the name of a file → the node class that makes one of a file."""
_CONVERTED: Final[dict[str, Callable[[Any], Any]]] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


class Finding(NamedTuple):
    """A fault whose place is for others to say, and why it may be none; None when ComfyUI is sure to find it."""

    fault: Fault
    doubt: str | None = None


class InputChecks:
    """Checks one input after the other of a graph against what one backend offers."""

    def __init__(self, graph: Graph, catalog: Catalog, hints: Hints) -> None:
        self._graph = graph
        self._catalog = catalog
        self._hints = hints

    def missing(self, node_class: NodeClass, spec: InputSpec) -> Finding:
        """Return what is found where a required input is not given."""
        fault = Fault("", "required_input_missing", f"{shown(node_class.name)} needs the input {shown(spec.name)!r}.")
        return Finding(fault, NOT_ALL if spec.grows is not None and self.may_expand(node_class) else None)

    def given(self, node_class: NodeClass, spec: InputSpec, value: Any) -> Iterator[Finding]:
        """Yield what is found in an input of the class."""
        if not isinstance(value, list):
            yield from self._value(node_class, spec, unwrap(value))
        elif len(value) == 2:
            yield from self._link(node_class, spec, value[0], value[1])
        else:
            detail = 'A list is taken for a link, [node id, output index]; as a value it is {"__value__": […]}.'
            yield Finding(Fault("", "bad_linked_input", detail))

    def may_expand(self, node_class: NodeClass) -> bool:
        """Whether the description leaves open if ComfyUI makes other inputs of those of this class that grow."""
        return not node_class.expands and not self._catalog.newer

    def target(self, node_id: Any) -> NodeClass | None:
        """Return the class of the node to which a link leads; None when there is none."""
        node = self._graph.get(node_id) if isinstance(node_id, str) else None
        return None if node is None else self._catalog.nodes[node["class_type"]]

    def _link(self, node_class: NodeClass, spec: InputSpec, node_id: Any, slot: Any) -> Iterator[Finding]:
        source = self.target(node_id)
        if not isinstance(node_id, str):
            detail = f"A link names its node by a text, and {shown(repr(node_id))} is none."
            yield Finding(Fault("", "bad_link", detail))
        elif source is None:
            yield Finding(dangling(self._graph, node_id, self._hints))
        elif (found := slot_finding(source, node_id, slot)) is not None:
            yield found
        elif source.outputs is not None and -len(source.outputs) <= slot < len(source.outputs):
            yield from self._types(node_class, spec, source, source.outputs[slot])

    def _types(
        self, node_class: NodeClass, spec: InputSpec, source: NodeClass, brought: str | tuple[Any, ...]
    ) -> Iterator[Finding]:
        if spec.accepts_type(brought):
            return
        doubt = None if source.is_core else NOT_CORE
        if isinstance(brought, tuple) and spec.type == "COMBO" and not spec.listed:
            if self._catalog.newer:
                return
            doubt = doubt or NOT_ALL
        match checks_types(node_class):
            case Whose.CLASS:
                return
            case Whose.UNKNOWN:
                doubt = NOT_CORE
        wanted, came = spec.type, brought if isinstance(brought, str) else "one of its own choices"
        detail = f"{shown(spec.name)!r} takes {shown(wanted)}, and the link brings {shown(came)}."
        yield Finding(Fault("", "return_type_mismatch", detail), doubt)

    def _value(self, node_class: NodeClass, spec: InputSpec, value: Any) -> Iterator[Finding]:
        if id_in(value) is not None:
            # Where it may stand a file is on the backend before the graph is: no list can say no to that.
            if (fault := _no_place_for_a_file(spec)) is not None:
                yield Finding(fault)
            return
        if (convert := _CONVERTED.get(spec.type)) is not None:
            try:
                value = convert(value)
            except (TypeError, ValueError, OverflowError, RecursionError):
                what = "a number " if spec.type in ("INT", "FLOAT") else ""
                detail = f"{shown(spec.name)!r} takes {what}({spec.type})."
                yield Finding(Fault("", "invalid_input_type", detail))
                return
        whose = checks_value(node_class, spec.name)
        doubt = {Whose.COMFYUI: None, Whose.CLASS: BY_ITSELF, Whose.UNKNOWN: NOT_CORE}[whose]
        if spec.odd_bounds and not isinstance(value, int | float):
            yield Finding(_uncomparable(spec), doubt or NOT_ALL)
        elif (fault := _beyond(spec, value)) is not None:
            if whose is not Whose.CLASS:
                yield Finding(fault, doubt)
        elif spec.choices is not None and (fault := self._not_among(spec, value)) is not None:
            yield Finding(fault, doubt or self._doubt_of_choices(spec, value))

    def _not_among(self, spec: InputSpec, value: Any) -> Fault | None:
        """Return the fault of a value that is not among the choices; only wrong values get a suggestion."""
        several = spec.multiselect and isinstance(value, list) and (self._catalog.newer or not spec.listed)
        wrong = [each for each in value if each not in spec.chosen] if several else [value]
        wrong = [each for each in wrong if each not in spec.chosen]
        if not wrong:
            return None
        choices, text = spec.choices or (), str(wrong[0])
        some = tuple(shown(str(choice)) for choice in choices[:_SHOWN])
        detail = f"{shown(text)!r} is not among the {len(choices)} values that {shown(spec.name)!r} takes."
        if not isinstance(wrong[0], str) or any(str(choice) == text for choice in choices):
            detail = f"{shown(repr(wrong[0]))} is not among the {len(choices)} values that {shown(spec.name)!r} takes."
        return Fault("", "value_not_in_list", detail, some, self._hints.nearest(text, choices))

    def _doubt_of_choices(self, spec: InputSpec, value: Any) -> str | None:
        if spec.uploads:
            return CHANGES
        if not self._catalog.newer and (not spec.listed or (spec.multiselect and isinstance(value, list))):
            return NOT_ALL
        return CHANGES if isinstance(value, str) and not is_plain(value) else None


def _no_place_for_a_file(spec: InputSpec) -> Fault | None:
    """Return the fault of an upload in an input that takes no name of a file."""
    if spec.type in _NEVER_FILES:
        by = f" Load it by a node, such as {loader}, and link that." if (loader := _NEVER_FILES[spec.type]) else ""
        return Fault("", "takes_no_file", f"{shown(spec.name)!r} takes {shown(spec.type)}, no file.{by}")
    if spec.choices is not None and spec.uploads in ("", "remote"):
        detail = f"{shown(spec.name)!r} takes one of its choices, and nothing that is uploaded."
        return Fault("", "takes_no_file", detail, tuple(shown(str(each)) for each in spec.choices[:_SHOWN]))
    return None


def slot_finding(source: NodeClass, node_id: str, slot: Any) -> Finding | None:
    """Return what is wrong with the output that a link names; a class that is not ComfyUI's own may have more."""
    doubt = None if source.is_core else NOT_CORE
    if not isinstance(slot, int):
        # A number that is no whole one ends the execution thread of a newer ComfyUI, whatever the class has.
        fault = Fault("", "bad_link", "A link is [node id, output index], the index an integer.")
        return Finding(fault, None if isinstance(slot, float) else doubt)
    if source.outputs is None or -len(source.outputs) <= slot < len(source.outputs):
        return None
    detail = f"Node {shown(node_id)!r} has {len(source.outputs)} outputs; there is none with index {shown(slot)}."
    return Finding(Fault("", "bad_link", detail), doubt)


def _beyond(spec: InputSpec, value: Any) -> Fault | None:
    """Return the fault of a value that is beyond its bounds, or cannot be compared with them."""
    try:
        if spec.minimum is not None and value < spec.minimum:
            detail = f"{shown(spec.name)!r} is {shown(value)}; the least is {spec.minimum}."
            return Fault("", "value_smaller_than_min", detail)
        if spec.maximum is not None and value > spec.maximum:
            detail = f"{shown(spec.name)!r} is {shown(value)}; the greatest is {spec.maximum}."
            return Fault("", "value_bigger_than_max", detail)
    except TypeError:
        return _uncomparable(spec)
    return _uncomparable(spec) if spec.odd_bounds else None


def _uncomparable(spec: InputSpec) -> Fault:
    return Fault("", "invalid_input_type", f"{shown(spec.name)!r} takes what can be compared with its bounds.")
