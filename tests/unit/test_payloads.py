"""What goes over the wire: any JSON is a job or is refused with a reason, and nothing that was asked for is lost."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.errors import InvalidRequest, MalformedJson
from app.web.checking import MAX_FAULTS, MAX_JSON_DEPTH, check, check_texts
from app.web.requests import BulkRequest, CancelRequest, JobRequest, ListQuery, RetryRequest

LEAST = {"user_id": "u", "job_type": "image", "prompt": "p"}
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4))
ODD = st.sampled_from([10**400, -(10**400), 2**64, "", " ", "\0", "\ud800", "image", "workflow", {}, [], {"": None}])
JSON = SCALARS | ODD | st.lists(SCALARS | ODD, max_size=3) | st.dictionaries(st.text(max_size=3), SCALARS, max_size=3)
MODELS = [JobRequest, CancelRequest, RetryRequest, BulkRequest, ListQuery]
FIELDS = st.sampled_from([*{name: None for model in MODELS for name in model.model_fields}, "other"])


def refused(body: dict[str, Any], model: Any = JobRequest) -> InvalidRequest:
    """Return the error of a body that is refused."""
    with pytest.raises(InvalidRequest) as error:
        check(model, body)
    return error.value


@pytest.mark.parametrize("model", MODELS)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=st.dictionaries(FIELDS, JSON, max_size=4))
def test_any_json_is_either_taken_or_refused_with_a_reason(model: Any, body: dict[str, Any]) -> None:
    whole = LEAST | body if model is JobRequest else body
    try:
        if faults := check_texts(whole):
            raise InvalidRequest("texts", faults)  # noqa: TRY301
        found = check(model, whole)
        if model is JobRequest:
            found.to_new_job()
        named = None
    except InvalidRequest as error:
        named = error.faults
    if named is not None:
        assert named
        for fault in named:
            assert fault.detail
            assert not re.search("[\0\ud800-\udfff]", fault.pointer)


@given(seed=st.integers(0, 2**64 - 1))
def test_every_seed_is_kept_exactly(seed: int) -> None:
    asked = check(JobRequest, LEAST | {"sampler_params": {"seed": seed}})
    assert asked.to_new_job().sampler_params["seed"] == seed


@given(width=st.integers(64, 2048), height=st.integers(64, 2048))
def test_every_size_in_range_becomes_the_next_smaller_multiple_of_8(width: int, height: int) -> None:
    job = check(JobRequest, LEAST | {"width": width, "height": height}).to_new_job()
    assert (job.width, job.height) == (width // 8 * 8, height // 8 * 8)
    assert min(job.width, job.height) >= 64
    assert bool(job.warnings) == ((job.width, job.height) != (width, height))


def test_a_workflow_stands_for_prompt_and_template() -> None:
    graph = {"1": {"class_type": "SaveImage", "inputs": {}}}
    for job_type in ("image", "video", "audio", "workflow"):
        body = {"user_id": "u", "job_type": job_type, "workflow": graph, "overrides": {"1.a": 2}}
        job = check(JobRequest, body).to_new_job()
        assert (job.prompt, job.workflow) == (None, graph)
    assert check(JobRequest, LEAST | {"workflow": graph}).prompt == "p"


@pytest.mark.parametrize(
    ("changes", "pointers"),
    [
        ({"prompt": None}, ["/prompt"]),
        ({"prompt": None, "job_type": "video"}, ["/workflow", "/prompt"]),
        ({"prompt": None, "workflow": []}, ["/workflow"]),
        ({"job_type": "nonsense", "prompt": None}, ["/job_type", "/prompt"]),
        ({"overrides": {"1.a": 1}}, ["/overrides"]),
        ({"workflow": 7, "overrides": {"1.a": 1}}, ["/workflow"]),
        ({"prompt": " "}, ["/prompt"]),
    ],
)
def test_what_is_missing_is_named_together_with_what_is_wrong(changes: dict[str, Any], pointers: list[str]) -> None:
    error = refused(LEAST | changes | {"width": 1})
    found = [fault.pointer for fault in error.faults if fault.pointer != "/width"]
    assert "/width" in [fault.pointer for fault in error.faults]
    assert sorted(set(found)) in (sorted(pointers), sorted(set(pointers) - {"/prompt"}))


@pytest.mark.parametrize(
    "text", ["2026-11-23T12:00:00Z", "2026-11-23t12:00:00z", "2026-11-23T14:00:00+02:00", "2026-11-23 12:00:00.000Z"]
)
def test_a_time_of_any_zone_is_taken(text: str) -> None:
    assert check(JobRequest, LEAST | {"not_before": text}).not_before == datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert check(ListQuery, {"created_after": text}).created_after == datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_params_are_measured_in_bytes_of_json() -> None:
    exact = 65_536 - len('{"a":""}')
    check(JobRequest, LEAST | {"params": {"a": "x" * exact}})
    refused(LEAST | {"params": {"a": "x" * (exact + 1)}})
    refused(LEAST | {"params": {"a": "ü" * (exact // 2 + 1)}})
    # PostgreSQL writes these out, with three hundred digits each.
    refused(LEAST | {"params": {"a": [1e300] * 1_000}})
    refused(LEAST | {"params": {"a": [1e-300] * 1_000}})


def test_the_names_of_faults_are_json_pointers() -> None:
    error = refused(LEAST | {"a/b": 1, "c~d": 2, "lora_models": [{"name": "x"}, {"nome": "y"}]})
    assert {fault.pointer for fault in error.faults} == {
        "/a~1b",
        "/c~0d",
        "/lora_models/1/name",
        "/lora_models/1/nome",
    }


def test_of_endless_faults_only_some_are_named() -> None:
    error = refused(LEAST | {f"field {number}": 1 for number in range(5_000)})
    assert len(error.faults) == MAX_FAULTS
    assert "many more" in str(error)
    assert len(check_texts(["\0"] * 5_000)) == MAX_FAULTS
    long = refused(LEAST | {"x" * 1_000_000: 1})
    assert len(long.faults[0].pointer) < 300


def test_texts_are_looked_at_to_the_bottom_and_no_deeper() -> None:
    deep: Any = "\0"
    for _ in range(MAX_JSON_DEPTH):
        deep = [deep]
    (fault,) = check_texts(deep)
    assert fault.pointer == "/0" * MAX_JSON_DEPTH
    with pytest.raises(MalformedJson):
        check_texts([deep])
    assert check_texts({"a": ["ü", "💡", "\x01", "\ufffd", "\U0010ffff"]}) == []


def test_a_bulk_action_names_what_it_lacks() -> None:
    for body in ({}, {"job_ids": [1], "filter": {"user_id": "u"}}):
        assert [fault.pointer for fault in refused(body, BulkRequest).faults] == ["/job_ids"]
    (fault,) = refused({"filter": {}}, BulkRequest).faults
    assert (fault.pointer, fault.detail) == (
        "/filter",
        'fits every job; if every job is meant, say {"all": true} instead',
    )
