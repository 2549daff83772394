"""Bodies read as JSON: the same by the quick way and by the one that lets others go on."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import BodyTooLarge, MalformedJson
from app.web.bodies import MANY_VALUES, MAX_DIGITS, MAX_NAMES, decoded, fingerprint, parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside, max_size=4),
    max_leaves=20,
)


def both(text: str) -> list[Any]:
    """Return what becomes of a text by both ways: what it says, or what is said of it."""
    found: list[Any] = []
    for patient in (False, True):
        try:
            found.append(decoded(text.encode(), patient=patient))
        except MalformedJson as error:
            found.append(str(error))
    return found


@pytest.mark.slow
@given(VALUES)
def test_both_ways_read_the_same(value: Any) -> None:
    quick, patient = both(json.dumps(value))
    assert json.dumps(quick) == json.dumps(patient) == json.dumps(value)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1,, "b": 2}',
        '{"a": [1 2], "b": 2}',
        '{"a": 01, "b": 2}',
        '{"a": "\\x", "b": 2}',
        '{"a": tru, "b": 2}',
        '{\n "a": NaN, "b": 2}',
        '{"a": -Infinity, "b": 2}',
        '{"a": {"b": 1, "b": 2}}',
        '{"a": ' + "9" * (MAX_DIGITS + 1) + "}",
        '{"a": ' + "[" * 5000 + "1" + "]" * 5000 + "}",
        '{"a" 1, "b": 2}',
    ],
)
def test_both_ways_find_the_same_fault(text: str) -> None:
    quick, patient = both(text)
    assert isinstance(quick, str)
    assert quick == patient


def test_an_integer_of_as_many_digits_as_are_taken_stays_exact() -> None:
    number = int("9" * MAX_DIGITS)
    assert parse(b'{"a": %d, "b": -1}' % number) == {"a": number, "b": -1}


def test_a_body_of_many_values_is_read_to_the_letter() -> None:
    body = {"list": [at / 7 for at in range(MANY_VALUES)], "text": "ä" * 10}
    assert parse(json.dumps(body).encode()) == body


def test_an_object_has_so_many_names() -> None:
    def named(count: int) -> bytes:
        return json.dumps({f"n{at}": 0 for at in range(count)}).encode()

    assert len(parse(named(MAX_NAMES))) == MAX_NAMES
    with pytest.raises(BodyTooLarge):
        parse(named(MAX_NAMES + 1))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32-le"])
def test_json_in_any_unicode_encoding_is_read(encoding: str) -> None:
    assert parse('{"a": "ä夕"}'.encode(encoding)) == {"a": "ä夕"}


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=5))
def test_the_digest_is_that_of_the_whole_text(body: dict[str, Any]) -> None:
    """As earlier versions made it: a key that was used before an update is still good after it."""
    long = body | {"list": [*range(2500), {"b": 1, "a": [2]}]}
    for each in (body, long, {"a": {"b": {"c": {"d": long}}}}):
        assert fingerprint(each) == hashlib.sha256(json.dumps(each, sort_keys=True).encode()).hexdigest()
