"""What is said of how long a job will still take."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from samples import new_job

from app.domain.job import ASKED_AGAIN, Job, Phase
from app.domain.run_times import Range, RunTime
from app.domain.scheduling.forecast import Expected
from app.monitor.eta import UNKNOWN, between, in_words
from app.services.eta import Estimate, end_of, turn_of

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
USUAL = RunTime(10.0, 12.0, 16.0, 30)


def job(phase: Phase) -> Job:
    asked = new_job()
    values: dict[str, Any] = {name: getattr(asked, name) for name in ASKED_AGAIN}
    values |= {name: None for name in Job.__dataclass_fields__ if name not in values}
    return Job(**values | {"phase": phase})


@pytest.mark.parametrize(
    ("low_s", "high_s", "said"),
    [
        (0, 0.4, "less than 1 s"),
        (0.2, 1.5, "≈ 0–2 s"),
        (8.4, 10.6, "≈ 8–11 s"),
        (7.9, 8.0, "≈ 7–8 s"),
        (8, 8, "≈ 8 s"),
        (-3, 5, "≈ 0–5 s"),
        (50, 130, "≈ 0–3 min"),
        (119, 121, "≈ 1–3 min"),
        (4000, 9000, "≈ 1–3 h"),
    ],
)
def test_a_range_is_rounded_outwards_in_one_unit(low_s: float, high_s: float, said: str) -> None:
    assert between(low_s, high_s) == said


def left(job: Job, usual: RunTime | None, began_at: datetime | None, progress: int) -> str | None:
    return in_words(end_of(job, usual, began_at, progress, NOW), NOW)


def test_what_is_left_shrinks_as_the_run_goes_on() -> None:
    running = job(Phase.EXECUTING)
    assert left(running, USUAL, NOW, 0) == "≈ 10–16 s left"
    assert left(running, USUAL, NOW - timedelta(seconds=6), 50) == "≈ 4–9 s left"
    assert left(running, None, NOW, 0) == UNKNOWN


@pytest.mark.parametrize("phase", [Phase.ASSIGNED, Phase.SAVING, Phase.CANCELLING, Phase.COMPLETED, Phase.QUEUED])
def test_of_a_job_that_does_not_run_towards_its_end_nothing_is_said(phase: Phase) -> None:
    assert left(job(phase), USUAL, NOW, 0) is None
    assert left(job(phase), USUAL, None, 0) is None
    assert left(job(phase), None, None, 0) is None


EXPECTED = Expected(Range(20.0, 30.0, 48.0), Range(10.0, 12.0, 16.0))


def test_a_job_that_waits_begins_and_ends_within_ranges() -> None:
    estimate = turn_of(EXPECTED, -5.0)
    assert in_words(estimate, NOW) == "≈ 20–48 s until it begins"
    assert estimate.end == Range(30.0, 42.0, 64.0)
    assert in_words(Estimate(None, turn=True), NOW) == UNKNOWN
    assert Estimate(None, turn=True).end is None


def test_a_job_whose_time_has_not_come_begins_no_sooner() -> None:
    assert turn_of(EXPECTED, 40.0).time == Range(40.0, 40.0, 48.0)
    assert turn_of(EXPECTED, 400.0).end == Range(410.0, 412.0, 416.0)


@pytest.mark.parametrize("percent", [0, 1, 50, 99, 100])
@pytest.mark.parametrize("elapsed_s", [0, 6, 30])
def test_the_likely_end_of_the_api_lies_within_what_the_page_says(percent: int, elapsed_s: int) -> None:
    estimate = end_of(job(Phase.EXECUTING), USUAL, NOW - timedelta(seconds=elapsed_s), percent, NOW)
    assert estimate is not None
    assert estimate.time is not None
    assert estimate.time.low_s <= estimate.time.likely_s <= estimate.time.high_s
    assert estimate.end == estimate.time
