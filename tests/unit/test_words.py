"""How the page says why a backend took a job."""

from __future__ import annotations

import pytest

from app.domain.scheduling.jobs import Choice, Reason
from app.monitor.words import event_words, why_taken


def chosen(reason: Reason, overtook: int = 0, load_s: float = 0.0) -> dict[str, object]:
    return Choice(9, reason, overtook, tuple(range(overtook)), 1.0, load_s, 4).told()


@pytest.mark.parametrize(
    ("choice", "load_s", "said"),
    [
        (chosen(Reason.DUE), 0.0, "taken as the first in the queue"),
        (chosen(Reason.WARM, 2), 0.0, "taken before 2 older jobs, because its models were loaded on gpu-a"),
        (chosen(Reason.WARM, 1), None, "taken before 1 older job, because its models were loaded on gpu-a"),
        (chosen(Reason.LOAD, 0, 4.0), None, "taken; its models have to be loaded first (≈ 4.0 s)"),
        (chosen(Reason.LOAD, 3, 4.0), 2.0, "taken before 3 older jobs; its models were loaded first (2.0 s)"),
        (chosen(Reason.AHEAD), 0.0, "taken, queued behind the running job, which leaves its models loaded"),
        ({"reason": "of a later version", "rank": 0}, None, ""),
        ({}, None, ""),
    ],
)
def test_a_choice_is_said_in_a_sentence(choice: dict[str, object], load_s: float | None, said: str) -> None:
    assert why_taken(choice, "gpu-a", load_s) == said


def test_the_log_of_events_says_it_beside_the_other_facts() -> None:
    data = {"backend": "gpu-a", "prompt_id": "p", **chosen(Reason.WARM, 2)}
    assert event_words(data) == (
        "backend: gpu-a; prompt_id: p; taken before 2 older jobs, because its models were loaded on gpu-a"
    )
    assert event_words({"backend": "gpu-a", "absent": None}) == "backend: gpu-a"


def test_a_reason_in_a_clients_words_is_not_taken_for_one_of_ours() -> None:
    assert event_words({"reason": "due"}) == "reason: due"
