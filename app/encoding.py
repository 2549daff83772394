"""JSON as text, quickly: orjson where it keeps every number, the standard library where it would not."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any, Final

import orjson


class Written:
    """JSON text that is part of what `dumps` writes: what PostgreSQL has as JSON goes out without being read."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


_EXPONENT: Final = re.compile(rb"\d[eE]([+-]?\d{1,3})(?!\d)")
"""In a text it may stand too, which then counts for longer than it is."""
_ANY_DIGIT: Final = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER: Final = b"0" * 19
"""What a number of so many digits is when each is taken for a zero: a regular expression looks thirty times as long."""


def dumps(value: Any) -> str:
    """Return the value as JSON text; times, which are aware datetimes, in ISO 8601."""
    return dump_bytes(value).decode()


def dump_bytes(value: Any) -> bytes:
    """Return the value as JSON in UTF-8, as it is sent: of something large each form more is as large."""
    try:
        return orjson.dumps(value, default=_as_it_is)
    except TypeError:
        # An integer of more than 64 bits: clients' graphs may hold any.
        return json.dumps(value, ensure_ascii=False, default=_plain).encode()


def dump_ascii(value: Any) -> bytes:
    """Return the value as JSON without any other character than ASCII: surrogates too have a form there."""
    return json.dumps(value, default=_plain).encode()


def _as_it_is(value: Any) -> orjson.Fragment:
    if isinstance(value, Written):
        return orjson.Fragment(value.text)
    raise TypeError(f"a {type(value).__name__} is no JSON")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Written):
        return loads(value.text)
    raise TypeError(f"a {type(value).__name__} is no JSON")


def size_bytes(value: Any) -> int:
    """Return how many bytes the value takes as JSON."""
    return len(dump_bytes(value))


def kept_bytes(value: Any) -> int:
    """Return how many bytes the value takes as PostgreSQL gives it back: numbers with an exponent are written out."""
    text = dump_bytes(value)
    return len(text) + sum(abs(int(exponent)) for exponent in _EXPONENT.findall(text))


def loads(text: str) -> Any:
    """Return what the JSON text says. Integers of any size stay exact: orjson makes floats of those above 64 bits."""
    may_be_long = _LONG_NUMBER in text.encode("utf-8", "surrogatepass").translate(_ANY_DIGIT)
    return json.loads(text) if may_be_long else orjson.loads(text)
