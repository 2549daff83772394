"""Which nodes need not run again, because the same node with the same ancestors has run."""

import hashlib
import json
import uuid
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
        if self._mode == "none":
            return None
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


def is_link(value: Any) -> bool:
    """Tell whether an input's value is taken for a link, wherever it leads."""
    if not (isinstance(value, list) and len(value) == 2):
        return False
    return isinstance(value[0], str) and isinstance(value[1], int | float)


def signatures_of(graph: Mapping[str, Any], fingerprint: Callable[[str, Any], object]) -> dict[str, str]:
    """Return node id → signature. Inputs that the node's type does not declare are included.

    `fingerprint` returns what else decides whether a node has changed (LoadImage: the file's bytes). A node that
    depends on a missing node gets a random signature, so its result is never reused.

    Raises
    ------
    KeyError, AttributeError
        If a node has no inputs, even one that nothing depends on. In ComfyUI this ends the execution thread.
    """
    found: dict[str, str] = {}

    def signature(node_id: str, above: tuple[str, ...]) -> str:
        if node_id not in graph:
            return uuid.uuid4().hex
        if node_id not in found and node_id not in above:
            parts = []
            for name, value in sorted(graph[node_id]["inputs"].items()):
                if is_link(value):
                    parts.append([name, "link", signature(value[0], (*above, node_id)), value[1]])
                else:
                    parts.append([name, "value", value])
            whole = json.dumps([graph[node_id]["class_type"], fingerprint(node_id, graph[node_id]["inputs"]), parts])
            found[node_id] = hashlib.sha256(whole.encode()).hexdigest()
        return found.get(node_id, "")

    for node_id in graph:
        signature(node_id, ())
    return found


def output_at(outputs: tuple[Any, ...], slot: float) -> Any:
    """Return one output of a result.

    Raises
    ------
    IndexError, TypeError
        If there is none of this number, in the words that Python has for lists.
    """
    return list(outputs)[slot]  # type: ignore[call-overload]
