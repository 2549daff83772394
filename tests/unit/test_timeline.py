"""The timeline of an attempt: bars that fill what is known, whatever the clocks say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from samples import new_job

from app.domain.job import ASKED_AGAIN, Attempt, Job, JobEvent, Phase, Repair
from app.monitor.timeline import NODES_DRAWN, UNITS, Bar, Kind, Timeline, timelines
from app.monitor.words import exact
from app.storage.job_views import Event
from app.storage.whole_jobs import JobView

START = datetime(2026, 11, 23, 12, tzinfo=UTC)
ENDED = ("completed", "failed", "cancelled")


def at(seconds: float | None) -> Any:
    return None if seconds is None else START + timedelta(seconds=seconds)


def attempt(number: int = 1, *moments: float | None, spans: list[dict[str, Any]] | None = None, **more: Any) -> Attempt:
    """Return an attempt; `moments`: claimed, submitted, executing, executed, ended: seconds since the birth."""
    claimed, submitted, executing, executed, ended = (*moments, None, None, None, None)[:5]
    values: dict[str, Any] = {
        "worker_id": "host:1:a", "backend_name": "gpu-a", "prompt_id": "p", "outcome": None,
        "error_code": None, "error_message": None, "node_id": None, "node_type": None, "traceback": None,
        "workflow_key": None,
    }  # fmt: skip
    return Attempt(
        number=number,
        claimed_at=at(claimed),
        submitted_at=at(submitted),
        executing_at=at(executing),
        executed_at=at(executed),
        ended_at=at(ended),
        spans=spans,
        **values | more,
    )


def lines(
    *attempts: Attempt, phase: Phase = Phase.COMPLETED, number: int | None = None, now: float = 100.0, events: Any = (),
    completed: float | None = None, due: float | None = None,
) -> list[Timeline]:  # fmt: skip
    asked = new_job(not_before=at(due))
    values: dict[str, Any] = {name: getattr(asked, name) for name in ASKED_AGAIN}
    values |= dict.fromkeys(
        ("backend_name", "worker_id", "prompt_id", "error_code", "error_message", "cancel_reason", "content_id")
    )
    if completed is None and phase in ENDED and attempts and attempts[-1].ended_at:
        completed = (attempts[-1].ended_at - START).total_seconds()
    job = Job(
        job_id=7, phase=phase, seq=1, attempt=number or len(attempts) or 1, attempt_limit=4, progress=0,
        refused_by=[], suspicions=0,
        available_at=START, queued_at=START, created_at=START, updated_at=START, started_at=None,
        completed_at=at(completed), has_workflow=False, **values,
    )  # fmt: skip
    told = [
        Event(seq=seq, at=at(when), event=event, phase=phase, attempt=of, actor=actor, data={})
        for seq, (when, event, of, actor) in enumerate(events, 1)
    ]
    return timelines(JobView(job, list(attempts), [], None), told, at(now))


def stages(line: Timeline) -> list[tuple[str, float, float]]:
    return [(bar.kind.value, round(bar.start_s, 6), round(bar.seconds, 6)) for bar in line.stages]


def fits(bars: list[Bar], length_s: float) -> None:
    """Check that place and width of each bar are its share of the lane."""
    for bar in bars:
        assert bar.x == pytest.approx(UNITS * bar.start_s / length_s, abs=1e-3)
        assert bar.width == pytest.approx(UNITS * bar.seconds / length_s, abs=1e-3)


def node(number: str, start_ms: int | None = None, end_ms: int | None = None, **more: Any) -> dict[str, Any]:
    times = {"start_ms": start_ms, "end_ms": end_ms}
    return {"node": number, "type": "KSampler"} | {k: v for k, v in times.items() if v is not None} | more


def test_the_stages_of_a_completed_attempt_fill_it() -> None:
    (line,) = lines(attempt(1, 3, 3.5, 4, 12, 12.25, spans=[], outcome="completed"))
    assert stages(line) == [
        ("waiting", 0, 3),
        ("preparing", 3, 0.5),
        ("sent", 3.5, 0.5),
        ("executing", 4, 8),
        ("saving", 12, 0.25),
    ]
    assert line.whole_s == 12.25
    fits(line.stages, 12.25)
    assert sum(bar.width for bar in line.stages) == pytest.approx(UNITS, abs=1e-3)
    assert not any(bar.going_on for bar in line.stages)


def test_nodes_are_drawn_on_the_scale_of_the_execution_and_cached_ones_take_no_time() -> None:
    spans = [
        node("4", cached=True, type="CheckpointLoaderSimple"),
        node("3", 0, 6000, title="My sampler"),
        node("8", 6000, 7500, type="VAEDecode"),
    ]
    (line,) = lines(attempt(1, 1, 1, 2, 10, 11, spans=spans, outcome="completed"))
    assert line.told
    assert line.nodes_s == 8
    assert [(bar.kind, bar.label, bar.node, bar.node_type) for bar in line.nodes] == [
        (Kind.CACHED, "CheckpointLoaderSimple", "4", "CheckpointLoaderSimple"),
        (Kind.NODE, "My sampler", "3", "KSampler"),
        (Kind.NODE, "VAEDecode", "8", "VAEDecode"),
    ]
    assert [(bar.x, bar.width) for bar in line.nodes] == [(0, 0), (0, 75), (75, 18.75)]
    assert [tick.seconds for tick in line.ticks] == [0, 2, 4, 6, 8]
    assert [tick.x for tick in line.ticks] == [0, 25, 50, 75, 100]


def test_an_attempt_of_whose_nodes_nobody_was_told_has_its_stages() -> None:
    (line,) = lines(attempt(1, 1, 1, 2, 10, 11, outcome="completed"))
    assert not line.told
    assert line.nodes == line.drawn == line.ticks == []
    assert len(line.stages) == 5


def test_what_goes_on_lasts_until_now() -> None:
    (line,) = lines(attempt(1, 1, 1, 2, spans=[node("3", 0)]), phase=Phase.EXECUTING, now=5)
    assert stages(line)[-1] == ("executing", 2, 3)
    assert [bar.going_on for bar in line.stages] == [False, False, False, True]
    assert (line.nodes[0].seconds, line.nodes[0].going_on, line.nodes[0].cut_off) == (3, True, False)
    (line,) = lines(attempt(1, 1, 1, 2, 4), phase=Phase.SAVING, now=5)
    assert stages(line)[-1] == ("saving", 4, 1)


def test_a_node_that_never_ended_ends_with_its_attempt() -> None:
    fault = {"outcome": "failed", "error_code": "node_failed", "node_id": "3"}
    spans = [node("1", 0, 500), node("3", 500)]
    (line,) = lines(attempt(1, 1, 1, 2, None, 5, spans=spans, **fault), phase=Phase.FAILED)
    assert [(bar.seconds, bar.failed, bar.cut_off, bar.going_on) for bar in line.nodes] == [
        (0.5, False, False, False),
        (2.5, True, True, False),
    ]
    assert stages(line)[-1] == ("executing", 2, 3)


def test_each_attempt_waits_from_when_it_was_asked_for() -> None:
    events = [(0, JobEvent.SUBMITTED, 1, "api"), (6, JobEvent.REQUEUED, 2, "w"), (30, JobEvent.RETRIED, 3, "ann")]
    first, second, third = lines(
        attempt(1, 2, 2, 3, None, 6, outcome="retried"),
        attempt(2, 10, 10, 11, None, 12, outcome="failed"),
        attempt(3, 31, 31, 32, 40, 41, outcome="completed"),
        events=events,
    )
    assert [line.stages[0].seconds for line in (first, second, third)] == [2, 4, 1]
    assert [line.whole_s for line in (first, second, third)] == [6, 6, 11]


def test_without_its_history_an_attempt_waits_from_the_end_of_the_one_before() -> None:
    _, second = lines(attempt(1, 2, 2, 3, None, 6, outcome="retried"), attempt(2, 10, 10, 11, 12, 13))
    assert second.begun_at == at(6)


def test_the_first_attempt_waits_from_when_its_time_has_come() -> None:
    events = [(0, JobEvent.SUBMITTED, 1, "api"), (40, JobEvent.REQUEUED, 2, "w")]
    first, second = lines(attempt(1, 32, 32, 33, None, 40), attempt(2, 42, 42, 43, 50, 51), events=events, due=30)
    assert (stages(first)[0], stages(second)[0]) == (("waiting", 0, 2), ("waiting", 0, 2))
    (line,) = lines(phase=Phase.QUEUED, number=1, now=9, due=30)
    assert stages(line) == [("waiting", 0, 0)]


def test_what_was_cancelled_before_anybody_took_it_and_retried_is_one_attempt() -> None:
    events = [(0, JobEvent.SUBMITTED, 1, "api"), (5, JobEvent.RETRIED, 2, "ann")]
    (line,) = lines(attempt(2, 6, 6, 7, 8, 9, outcome="completed"), number=2, events=events)
    assert (line.number, line.whole_s) == (2, 4)


def test_an_attempt_that_nobody_has_taken_waits() -> None:
    (line,) = lines(phase=Phase.QUEUED, number=1, now=9, events=[(0, JobEvent.SUBMITTED, 1, "api")])
    assert (stages(line), line.outcome, line.stages[0].going_on) == ([("waiting", 0, 9)], None, True)
    events = [(0, JobEvent.SUBMITTED, 1, "api"), (6, JobEvent.REQUEUED, 2, "w")]
    lost = attempt(1, 2, 2, 3, None, 6, outcome="retried")
    _, line = lines(lost, phase=Phase.RETRYING, number=2, now=8, events=events)
    assert (line.number, stages(line)) == (2, [("waiting", 0, 2)])
    _, line = lines(lost, phase=Phase.CANCELLED, number=2, now=90, completed=7, events=events)
    assert (stages(line), line.outcome, line.stages[0].going_on) == ([("waiting", 0, 1)], "cancelled", False)


def test_a_takeover_and_a_wish_to_cancel_are_marked_in_their_attempt() -> None:
    events = [
        (0, JobEvent.SUBMITTED, 1, "api"),
        (4, Repair.TAKEN_OVER, 1, "host:2:b"),
        (8, JobEvent.CANCEL_REQUESTED, 1, "ann"),
        (20, Repair.TAKEN_OVER, 2, "host:3:c"),
    ]
    (line,) = lines(attempt(1, 1, 1, 2, None, 10, outcome="cancelled"), phase=Phase.CANCELLED, events=events)
    assert [(mark.label, mark.at_s, mark.x) for mark in line.marks] == [
        ("taken over by host:2:b", 4, 40),
        ("asked to cancel by ann", 8, 80),
    ]


@pytest.mark.parametrize(
    "moments",
    [
        (3, 2, 1, 0, 5),  # each before the one ahead of it
        (3, 4, 5, 9, 8),  # executed after the end
        (3, 4, 5, 9, 2),  # ended before it was taken
        (-5, -4, -3, -2, -1),  # all of it before the job was born
        (0, 0, 0, 0, 0),
        (1, None, None, None, 2),
        (1, None, 0.5, None, None),
    ],
)
def test_clocks_that_contradict_make_no_bar_negative(moments: tuple[float | None, ...]) -> None:
    spans = [node("1", 500, 200), node("2", -300, 100), node("3", 10**9, None), node("4", None, 5), node("5")]
    (line,) = lines(attempt(1, *moments, spans=spans), now=4)
    assert line.whole_s >= 0
    for bar in [*line.stages, *line.nodes]:
        assert bar.seconds >= 0
        assert bar.start_s >= 0
        assert 0 <= bar.x <= bar.x + bar.width <= UNITS + 1e-6
    for before, after in pairwise(line.stages):
        assert after.start_s == before.start_s + before.seconds
    assert sum(bar.seconds for bar in line.stages) <= line.whole_s + 1e-9


def test_of_many_nodes_the_longest_are_drawn_in_order_and_the_failed_one_too() -> None:
    spans = [node(str(number), number * 10, number * 10 + number) for number in range(1, 301)]
    spans[0]["end_ms"] = spans[0]["start_ms"]
    (line,) = lines(
        attempt(1, 1, 1, 2, 10, 11, spans=spans, outcome="failed", error_code="node_failed", node_id="1"),
        phase=Phase.FAILED,
    )
    assert len(line.nodes) == 300
    assert [bar.node for bar in line.drawn] == ["1", *map(str, range(302 - NODES_DRAWN, 301))]
    assert line.undrawn_s == pytest.approx(sum(range(2, 302 - NODES_DRAWN)) / 1000)


@pytest.mark.parametrize(
    ("length_s", "labels"),
    [
        (0.0004, ["0 ms"]),
        (0.0012, ["0 ms", "1 ms"]),
        (0.003, ["0 ms", "1 ms", "2 ms", "3 ms"]),
        (0.0055, ["0 ms", "2 ms", "4 ms"]),
        (0.07, ["0 ms", "20 ms", "40 ms", "60 ms"]),
        (1, ["0 ms", "200 ms", "400 ms", "600 ms", "800 ms", "1 s"]),
        (4.9, ["0 ms", "1 s", "2 s", "3 s", "4 s"]),
        (59, ["0 ms", "15 s", "30 s", "45 s"]),
        (3600, ["0 ms", "15 min", "30 min", "45 min", "60 min"]),
        (90_000, ["0 ms", "6 h", "12 h", "18 h", "24 h"]),
    ],
)
def test_ticks_are_few_and_stand_where_they_say(length_s: float, labels: list[str]) -> None:
    """The labels are what the page shows of them, but for the first one, which it shows as a mere 0."""
    (line,) = lines(attempt(1, 0, 0, 0, length_s, length_s, spans=[node("1", 0, 0)]))
    assert [exact(tick.seconds) for tick in line.ticks] == labels
    places = [UNITS * tick.seconds / length_s for tick in line.ticks]
    assert [tick.x for tick in line.ticks] == pytest.approx(places, abs=1e-3)
    assert line.ticks[-1].x <= UNITS


@pytest.mark.parametrize("thousandths", [1, 2, 3, 7, 12, 99, 1234, 4321, 5001, 61_000, 1_234_567, 86_400_000])
def test_no_two_ticks_say_the_same(thousandths: int) -> None:
    (line,) = lines(attempt(1, 0, 0, 0, thousandths / 1000, thousandths / 1000, spans=[node("1", 0, 0)]))
    told = [exact(tick.seconds) for tick in line.ticks]
    assert 2 <= len(set(told)) == len(told) <= 6
