"""What a backend would refuse, or die of: a graph held against the node classes that it offers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from app.domain.dependencies import MAX_ANCESTRY, cycle_in, cycle_words, knots, size_fault
from app.domain.errors import Fault
from app.domain.hints import Hints, pointer_to, shown, token
from app.domain.input_checks import InputChecks, slot_finding
from app.domain.structure import dangling
from app.domain.values import CONVERTED, Link, link_of, unwrap
from app.domain.workflow import MAX_FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from app.domain.catalog import Catalog
    from app.domain.input_checks import Finding
    from app.domain.node_classes import InputSpec, NodeClass
    from app.domain.workflow import Graph

MAX_WARNINGS: Final = 10
"""Maximum number of warnings; one more says how many were left out."""
LACKS: Final = ("unknown_node_class", "value_not_in_list")
"""Codes of faults that disappear when a backend gets the file or node class."""
_MAX_DOUBTS: Final = 1_000
"""Maximum number that is counted."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of a check: the faults for which a graph is refused, or the warnings about an accepted one."""

    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class _Node(NamedTuple):
    """A node as ComfyUI sees it when it checks it."""

    certain: list[tuple[str, Fault]]
    """Input and what is wrong with it, to which ComfyUI is sure to object."""
    doubtful: list[tuple[str, Fault, str]]
    """The same, and why it may not object."""
    checked: tuple[str, ...]
    """The nodes behind its links that are checked because of it."""


def check_against(graph: Graph, catalog: Catalog, pointer: str = "/workflow") -> Checked:
    """Return what one backend would refuse or die of. The graph has passed `check_structure`.

    As ComfyUI itself does it: every node's class must exist, but only the inputs of nodes that an output depends on
    are checked; an output that fails is left out, and the graph is refused when none is left. Unlike ComfyUI, which
    follows but does not check them, what links in other inputs and in wrappers lead to is looked at too: a missing
    node or output there ends its execution thread. Where `/object_info` does not tell, the graph is taken.
    """
    hints = Hints()
    unknown = ((key, node["class_type"]) for key, node in graph.items() if node["class_type"] not in catalog.nodes)
    faults = [_unknown_class(key, name, catalog, pointer, hints) for key, name in islice(unknown, MAX_FAULTS)]
    if faults:
        return Checked(faults)
    ends = [key for key, node in graph.items() if catalog.nodes[node["class_type"]].is_output]
    if not ends:
        return Checked([Fault(pointer, "no_output", "The workflow has no output node, such as SaveImage.")])
    return _Check(graph, catalog, pointer, hints).of(ends)


def check_without_offers(graph: Graph, pointer: str = "/workflow") -> list[Fault]:
    """Return what may be deadly to a backend that does not tell what it offers. The graph has passed `check_structure`.

    In an input of what class whatever is wrapped cannot be known, so that each link there is one that is followed; and
    any node may be one that an output needs.
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
    """Whether this backend has not what another one may have, or this one by now.

    Not all that is wrong need be that: the rest may be of outputs that are left out when others can be made.
    """
    return any(fault.code in LACKS for fault in faults)


def _unknown_class(key: str, name: str, catalog: Catalog, pointer: str, hints: Hints) -> Fault:
    detail = f"No backend that may take this job offers a node of class {shown(name)!r}."
    suggestion = hints.nearest(name, catalog.nodes)
    return Fault(pointer_to(pointer, key, "class_type"), "unknown_node_class", detail, suggestion=suggestion)


class _Check:
    """The check of one graph whose classes are all known."""

    def __init__(self, graph: Graph, catalog: Catalog, pointer: str, hints: Hints) -> None:
        self._graph = graph
        self._catalog = catalog
        self._pointer = pointer
        self._hints = hints
        self._inputs = InputChecks(graph, catalog, hints)
        self._nodes: dict[str, _Node] = {}
        self._expanded: dict[str, Mapping[str, InputSpec]] = {}
        self._failing: set[str] = set()
        self._warnings: list[str] = []

    def of(self, ends: Sequence[str]) -> Checked:
        """Return what is found in a graph that has these output nodes."""
        self._look_at(ends)
        self._failing = self._find_failing()
        good = [end for end in ends if end not in self._failing]
        if not good:
            return Checked(self._refusal())
        self._doubt_of(ends)
        faults = self._deadly(good)
        return Checked(faults) if faults else Checked([], _first(self._warnings))

    def _class(self, key: str) -> NodeClass:
        return self._catalog.nodes[self._graph[key]["class_type"]]

    def _look_at(self, ends: Sequence[str]) -> None:
        """Check the nodes that some output depends on."""
        todo = list(reversed(ends))
        while todo:
            key = todo.pop()
            if key not in self._nodes:
                self._nodes[key] = self._look(key)
                todo += self._nodes[key].checked

    def _look(self, key: str) -> _Node:
        node_class, given = self._class(key), self._graph[key]["inputs"]
        inputs = self._expanded[key] = node_class.inputs_for(given)
        found: tuple[list[tuple[str, Fault]], list[tuple[str, Fault, str]]] = [], []
        checked: dict[str, None] = {}
        for name, spec in inputs.items():
            if name in given:
                findings = list(self._inputs.given(node_class, spec, given[name]))
                target = given[name][0] if isinstance(given[name], list) and len(given[name]) == 2 else None
                if isinstance(target, str) and target in self._graph and all(each.doubt for each in findings):
                    checked[target] = None
            elif spec.required:
                findings = [self._inputs.missing(node_class, spec)]
            else:
                continue
            _sort(name, findings, *found)
        return _Node(*found, tuple(checked))

    def _find_failing(self) -> set[str]:
        """Return the nodes that ComfyUI is sure to find wrong, for what they are or what they depend on."""
        failing: set[str] = set()
        targets = {key: node.checked for key, node in self._nodes.items()}
        for knot in knots(targets):
            tied = len(knot) > 1 or knot[0] in targets[knot[0]]
            if tied or any(self._nodes[key].certain or failing.intersection(targets[key]) for key in knot):
                failing.update(knot)
        return failing

    def _refusal(self) -> list[Fault]:
        """Return all faults to which ComfyUI is sure to object, in the order of the graph."""
        inside = ((key, *each) for key in self._graph if key in self._nodes for each in self._nodes[key].certain)
        faults = [self._placed(key, name, fault) for key, name, fault in islice(inside, MAX_FAULTS)]
        cycle = cycle_in({key: self._nodes[key].checked for key in self._graph if key in self._nodes})
        if cycle and len(faults) < MAX_FAULTS:
            faults.append(Fault(f"{self._pointer}/{token(cycle[0])}", "cycle", cycle_words(cycle)))
        return faults

    def _doubt_of(self, ends: Sequence[str]) -> None:
        """Note what ComfyUI leaves out of a graph that it takes, and what it may object to."""
        for end in ends:
            if end in self._failing:
                self._warn(f"{self._named(end)} is left out, as ComfyUI will not run it. {self._why(end)}")
        for key in self._graph:
            for name, fault, doubt in self._nodes[key].doubtful if key in self._nodes else ():
                self._warn(f"{self._named(key)}, input {shown(name, 60)!r}: {fault.detail} {doubt}")

    def _why(self, end: str) -> str:
        """Return the first thing that is wrong with an output or with what it depends on."""
        seen, todo = {end}, [end]
        while todo:
            key = todo.pop()
            for name, fault in self._nodes[key].certain:
                return f"{self._named(key)}, input {shown(name, 60)!r}: {fault.detail}"
            below = [each for each in self._nodes[key].checked if each in self._failing and each not in seen]
            seen.update(below)
            todo += below
        return cycle_words(cycle_in({key: self._nodes[key].checked for key in seen}))

    def _deadly(self, good: Sequence[str]) -> list[Fault]:
        """Return what ends the execution thread of a ComfyUI that runs these outputs, and note what only fails."""
        found: dict[str, list[Fault]] = {}
        followed: dict[str, list[str]] = {}
        todo = list(good)
        while todo:
            key = todo.pop()
            if key in followed:
                continue
            links = list(self._followed(key))
            unchecked = ((name, self._ending(key, name, link)) for name, link, checked in links if not checked)
            found[key] = [self._placed(key, name, fault) for name, fault in unchecked if fault is not None]
            followed[key] = list(dict.fromkeys(link.node_id for _, link, _ in links if link.node_id in self._graph))
            todo += followed[key]
        in_order = [key for key in self._graph if key in followed]
        if faults := [fault for key in in_order for fault in found[key]][:MAX_FAULTS]:
            return faults
        if cycle := cycle_in({key: followed[key] for key in in_order}):
            self._warn(f"{cycle_words(cycle)} ComfyUI takes them, and the run fails there.")
        if len(self._graph) ** 2 <= MAX_ANCESTRY:
            # So few are within all limits, however they depend on each other.
            return []
        return [] if (wrong := size_fault(self._all_links(), self._pointer)) is None else [wrong]

    def _followed(self, key: str) -> Iterator[tuple[str, Link, bool]]:
        """Yield the links that ComfyUI follows when it runs a node, and whether it has looked where they lead."""
        given = self._graph[key]["inputs"]
        inputs = self._expanded[key] if key in self._expanded else self._class(key).inputs_for(given)
        # One that failed may be run all the same, if another way leads to it.
        sound = key in self._nodes and key not in self._failing
        for name, value in given.items():
            spec = inputs.get(name)
            # What is not needed before the node asks for it fails the job only.
            if spec is not None and spec.lazy:
                continue
            if (link := link_of(value)) is not None:
                yield name, link, sound and spec is not None
            # Only where something was checked it was unwrapped.
            elif key in self._nodes and self._is_unwrapped(key, name, spec) and (link := link_of(unwrap(value))):
                yield name, link, False

    def _is_unwrapped(self, key: str, name: str, spec: InputSpec | None) -> bool:
        """Whether ComfyUI unwraps what is in this input of a node that it checks, and then takes a list for a link."""
        if spec is None:
            return self._inputs.may_expand(self._class(key)) and self._class(key).may_grow(name)
        # What could not be converted is left as it was unwrapped.
        return spec.type not in CONVERTED or (spec.type in ("INT", "FLOAT") and key in self._failing)

    def _ending(self, key: str, name: str, link: Link) -> Fault | None:
        """Return why a link that was followed and not checked ends the execution thread; what only may is told."""
        if (source := self._inputs.target(link.node_id)) is None:
            return dangling(self._graph, link.node_id, self._hints)
        found = slot_finding(source, *link)
        if found is not None and found.doubt is not None:
            self._warn(f"{self._named(key)}, input {shown(name, 60)!r}: {found.fault.detail} {found.doubt}")
            return None
        return found.fault if found is not None else None

    def _all_links(self) -> dict[str, list[str]]:
        """Return the dependencies of all nodes, also of those that no output needs: ComfyUI walks through them too."""
        targets = {}
        for key, node in self._graph.items():
            raw = (link.node_id for value in node["inputs"].values() if (link := link_of(value)) is not None)
            hidden = (link.node_id for _, link, _ in self._followed(key)) if key in self._nodes else ()
            targets[key] = list(dict.fromkeys([*raw, *hidden]))
        return targets

    def _placed(self, key: str, name: str, fault: Fault) -> Fault:
        return replace(fault, pointer=pointer_to(self._pointer, key, "inputs", name))

    def _named(self, key: str) -> str:
        return f"Node {shown(key, 60)!r} ({shown(self._class(key).name, 60)})"

    def _warn(self, text: str) -> None:
        if len(self._warnings) < _MAX_DOUBTS:
            self._warnings.append(text)


def _sort(
    name: str,
    findings: Iterable[Finding],
    certain: list[tuple[str, Fault]],
    doubtful: list[tuple[str, Fault, str]],
) -> None:
    for fault, doubt in findings:
        if doubt is None:
            certain.append((name, fault))
        else:
            doubtful.append((name, fault, doubt))


def _first(warnings: Sequence[str]) -> list[str]:
    more = len(warnings) - MAX_WARNINGS
    return [*warnings[:MAX_WARNINGS], *([f"There are {more} more of this kind."] if more > 0 else [])]
