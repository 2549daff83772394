"""JSON text: quick, and exact."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.runtime.json_text import Written, as_sent, dump_bytes, dump_kept, dumps, load_kept, loads

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.slow
@given(VALUES)
def test_whatever_is_json_comes_back_the_same(value: Any) -> None:
    assert loads(dumps(value)) == value
    assert loads(json.dumps(value)) == value
    assert json.loads(dumps(value)) == value


@pytest.mark.parametrize("number", [2**53 + 1, 2**63, 2**64 - 1, 2**64, 2**64 + 1, -(2**63) - 1, 10**30])
def test_integers_of_any_size_keep_every_digit(number: int) -> None:
    assert loads(f'{{"seed": {number}}}') == {"seed": number}
    assert loads(dumps([number])) == [number]


def test_times_are_told_also_beside_a_long_number() -> None:
    at = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert loads(dumps([at])) == loads(dumps([at, 10**30]))[:1] == [at.isoformat()]


@pytest.mark.parametrize("beside", [1, 10**30])
def test_what_is_written_already_goes_out_as_it_is(beside: int) -> None:
    text = '{"seed": 18446744073709551616, "ü": [1.50, null]}'
    told = dumps({"graph": Written(text), "beside": beside})
    assert loads(told) == {"graph": {"seed": 2**64, "ü": [1.5, None]}, "beside": beside}
    assert dump_bytes([Written(text)]).decode() == f"[{text}]"


def test_what_is_no_json_is_refused() -> None:
    for value in (object(), [object(), 10**30]):
        with pytest.raises(TypeError):
            dumps(value)


ANY_TEXT = st.text(st.characters() | st.sampled_from("\0\ud800\udfff\U0010ffff\\u0"), max_size=8)


@given(st.recursive(st.none() | st.integers() | ANY_TEXT, lambda inside: st.dictionaries(ANY_TEXT, inside, max_size=4)))
def test_whatever_a_graph_holds_is_kept_in_a_form_that_postgresql_takes(value: Any) -> None:
    kept = dump_kept(value)
    kept.encode()
    assert "\0" not in json.dumps(json.loads(kept), ensure_ascii=False)
    assert not any(ch in json.dumps(json.loads(kept), ensure_ascii=False) for ch in ("\ud800", "\udfff"))
    assert load_kept(kept) == value == loads(as_sent(kept))


@pytest.mark.parametrize(
    "text", ["a\0b", "\ud83d", "x\udfff", "\U0010ffff", "\U0010ffff0000", "\\u0000", "\\ud800", "😀"]
)
def test_half_characters_and_nul_come_back_to_the_letter(text: str) -> None:
    assert loads(dumps([text, 1])) == [*loads(dumps([text, 10**30]))[:1], 1] == [text, 1]
    assert load_kept(dump_kept({text: [text]})) == {text: [text]}


def test_what_needs_no_other_form_is_kept_as_it_is() -> None:
    for value in ({"1": {"inputs": {"text": "ü 😀 \\"}}}, [2**70, 1.5, None]):
        assert dump_kept(value) == dumps(value)
