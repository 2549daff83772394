"""In which order the nodes of a prompt run, and the graphs at which ComfyUI's own order breaks."""

from collections.abc import Mapping
from typing import Any

from worker.standin.caching import CachedResult, is_link, output_at
from worker.standin.nodes import NodeType, ThreadDiedError
from worker.standin.tracebacks import Place


class ExecutionOrder:
    """The nodes that are still to run, and the nodes that each of them waits for.

    `tells_readers`: whether the use of each output is recorded, as ComfyUI 0.33 does. This happens outside the error
    handling of a single node, so a link to an output that a cached result lacks ends the execution thread.
    """

    def __init__(
        self,
        graph: Mapping[str, Any],
        types: Mapping[str, NodeType],
        cached: Mapping[str, CachedResult],
        *,
        tells_readers: bool,
    ) -> None:
        self._graph = graph
        self._types = types
        self._cached = cached
        self._tells_readers = tells_readers
        self._waits_for: dict[str, set[str]] = {}
        self._lazy: dict[str, dict[str, tuple[str, float]]] = {}
        """Links that are followed only if the node asks for them: node → input → where it leads."""
        self._readers: dict[str, list[tuple[str, float]]] = {}

    def add(self, target: str) -> None:
        """Add an output to run, and what it depends on down to nodes whose results are kept.

        Raises
        ------
        ThreadDiedError
            If a link leads to no node, or to an output that a kept result has not.
        """
        links: list[tuple[str, float, str]] = []
        stack = [target]
        while stack:
            node_id = stack.pop()
            if node_id in self._waits_for:
                continue
            if node_id not in self._graph:
                error = f"comfy_execution.graph.NodeNotFoundError: Node {node_id} not found"
                raise ThreadDiedError("a link leads to no node", Place.ADD_NODE, error)
            self._waits_for[node_id] = set()
            for name, (source, slot) in links_of(self._graph[node_id]).items():
                if self._is_lazy(node_id, name):
                    self._lazy.setdefault(node_id, {})[name] = source, slot
                    continue
                if source not in self._cached:
                    stack.append(source)
                links.append((source, slot, node_id))
        for source, slot, reader in links:
            self._note(source, slot, reader)

    def need(self, node_id: str, names: set[str]) -> bool:
        """Let a node wait for these of its lazy inputs; tell whether there are any."""
        links = self._lazy.get(node_id, {})
        wanted = [links.pop(name) for name in names if name in links]
        for source, slot in wanted:
            if source not in self._cached:
                self.add(source)
            self._note(source, slot, node_id)
        return bool(wanted)

    @property
    def left(self) -> list[str]:
        """Return the nodes that have not run."""
        return list(self._waits_for)

    def next(self) -> str | None:
        """Return the next node to run, preferring those near an output node; None if all remaining nodes wait."""
        ready = [node_id for node_id, sources in self._waits_for.items() if not sources]
        return min(ready, key=self._distance, default=None)

    def finish(self, node_id: str) -> None:
        """Let the nodes that wait for this one go on."""
        del self._waits_for[node_id]
        for reader, _ in self._readers.get(node_id, ()):
            self._waits_for[reader].discard(node_id)

    def hand_on(self, node_id: str, result: CachedResult) -> None:
        """Give a result to the nodes that wait for it.

        Raises
        ------
        IndexError, TypeError
            If one of them reads an output that is not there: the node that gave the result is blamed.
        """
        for _, slot in self._readers.get(node_id, ()) if self._tells_readers else ():
            output_at(result.outputs, slot)

    def _note(self, source: str, slot: float, reader: str) -> None:
        """Note that a node reads an output of another."""
        result = self._cached.get(source)
        if result is None:
            self._waits_for[reader].add(source)
        self._readers.setdefault(source, []).append((reader, slot))
        if result is not None and self._tells_readers:
            try:
                output_at(result.outputs, slot)
            except (IndexError, TypeError) as error:
                text = f"{type(error).__name__}: {error}"
                raise ThreadDiedError("a kept result has no such output", Place.CACHE_LINK, text) from error

    def _is_lazy(self, node_id: str, name: str) -> bool:
        """Tell whether an input is followed only when its node asks for it."""
        node_type = self._types[self._graph[node_id]["class_type"]]
        one = node_type.required.get(name) or node_type.optional.get(name)
        return node_type.lazy is not None and one is not None and bool((one.config or {}).get("lazy"))

    def _distance(self, node_id: str) -> int:
        """Return the number of links from this node to an output node; 3 means three or more."""
        if self._is_output(node_id):
            return 0
        readers = self._readers_of(node_id)
        if any(map(self._is_output, readers)):
            return 1
        further = (other for reader in readers for other in self._readers_of(reader))
        return 2 if any(map(self._is_output, further)) else 3

    def _readers_of(self, node_id: str) -> list[str]:
        return [reader for reader, _ in self._readers.get(node_id, ())]

    def _is_output(self, node_id: str) -> bool:
        return self._types[self._graph[node_id]["class_type"]].output_node


def links_of(node: Mapping[str, Any]) -> dict[str, tuple[str, float]]:
    """Return input → source node and output, including inputs that the node's type does not declare."""
    return {name: (value[0], value[1]) for name, value in node["inputs"].items() if is_link(value)}
