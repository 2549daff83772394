"""What counts as a gap in which a backend stood idle though there was work."""

from __future__ import annotations

import pytest

from app.metrics import EXECUTION, IDLE_GAP
from worker.measures import Measures


def seen(measures: Measures, name: str, backend: str = "gpu") -> float | None:
    """Return the sum of what was observed of a backend; None for nothing."""
    return measures.tally.take().get(f"{name}|{backend}|sum")


def test_a_run_that_waited_for_the_one_before_shows_the_gap_between_them() -> None:
    measures = Measures()
    measures.ended("gpu", 10.0, 20.0)
    assert seen(measures, EXECUTION.name) == 10.0
    measures.began("gpu", 15.0, 20.25)
    assert seen(measures, IDLE_GAP.name) == 0.25


@pytest.mark.parametrize("due_at", [20.1, None], ids=["due only after it", "taken over"])
def test_a_run_that_did_not_wait_shows_none(due_at: float | None) -> None:
    measures = Measures()
    measures.ended("gpu", None, 20.0)
    measures.began("gpu", due_at, 20.25)
    assert seen(measures, IDLE_GAP.name) is None


def test_an_end_is_followed_by_one_gap_at_most_and_each_backend_has_its_own() -> None:
    measures = Measures()
    measures.ended("gpu", None, 20.0)
    measures.began("other", 15.0, 20.5)
    assert seen(measures, IDLE_GAP.name, "other") is None
    measures.began("gpu", None, 21.0)
    # The end of that run was not seen.
    measures.began("gpu", 15.0, 30.0)
    assert seen(measures, IDLE_GAP.name) is None
