"""JSON as text, quickly: orjson where it keeps every number, the standard library where it would not."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any, Final

import orjson

_LONG_NUMBER: Final = re.compile(r"\d{19}")


def dumps(value: Any) -> str:
    """Return the value as JSON text; times, which are aware datetimes, in ISO 8601."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        # An integer of more than 64 bits: clients' graphs may hold any.
        return json.dumps(value, ensure_ascii=False, default=_time)


def _time(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"a {type(value).__name__} is no JSON")


def size_bytes(value: Any) -> int:
    """Return how many bytes the value takes as JSON."""
    try:
        return len(orjson.dumps(value))
    except TypeError:
        return len(dumps(value).encode())


def loads(text: str) -> Any:
    """Return what the JSON text says. Integers of any size stay exact: orjson makes floats of those above 64 bits."""
    return json.loads(text) if _LONG_NUMBER.search(text) else orjson.loads(text)
