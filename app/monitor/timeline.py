"""Where the time of each attempt went, as bars to draw: its stages one after the other, and the nodes that ran.

Bars come from recorded facts alone. What clocks contradict (a worker estimates some moments by its own) is drawn as
no length rather than as a negative one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from app.domain.job import FINISHED, JobEvent, Repair, Steering
from app.monitor.charts import seconds_step

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from app.domain.job import Attempt, Standing
    from app.storage.job_views import Event
    from app.storage.whole_jobs import JobView

UNITS: Final = 100.0
"""The length of a lane in the units of `x` and `width`: they are per cent of it, whatever its width on the screen."""
NODES_DRAWN: Final = 40
"""Of a run of more nodes the longest ones are drawn; the table has them all."""
TICKS: Final = 5

_BIRTHS: Final = frozenset({JobEvent.SUBMITTED, JobEvent.REQUEUED, JobEvent.RETRIED})
"""Events with which an attempt begins to wait."""
_MARKED: Final = {
    JobEvent.CANCEL_REQUESTED: "asked to cancel by",
    Repair.TAKEN_OVER: "taken over by",
    Repair.TURN_RENEWED: "its lost turn renewed by",
    Steering.MOVED_TO_FRONT: "moved to the front by",
    Steering.PRIORITY_SET: "its priority set by",
}


class Kind(StrEnum):
    """What a bar stands for; the word of the legend too."""

    WAITING = "waiting"
    PREPARING = "preparing"
    SENT = "sent"
    EXECUTING = "executing"
    NODE = "node"
    CACHED = "cached"
    SAVING = "saving"


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of an attempt. `start_s` counts from the beginning of its lane."""

    kind: Kind
    label: str
    start_s: float
    seconds: float
    x: float
    width: float
    going_on: bool = False
    """It lasts until now, as far as one knows."""
    cut_off: bool = False
    """It never ended by itself: the attempt ended first."""
    failed: bool = False
    node: str | None = None
    """The node's number in the graph, and its class."""
    node_type: str | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of an attempt at which something happened from outside."""

    label: str
    at_s: float
    x: float


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on the axis of a lane."""

    seconds: float
    x: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """One attempt: `stages` fill the whole of it, one after the other; `nodes` are on a scale of their own."""

    number: int
    outcome: str | None
    """None while it is under way."""
    backend: str | None
    worker: str | None
    begun_at: datetime
    """When it began to wait."""
    whole_s: float
    stages: list[Bar]
    marks: list[Mark]
    nodes_s: float
    """The length of the execution, from ComfyUI's first word of it."""
    nodes: list[Bar]
    """All of them, in the order of their start; the cached ones, which took no time, first."""
    drawn: list[Bar]
    ticks: list[Tick]
    told: bool
    """Whether ComfyUI told of the nodes; not by every connection, and not before the attempt ends."""

    @property
    def undrawn_s(self) -> float:
        """How long the nodes took that are in the table only."""
        return sum(bar.seconds for bar in self.nodes) - sum(bar.seconds for bar in self.drawn)


def timelines(view: JobView, events: Sequence[Event], now: datetime) -> list[Timeline]:
    """Return the attempts of a job, the first one first, with the one that still waits, or was withdrawn, if any."""
    found = [
        _of_attempt(view.job, attempt, _begun(view, events, attempt.number), events, now) for attempt in view.attempts
    ]
    # A job that was cancelled before it was claimed, and then retried, has attempts from the second on.
    if all(attempt.number != view.job.attempt for attempt in view.attempts):
        found.append(_unclaimed(view, events, now))
    return found


def _begun(view: JobView, events: Sequence[Event], number: int) -> datetime:
    """Return when the attempt began to wait."""
    born = [event.at for event in events if event.attempt == number and event.event in _BIRTHS]
    before = [attempt.ended_at for attempt in view.attempts if attempt.number == number - 1 and attempt.ended_at]
    begun = next(iter([*born, *before]), view.job.created_at)
    # Until its time has come the job waits for nothing: `Job.waited_s`.
    return max(begun, view.job.not_before) if number == 1 and view.job.not_before else begun


def _unclaimed(view: JobView, events: Sequence[Event], now: datetime) -> Timeline:
    """Return the attempt that was not claimed yet, or was withdrawn before that."""
    job = view.job
    over = job.status in FINISHED
    begun = _begun(view, events, job.attempt)
    end = max(begun, (job.completed_at if over else None) or now)
    stages = _stages([(Kind.WAITING, begun), (None, end)], going_on=not over)
    return Timeline(
        number=job.attempt,
        outcome=job.status.value if over else None,
        backend=None,
        worker=None,
        begun_at=begun,
        whole_s=_seconds(begun, end),
        stages=stages,
        marks=_marks(job.attempt, events, begun, end),
        nodes_s=0.0,
        nodes=[],
        drawn=[],
        ticks=[],
        told=False,
    )


def _of_attempt(job: Standing, attempt: Attempt, begun: datetime, events: Sequence[Event], now: datetime) -> Timeline:
    going_on = attempt.ended_at is None and attempt.number == job.attempt and job.status not in FINISHED
    end = max(begun, attempt.ended_at or (now if going_on else job.completed_at or now))
    moments = [
        (Kind.WAITING, begun),
        (Kind.PREPARING, attempt.claimed_at),
        (Kind.SENT, attempt.submitted_at),
        (Kind.EXECUTING, attempt.executing_at),
        (Kind.SAVING, attempt.executed_at),
        (None, end),
    ]
    nodes, nodes_s = _nodes(attempt, end, going_on=going_on)
    return Timeline(
        number=attempt.number,
        outcome=attempt.outcome,
        backend=attempt.backend_name,
        worker=attempt.worker_id,
        begun_at=begun,
        whole_s=_seconds(begun, end),
        stages=_stages(moments, going_on=going_on),
        marks=_marks(attempt.number, events, begun, end),
        nodes_s=nodes_s,
        nodes=nodes,
        drawn=_drawn(nodes),
        ticks=_ticks(nodes_s) if nodes else [],
        told=attempt.spans is not None,
    )


def _stages(moments: Sequence[tuple[Kind | None, datetime | None]], *, going_on: bool) -> list[Bar]:
    """Return a bar from each moment that is known to the next one; the last moment is the end."""
    known = [(kind, at) for kind, at in moments if at is not None]
    start, end = known[0][1], known[-1][1]
    whole_s = _seconds(start, end)
    bars, place = [], 0.0
    for (kind, _), (following, until) in pairwise(known):
        # No stage begins before the one ahead of it has ended, or ends after the attempt.
        stop = min(max(place, _seconds(start, until)), whole_s)
        if kind is not None:
            last = following is None
            bars.append(
                Bar(kind, kind.value, place, stop - place, *_placed(place, stop, whole_s), going_on=last and going_on)
            )
        place = stop
    return bars


def _nodes(attempt: Attempt, end: datetime, *, going_on: bool) -> tuple[list[Bar], float]:
    """Return a bar for each node that was told of, and the length of the lane that holds them all, in seconds."""
    spans = attempt.spans or []
    length_s = _seconds(attempt.executing_at, attempt.executed_at or end) if attempt.executing_at else 0.0
    timed = [span for span in spans if not span.get("cached")]
    lengths = [_ms(span, "start_ms") for span in timed] + [_ms(span, "end_ms") for span in timed]
    length_s = max([length_s, *[each for each in lengths if each is not None]])
    bars = [_cached(span) for span in spans if span.get("cached")]
    for span in sorted(timed, key=lambda span: _ms(span, "start_ms") or 0.0):
        start_s, told_s = _ms(span, "start_ms") or 0.0, _ms(span, "end_ms")
        end_s = max(start_s, length_s if told_s is None else told_s)
        bars.append(
            Bar(
                Kind.NODE,
                _label(span),
                start_s,
                end_s - start_s,
                *_placed(start_s, end_s, length_s),
                going_on=told_s is None and going_on and attempt.executed_at is None,
                cut_off=told_s is None and not going_on,
                failed=attempt.error_code is not None and span.get("node") == attempt.node_id,
                node=str(span.get("node")),
                node_type=str(span.get("type") or ""),
            )
        )
    return bars, length_s


def _cached(span: dict[str, Any]) -> Bar:
    """Return the bar of a node whose result ComfyUI still had; it took no time at the very beginning."""
    node, node_type = str(span.get("node")), str(span.get("type") or "")
    return Bar(Kind.CACHED, _label(span), 0.0, 0.0, 0.0, 0.0, node=node, node_type=node_type)


def _label(span: dict[str, Any]) -> str:
    return str(span.get("title") or span.get("type") or f"node {span.get('node')}")


def _ms(span: dict[str, Any], name: str) -> float | None:
    """Return a moment of a span in seconds; None if it was never told."""
    value = span.get(name)
    return max(0.0, value / 1000) if isinstance(value, int | float) and math.isfinite(value) else None


def _drawn(nodes: Sequence[Bar]) -> list[Bar]:
    if len(nodes) <= NODES_DRAWN:
        return list(nodes)
    # Whatever went wrong, or still goes on, is drawn however short it is.
    ranked = sorted(nodes, key=lambda bar: (bar.failed or bar.going_on or bar.cut_off, bar.seconds), reverse=True)
    chosen = {id(bar) for bar in ranked[:NODES_DRAWN]}
    return [bar for bar in nodes if id(bar) in chosen]


def _marks(number: int, events: Sequence[Event], begun: datetime, end: datetime) -> list[Mark]:
    whole_s = _seconds(begun, end)
    marks = []
    for event in events:
        word = _MARKED.get(event.event)  # type: ignore[call-overload]
        if event.attempt == number and word is not None:
            at_s = min(_seconds(begun, event.at), whole_s)
            marks.append(Mark(f"{word} {event.actor}", at_s, _placed(at_s, at_s, whole_s)[0]))
    return marks


def _ticks(length_s: float) -> list[Tick]:
    """Return round places on an axis of this length, `TICKS` at most besides its beginning."""
    if length_s <= 0:
        return [Tick(0.0, 0.0)]
    step = seconds_step(length_s / TICKS)
    places = [step * number for number in range(TICKS + 1) if step * number <= length_s]
    return [Tick(at_s, _placed(at_s, at_s, length_s)[0]) for at_s in places]


def _placed(start_s: float, end_s: float, length_s: float) -> tuple[float, float]:
    """Return `x` and `width` of a stretch in a lane of this length."""
    if length_s <= 0:
        return 0.0, 0.0
    x = min(UNITS, UNITS * start_s / length_s)
    return round(x, 4), round(min(UNITS - x, UNITS * max(0.0, end_s - start_s) / length_s), 4)


def _seconds(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())
