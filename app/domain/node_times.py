"""When each node of a run began and ended, from ComfyUI's frames; and which one is at work.

What is kept of an attempt is a list in the order of start: `{"node": "3", "type": "KSampler", "title": "…",
"start_ms": 120, "end_ms": 4300}`, milliseconds since its `executing_at`; the title only where the graph gives one. A
node taken from the cache has `"cached": true` and no times, one that never ended has no end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.domain.progress import node_name
from app.domain.text import word

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.domain.workflow import Graph

MOST: Final = 500
"""Maximum number of spans kept of a run; nodes that ran come before cached ones."""
TITLE_CHARS: Final = 100
_MOST_OPEN: Final = 256
"""Maximum number of nodes that count as running: ComfyUI executes one, and lazily evaluated ones wait for others."""
_MOST_STEPS: Final = 1e9
"""Bound of the values of a node's progress bar; values that reach it are ignored."""


@dataclass(slots=True)
class _Span:
    start: float
    end: float | None = None


class Spans:
    """The nodes of one prompt. Moments are seconds of any one clock; the methods only touch memory.

    Nodes that ComfyUI adds while it runs (expanded sub-graphs) count for the node of the graph that they came from,
    which thereby may end several times.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.from_cache: list[str] = []
        self._spans: dict[str, _Span] = {}
        """By node of the graph, in the order of start."""
        self.running: dict[str, str] = {}
        """ComfyUI's node → the node of the graph that it counts for; the last one is at work."""
        self._ends_are_told = False
        self._step: tuple[str, float, float] | None = None
        """ComfyUI's node, and how far it is of how much."""

    def cached(self, node_ids: Iterable[str]) -> None:
        """ComfyUI takes these from its cache."""
        self.from_cache = list(dict.fromkeys(node_id for node_id in node_ids if node_id in self._graph))

    def began(self, node_id: str, shown: str, at: float) -> None:
        """ComfyUI began the node `node_id`, which counts for the node `shown` of the graph."""
        if node_id in self.running or shown not in self._graph:
            return
        if not self._ends_are_told:
            # An older server: the next node's beginning is the only word of an end.
            self._end_all(at)
        if len(self.running) >= _MOST_OPEN:
            return
        self.running[node_id] = shown
        span = self._spans.setdefault(shown, _Span(at))
        span.end = None

    def stepped(self, node_id: str, value: Any, maximum: Any) -> None:
        """The node's own bar stands at `value` of `maximum`."""
        if _is_count(value) and _is_count(maximum):
            self._step = node_id, value, maximum

    def state(self, nodes: dict[str, Any], at: float) -> None:
        """Take a `progress_state` frame: every node started so far, in the order of start."""
        self._ends_are_told = True
        for node_id in list(self.running):
            node = nodes.get(node_id)
            if node is not None and node.get("state") == "finished":
                self._end(node_id, at)
        last = next(reversed(nodes), None)
        if last is not None and nodes[last].get("state") == "running":
            self.began(last, node_name(nodes[last].get("display_node_id"), last), at)
            self.stepped(last, nodes[last].get("value"), nodes[last].get("max"))

    def succeeded(self, at: float) -> None:
        """The run ended well, and so did whatever was at work."""
        self._end_all(at)

    def seconds_of(self, node_ids: Iterable[str]) -> float:
        """Return for how long these nodes ran, those that have ended; 0 for what was taken from the cache."""
        spans = (self._spans.get(node_id) for node_id in node_ids)
        return sum(span.end - span.start for span in spans if span is not None and span.end is not None)

    def at_work(self) -> dict[str, Any] | None:
        """Return the node at work with its own step, as watchers are told of it."""
        if not self.running:
            return None
        node_id, shown = next(reversed(self.running.items()))
        value, maximum = self._step[1:] if self._step is not None and self._step[0] == node_id else (0, 1)
        return {"id": shown, "type": self._graph[shown]["class_type"], "value": value, "max": maximum}

    def kept(self, since: float) -> list[dict[str, Any]]:
        """Return what is kept of them; `since` is the moment of `executing_at`."""
        timed = list(self._spans.items())[:MOST]
        cached = [node_id for node_id in self.from_cache if node_id not in self._spans][: MOST - len(timed)]
        return [
            *({**self._named(node_id), "cached": True} for node_id in cached),
            *(self._named(node_id) | _times(span, since) for node_id, span in timed),
        ]

    def _named(self, node_id: str) -> dict[str, Any]:
        node = self._graph[node_id]
        # A graph may hold what PostgreSQL does not: NUL and half characters.
        named = {"node": word(node_id), "type": word(node["class_type"])}
        meta = node.get("_meta")
        title = meta.get("title") if isinstance(meta, dict) else None
        shown = word(title, TITLE_CHARS) if isinstance(title, str) else ""
        if shown not in ("", named["type"]):
            named["title"] = shown
        return named

    def _end(self, node_id: str, at: float) -> None:
        shown = self.running.pop(node_id)
        if shown not in self.running.values():
            self._spans[shown].end = at

    def _end_all(self, at: float) -> None:
        for node_id in list(self.running):
            self._end(node_id, at)


def _times(span: _Span, since: float) -> dict[str, int]:
    start_ms = _ms(span.start, since)
    return {"start_ms": start_ms} if span.end is None else {"start_ms": start_ms, "end_ms": _ms(span.end, since)}


def _ms(moment: float, since: float) -> int:
    return max(0, round((moment - since) * 1000))


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _MOST_STEPS and math.isfinite(value)
