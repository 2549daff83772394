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
"""The exponent of a number. It also matches inside a string, whose size is then overestimated."""
_MARK: Final = "\U0010ffff"
"""A code point that is no character, and never will be."""
_MARKED: Final = re.compile(f"{_MARK}([0-9a-f]{{4}})")
_UNKEPT: Final = re.compile(f"[\0\ud800-\udfff{_MARK}]")
_HALF: Final = re.compile(r"\\u[dD][89a-fA-F]")
_ANY_DIGIT: Final = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER: Final = b"0" * 19
"""Nineteen digits in a row, once each digit is replaced by a zero. A regular expression takes thirty times as long."""


def dumps(value: Any) -> str:
    """Return the value as JSON text; times, which are aware datetimes, in ISO 8601."""
    return dump_bytes(value).decode()


def dump_bytes(value: Any) -> bytes:
    """Return the value as JSON in UTF-8, as it is sent; a `str` besides it would take as much memory again."""
    try:
        return orjson.dumps(value, default=_as_it_is)
    except TypeError:
        # An integer of more than 64 bits: clients' graphs may hold any.
        text = json.dumps(value, ensure_ascii=False, default=_plain)
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Half a character, which has no form in UTF-8.
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
    try:
        return json.loads(text) if may_be_long else orjson.loads(text)
    except orjson.JSONDecodeError:
        # Half a character, which orjson refuses; what is no JSON is refused here as well.
        return json.loads(text)


def dump_kept(value: Any) -> str:
    """Return the value as JSON that PostgreSQL can keep and look into, whatever texts are in it: see `as_sent`."""
    text = dumps(value)
    # A surrogate, when it had to be written in ASCII, and NUL always stand there as an escape.
    if _MARK not in text and r"\u0000" not in text and not _HALF.search(text):
        return text
    return dumps(_marked(value))


def as_sent(text: str) -> str:
    """Return the original JSON text of a text that `dump_kept` wrote and PostgreSQL stored.

    JSONB holds neither NUL nor unpaired surrogates, and JSON that has them cannot be queried. Each is stored as a mark
    and four hexadecimal digits. A mark in the original text is stored in the same way, so the result is unambiguous.
    """
    return _MARKED.sub(_unmarked, text) if _MARK in text else text


def name_of(text: str) -> str:
    """Return a text out of what `dump_kept` wrote as it can be shown."""
    return _MARKED.sub("?", text)


def load_kept(text: str) -> Any:
    """Return the value that `dump_kept` wrote."""
    return loads(as_sent(text))


def _marked(value: Any) -> Any:
    if isinstance(value, str):
        return _UNKEPT.sub(lambda found: f"{_MARK}{min(ord(found[0]), 0xFFFF):04x}", value)
    if isinstance(value, dict):
        return {_marked(key): _marked(each) for key, each in value.items()}
    return [_marked(each) for each in value] if isinstance(value, list) else value


def _unmarked(found: re.Match[str]) -> str:
    return _MARK if found[1] == "ffff" else rf"\u{found[1]}"
