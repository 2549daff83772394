"""Charts as data: where each mark stands, what it says and where it leads; templates/charts.html draws them.

Across, places are per cent of the plot, so that they are right at every width of the page and texts keep their size;
down, they are pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PLOT_PX: Final = 150.0
"""Height of a plot, from its upper edge to the line of zero."""
TOP_PX: Final = 10.0
"""Room above the highest value, for half a label."""
LEAST_PX: Final = 2.0
"""Minimum height in pixels of a part whose value is not zero: one failed job among ten thousand must be visible."""
SPARK_PX: Final = 28.0
_GRID: Final = 4
"""Maximum number of grid lines above the zero line."""
_GAP: Final = 0.2
"""Share of a column's place that is left free."""
LEAST_STEP_S: Final = 0.001
"""Labels are in whole milliseconds: on a finer scale they would say the same several times."""
_ROUND_S: Final = (10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a column, or a point of a line: a value with what it says and where it leads."""

    kind: str
    value: float | None
    """None: not known."""
    title: str
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a column where it is drawn."""

    part: Part
    x: float
    width: float
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a line where it is drawn."""

    part: Part
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Line:
    """A line: its stretches without a gap, as SVG has points, and all its points."""

    kind: str
    stretches: Sequence[str]
    dots: Sequence[Dot]


@dataclass(frozen=True, slots=True)
class Tick:
    """A label of an axis, `at` per cent across or pixels down."""

    at: float
    label: str
    extra: bool = False
    """Left out where there is little room."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart: columns of blocks, or lines."""

    blocks: Sequence[Block]
    lines: Sequence[Line]
    across: Sequence[Tick]
    down: Sequence[Tick]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to be seen."""
        return not self.blocks and not any(line.dots for line in self.lines)


@dataclass(frozen=True, slots=True)
class Spark:
    """A line without axes."""

    stretches: Sequence[str]
    dots: Sequence[tuple[float, float]]
    """Places of values that have no neighbour, and would not be seen as a line."""


def columns(parts: Sequence[Sequence[Part]], across: Sequence[Tick]) -> Chart:
    """Return columns of parts that stand on each other, the first one at the bottom; their values are counts."""
    down, scale = _axis(
        max((sum(part.value or 0 for part in column) for column in parts), default=0), _count_step, _count_text
    )
    place = 100 / max(1, len(parts))
    blocks = []
    for number, column in enumerate(parts):
        foot = TOP_PX + PLOT_PX
        for part in column:
            if part.value:
                height = max(LEAST_PX, part.value * scale)
                foot = max(TOP_PX / 2, foot - height)
                x, width = place * (number + _GAP / 2), place * (1 - _GAP)
                blocks.append(Block(part, round(x, 3), round(width, 3), round(foot, 2), round(height, 2)))
    return Chart(blocks, [], across, down)


def lines(series: Sequence[Sequence[Part]], across: Sequence[Tick], *, seconds: Callable[[float], str] | None) -> Chart:
    """Return lines through points, each in the middle of its place; `seconds` says lengths of time, None: counts."""
    highest = max((part.value or 0 for points in series for part in points), default=0)
    down, scale = _axis(highest, _count_step if seconds is None else seconds_step, seconds or _count_text)
    drawn = []
    for points in series:
        place = 100 / max(1, len(points))
        placed = [
            None
            if part.value is None
            else Dot(part, round(place * (number + 0.5), 3), round(TOP_PX + PLOT_PX - part.value * scale, 2))
            for number, part in enumerate(points)
        ]
        dots = [dot for dot in placed if dot is not None]
        stretches = [
            " ".join(f"{dot.x:g},{dot.y:g}" for dot in group if dot is not None)
            for known, group in groupby(placed, lambda dot: dot is not None)
            if known
        ]
        drawn.append(Line(points[0].kind if points else "", stretches, dots))
    return Chart([], drawn, across, down)


def spark(points: Sequence[float | None]) -> Spark:
    """Return a line through points from the left edge to the right one; None is a gap, and the lowest value zero."""
    highest = max((point for point in points if point is not None), default=0) or 1
    step = 100 / max(1, len(points) - 1)
    placed = [
        None if point is None else (round(step * number, 2), round(1 + (SPARK_PX - 2) * (1 - point / highest), 2))
        for number, point in enumerate(points)
    ]
    stretches, alone = [], []
    for known, group in groupby(placed, lambda place: place is not None):
        places = [place for place in group if place is not None]
        if known and len(places) > 1:
            stretches.append(" ".join(f"{x:g},{y:g}" for x, y in places))
        elif known:
            alone += places
    return Spark(stretches, alone)


def _axis(highest: float, step_of: Callable[[float], float], told: Callable[[float], str]) -> tuple[list[Tick], float]:
    """Return the labels of an axis that holds this value, and its pixels for one."""
    step = step_of(highest / _GRID)
    top = step * max(1, math.ceil(round(highest / step, 6)))
    scale = PLOT_PX / top
    count = round(top / step)
    return [
        Tick(round(TOP_PX + PLOT_PX - step * number * scale, 2), told(step * number) if number else "0")
        for number in range(count + 1)
    ], scale


def _count_step(least: float) -> float:
    """Return the smallest round number of things that is not below this."""
    return max(1.0, _decimal_step(least))


def seconds_step(least: float) -> float:
    """Return the smallest round length of time that is not below this, and not below what is told: a millisecond."""
    if least <= 5:
        return max(LEAST_STEP_S, _decimal_step(least))
    days = _decimal_step(least / 86400) * 86400
    return next((step for step in _ROUND_S if step >= least), days)


def _decimal_step(least: float) -> float:
    if least <= 0:
        return 1.0
    magnitude = 10.0 ** math.floor(math.log10(least))
    return next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= least * 0.999_999)


def _count_text(count: float) -> str:
    return f"{count:,.0f}"
