"""What is wrong with a graph whatever a backend offers: its shape, its size, how long its chains are."""

from __future__ import annotations

import math
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final

from app.domain.dependencies import size_fault
from app.domain.envelopes import node_fault, workflow_fault
from app.domain.errors import Fault
from app.domain.hints import pointer_to, shown
from app.domain.values import links
from app.domain.workflow import MAX_FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.domain.hints import Hints
    from app.domain.workflow import Graph

MAX_NODES: Final = 5_000
"""The largest graphs that people publish have some hundreds of nodes, a few that programs write one or two thousand."""
MAX_DEPTH: Final = 32
"""Maximum nesting depth of lists and objects in one value. Values that nodes of 0.33.0 take (curves, boxes, drawings,
scenes) are four to six levels deep. ComfyUI copies and hashes values by recursion, with some calls for each level, and
its stack holds a thousand calls."""


def check_structure(graph: Any, pointer: str = "/workflow") -> list[Fault]:
    """Return what is wrong with the graph whatever a backend offers.

    What damages a ComfyUI is among it, but for what depends on the classes: `check_against` finds that. So it does with
    links to nowhere and cycles, which do no harm in a node that no output needs.
    Measured (manual, comfyui.md): a node without an `inputs` object ends the server's execution thread for good.
    """
    if (wrong := workflow_fault(graph, pointer)) is not None:
        return [wrong]
    if not graph:
        return [Fault(pointer, "no_output", "The workflow is empty.")]
    if len(graph) > MAX_NODES:
        return [Fault(pointer, "too_large", f"The workflow has {len(graph)} nodes; at most {MAX_NODES} are taken.")]
    found = (_check_node(key, node, pointer) for key, node in graph.items())
    faults = list(islice(chain.from_iterable(found), MAX_FAULTS))
    if not faults:
        targets = {key: list(dict.fromkeys(to for _, to, _ in links(node["inputs"]))) for key, node in graph.items()}
        if (wrong := size_fault(targets, pointer)) is not None:
            faults.append(wrong)
    return faults


def _check_node(key: str, node: Any, pointer: str) -> Iterator[Fault]:
    if not isinstance(node, dict):
        yield node_fault(key, node, pointer)
        return
    if not isinstance(node.get("class_type"), str) or not node["class_type"]:
        yield Fault(pointer_to(pointer, key, "class_type"), "missing", "A node has a class_type, a text.")
    if not isinstance(node.get("inputs"), dict):
        detail = "A node has inputs, an object; an empty one where it takes none."
        yield Fault(pointer_to(pointer, key, "inputs"), "missing", detail)
        return
    for name, value in node["inputs"].items():
        if wrong := _unsendable(value):
            yield Fault(pointer_to(pointer, key, "inputs", name), *wrong)
    # Whatever else the node has is sent and kept as well, such as the title in its _meta.
    for name in node.keys() - {"class_type", "inputs"}:
        if wrong := _unsendable(node[name]):
            yield Fault(pointer_to(pointer, key, name), *wrong)


def dangling(graph: Graph, node_id: str, hints: Hints) -> Fault:
    """Return the fault of a link to a node that is not there: on its way to it ComfyUI's execution thread ends."""
    detail = f"The link leads to node {shown(node_id)!r}, which the workflow has not."
    return Fault("", "bad_link", detail, suggestion=hints.nearest(node_id, graph))


def _unsendable(value: Any, depth: int = 0) -> tuple[str, str] | None:
    """Return (code, detail) of what JSON, a JSONB column or a later copy of the value cannot bear."""
    if isinstance(value, float) and not math.isfinite(value):
        return "not_finite", "NaN and infinite numbers cannot be sent."
    if isinstance(value, list | dict):
        if depth >= MAX_DEPTH:
            return "too_deep", f"A value nests deeper than {MAX_DEPTH} levels."
        inside = value.values() if isinstance(value, dict) else value
        return next(filter(None, (_unsendable(each, depth + 1) for each in inside)), None)
    return None
