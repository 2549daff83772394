"""New seeds for a graph: which of its numbers are seeds, and within which bounds another one is drawn."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import Fault, NoSeedToChange
from app.domain.values import link_of, unwrap, wrapped_like

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from app.domain.catalog import Catalog
    from app.domain.node_classes import InputSpec
    from app.domain.workflow import Graph

NAMES: Final = ("seed", "noise_seed")
"""Inputs for which ComfyUI's own page draws another number after each run, of whatever class they are."""
SAMPLER: Final = "KSampler"
"""The class whose seed is that of the simple fields."""
MOST_UNSAID: Final = 2**32 - 1
"""The greatest seed of an input that names no greatest one: numpy, and so many a node, takes no greater."""
_MOST: Final = 2**64 - 1
_WIDE: Final = 2**31
"""Bounds that leave so many numbers are wide enough for all seeds to be the same number."""
_VALUE_TYPES: Final = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "NUMBER", "*"})
"""A node that brings nothing else but these is where a value stands, and no more."""


def random_seed(low: int = 0, high: int = _MOST) -> int:
    """Draw a seed, by default of all that a sampler takes."""
    return low + random.getrandbits(64) % (high - low + 1)  # no secret; the system's own source costs a kernel call


@dataclass(frozen=True, slots=True)
class _Place:
    """A literal seed of a graph."""

    node_id: str
    name: str
    low: int
    high: int

    @property
    def size(self) -> int:
        return self.high - self.low + 1


@dataclass(frozen=True, slots=True)
class Drawing:
    """Draws seeds within the bounds that all of these backends name; with none of them, within the usual ones."""

    catalogs: Sequence[Catalog] = ()

    def can(self, graph: Graph | None) -> bool:
        """Whether a graph has a seed that can be changed; the simple fields, None, always have one."""
        return graph is None or bool(_places(graph, self.catalogs))

    def anew(self, graph: Graph | None, seed: int) -> tuple[Graph | None, int]:
        """Return the graph with other seeds, and the number drawn first; None and `seed` are those of simple fields.

        All of them get the same number if one fits all. What changes is copied, and nothing else of a graph that may
        be large. Raises `NoSeedToChange`.
        """
        if graph is None:
            place = _Place("", "seed", *_bounds(self._specs(SAMPLER, "seed")))
            return None, _other(place, random_seed(place.low, place.high), seed)
        places = _places(graph, self.catalogs)
        if not places:
            detail = "The workflow has no seed of its own: none of its inputs is a literal seed that can be changed."
            raise NoSeedToChange(detail, [Fault("/seed", "no_seed", detail)])
        drawn = _drawn(graph, places)
        changed = dict(graph)
        for place, number in zip(places, drawn, strict=True):
            inputs = changed[place.node_id]["inputs"]
            new = {place.name: wrapped_like(inputs[place.name], number)}
            changed[place.node_id] = {**changed[place.node_id], "inputs": {**inputs, **new}}
        return changed, drawn[0]

    def _specs(self, class_type: str, name: str) -> list[InputSpec]:
        return _specs(self.catalogs, class_type, name)


def _drawn(graph: Graph, places: Sequence[_Place]) -> list[int]:
    """Return a number for each place that is not the one that stands there."""
    old = [int(unwrap(graph[place.node_id]["inputs"][place.name])) for place in places]
    low, high = max(place.low for place in places), min(place.high for place in places)
    if high - low + 1 < _WIDE:
        return [
            _other(place, random_seed(place.low, place.high), seed) for place, seed in zip(places, old, strict=True)
        ]
    number = random_seed(low, high)
    while number in old:
        number = random_seed(low, high)
    return [number] * len(places)


def _other(place: _Place, number: int, seed: int) -> int:
    """Return the number drawn, or the next one if that is the seed already."""
    return number if number != seed or place.size == 1 else place.low + (number - place.low + 1) % place.size


def _places(graph: Graph, catalogs: Sequence[Catalog]) -> list[_Place]:
    """Return the literal seeds, and the literal numbers that nothing but seeds are linked to."""
    seeds = {
        key: [name for name in node["inputs"] if _is_seed(catalogs, node["class_type"], name)]
        for key, node in graph.items()
    }
    sources = _Sources(graph, catalogs, seeds)
    found: dict[tuple[str, str], _Place] = {}
    for key, names in seeds.items():
        for name in names:
            value, specs = unwrap(graph[key]["inputs"][name]), _specs(catalogs, graph[key]["class_type"], name)
            if (link := link_of(value)) is not None:
                place = sources.behind(link.node_id)
            elif _is_whole(value, specs):
                place = _Place(key, name, *_bounds(specs))
            else:
                place = None
            if place is not None and place.size > 1:
                found[place.node_id, place.name] = place
    return list(found.values())


class _Sources:
    """Where seeds come from by link: a number in a node of its own, such as `PrimitiveInt`, or by way of others."""

    def __init__(self, graph: Graph, catalogs: Sequence[Catalog], seeds: Mapping[str, Sequence[str]]) -> None:
        self._graph = graph
        self._catalogs = catalogs
        self._seeds = seeds
        self._readers: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        """Node → the inputs that are linked to it."""
        for key, node in graph.items():
            for name, value in node["inputs"].items():
                if (link := link_of(unwrap(value))) is not None:
                    self._readers[link.node_id].append((key, name))

    def behind(self, node_id: str) -> _Place | None:
        """Return the one literal number that stands behind a link; None if there is none, or it is more than a seed."""
        for _ in range(len(self._graph)):
            node = self._graph.get(node_id)
            if node is None or _brings_values(self._catalogs, node["class_type"]) is False:
                return None
            name, link = self._one_value(node)
            if name is None and link is None:
                return None
            if link is None:
                specs = self._reading(node_id, set())
                if name is None or specs is None:
                    return None
                return _Place(node_id, name, *_bounds([*_specs(self._catalogs, node["class_type"], name), *specs]))
            node_id = link
        return None

    def _one_value(self, node: Mapping[str, Any]) -> tuple[str | None, str | None]:
        """Return the one number that the node has, or the node that its one link leads to; neither if it has more."""
        values = {name: unwrap(value) for name, value in node["inputs"].items()}
        links = [link.node_id for link in map(link_of, values.values()) if link is not None]
        numbers = [
            name
            for name, value in values.items()
            if _is_whole(value, _specs(self._catalogs, node["class_type"], name), of_type=True)
        ]
        if len(links) + len(numbers) != 1:
            return None, None
        return (numbers[0], None) if numbers else (None, links[0])

    def _passes_on(self, node_id: str) -> bool:
        """Whether all that a node does is to hand a value on."""
        node = self._graph[node_id]
        return bool(_brings_values(self._catalogs, node["class_type"])) and self._one_value(node)[1] is not None

    def _reading(self, node_id: str, seen: set[str]) -> list[InputSpec] | None:
        """Return the seeds that get their number from this node; None if anything else does."""
        found: list[InputSpec] = []
        seen.add(node_id)
        todo = list(self._readers[node_id])
        while todo:
            key, name = todo.pop()
            if name in self._seeds[key]:
                found += _specs(self._catalogs, self._graph[key]["class_type"], name)
            elif key in seen or not self._passes_on(key):
                return None
            else:
                seen.add(key)
                todo += self._readers[key]
        return found


def _is_seed(catalogs: Iterable[Catalog], class_type: str, name: str) -> bool:
    """Whether ComfyUI's own page would draw another number for this input.

    A node that brings nothing but a value may be anything by that, a width as well: what is linked to it says.
    """
    if name in NAMES:
        return True
    for catalog in catalogs:
        node = catalog.nodes.get(class_type)
        spec = node.inputs.get(name) if node is not None else None
        if spec is not None and spec.drawn and spec.type == "INT":
            return not _brings_values([catalog], class_type)
    return False


def _brings_values(catalogs: Iterable[Catalog], class_type: str) -> bool | None:
    """Whether nodes of a class bring values and nothing else; None of one that no backend knows."""
    known = [node for node in (catalog.nodes.get(class_type) for catalog in catalogs) if node is not None]
    if not known:
        return None
    return all(bool(node.outputs) and all(str(each) in _VALUE_TYPES for each in node.outputs or ()) for node in known)


def _specs(catalogs: Iterable[Catalog], class_type: str, name: str) -> list[InputSpec]:
    """Return what the backends say of an input, those that have the class."""
    nodes = (catalog.nodes.get(class_type) for catalog in catalogs)
    return [node.inputs[name] for node in nodes if node is not None and name in node.inputs]


def _bounds(specs: Sequence[InputSpec]) -> tuple[int, int]:
    """Return the least and the greatest seed that all of these take; below 0 only where there is nothing above.

    Numbers below 0 have meanings of their own in many a node: -1 is a random seed.
    """
    lows = [math.ceil(spec.minimum) for spec in specs if spec.minimum is not None]
    highs = [math.floor(spec.maximum) for spec in specs if spec.maximum is not None]
    low, high = max(lows, default=0), min([*highs, _MOST], default=_MOST)
    if len(highs) < len(specs) or not specs:
        high = min(high, MOST_UNSAID)
    low = max(low, 0) if high > 0 else low
    return low, max(low, high)


def _is_whole(value: Any, specs: Sequence[InputSpec], *, of_type: bool = False) -> bool:
    """Whether a value is a literal whole number, as ComfyUI reads it; `of_type`: in an input that takes one."""
    if isinstance(value, bool):
        return False
    takes = bool(specs) and all(spec.type == "INT" for spec in specs)
    if isinstance(value, int):
        return takes or not of_type or not specs
    if isinstance(value, float):
        return takes and value.is_integer()
    return takes and isinstance(value, str) and len(value) <= 20 and value.isascii() and value.lstrip("-").isdigit()
