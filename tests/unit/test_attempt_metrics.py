"""What counts as a gap in which a backend stood idle though there was work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from samples import new_job

from app.domain.job import ASKED_AGAIN, Job
from app.domain.scheduling.jobs import Reason
from app.metrics import EXECUTION, IDLE_GAP, MODEL_LOADS, QUEUE_WAIT
from worker.attempts.attempt_metrics import AttemptMetrics


def seen(measures: AttemptMetrics, name: str, backend: str = "gpu") -> float | None:
    """Return the sum of what was observed of a backend; None for nothing."""
    return measures.tally.take().get(f"{name}|{backend}|sum")


def test_a_run_that_waited_for_the_one_before_shows_the_gap_between_them() -> None:
    measures = AttemptMetrics()
    measures.ended("gpu", 10.0, 20.0)
    assert seen(measures, EXECUTION.name) == 10.0
    measures.began("gpu", 15.0, 20.25)
    assert seen(measures, IDLE_GAP.name) == 0.25


@pytest.mark.parametrize("due_at", [20.1, None], ids=["due only after it", "taken over"])
def test_a_run_that_did_not_wait_shows_none(due_at: float | None) -> None:
    measures = AttemptMetrics()
    measures.ended("gpu", None, 20.0)
    measures.began("gpu", due_at, 20.25)
    assert seen(measures, IDLE_GAP.name) is None


def test_a_choice_counts_by_its_reason_and_for_each_job_that_it_passed_over() -> None:
    measures = AttemptMetrics()
    measures.chose(Reason.DUE, 0)
    measures.chose(Reason.WARM, 3)
    measures.chose(Reason.WARM, 2)
    measures.lost_race()
    assert measures.tally.take() == {
        "genonaut_choices_total|due|total": 1,
        "genonaut_choices_total|warm|total": 2,
        "genonaut_overtakings_total||total": 5,
        "genonaut_lost_races_total||total": 1,
    }


def test_loads_count_with_their_seconds_by_backend() -> None:
    measures = AttemptMetrics()
    measures.loaded("gpu", 2.0)
    measures.loaded("gpu", 4.5)
    assert seen(measures, MODEL_LOADS.name) == 6.5


def test_a_wait_is_observed_once_a_round_and_from_its_beginning() -> None:
    measures, sent = AttemptMetrics(), datetime(2026, 11, 23, 12, tzinfo=UTC)

    def claimed(attempt: int, queued_s: float, first_s: float, now_s: float) -> float | None:
        """Return what a claim adds: seconds after `sent`."""
        queued, first, now = (sent + timedelta(seconds=each) for each in (queued_s, first_s, now_s))
        asked = new_job()
        values: dict[str, Any] = dict.fromkeys(Job.__dataclass_fields__)
        values |= {name: getattr(asked, name) for name in ASKED_AGAIN}
        times = {
            "created_at": sent,
            "queued_at": queued,
            "available_at": queued,
            "started_at": first,
            "updated_at": now,
        }
        measures.claimed(Job(**values | times | {"attempt": attempt}))
        return seen(measures, QUEUE_WAIT.name, "")

    assert claimed(1, 0, 3, 3) == 3
    # Its time came an hour after it was sent.
    assert claimed(1, 3600, 3602, 3602) == 2
    # Another attempt of the same round, and one of a round that somebody began a week later.
    assert claimed(2, 0, 3, 40) is None
    assert claimed(3, 600_000, 600_005, 600_005) == 5


def test_an_end_is_followed_by_one_gap_at_most_and_each_backend_has_its_own() -> None:
    measures = AttemptMetrics()
    measures.ended("gpu", None, 20.0)
    measures.began("other", 15.0, 20.5)
    assert seen(measures, IDLE_GAP.name, "other") is None
    measures.began("gpu", None, 21.0)
    # The end of that run was not seen.
    measures.began("gpu", 15.0, 30.0)
    assert seen(measures, IDLE_GAP.name) is None
