"""The last progress told of a job, and what is published of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from app.domain.job import STATUS_OF, JobStatus, Phase
from app.domain.message import Snapshot, frame
from app.messaging.events import frame_of, merged, news

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("phase", Phase)
def test_only_a_job_that_runs_has_a_last_progress(phase: Phase) -> None:
    """What is kept of it may outlive it: the end could not be told."""
    job = Snapshot(job_id=1, phase=phase, seq=3, at=AT, attempt=1, progress=10)
    (found,) = merged([job], {1: json.dumps([1, 3, 7, 40, "2026-01-01T00:00:01.000Z"]).encode()})
    runs = STATUS_OF[phase] is JobStatus.RUNNING
    assert (found.progress, found.tick) == ((40, 7) if runs else (10, 0))


def test_progress_of_another_attempt_or_of_no_job_asked_for_is_not_taken() -> None:
    job = Snapshot(job_id=1, phase=Phase.EXECUTING, seq=9, at=AT, attempt=2)
    kept = json.dumps([1, 9, 7, 40, "2026-01-01T00:00:01.000Z"]).encode()
    assert merged([job], {1: kept, 2: kept}) == [job]


def test_the_node_at_work_is_told_to_those_who_watch_everything_alone() -> None:
    node = {"id": "3", "type": "KSampler", "value": 13, "max": 20}
    job = Snapshot(job_id=1, phase=Phase.EXECUTING, seq=3, at=AT, attempt=1, progress=40, node=node)
    told = json.loads(news(job))
    assert told["node"] == node
    assert frame_of(told) == frame(job)
    kept = json.dumps([1, 3, 7, 40, "2026-01-01T00:00:01.000Z", node]).encode()
    assert merged([replace(job, node=None)], {1: kept})[0].node == node
