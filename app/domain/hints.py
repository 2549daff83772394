"""Words in faults, all of bounded length: names and values as shown, and what the client most likely meant."""

from __future__ import annotations

import difflib
from heapq import nlargest
from itertools import islice
from operator import add
from typing import TYPE_CHECKING, Any, Final

from app.domain.text import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_SHOWN: Final = 200
"""Characters of a client's name or value in a fault."""
MAX_HINTS: Final = 5
"""Maximum number of suggestions in one check: more mistakes of the same kind usually have a single cause."""
_MAX_CANDIDATES: Final = 5_000
"""Maximum number of allowed values that are searched: more than any server seen has node classes."""
_MAX_CHARS: Final = 100
"""Longer texts are neither suggested nor looked for."""
_COMPARED: Final = 8
"""Maximum number of values that are compared exactly, up to a millisecond each: those that share the most pairs of
letters."""
_ALIKE: Final = 0.6


def shown(value: object, limit: int = MAX_SHOWN) -> str:
    """Return a client's value as it may stand in a fault, or be kept."""
    text = value if isinstance(value, str) else str(value)
    text = text if len(text) <= limit else f"{text[:limit]}…"
    return plain(text)


def token(key: str) -> str:
    """Return a key as a part of a JSON pointer that can be shown: of reasonable length, and Unicode."""
    text = shown(key)
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return text.replace("\0", "?").replace("~", "~0").replace("/", "~1")


def pointer_to(start: str, *keys: str) -> str:
    """Return a JSON pointer that can be shown; `start` is one already."""
    return "/".join([start, *map(token, keys)])


def nearest(value: str, allowed: Iterable[Any]) -> str | None:
    """Return the allowed value that the client most likely meant, or None; quickly, however many and long they are."""
    if not 0 < len(value) <= _MAX_CHARS:
        return None
    wanted = set(map(add, value, value[1:]))
    close = []
    for each in islice(allowed, _MAX_CANDIDATES):
        text = each if isinstance(each, str) else str(each)
        # The measure of likeness cannot be reached when one is much longer than the other.
        if text and 2 * min(len(text), len(value)) >= _ALIKE * (len(text) + len(value)):
            close.append((len(wanted.intersection(map(add, text, text[1:]))), text))
    matcher = difflib.SequenceMatcher(b=value)
    best, best_ratio = None, _ALIKE
    for _, text in nlargest(_COMPARED, close, key=lambda scored: scored[0]):
        matcher.set_seq1(text)
        if (ratio := matcher.ratio()) > best_ratio or (ratio == best_ratio and best is None):
            best, best_ratio = text, ratio
    return best


class Hints:
    """A few suggestions: looking for what was meant takes its time, and many faults would take it many times."""

    def __init__(self, left: int = MAX_HINTS) -> None:
        self._left = left

    def nearest(self, value: str, allowed: Iterable[Any]) -> str | None:
        """Return what `nearest` does, and None when there were enough suggestions already."""
        if self._left <= 0:
            return None
        self._left -= 1
        return nearest(value, allowed)
