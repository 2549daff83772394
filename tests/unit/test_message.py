"""The frames of the WebSocket contract, to the key (manual, api.md)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from app.domain.job import Phase
from app.domain.message import SEQ_STRIDE, Snapshot, frame, timestamp

AT = datetime(2026, 11, 23, 12, 0, 0, 999_999, UTC)


def snapshot(**changes: Any) -> Snapshot:
    usual: dict[str, Any] = {
        "job_id": 123,
        "phase": Phase.EXECUTING,
        "seq": 3,
        "at": AT,
        "attempt": 2,
        "progress": 50,
        "backend_name": "gpu-1",
        "error_code": "node_failed",
        "error_message": "It broke.",
        "cancel_reason": "not needed",
        "content_id": 9,
        "output_paths": ["a/1_0.png"],
    }
    return Snapshot(**usual | changes)


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (Phase.QUEUED, {"status": "pending", "attempt": 2}),
        (Phase.RETRYING, {"status": "pending", "attempt": 2, "reason": "It broke."}),
        (Phase.ASSIGNED, {"status": "started", "attempt": 2, "backend": "gpu-1"}),
        (Phase.EXECUTING, {"status": "processing", "progress": 50}),
        (Phase.SAVING, {"status": "processing", "progress": 50}),
        (Phase.CANCELLING, {"status": "processing", "progress": 50}),
        (
            Phase.COMPLETED,
            {"status": "completed", "progress": 100, "content_id": 9, "output_paths": ["a/1_0.png"]},
        ),
        (Phase.FAILED, {"status": "failed", "error": "It broke.", "error_code": "node_failed"}),
        (Phase.CANCELLED, {"status": "cancelled", "error": "not needed", "reason": "not needed"}),
    ],
)
def test_a_frame_has_the_keys_of_its_status_and_no_others(phase: Phase, expected: dict[str, Any]) -> None:
    common = {"job_id": 123, "timestamp": "2026-11-23T12:00:00.999Z", "seq": 3 * SEQ_STRIDE}
    assert frame(snapshot(phase=phase)) == common | expected
    json.dumps(frame(snapshot(phase=phase)), allow_nan=False)


def test_a_cancel_without_a_reason_still_has_an_error_text() -> None:
    told = frame(snapshot(phase=Phase.CANCELLED, cancel_reason=None))
    assert (told["error"], told["reason"]) == ("Cancelled.", None)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (datetime(2026, 11, 23, 12, tzinfo=UTC), "2026-11-23T12:00:00.000Z"),
        (datetime(2026, 11, 23, 1, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))), "2026-11-22T20:00:00.000Z"),
    ],
)
def test_timestamps_are_utc_with_milliseconds_and_z(at: datetime, expected: str) -> None:
    assert timestamp(at) == expected


def test_ticks_order_frames_between_two_events_and_never_beyond_the_next() -> None:
    orders = [snapshot(seq=seq, tick=tick).order for seq in (3, 4) for tick in (0, 1, 2, SEQ_STRIDE - 1)]
    assert orders == sorted(set(orders))
    assert snapshot(tick=10 * SEQ_STRIDE).order < snapshot(seq=4).order


def test_a_thousand_million_events_still_fit_what_javascript_counts_exactly() -> None:
    assert snapshot(seq=2**53 // SEQ_STRIDE - 1, tick=SEQ_STRIDE - 1).order < 2**53


@pytest.mark.parametrize("phase", Phase)
def test_finished_are_the_three_ends(phase: Phase) -> None:
    assert snapshot(phase=phase).finished == (phase in ("completed", "failed", "cancelled"))
