"""The figures of the fleet: what processes add up, and what comes out of the sums."""

from __future__ import annotations

from typing import Any

from app.metrics import FLEET, JOBS_FINISHED, QUEUE_WAIT, SAVING, Tally, fleet_families


def samples(found: dict[str, float]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return (name, labels) → value of all that is shown of these sums."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in fleet_families(found)
        for sample in family.samples
    }


def value(found: dict[str, float], name: str, **labels: Any) -> float:
    """Return one value."""
    return samples(found)[name, frozenset(labels.items())]


def test_what_two_processes_observed_makes_one_histogram() -> None:
    first, second = Tally(), Tally()
    for tally, seconds in ((first, 0.004), (first, 0.3), (second, 0.3), (second, 9000.0)):
        tally.observe(QUEUE_WAIT, seconds)
    found = first.take()
    for field, added in second.take().items():
        found[field] = found.get(field, 0.0) + added
    name = QUEUE_WAIT.name
    shown = {bound: value(found, f"{name}_bucket", le=bound) for bound in ("0.005", "0.25", "0.5", "7200.0", "+Inf")}
    assert shown == {"0.005": 1, "0.25": 1, "0.5": 3, "7200.0": 3, "+Inf": 4}
    assert value(found, f"{name}_count") == 4
    assert value(found, f"{name}_sum") == 9000.604


def test_a_value_on_a_bound_is_within_it_and_one_below_zero_counts_as_zero() -> None:
    tally = Tally()
    tally.observe(QUEUE_WAIT, 0.5)
    tally.observe(QUEUE_WAIT, -3.0)
    found = tally.take()
    assert [value(found, f"{QUEUE_WAIT.name}_bucket", le=bound) for bound in ("0.005", "0.25", "0.5")] == [1, 1, 2]
    assert value(found, f"{QUEUE_WAIT.name}_sum") == 0.5


def test_labels_are_kept_apart() -> None:
    tally = Tally()
    tally.count(JOBS_FINISHED, "completed")
    tally.count(JOBS_FINISHED, "failed")
    tally.count(JOBS_FINISHED, "completed")
    tally.observe(SAVING, 1, "gpu:8188")
    found = tally.take()
    assert value(found, JOBS_FINISHED.name, status="completed") == 2
    assert value(found, JOBS_FINISHED.name, status="failed") == 1
    assert value(found, f"{SAVING.name}_count", backend="gpu:8188") == 1


def test_what_was_taken_is_counted_once_and_what_is_put_back_not_lost() -> None:
    tally = Tally()
    tally.count(JOBS_FINISHED, "completed")
    taken = tally.take()
    assert tally.take() == {}
    tally.count(JOBS_FINISHED, "completed")
    tally.put_back(taken)
    assert value(tally.take(), JOBS_FINISHED.name, status="completed") == 2


def test_every_family_is_there_before_anything_has_happened() -> None:
    assert len(list(fleet_families({}))) == len(FLEET)
    assert value({}, f"{QUEUE_WAIT.name}_count") == 0
