"""What arq keeps in Redis is JSON, never pickle, and exceptions come back as something that can be raised."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from arq.jobs import deserialize_result, serialize_job, serialize_result
from arq.worker import JobExecutionFailed
from hypothesis import given
from hypothesis import strategies as st

from app.messaging.redis_connection import deserialize, serialize

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
    max_leaves=10,
)


@given(JSON)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    assert deserialize(serialize(value)) == value


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad", "worse"),
        TimeoutError(),
        ConnectionRefusedError("gone"),
        asyncio.CancelledError("shutdown"),
        KeyError("x"),
    ],
)
def test_an_exception_of_python_comes_back_as_itself(error: BaseException) -> None:
    again = deserialize(serialize({"r": error}))["r"]
    assert type(again) is type(error)
    assert again.args == error.args


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (JobExecutionFailed("max 5 retries exceeded"), "JobExecutionFailed: max 5 retries exceeded"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "UnicodeDecodeError: utf-8, b'\\xff', 0, 1, bad"),
        (ExceptionGroup("many", [ValueError("x")]), "ExceptionGroup: many, [ValueError('x')]"),
        (KeyboardInterrupt("now"), "KeyboardInterrupt: now"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_any_other_comes_back_with_its_name_and_what_it_said(error: BaseException, said: str) -> None:
    again = deserialize(serialize(error))
    assert type(again) is RuntimeError
    assert str(again) == said


@given(st.dictionaries(st.sampled_from(["__exception__", "args", "x"]), JSON | st.sampled_from(["ValueError", "open"])))
def test_nothing_that_stands_in_redis_runs_code_or_crashes(value: dict[str, Any]) -> None:
    again = deserialize(json.dumps(value).encode())
    assert again == value or isinstance(again, Exception | asyncio.CancelledError)


def test_what_has_no_json_form_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        serialize(object())


@pytest.mark.parametrize("result", [None, {"a": [1]}, ValueError("bad"), asyncio.CancelledError()])
def test_arq_can_keep_a_job_and_its_result_in_it(result: Any) -> None:
    assert json.loads(serialize_job("take_turn", (7,), {}, None, 1, serializer=serialize))["f"] == "take_turn"
    kept = serialize_result(
        "take_turn", (7,), {}, 1, 1, not isinstance(result, BaseException), result, 1, 2, "7:1", "q", "7:1",
        serializer=serialize,
    )  # fmt: skip
    assert kept is not None
    again = deserialize_result(kept, deserializer=deserialize).result
    assert repr(again) == repr(result)
