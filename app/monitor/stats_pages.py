"""The page of statistics: how jobs ended, how long they waited and ran, what they failed of; figures lead to jobs."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal
from urllib.parse import urlencode

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.domain.job import JobStatus
from app.domain.message import timestamp
from app.domain.statistics_report import Chosen, evenness
from app.keys import OWNERS_AT_LIMITS, STATISTICS
from app.monitor.charts import Chart, Part, Tick, columns, lines
from app.monitor.page_data import read_health
from app.monitor.rendering import render
from app.monitor.shared_fragments import shared
from app.monitor.words import exact
from app.storage.ended_jobs import DAY_S, FIVE_MINUTES_S, HOUR_S
from app.web.bodies import read_query
from app.web.checking import check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.statistics_report import Ends, Failures, Report, Step

routes: Final = web.RouteTableDef()

OUTCOMES: Final = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)
"""As they stand on each other in a column, from the bottom up."""
MOST_ROWS: Final = 50
"""Of more models, or more kinds of failures, the most frequent are listed."""
MOST_NAMES: Final = 200
"""Maximum number of models offered in the filter: clients may name any."""
P50: Final = 0.50
P95: Final = 0.95


@dataclass(frozen=True, slots=True)
class Range:
    """How far back a page looks, and in which steps; both are multiples of what is recorded."""

    label: str
    length: timedelta
    step_s: int
    tick_s: int
    """From label to label of the time axis."""
    tick: str
    """The label, as strftime has it."""


RANGES: Final = {
    "1h": Range("1 h", timedelta(hours=1), FIVE_MINUTES_S, 3 * FIVE_MINUTES_S, "%H:%M"),
    "6h": Range("6 h", timedelta(hours=6), 3 * FIVE_MINUTES_S, HOUR_S, "%H:%M"),
    "24h": Range("24 h", timedelta(hours=24), HOUR_S, 4 * HOUR_S, "%H:%M"),
    "7d": Range("7 d", timedelta(days=7), 6 * HOUR_S, DAY_S, "%a %d"),
    "30d": Range("30 d", timedelta(days=30), DAY_S, 5 * DAY_S, "%d %b"),
    "90d": Range("90 d", timedelta(days=90), 3 * DAY_S, 15 * DAY_S, "%d %b"),
}


class StatsAddress(BaseModel):
    """What stands in the address of the page. Empty means absent, as browsers send the fields of a form."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore", frozen=True)

    range: Literal["1h", "6h", "24h", "7d", "30d", "90d"] = "24h"
    model: str | None = Field(None, max_length=255)
    backend: str | None = Field(None, max_length=255)

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value} if isinstance(data, dict) else data

    def link(self, **changes: str | None) -> str:
        """Return the address with these changes."""
        values = self.model_dump() | changes
        return f"/monitor/stats?{urlencode({name: value for name, value in values.items() if value is not None})}"


@dataclass(frozen=True, slots=True)
class Figure:
    """A value, as it is said too, and the list of the very jobs it is of; None when no list has these and no others."""

    value: float
    text: str
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Lengths:
    """The middle and the slow end of lengths of time; None without any."""

    p50: Figure | None
    p95: Figure | None


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step as a row of the tables behind the charts."""

    when: str
    finished: dict[JobStatus, Figure]
    wait: Lengths
    run: Lengths
    waiting: int | None
    running: int | None


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """Failures of one error, and of it in each class of node."""

    code: str
    count: Figure
    share: float
    nodes: Sequence[NodeRow]


@dataclass(frozen=True, slots=True)
class NodeRow:
    """Failures of one error in one class of node; "" is in none."""

    node: str
    count: Figure
    share: float


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model's jobs."""

    name: str
    alone: str | None
    """The page of this model alone."""
    count: Figure
    failed: Figure
    failed_share: float | None
    """Of those that were completed or failed."""
    run: Lengths


@dataclass(frozen=True, slots=True)
class Shown:
    """All that the page shows of a report."""

    total: Figure
    finished: dict[JobStatus, Figure]
    failed_share: float | None
    wait: Lengths
    run: Lengths
    outcomes: Chart
    queue: Chart
    waits: Chart
    runs: Chart
    steps: Sequence[StepRow]
    errors: Sequence[ErrorRow]
    models: Sequence[ModelRow]
    unlisted_errors: int
    unlisted_models: int
    loads_per_100: float | None
    """How many of a hundred jobs had to load models."""
    load_s: float
    evenness: float | None
    """Jain's index of the users who wanted more."""


@routes.get("/stats")
@routes.get("/stats/")
@shared
async def show_stats(request: web.Request) -> web.Response:
    """Show the statistics of the range in the address."""
    address = check(StatsAddress, read_query(request.query), pointer="")
    chosen, over = Chosen(address.model, address.backend), RANGES[address.range]
    report, health, users = await asyncio.gather(
        request.config_dict[STATISTICS].read(over.length, over.step_s, chosen),
        read_health(request),
        request.config_dict[OWNERS_AT_LIMITS].use_of_all(),
    )
    frequent = sorted(report.models, key=lambda name: -report.models[name].total)[:MOST_NAMES]
    names = sorted({*frequent, *([address.model] if address.model else [])} - {""})
    backends = sorted({*report.backends, *([address.backend] if address.backend else [])})
    context: dict[str, Any] = {
        "health": health,
        "address": address,
        "ranges": RANGES,
        "report": report,
        "shown": show_report(report, address),
        "models": names,
        "backends": backends,
        "users": users,
    }
    return await render(request, "stats.html", context)


def show_report(report: Report, address: StatsAddress) -> Shown:
    """Return what the page shows of a report."""
    over, links = RANGES[address.range], _Links(address)
    everything, whole = links.between(report.start, report.steps[-1].end), report.whole
    rows = [_step_row(step, links, _when(step.start, step.end, over.step_s)) for step in report.steps]
    across = _time_ticks(report.steps, over)
    errors = _errors(report, everything)
    models = sorted(report.models.items(), key=lambda item: (-item[1].total, item[0]))
    listed = [(name, ends) for name, ends in models if address.model in (None, name)]
    failed, completed = whole.of(JobStatus.FAILED), whole.of(JobStatus.COMPLETED)
    return Shown(
        total=everything.figure(whole.total),
        finished={status: everything.figure(whole.of(status), status=status) for status in OUTCOMES},
        failed_share=failed / (failed + completed) if failed + completed else None,
        wait=_waits(whole, everything),
        run=_runs(whole, everything),
        outcomes=columns([_outcome_parts(row) for row in rows], across),
        queue=lines(_queue_points(rows), across, seconds=None),
        waits=lines(_length_points(rows, [row.wait for row in rows], "waited"), across, seconds=exact),
        runs=lines(_length_points(rows, [row.run for row in rows], "ran"), across, seconds=exact),
        steps=rows,
        errors=errors[:MOST_ROWS],
        models=[_model_row(name, ends, everything, address) for name, ends in listed[:MOST_ROWS]],
        unlisted_errors=len(errors[MOST_ROWS:]),
        unlisted_models=len(listed[MOST_ROWS:]),
        loads_per_100=whole.loads_per_100,
        load_s=whole.load_s,
        evenness=evenness(report.tenants),
    )


class _Links:
    """Addresses of lists of jobs, narrowed as the page is."""

    def __init__(self, address: StatsAddress, **fields: str) -> None:
        self._address = address
        self._fields = fields

    def between(self, start: datetime, end: datetime) -> _Links:
        """Return those of what ended from `start` on and before `end`."""
        return self.narrowed(ended_from=timestamp(start), ended_to=timestamp(end))

    def narrowed(self, **fields: str) -> _Links:
        """Return those with these filters too."""
        return _Links(self._address, **(self._fields | fields))

    def link(self, **fields: str) -> str:
        """Return an address."""
        own = {name: value for name in ("model", "backend") if (value := getattr(self._address, name))}
        return f"/monitor/?{urlencode(own | self._fields | fields)}"

    def figure(self, count: int, **fields: str) -> Figure:
        """Return a count that leads to what it counts."""
        return Figure(count, f"{count:,}", self.link(**fields))


def _step_row(step: Step, links: _Links, when: str) -> StepRow:
    there = links.between(step.start, step.end)
    finished = {status: there.figure(step.ends.of(status), status=status) for status in OUTCOMES}
    return StepRow(when, finished, _waits(step.ends, there), _runs(step.ends, there), step.waiting, step.running)


def _waits(ends: Ends, links: _Links) -> Lengths:
    return Lengths(*(_length(ends.wait_s(share), share, links, "waited_over") for share in (P50, P95)))


def _runs(ends: Ends, links: _Links) -> Lengths:
    completed = links.narrowed(status=JobStatus.COMPLETED)
    return Lengths(*(_length(ends.run_s(share), share, completed, "ran_over") for share in (P50, P95)))


def _length(seconds: float | None, share: float, links: _Links, slower: str) -> Figure | None:
    """Return a quantile, and the list of the jobs that took so long or longer; of the middle, of all of them.

    A list has what took longer than its address says: the last millisecond below the quantile. That is less than the
    slowest job took, so it is always in the list.
    """
    if seconds is None:
        return None
    below_ms = math.ceil(round(1000 * seconds, 3)) - 1
    narrowed = {slower: f"{below_ms / 1000:.3f}"} if share > P50 and below_ms >= 0 else {}
    return Figure(seconds, exact(seconds), links.link(**narrowed))


def _outcome_parts(row: StepRow) -> list[Part]:
    return [
        Part(status, figure.value, f"{row.when}: {figure.text} {status}", figure.link)
        for status, figure in row.finished.items()
    ]


def _queue_points(rows: Sequence[StepRow]) -> list[list[Part]]:
    return [
        [Part("waiting", row.waiting, f"{row.when}: up to {row.waiting} waiting") for row in rows],
        [Part("running", row.running, f"{row.when}: up to {row.running} running") for row in rows],
    ]


def _length_points(rows: Sequence[StepRow], lengths: Sequence[Lengths], verb: str) -> list[list[Part]]:
    """Return the points of the two lines of a chart of lengths of time."""
    found = []
    for kind, whose in (("p50", "half"), ("p95", "95 %")):
        figures: list[Figure | None] = [getattr(each, kind) for each in lengths]
        found.append(
            [
                Part(kind, figure.value, f"{row.when}: {whose} {verb} up to {figure.text}", figure.link)
                if figure
                else Part(kind, None, "")
                for row, figure in zip(rows, figures, strict=True)
            ]
        )
    return found


def _errors(report: Report, links: _Links) -> list[ErrorRow]:
    """Return the failures by error, the most frequent first, and within by class of node."""
    by_code: dict[str, list[Failures]] = {}
    for each in report.failures:
        by_code.setdefault(each.error_code, []).append(each)
    whole = sum(each.count for each in report.failures)
    found = []
    for code, several in by_code.items():
        alike = links.narrowed(status=JobStatus.FAILED, error=code)
        nodes = []
        for each in several:
            # No list can be narrowed to those that failed in no node; if all did, the error alone says it.
            figure = alike.figure(each.count, **({"node": each.node_type} if each.node_type else {}))
            exactly = bool(code) and (bool(each.node_type) or len(several) == 1)
            nodes.append(NodeRow(each.node_type, figure if exactly else replace(figure, link=None), each.count / whole))
        count = sum(each.count for each in several)
        figure = alike.figure(count)
        found.append(ErrorRow(code, figure if code else replace(figure, link=None), count / whole, nodes))
    return sorted(found, key=lambda row: -row.count.value)


def _model_row(name: str, ends: Ends, links: _Links, address: StatsAddress) -> ModelRow:
    """Return a model's row; jobs without a model are not found by any filter, hence without links."""
    alike = links.narrowed(model=name)
    count, failed = alike.figure(ends.total), alike.figure(ends.of(JobStatus.FAILED), status=JobStatus.FAILED)
    run = _runs(ends, alike)
    if not name:
        count, failed = replace(count, link=None), replace(failed, link=None)
        run = Lengths(*(each and replace(each, link=None) for each in (run.p50, run.p95)))
    decided = ends.of(JobStatus.FAILED) + ends.of(JobStatus.COMPLETED)
    share = ends.of(JobStatus.FAILED) / decided if decided else None
    return ModelRow(name, address.link(model=name) if name else None, count, failed, share, run)


def _time_ticks(steps: Sequence[Step], over: Range) -> list[Tick]:
    """Return the labels of the time axis, each at the beginning of its step; every other one may be left out."""
    places = [(number, step.start) for number, step in enumerate(steps) if step.start.timestamp() % over.tick_s == 0]
    return [
        Tick(round(100 * number / len(steps), 3), f"{start:{over.tick}}", extra=bool(order % 2))
        for order, (number, start) in enumerate(places)
    ]


def _when(start: datetime, end: datetime, step_s: int) -> str:
    """Return a step in words, in UTC."""
    if step_s < DAY_S:
        return f"{start:%d %b %H:%M}–{end:%H:%M}"
    last = end - timedelta(days=1)
    return f"{start:%d %b}" if last == start else f"{start:%d %b} – {last:%d %b}"
