"""What a backend would refuse, or die of: a graph held against the node classes that it offers."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from app.domain.dependencies import dependency_fault
from app.domain.errors import Fault
from app.domain.hints import Hints, pointer_to, shown
from app.domain.structure import dangling
from app.domain.values import CONVERTED, Link, link_of, unwrap
from app.domain.workflow import MAX_FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from app.domain.catalog import Catalog, InputSpec, NodeClass
    from app.domain.workflow import Graph

_SHOWN: Final = 20
"""As many allowed values stand in a fault; the nearest one is named besides."""


class _Seen(NamedTuple):
    """A link as ComfyUI sees it when it runs the graph."""

    link: Link
    checked: bool
    """ComfyUI itself looks where it leads before it runs: it is not wrapped, and the class has the input."""


def check_against(graph: Graph, catalog: Catalog, pointer: str = "/workflow") -> list[Fault]:
    """Return what one backend would refuse or die of. The graph has passed `check_structure`.

    As ComfyUI itself does it: every node's class must exist, but only the inputs of nodes that an output depends on
    are checked. Unlike ComfyUI, which follows but does not check them, what links in other inputs and in wrappers lead
    to is checked too: a missing node or output there ends its execution thread.
    """
    hints = Hints()
    faults: list[Fault] = []
    unknown = ((key, node["class_type"]) for key, node in graph.items() if node["class_type"] not in catalog.nodes)
    for key, name in islice(unknown, MAX_FAULTS):
        where = pointer_to(pointer, key, "class_type")
        detail = f"No backend that may take this job offers a node of class {shown(name)!r}."
        faults.append(Fault(where, "unknown_node_class", detail, suggestion=hints.nearest(name, catalog.nodes)))
    if faults:
        return faults
    ends = [key for key, node in graph.items() if catalog.nodes[node["class_type"]].is_output]
    if not ends:
        return [Fault(pointer, "no_output", "The workflow has no output node, such as SaveImage.")]
    needed = _needed(graph, catalog, ends)
    found = (_check_node(graph, catalog, key, needed[key], pointer, hints) for key in graph if key in needed)
    faults = list(islice(chain.from_iterable(found), MAX_FAULTS))
    hidden = any(not seen.checked for links in needed.values() for seen in links.values())
    if not faults and hidden:
        targets = {
            key: list(dict.fromkeys(seen.link.node_id for seen in needed[key].values()))
            for key in graph
            if key in needed
        }
        if (wrong := dependency_fault(targets, pointer)) is not None:
            faults.append(wrong)
    return faults


def check_without_offers(graph: Graph, pointer: str = "/workflow") -> list[Fault]:
    """Return what may be deadly to a backend that does not tell what it offers. The graph has passed `check_structure`.

    In an input of what class whatever is wrapped cannot be known, so that each link there is one that is followed.
    """
    hints, faults = Hints(), []
    for key, node in graph.items():
        for name, value in node["inputs"].items():
            link = link_of(unwrap(value))
            if link is not None and (link.node_id not in graph or not isinstance(link.slot, int)):
                fault = dangling(graph, link.node_id, hints)
                faults.append(replace(fault, pointer=pointer_to(pointer, key, "inputs", name)))
    return faults[:MAX_FAULTS]


def lacks_model_or_node(faults: Sequence[Fault]) -> bool:
    """Whether all that is wrong is that this backend has not what another one may have."""
    return bool(faults) and all(fault.code in ("unknown_node_class", "value_not_in_list") for fault in faults)


def _needed(graph: Graph, catalog: Catalog, ends: Sequence[str]) -> dict[str, dict[str, _Seen]]:
    """Return the nodes that some output depends on, with their links by input."""
    needed: dict[str, dict[str, _Seen]] = {}
    todo = list(ends)
    while todo:
        key = todo.pop()
        if key in needed:
            continue
        node = graph[key]
        needed[key] = dict(_links_seen(catalog.nodes[node["class_type"]], node["inputs"]))
        todo += [seen.link.node_id for seen in needed[key].values() if seen.link.node_id in graph]
    return needed


def _links_seen(node_class: NodeClass, inputs: Mapping[str, Any]) -> Iterator[tuple[str, _Seen]]:
    for name, value in inputs.items():
        spec = node_class.inputs.get(name)
        if (link := link_of(value)) is not None:
            yield name, _Seen(link, checked=spec is not None)
        elif (link := link_of(unwrap(value))) is not None and _becomes_link(node_class, name):
            yield name, _Seen(link, checked=False)


def _becomes_link(node_class: NodeClass, name: str) -> bool:
    """Whether ComfyUI unwraps a link in this input, and follows it on its own account.

    It does not in an input that the class has not; where the node itself asks for it, a wrong one fails the job only.
    """
    spec = node_class.inputs.get(name)
    if spec is None:
        return node_class.may_grow(name)
    return spec.type not in CONVERTED and not spec.lazy


def _check_node(
    graph: Graph, catalog: Catalog, key: str, links: Mapping[str, _Seen], pointer: str, hints: Hints
) -> Iterator[Fault]:
    node_class, inputs = catalog.nodes[graph[key]["class_type"]], graph[key]["inputs"]
    for name, spec in node_class.inputs.items():
        if name in links:
            found = _link_faults(graph, catalog, links[name], spec, hints)
        elif name in inputs:
            found = _value_faults(unwrap(inputs[name]), spec, hints)
        elif spec.required:
            found = iter([Fault("", "required_input_missing", f"{node_class.name} needs the input {name!r}.")])
        else:
            continue
        for fault in found:
            yield replace(fault, pointer=pointer_to(pointer, key, "inputs", name))
    for name, seen in links.items():
        if name not in node_class.inputs:
            for fault in _link_faults(graph, catalog, seen, None, hints):
                yield replace(fault, pointer=pointer_to(pointer, key, "inputs", name))


def _link_faults(graph: Graph, catalog: Catalog, seen: _Seen, spec: InputSpec | None, hints: Hints) -> Iterator[Fault]:
    """Yield what is wrong with a link; where it stands is for the caller to say."""
    (node_id, slot), checked = seen
    if node_id not in graph:
        yield dangling(graph, node_id, hints)
        return
    if not isinstance(slot, int):
        yield Fault("", "bad_link", "A link is [node id, output index], the index an integer.")
        return
    outputs = catalog.nodes[graph[node_id]["class_type"]].outputs
    if outputs is None:
        return
    if not -len(outputs) <= slot < len(outputs):
        detail = f"Node {shown(node_id)!r} has {len(outputs)} outputs; there is none with index {shown(slot)}."
        yield Fault("", "bad_link", detail)
    elif checked and spec is not None and not spec.accepts_type(outputs[slot]):
        detail = f"{spec.name!r} takes {shown(spec.type)}, and the link brings {shown(outputs[slot])}."
        yield Fault("", "return_type_mismatch", detail)


def _value_faults(value: Any, spec: InputSpec, hints: Hints) -> Iterator[Fault]:
    """Yield what is wrong with a value, unwrapped, that is no link; where it stands is for the caller to say."""
    if spec.choices is not None:
        # Compared as text: a choice written as a number, or the other way round, is the same choice to a person.
        if not isinstance(value, list | dict) and (text := str(value)) not in spec.choice_texts:
            some = tuple(shown(str(choice)) for choice in spec.choices[:_SHOWN])
            detail = f"{shown(text)!r} is not among the {len(spec.choices)} values that {spec.name!r} takes."
            yield Fault("", "value_not_in_list", detail, some, hints.nearest(text, spec.choices))
    elif spec.type in ("INT", "FLOAT"):
        yield from _number_faults(spec, value)


def _number_faults(spec: InputSpec, value: Any) -> Iterator[Fault]:
    try:
        number = int(value) if spec.type == "INT" else float(value)
    except (TypeError, ValueError, OverflowError):
        yield Fault("", "invalid_input_type", f"{spec.name!r} takes a number ({spec.type}).")
        return
    if spec.minimum is not None and number < spec.minimum:
        detail = f"{spec.name!r} is {shown(number)}; the least is {spec.minimum}."
        yield Fault("", "value_smaller_than_min", detail)
    elif spec.maximum is not None and number > spec.maximum:
        detail = f"{spec.name!r} is {shown(number)}; the greatest is {spec.maximum}."
        yield Fault("", "value_bigger_than_max", detail)
