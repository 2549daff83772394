"""Node classes that a backend takes for others: the graph that ComfyUI 0.33 and later makes of the one it is sent.

We replace them ourselves, and send what comes of it. ComfyUI would do the same, but answers 500 when such a node has no
`_meta`, as those of programs mostly have none, or lacks an input that is mapped, and sometimes when two of them follow
each other. A class that the server itself has is left alone: the new class is the new class on every server.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from app.domain.graph_check import Checked, check_against
from app.domain.hints import pointer_to, shown
from app.domain.values import link_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.domain.catalog import Catalog
    from app.domain.errors import Fault
    from app.domain.workflow import Graph

MOST_REPLACED: Final = 2_000
"""Maximum number of replaced classes that are kept for a backend; ComfyUI itself has eight."""
_MOST_MAPPED: Final = 500
"""Inputs, and outputs, of one of them."""


@dataclass(frozen=True, slots=True)
class NewInput:
    """An input of the new class: the value of an old one, or one that is always the same."""

    name: str
    old: str | None
    value: Any = None
    """What it is set to when there is no old one."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """What a node of a class that is not there becomes. Inputs that are not named are dropped, as ComfyUI does it."""

    node_class: str
    inputs: tuple[NewInput, ...] = ()
    outputs: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    """Old output → new one, of those that are elsewhere now."""


def read_replacements(answer: Mapping[str, Any]) -> dict[str, Replacement]:
    """Read the answer of `GET /node_replacements`; what cannot be used of it is left out.

    Of several entries for one class ComfyUI takes the first.
    """
    found: dict[str, Replacement] = {}
    for old, entries in answer.items():
        entry = entries[0] if isinstance(entries, list) and entries else None
        new = entry.get("new_node_id") if isinstance(entry, dict) else None
        if isinstance(entry, dict) and isinstance(new, str) and new and len(found) < MOST_REPLACED:
            found[old] = Replacement(new, _inputs(entry.get("input_mapping")), _outputs(entry.get("output_mapping")))
    return found


def replaced(graph: Graph, catalog: Catalog) -> Graph:
    """Return the graph as this backend executes it; the very same one when it has no class that is replaced.

    What the client has not given is not mapped: whether the new class needs it is for the check to say.
    """
    found = _replaced(graph, catalog)
    if not found:
        return graph
    changed = dict(graph)
    for key, each in found.items():
        inputs = graph[key]["inputs"]
        mapped = {
            new.name: new.value if new.old is None else inputs[new.old]
            for new in each.inputs
            if new.old is None or new.old in inputs
        }
        changed[key] = graph[key] | {"class_type": each.node_class, "inputs": mapped}
    moved = {key: each.outputs for key, each in found.items() if each.outputs}
    return {key: _relinked(node, moved) for key, node in changed.items()} if moved else changed


def check_as_executed(graph: Graph, catalog: Catalog, pointer: str = "/workflow") -> Checked:
    """Return what `check_against` finds in the graph as this backend executes it, said of the graph as it was given."""
    executed = replaced(graph, catalog)
    found = check_against(executed, catalog, pointer)
    if not found.faults or executed is graph:
        return found
    starts = {f"{pointer_to(pointer, key)}/": (key, each) for key, each in _replaced(graph, catalog).items()}
    return replace(found, faults=[_as_given(fault, graph, starts, pointer) for fault in found.faults])


def with_titles(graph: Graph, catalog: Catalog) -> Graph:
    """Return the graph with `_meta` at each node whose class is not known to be there.

    Should the backend have learnt to replace it, or refuse it, it looks there, and fails with 500 when there is none.
    """
    untitled = {
        key: node | {"_meta": {"title": node["class_type"]}}
        for key, node in graph.items()
        if node["class_type"] not in catalog.nodes and not isinstance(node.get("_meta"), dict)
    }
    return graph | untitled if untitled else graph


def _replaced(graph: Graph, catalog: Catalog) -> dict[str, Replacement]:
    """Return node → what it becomes. ComfyUI does not replace a class that it has, nor by one that it has not."""
    nodes, known = catalog.nodes, catalog.replacements
    if not known:
        return {}
    named = ((key, node["class_type"]) for key, node in graph.items())
    wanted = {key: known[name] for key, name in named if name not in nodes and name in known}
    return {key: each for key, each in wanted.items() if each.node_class in nodes}


def _relinked(node: Mapping[str, Any], moved: Mapping[str, Mapping[int, int]]) -> dict[str, Any]:
    """Return a node whose links lead to where the outputs of replaced nodes are now."""
    changed = {}
    for name, value in node["inputs"].items():
        link = link_of(value)
        if link is not None and link.node_id in moved and link.slot in moved[link.node_id]:
            changed[name] = [link.node_id, moved[link.node_id][int(link.slot)]]
    return {**node, "inputs": node["inputs"] | changed} if changed else dict(node)


def _as_given(fault: Fault, graph: Graph, starts: Mapping[str, tuple[str, Replacement]], pointer: str) -> Fault:
    start = next((start for start in starts if fault.pointer.startswith(start)), None)
    if start is None:
        return fault
    key, each = starts[start]
    given = graph[key]["class_type"]
    by_name = {pointer_to(f"{start}inputs", new.name): new.old for new in each.inputs}
    old = by_name.get(fault.pointer)
    where = pointer_to(pointer, key, "class_type") if old is None else pointer_to(pointer, key, "inputs", old)
    detail = f"{fault.detail} (The backend takes {shown(given)!r} for {shown(each.node_class)!r}.)"
    return replace(fault, pointer=where, detail=detail)


def _inputs(mapping: Any) -> tuple[NewInput, ...]:
    found = []
    for each in mapping[:_MOST_MAPPED] if isinstance(mapping, list) else ():
        new, old = (each.get("new_id"), each.get("old_id")) if isinstance(each, dict) else (None, None)
        if not isinstance(new, str):
            continue
        if "set_value" in each:
            found.append(NewInput(new, None, each["set_value"]))
        elif isinstance(old, str):
            found.append(NewInput(new, old))
    return tuple(found)


def _outputs(mapping: Any) -> Mapping[int, int]:
    found: dict[int, int] = {}
    for each in mapping[:_MOST_MAPPED] if isinstance(mapping, list) else ():
        old, new = (each.get("old_idx"), each.get("new_idx")) if isinstance(each, dict) else (None, None)
        if isinstance(old, int) and isinstance(new, int):
            found[old] = new
    return MappingProxyType(found)
