"""Heartbeats of any content are read as far as they can be, value by value."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.heartbeats import Freed, backend_beat, parse_heartbeat, worker_beat
from app.services.fleet_control import known_backends
from app.storage.backend_states import BackendState

BACKEND: dict[str, Any] = {
    "url": "http://gpu:8188", "driver": "w1", "healthy": True, "reason": None, "drained": False,
    "since": "2026-11-23T12:00:00Z", "slots": 2, "used": 1, "queue_remaining": 3, "foreign": 1, "version": "0.3.64",
    "vram_total": 24.5, "vram_free": 6, "warm": ["checkpoints/sdxl"],
    "freed": {"at": "2026-11-23T12:00:00Z", "fault": "x"},
    "catalog": "abc", "current": [7, 8], "room": 1, "speed": 1.5, "free_in_s": 2.5, "avoids": [["loras/a", "b"]],
}  # fmt: skip
WORKER: dict[str, Any] = {
    "state": "running", "host": "box", "pid": 42, "version": "1", "started_at": "2026-11-23T12:00:00Z",
    "backends": ["gpu"], "slots": 2, "used": 1, "running": [7], "done": 3, "failed": 0, "memory_bytes": 5,
}  # fmt: skip
AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def test_a_whole_heartbeat_is_read_whole() -> None:
    backend = backend_beat("gpu", 1, live=True, fields=BACKEND)
    assert backend.told == BACKEND.keys() - {"freed"}
    assert (backend.models, backend.avoids) == (("sdxl",), (("loras/a", "b"),))
    assert (backend.since, backend.freed, backend.current) == (AT, Freed(AT, "x"), (7, 8))
    worker = worker_beat("w1", 1, live=True, fields=WORKER)
    assert worker.told == WORKER.keys()
    assert (worker.started_at, worker.running, worker.backends) == (AT, (7,), ("gpu",))


@given(name=st.sampled_from(sorted(BACKEND)), odd=ODD)
def test_one_odd_value_changes_no_other_of_a_backend(name: str, odd: Any) -> None:
    whole, read = (backend_beat("gpu", 1, live=True, fields=fields) for fields in (BACKEND, BACKEND | {name: odd}))
    for other in BACKEND.keys() - {name}:
        assert getattr(read, other) == getattr(whole, other)


@given(name=st.sampled_from(sorted(WORKER)), odd=ODD)
def test_one_odd_value_changes_no_other_of_a_worker(name: str, odd: Any) -> None:
    whole, read = (worker_beat("w1", 1, live=True, fields=fields) for fields in (WORKER, WORKER | {name: odd}))
    for other in WORKER.keys() - {name}:
        assert getattr(read, other) == getattr(whole, other)


@given(st.binary() | ODD.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    with suppress(ValueError):
        backend_beat("gpu", 1, live=True, fields=parse_heartbeat(raw))


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), 2**80, -(2**80), True, "4", [4], {}])
def test_a_number_that_is_none_or_too_large_is_not_told(odd: Any) -> None:
    read = backend_beat("gpu", 1, live=True, fields={"slots": odd, "vram_free": odd})
    assert (read.slots, read.vram_free, read.told) == (None, None, frozenset())


def test_a_long_text_is_cut_and_a_lone_surrogate_replaced() -> None:
    read = backend_beat("gpu", 1, live=True, fields={"reason": "\ud800" + "x" * 10_000})
    assert read.reason == "?" + "x" * 1_999


@pytest.mark.parametrize(("fields", "undriven"), [({}, False), ({"driver": None}, True), ({"driver": 4}, False)])
def test_only_a_driver_that_is_null_means_that_it_was_given_up(fields: dict[str, Any], undriven: bool) -> None:
    assert backend_beat("gpu", 1, live=True, fields=fields).undriven is undriven


@pytest.mark.parametrize(
    ("live", "changes", "condition"),
    [
        (True, {}, "healthy"),
        (True, {"healthy": False}, "unhealthy"),
        (True, {"healthy": "?"}, "unknown"),
        (True, {"driver": None, "healthy": False}, "undriven"),
        (False, {}, "lost"),
        (False, {"driver": None}, "lost"),
    ],
)
def test_a_backends_condition_is_one_word(live: bool, changes: dict[str, Any], condition: str) -> None:
    assert backend_beat("gpu", 1, live=live, fields=BACKEND | changes).condition == condition


@pytest.mark.parametrize(
    ("changes", "own", "vram_used"),
    [
        ({}, 2, 18.5),
        ({"foreign": 9}, 0, 18.5),
        ({"foreign": None, "vram_free": None}, None, None),
        ({"queue_remaining": None, "vram_total": 0}, None, None),
        ({"vram_free": 30}, 2, 0.0),
    ],
)
def test_what_is_ours_of_a_queue_and_used_of_a_card(
    changes: dict[str, Any], own: int | None, vram_used: float | None
) -> None:
    beat = backend_beat("gpu", 1, live=True, fields=BACKEND | changes)
    assert (beat.own, beat.vram_used) == (own, vram_used)


def test_backends_are_known_by_a_heartbeat_or_by_being_drained() -> None:
    decided = {name: BackendState(name, drained, AT, "ann") for name, drained in (("a", True), ("z", False))}
    assert known_backends([backend_beat("gpu", 1, live=False, fields={})], decided) == ["a", "gpu"]
    assert [decided["a"].awaited(drained) for drained in (True, False)] == [None, "drain"]
    assert [decided["z"].awaited(drained) for drained in (True, False)] == ["resume", None]
