"""How many seconds of a GPU a job will probably take, before it has run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from app.domain.run_times import RunTime
    from app.domain.workflow import Graph

UNKNOWN_S: Final = 10.0
"""What a job is taken to cost before any has run."""
LEAST_S: Final = 0.05
MOST_S: Final = 3600.0
"""Bounds of what one job is charged, so that no estimate can put a job out of reach, or give it away."""
_MOST_NUMBER: Final = 1e9
"""A greater number is no size and no count."""


@dataclass(frozen=True, slots=True)
class ModelRunTime:
    """How long the last runs with the same models took, in the middle."""

    p50: float
    """In seconds."""
    per_work_s: float | None = None
    """Seconds by `work_of`; None when of none of these runs it is known how much work it was."""


@dataclass(frozen=True, slots=True)
class Comparable:
    """What is known of earlier runs that a job can be compared with; None for nothing."""

    same: RunTime | None = None
    """Of graphs that cost about the same: `workflow_key`."""
    models: ModelRunTime | None = None
    """Of graphs that load the same."""
    lately: RunTime | None = None
    """Of whatever ran last."""


def cost_s(comparable: Comparable, work: float | None) -> float:
    """Return the likely seconds of a job that does so much work, from the nearest runs that it can be compared with."""
    same, models, lately = comparable.same, comparable.models, comparable.lately
    if same is not None:
        found = same.p50
    elif models is not None and models.per_work_s is not None and work is not None:
        found = models.per_work_s * work
    elif models is not None:
        found = models.p50
    else:
        found = lately.p50 if lately is not None else UNKNOWN_S
    return min(max(found, LEAST_S), MOST_S)


def work_of(graph: Graph) -> float | None:
    """Return pixels x frames x batch x steps of a graph; None where it does not say its size or its steps.

    Of several pictures the largest counts, of several samplers the steps of all. Numbers that come by links are not
    known. For runs to be compared with each other only, not a measure of anything.
    """
    pixels = steps = 0.0
    batch = 1.0
    for node in graph.values():
        inputs = node["inputs"]
        # Each job that is accepted comes by here: most nodes have none of these.
        if "width" in inputs:
            area = _count(inputs, "width") * _count(inputs, "height")
            pixels = max(pixels, area * (_count(inputs, "length") or 1.0))
        if "batch_size" in inputs or "amount" in inputs:
            batch = max(batch, _count(inputs, "batch_size"), _count(inputs, "amount"))
        if "steps" in inputs:
            steps += _count(inputs, "steps")
    return pixels * batch * steps or None


def _count(inputs: dict[str, Any], name: str) -> float:
    """Return the number that an input is set to; 0 for none, or one that cannot be meant."""
    value = inputs.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _MOST_NUMBER:
        return float(value)
    return 0.0
