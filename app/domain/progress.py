"""How far a running attempt is: ComfyUI's frames about nodes, folded into one percentage that never falls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from app.domain.workflow import Graph

MOST_NAME_CHARS: Final = 200
"""No node of a graph that can be sent has a longer id."""
_MOST_NUMBER: Final = 2**53
_LOADING: Final = 3.0
"""Weight of a node that loads a model, in the units of one sampling step."""


def node_name(*values: Any) -> str:
    """Return the first of these that can be the id of a node; empty when none can."""
    for value in values:
        if isinstance(value, str) and 0 < len(value) <= MOST_NAME_CHARS:
            return value
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MOST_NUMBER:
            return str(value)
    return ""


class ProgressFold:
    """Folds what ComfyUI says of one prompt's nodes into a whole percentage, weighted by what nodes usually cost.

    A sampler weighs as many units as it makes steps, a loader `_LOADING`, any other node one. Nodes that ComfyUI adds
    while it runs (expanded sub-graphs) are not in the graph that was sent, and count for the node they came from.
    """

    def __init__(self, graph: Graph) -> None:
        self._weights = {node_id: _weight(node) for node_id, node in graph.items()}
        self._total = sum(self._weights.values()) or 1.0
        self._share: dict[str, float] = {}
        self._running: str | None = None
        self.percent = 0
        self.node_id: str | None = None
        """The running node, for display."""

    def cached(self, node_ids: Iterable[str]) -> bool:
        """ComfyUI takes these from its cache; returns whether the percentage rose, as the other methods do."""
        for node_id in node_ids:
            self._set(node_id, 1.0)
        return self._update()

    def began(self, node_id: str) -> bool:
        """ComfyUI began this node, and so has finished the one before."""
        if self._running is not None and self._running != node_id:
            self._set(self._running, 1.0)
        self._running = self.node_id = node_id
        return self._update()

    def stepped(self, node_id: str, value: float, maximum: float) -> bool:
        """A node's own bar stands at `value` of `maximum`."""
        if maximum > 0:
            self._set(node_id, _share(value, maximum))
        return self._update()

    def state(self, nodes: Mapping[str, Any]) -> bool:
        """Fold a `progress_state` frame: every node started so far."""
        for key, node in nodes.items():
            node_id = node_name(node.get("display_node_id"), node.get("real_node_id"), key)
            if node.get("state") == "finished":
                if node_id == key:
                    self._set(node_id, 1.0)
            else:
                value, maximum = node.get("value"), node.get("max")
                if isinstance(value, int | float) and isinstance(maximum, int | float) and maximum > 0:
                    # A node that has only begun stands at 0 of 1; one at its maximum is not finished yet.
                    self._set(node_id, min(_share(value, maximum), 0.99))
        return self._update()

    def _set(self, node_id: str, share: float) -> None:
        if node_id in self._weights:
            self._share[node_id] = max(self._share.get(node_id, 0.0), min(share, 1.0))

    def _update(self) -> bool:
        done = sum(self._weights[node_id] * share for node_id, share in self._share.items())
        # 100 is said when ComfyUI has finished the prompt, not when our arithmetic reaches it.
        percent = min(99, int(100 * done / self._total))
        rose = percent > self.percent
        self.percent = max(self.percent, percent)
        return rose


def _share(value: float, maximum: float) -> float:
    try:
        share = value / maximum
    except OverflowError:
        # JSON's integers have no bound, and their quotient may have no float.
        return 0.0
    # Nor has what Python takes for JSON: infinity by infinity is no number.
    return share if math.isfinite(share) else 0.0


def _weight(node: Mapping[str, Any]) -> float:
    steps = node["inputs"].get("steps")
    if isinstance(steps, int) and not isinstance(steps, bool) and 0 < steps <= 10_000:
        return float(steps)
    return _LOADING if "Loader" in str(node["class_type"]) else 1.0
