"""Answers are plain data: that they have the shape that the OpenAPI document promises is seen to here."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from samples import new_job, output

from app.domain.job import ASKED_AGAIN, Attempt, Job, Phase
from app.domain.message import snapshot_of
from app.domain.run_times import Range
from app.domain.scheduling.jobs import Choice, Reason
from app.runtime.json_text import dumps, loads
from app.services.eta import Estimate
from app.services.links import unsigned
from app.storage.job_views import Event
from app.storage.whole_jobs import JobView
from app.web import payloads
from app.web.answers import attempt_answer, content_answer, event_answer, job_answer

if TYPE_CHECKING:
    from pydantic import BaseModel

AT = datetime(2026, 11, 23, 12, 0, 0, 123_456, tzinfo=UTC)


def job(**changes: Any) -> Job:
    asked = new_job(not_before=AT, metadata={"a": "b"}, params={"n": 10**30})
    values: dict[str, Any] = {name: getattr(asked, name) for name in ASKED_AGAIN}
    values |= {
        "job_id": 7,
        "phase": Phase.COMPLETED,
        "seq": 5,
        "attempt": 1,
        "attempt_limit": 4,
        "progress": 100,
        "backend_name": "b",
        "worker_id": "w",
        "prompt_id": "p",
        "refused_by": [],
        "suspicions": 0,
        "error_code": None,
        "error_message": None,
        "cancel_reason": None,
        "content_id": 3,
        "available_at": AT,
        "queued_at": AT,
        "created_at": AT,
        "updated_at": AT,
        "started_at": AT,
        "completed_at": AT + timedelta(seconds=2),
    }
    return Job(has_workflow=False, **values | changes)


def attempt(choice: dict[str, Any] | None = None, load_s: float | None = None) -> Attempt:
    times = dict.fromkeys(("claimed_at", "submitted_at", "executing_at", "executed_at", "ended_at"), AT)
    errors = dict.fromkeys(("error_code", "error_message", "node_id", "node_type"))
    unknown = dict.fromkeys(("traceback", "spans", "workflow_key"))
    return Attempt(
        number=1,
        worker_id="w",
        backend_name="b",
        prompt_id="p",
        outcome="completed",
        **times,
        **errors,
        choice=choice,
        load_s=load_s,
        **unknown,
    )


def same_shape(told: Any, model: type[BaseModel]) -> None:
    """Check that the data has the very keys of the model, also in what it contains, and values of its types."""
    told = loads(dumps(told))
    model.model_validate(told)
    assert set(told) == set(model.model_fields)
    for name, nested in (("outputs", payloads.OutputAnswer), ("attempts", payloads.AttemptAnswer)):
        for each in told.get(name, []):
            assert set(each) == set(nested.model_fields)
    if model is payloads.AttemptAnswer and told["choice"] is not None:
        assert set(told["choice"]) == set(payloads.ChoiceAnswer.model_fields)
    if "timings" in told:
        assert set(told["timings"]) == set(payloads.Timings.model_fields)


@pytest.mark.parametrize("phase", Phase)
def test_a_job_has_the_promised_shape_in_every_phase(phase: Phase) -> None:
    changes: dict[str, Any] = {"content_id": None, "completed_at": None} if phase is not Phase.COMPLETED else {}
    view = JobView(job(phase=phase, **changes), [attempt()], [output(), output(1, thumbnail_path=None)], 1)
    estimate = Estimate(Range(0.5, 1.5, 3.0), turn=True, run=Range(1.0, 2.0, 3.0))
    told = job_answer(view, snapshot_of(view.job), unsigned, estimate, "It cannot run now.")
    same_shape(told, payloads.JobAnswer)
    assert told["begin_range"] == {"low": 0.5, "likely": 1.5, "high": 3.0}
    assert (told["eta_seconds"], told["eta_range"]) == (3.5, {"low": 1.5, "likely": 3.5, "high": 6.0})
    assert told["waits_because"] == "It cannot run now."


def test_an_attempt_tells_why_its_backend_took_the_job_and_for_how_long_it_loaded() -> None:
    chosen = Choice(7, Reason.WARM, 2, (5, 6), 1.5, 0.0, 9)
    told = attempt_answer(attempt(chosen.told() | {"of_a_later_version": 1}, 2.0004))
    same_shape(told, payloads.AttemptAnswer)
    assert told["choice"] == {"reason": "warm", "rank": 2, "overtook": 2, "load_s": 0.0, "alternatives": 9}
    assert told["load_s"] == 2.0
    # What is taken at hand was compared with nothing.
    told = attempt_answer(attempt({"reason": "due", "rank": 0, "overtook": 0, "load_s": 0.0}))
    same_shape(told, payloads.AttemptAnswer)
    assert told["choice"]["alternatives"] is None
    told = attempt_answer(attempt())
    same_shape(told, payloads.AttemptAnswer)
    assert told["choice"] is told["load_s"] is None


def test_times_have_milliseconds_and_numbers_all_their_digits() -> None:
    view = JobView(job(), [attempt()], [], None)
    told = dumps(job_answer(view, snapshot_of(view.job), unsigned))
    assert '"created_at":"2026-11-23T12:00:00.123Z"' in told.replace('": ', '":')
    assert str(10**30) in told
    assert str(2**64 - 1) in told


def test_contents_and_events_have_the_promised_shape() -> None:
    same_shape(content_answer(3, 7, AT, [output()], unsigned), payloads.ContentAnswer)
    event = Event(seq=1, at=AT, event="submitted", phase=Phase.QUEUED, attempt=1, actor="x", data={})
    same_shape(event_answer(event), payloads.EventAnswer)
