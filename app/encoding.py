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


_LONG_NUMBER: Final = re.compile(r"\d{19}")


def dumps(value: Any) -> str:
    """Return the value as JSON text; times, which are aware datetimes, in ISO 8601."""
    try:
        return orjson.dumps(value, default=_as_it_is).decode()
    except TypeError:
        # An integer of more than 64 bits: clients' graphs may hold any.
        return json.dumps(value, ensure_ascii=False, default=_plain)


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


def loads(text: str) -> Any:
    """Return what the JSON text says. Integers of any size stay exact: orjson makes floats of those above 64 bits."""
    return json.loads(text) if _LONG_NUMBER.search(text) else orjson.loads(text)
