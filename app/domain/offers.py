"""Reads a backend's description of what it offers, one node class at a time, within fixed limits on memory and time.

Blocking: 30 MB, from a server with hundreds of custom nodes, take some seconds, so it is run in a thread. Each class
is parsed by itself, and the event loop can run between any two of them.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from app.domain.catalog import Catalog, read_catalog
from app.domain.replacements import MOST_REPLACED, read_replacements
from app.domain.text import is_plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MOST_BYTES: Final = 64 * 2**20
"""Of the description, as text."""
MOST_MARKS: Final = 4_000_000
"""Of commas and opening brackets: each can stand for a value, which takes up to a hundred bytes when it is read."""
MOST_OF_CLASS: Final = 200_000
"""Values in the description of one class; a list of so many models is no list to choose from."""
MOST_CLASSES: Final = 50_000
MOST_OF_REPLACEMENT: Final = 2_000
"""Values in what is said of a class that is taken for another one."""
MOST_REPLACING_BYTES: Final = 2**20
"""Of all that together, as text."""
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
    """What a backend offers: read, and as the text from which others read the same.

    That is the JSON of the node classes and, on a line of its own, that of the replacements, if there are any.
    """

    catalog: Catalog
    described: bytes
    left_out: int
    """Classes whose descriptions cannot be used."""


def read_offer(raw: bytes, replacing: Mapping[str, Any] | None = None, only: str | None = None) -> Offer:
    """Read the answers of `GET /object_info` and `GET /node_replacements`; raises `ValueError` for what is none.

    `only` is the class that was asked for, if it was one.
    """
    offer = _read_classes(raw, only)
    kept = _kept_replacements(replacing or {})
    if not kept:
        return offer
    catalog = replace(offer.catalog, replacements=read_replacements(kept))
    return replace(offer, catalog=catalog, described=offer.described + b"\n" + json.dumps(kept).encode())


def read_kept(described: bytes) -> Offer:
    """Read what was kept of an offer; raises `ValueError` for what is none."""
    classes, _, replacing = described.partition(b"\n")
    try:
        found = json.loads(replacing) if replacing else {}
    except RecursionError as error:
        raise ValueError("it is no offer") from error
    if not isinstance(found, dict):
        raise ValueError("it is no offer")  # noqa: TRY004 - of the text, not of an argument
    return read_offer(classes, found)


def changed_by(catalog: Catalog, later: Catalog) -> Catalog:
    """Return what a backend offers of which some classes were read again later."""
    replacements = {**catalog.replacements, **later.replacements}
    return replace(catalog, nodes={**catalog.nodes, **later.nodes}, replacements=replacements)


def joined(offers: Iterable[Offer]) -> bytes:
    """Return the text from which `read_kept` reads what several offers describe together, none of them the same."""
    parts = [offer.described.partition(b"\n") for offer in offers]
    classes = b",".join(part[1:-1] for part, _, _ in parts if part != b"{}")
    replacing = b",".join(part[1:-1] for _, _, part in parts if part)
    return b"{%b}%b" % (classes, b"\n{%b}" % replacing if replacing else b"")


def _kept_replacements(replacing: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first entry for each class, as far as it can be used."""
    kept: dict[str, Any] = {}
    size = 0
    for name, entries in replacing.items():
        first = entries[:1] if isinstance(entries, list) else []
        found = _Pruned(MOST_OF_REPLACEMENT).of(first) if len(name) <= _MOST_NAME and is_plain(name) else _NOTHING
        if isinstance(found, list) and found and len(kept) < MOST_REPLACED:
            size += len(json.dumps(found))
            if size > MOST_REPLACING_BYTES:
                break
            kept[name] = found
    return kept


def _read_classes(raw: bytes, only: str | None) -> Offer:
    if len(raw) > MOST_BYTES or sum(raw.count(mark) for mark in (b",", b"[", b"{")) > MOST_MARKS:
        raise ValueError("it describes more than a server can offer")
    kept: dict[str, Any] = {}
    parts: list[str] = []
    size = left_out = 0
    for name, description in _classes(raw.decode("utf-8", "replace")):
        if only is not None and name != only:
            continue
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

    def __init__(self, most: int = MOST_OF_CLASS) -> None:
        self._left = most

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
