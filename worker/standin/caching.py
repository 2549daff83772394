"""Which nodes need not run again, because the same node with the same ancestors has run."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class CachedResult:
    """What a node gave: values for its outputs and, of an output node, what `executed` and the history show."""

    outputs: tuple[Any, ...]
    ui: dict[str, Any] | None


class ResultCache:
    """Results by signature. A signature does not contain node ids, prompt metadata or anything outside `inputs`."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._results: dict[str, CachedResult] = {}

    def begin(self, signatures: Mapping[str, str]) -> None:
        """Start a prompt: with the classic cache, what it does not contain is forgotten."""
        if self._mode == "classic":
            wanted = set(signatures.values())
            self._results = {key: result for key, result in self._results.items() if key in wanted}
        elif self._mode == "none":
            self._results.clear()

    def get(self, signature: str) -> CachedResult | None:
        """Return the result of an earlier run, or None."""
        result = self._results.get(signature)
        if result is not None and self._mode.isdecimal():
            self._results[signature] = self._results.pop(signature)
        return result

    def store(self, signature: str, result: CachedResult) -> None:
        """Keep a result."""
        self._results[signature] = result
        while self._mode.isdecimal() and len(self._results) > int(self._mode):
            del self._results[next(iter(self._results))]

    def clear(self) -> None:
        """Forget everything."""
        self._results.clear()


def is_link(value: Any, graph: Mapping[str, Any]) -> bool:
    """Tell whether an input's value is a link to a node of the graph."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and value[0] in graph


def signatures_of(graph: Mapping[str, Any], fingerprint: Callable[[str, Any], object]) -> dict[str, str]:
    """Return node id → signature.

    `fingerprint` gives what else decides whether a node has changed (LoadImage: the file's bytes).

    Raises
    ------
    KeyError, AttributeError
        If a node has no inputs, even one that nothing depends on. In ComfyUI this ends the execution thread.
    """
    found: dict[str, str] = {}

    def signature(node_id: str, above: tuple[str, ...]) -> str:
        if node_id not in found and node_id not in above:
            parts = []
            for name, value in sorted(graph[node_id]["inputs"].items()):
                if is_link(value, graph):
                    parts.append([name, "link", signature(value[0], (*above, node_id)), value[1]])
                else:
                    parts.append([name, "value", value])
            whole = json.dumps([graph[node_id]["class_type"], fingerprint(node_id, graph[node_id]["inputs"]), parts])
            found[node_id] = hashlib.sha256(whole.encode()).hexdigest()
        return found.get(node_id, "")

    for node_id in graph:
        signature(node_id, ())
    return found
