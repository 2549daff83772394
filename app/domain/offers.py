"""What a backend says that it offers, read node class by node class: whatever stands there, it costs no more than this.

Blocking: of the 30 MB of a server with hundreds of custom nodes it takes some seconds, so it is run in a thread. Each
class is parsed for itself, and the event loop has its turn between any two of them.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.domain.catalog import Catalog, read_catalog
from app.domain.text import is_plain

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_BYTES: Final = 64 * 2**20
"""Of the description, as text."""
MOST_MARKS: Final = 4_000_000
"""Of commas and opening brackets: each can stand for a value, which takes up to a hundred bytes when it is read."""
MOST_OF_CLASS: Final = 200_000
"""Values in the description of one class; a list of so many models is no list to choose from."""
MOST_CLASSES: Final = 50_000
_MOST_DEPTH: Final = 24
_MOST_NAME: Final = 300
_MOST_TEXT: Final = 2_000
_MOST_NUMBER: Final = 2**70
"""The greatest seed is 2**64 - 1."""
_NOT_KEPT: Final = frozenset(("description", "tooltip"))
"""Prose for people, a third of the whole."""
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_NOTHING: Final = object()


@dataclass(frozen=True, slots=True)
class Offer:
    """What a backend offers: read, and as the JSON from which others read the same."""

    catalog: Catalog
    described: bytes
    left_out: int
    """Classes whose descriptions cannot be used."""


def read_offer(raw: bytes) -> Offer:
    """Read the answer of `GET /object_info`, or what was kept of one; raises `ValueError` for what is none."""
    if len(raw) > MOST_BYTES or sum(raw.count(mark) for mark in (b",", b"[", b"{")) > MOST_MARKS:
        raise ValueError("it describes more than a server can offer")
    kept: dict[str, Any] = {}
    parts: list[str] = []
    size = left_out = 0
    for name, description in _classes(raw.decode("utf-8", "replace")):
        found = _Pruned().of(description) if len(name) <= _MOST_NAME and is_plain(name) else _NOTHING
        if not isinstance(found, dict):
            left_out += 1
            continue
        kept[name] = found
        parts.append(f"{json.dumps(name)}:{json.dumps(found)}")
        size += len(parts[-1]) + 1
        if size > MOST_BYTES or len(kept) > MOST_CLASSES:
            raise ValueError("it describes more than a server can offer")
    return Offer(read_catalog(kept), f"{{{','.join(parts)}}}".encode(), left_out)


def _classes(text: str) -> Iterator[tuple[str, Any]]:
    """Yield the members of the object that the text is."""
    decoder = json.JSONDecoder()

    def after_space(at: int) -> int:
        found = _SPACE.match(text, at)
        return found.end() if found else at

    def expect(at: int, marks: str) -> int:
        if text[at : at + 1] not in tuple(marks):
            raise ValueError("it is no JSON object")
        return at + 1

    try:
        at = after_space(expect(after_space(0), "{"))
        while text[at : at + 1] != "}":
            name, at = decoder.raw_decode(text, at)
            if not isinstance(name, str):
                raise ValueError("it is no JSON object")  # noqa: TRY004 - of the text, not of an argument
            value, at = decoder.raw_decode(text, after_space(expect(after_space(at), ":")))
            yield name, value
            at = after_space(at)
            if text[at : at + 1] != "}":
                at = after_space(expect(at, ","))
        if after_space(at + 1) != len(text):
            raise ValueError("it is more than a JSON object")
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError("it is no JSON object") from error


class _Pruned:
    """The part of one class's description that can be used."""

    def __init__(self) -> None:
        self._left = MOST_OF_CLASS

    def of(self, value: Any, depth: int = 0) -> Any:
        """Return what can be used of a value, `_NOTHING` when that is nothing, or when the class has too much of it."""
        self._left -= 1
        if self._left < 0 or depth > _MOST_DEPTH:
            return _NOTHING
        if isinstance(value, str):
            return value if len(value) <= _MOST_TEXT and is_plain(value) else _NOTHING
        if isinstance(value, list):
            found = [each for each in (self.of(item, depth + 1) for item in value) if each is not _NOTHING]
            return found if self._left >= 0 else _NOTHING
        if isinstance(value, dict):
            return self._object(value, depth)
        if isinstance(value, int):
            return value if abs(value) < _MOST_NUMBER else _NOTHING
        return _NOTHING if isinstance(value, float) and not math.isfinite(value) else value

    def _object(self, value: dict[str, Any], depth: int) -> Any:
        found = {}
        for name, item in value.items():
            # An input may have the name as well.
            prose = name in _NOT_KEPT and isinstance(item, str)
            if len(name) <= _MOST_NAME and not prose and is_plain(name):
                each = self.of(item, depth + 1)
                if each is not _NOTHING:
                    found[name] = each
            if self._left < 0:
                return _NOTHING
        return found
