"""The checks of `make chaos` about pictures that jobs start from: they find what they are there for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.chaos import harms, leftovers, pictures, sweeps
from tests.chaos.checks import ended_jobs
from tests.chaos.clients import FROM_PICTURES, Deletion, Kind, Naming, Plan, Record, draw_plans
from tests.chaos.evidence import Evidence
from tests.chaos.executions import ExecutionLogs

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import ClientSession

JOB = 5


def made_from(picture: int, store: Path, **row: Any) -> Evidence:
    """Return what is left of one completed job that was to start from its own picture, and has this one."""
    folder = store / "2026/01/01/5"
    folder.mkdir(parents=True)
    (folder / "1_0.png").write_bytes(pictures.png(picture))
    usual = {"id": JOB, "status": "completed", "tag": "3:1", "content_id": 9, "error_code": None}
    leased = {"worker_id": None, "lease_expires_at": None, "error_message": None, "phase": "completed"}
    return Evidence(
        record=Record(planned=[plan(3, picture=pictures.own(3))]),
        logs=ExecutionLogs(cast("ClientSession", None), {}),
        folder=store,
        store=store,
        jobs={JOB: usual | leased | row},
        events={},
        attempts={},
        contents={JOB: [{"id": 9}]},
        outputs={9: [{"path": "2026/01/01/5/1_0.png", "thumbnail_path": None}]},
    )


def plan(number: int, **more: Any) -> Plan:
    return Plan(
        number=number,
        kind=Kind.SLOW,
        seconds=0.5,
        priority=0,
        cancel_after_s=None,
        cancel_twice=False,
        retry=False,
        **more,
    )


def event(name: str, phase: str, at_s: float) -> dict[str, Any]:
    return {"event": name, "phase": phase, "at": datetime.fromtimestamp(at_s, UTC)}


def test_a_picture_is_known_by_its_colour_though_it_was_painted_over() -> None:
    most = 255 * pictures.DENOISE
    for picture in (0, pictures.SHARED, 4095, *(pictures.own(number) for number in range(0, 5000, 97))):
        channels = [pictures.color(picture) >> shift & 0xFF for shift in (16, 8, 0)]
        for painted in (0, 255):
            mixed = [round(each * (1 - pictures.DENOISE) + painted * pictures.DENOISE) for each in channels]
            assert all(abs(one - other) <= most for one, other in zip(mixed, channels, strict=True))
            assert pictures.picture_of(mixed[0] << 16 | mixed[1] << 8 | mixed[2]) == picture


def test_a_third_of_the_jobs_start_from_pictures_some_of_them_shared() -> None:
    plans = [plan for group in draw_plans(7, 600) for plan in group]
    painted = [plan for plan in plans if plan.picture is not None]
    assert 150 < len(painted) < 250
    assert {plan.kind for plan in painted} == set(FROM_PICTURES)
    assert {plan.naming for plan in painted} == set(Naming)
    shared = [plan.picture for plan in painted if plan.shares]
    assert set(shared) == set(range(pictures.SHARED))
    owned = [plan.picture for plan in painted if not plan.shares]
    assert len(owned) == len(set(owned)) > 50
    assert not any(plan.deletes for plan in painted if plan.shares)
    assert draw_plans(7, 600) == draw_plans(7, 600)


@pytest.mark.parametrize("naming", Naming)
def test_a_workflow_names_its_picture_in_either_way(naming: Naming) -> None:
    body = plan(3, picture=pictures.own(3), naming=naming).body("3:1", "abc")
    named = body["workflow"]["1"]["inputs"].get("image"), body.get("inputs")
    in_text, in_inputs = ("upload:abc", None), (None, {"1.image": {"upload": "abc"}})
    assert named == (in_text if naming is Naming.TEXT else in_inputs)


def test_a_job_with_the_picture_of_another_is_found(tmp_path: Path) -> None:
    (found,) = harms.painted_over(made_from(pictures.own(4), tmp_path))
    assert (found.rule, found.job_ids) == ("each job from its own picture", (JOB,))


def test_a_job_with_its_own_picture_is_right(tmp_path: Path) -> None:
    evidence = made_from(pictures.own(3), tmp_path)
    assert list(harms.painted_over(evidence)) == []
    assert list(harms.colors(evidence)) == []


def test_an_upload_that_is_left_over_is_an_orphan(tmp_path: Path) -> None:
    evidence = made_from(pictures.own(3), tmp_path)
    assert leftovers.orphans(evidence) == []
    (tmp_path / "2026/01/01/uploads").mkdir()
    (tmp_path / "2026/01/01/uploads/a.png").write_bytes(b"a")
    assert leftovers.orphans(evidence) == ["2026/01/01/uploads/a.png"]


def test_a_picture_is_deleted_only_when_its_job_has_ended(tmp_path: Path) -> None:
    evidence = made_from(pictures.own(3), tmp_path)
    evidence.events[JOB] = [event("submitted", "queued", 10.0), event("completed", "completed", 20.0)]
    for answered_at, status, wrong in ((15.0, 204, 1), (15.0, 409, 0), (25.0, 204, 0)):
        evidence.record.deletions = [Deletion(JOB, answered_at, status)]
        assert len(list(sweeps.needed_uploads(evidence))) == wrong


def test_a_job_may_lose_its_picture_only_when_it_had_ended_before(tmp_path: Path) -> None:
    lost = {"status": "failed", "content_id": None, "error_code": sweeps.DELETED_LATER}
    evidence = made_from(pictures.own(3), tmp_path, **lost)
    evidence.events[JOB] = [event("submitted", "queued", 10.0), event("failed", "failed", 20.0)]
    assert [violation.rule for violation in ended_jobs(evidence)] == ["as asked for"]
    evidence.events[JOB].insert(1, event("retried", "queued", 15.0))
    assert list(ended_jobs(evidence)) == []
