"""The table of transitions against an independent statement of its rules, and what follows a failure."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import InvalidTransition
from app.domain.failure_policy import may_be_tried_again, retry_delay
from app.domain.job import (
    STATUS_OF,
    TRANSITIONS,
    JobEvent,
    JobStatus,
    Phase,
    apply,
    task_id,
)

# The diagram, written down a second time: what may happen in each phase, and where it leads. Nothing else may.
LIFE: dict[str, dict[str, str]] = {
    "queued": {"claimed": "assigned", "withdrawn": "cancelled", "given_up": "failed"},
    "retrying": {"claimed": "assigned", "withdrawn": "cancelled", "given_up": "failed"},
    "assigned": {
        "executing": "executing",
        "saving": "saving",
        "failed": "failed",
        "requeued": "retrying",
        "cancel_requested": "cancelling",
    },
    "executing": {
        "saving": "saving",
        "failed": "failed",
        "requeued": "retrying",
        "cancel_requested": "cancelling",
    },
    "saving": {"completed": "completed", "failed": "failed", "requeued": "retrying"},
    "cancelling": {"cancelled": "cancelled", "saving": "saving", "failed": "failed"},
    "completed": {},
    "failed": {"retried": "queued"},
    "cancelled": {"retried": "queued"},
}
FINISHED = {"completed", "failed", "cancelled"}
"""The API's promise, not the table's."""


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", JobEvent)
def test_an_event_leads_where_the_diagram_says_and_nowhere_else(phase: Phase, event: JobEvent) -> None:
    target = LIFE[phase].get(event)
    if target is not None:
        assert apply(phase, event) == target
        return
    with pytest.raises(InvalidTransition) as refused:
        apply(phase, event)
    assert (refused.value.phase, refused.value.event) == (phase, event)


def test_the_diagram_names_every_phase_and_every_event_but_the_birth() -> None:
    assert set(LIFE) == set(Phase)
    assert {event for moves in LIFE.values() for event in moves} == set(JobEvent) - {"submitted"} == set(TRANSITIONS)


def test_every_phase_can_be_reached_from_the_birth() -> None:
    reached, todo = set(), ["queued"]
    while todo:
        phase = todo.pop()
        if phase not in reached:
            reached.add(phase)
            todo += [apply(Phase(phase), event) for event, move in TRANSITIONS.items() if phase in move.sources]
    assert reached == set(Phase)


@given(st.lists(st.sampled_from(JobEvent)))
def test_a_finished_job_changes_only_by_a_retry_and_a_completed_one_never(events: list[JobEvent]) -> None:
    phase = Phase.QUEUED
    for event in events:
        before = phase
        with contextlib.suppress(InvalidTransition):
            phase = apply(phase, event)
            assert before != "completed"
            assert before not in FINISHED or event == "retried"


def test_each_phase_belongs_to_one_status() -> None:
    words = {status.value: {phase.value for phase in Phase if STATUS_OF[phase] is status} for status in JobStatus}
    assert words == {
        "pending": {"queued", "retrying"},
        "running": {"assigned", "executing", "saving", "cancelling"},
        "completed": {"completed"},
        "failed": {"failed"},
        "cancelled": {"cancelled"},
    }


def test_a_turn_is_named_for_job_and_attempt() -> None:
    assert task_id(17, 3) == "17:3"


@pytest.mark.parametrize(
    ("suspicions", "certain", "others_well", "tried_again"),
    [
        (0, False, 0, True),  # one backend alone, restarted perhaps
        (0, False, 1, True),
        (0, True, 0, False),
        (0, True, 1, False),  # the last one that is well is not risked for what killed another for certain
        (0, True, 2, True),
        (1, False, 5, False),
        (1, True, 5, False),
    ],
)
def test_a_job_under_which_a_backend_stopped_is_tried_once_more_at_most(
    suspicions: int, certain: bool, others_well: int, tried_again: bool
) -> None:
    assert may_be_tried_again(suspicions, certain=certain, others_well=others_well) is tried_again


@given(st.integers(1, 10_000), st.floats(0, 3600), st.floats(0, 86400), st.floats(0, 1))
def test_a_retry_waits_never_longer_than_the_cap(failures: int, base_s: float, cap_s: float, jitter: float) -> None:
    assert 0 <= retry_delay(failures, base_s=base_s, cap_s=cap_s, jitter=jitter) <= cap_s


def test_retries_wait_2_4_8_seconds_and_so_on_to_ten_minutes() -> None:
    exact = [retry_delay(failures, jitter=0) for failures in range(1, 12)]
    assert exact == [2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]


def test_the_jitter_spreads_by_a_fifth_to_both_sides() -> None:
    delays = [retry_delay(3) for _ in range(500)]
    assert all(8 * 0.8 <= delay <= 8 * 1.2 for delay in delays)
    assert min(delays) < 7 < 9 < max(delays)
