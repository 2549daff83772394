"""TIFF and BigTIFF: each directory, what its entries refer to, and the strips or tiles of its picture."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from app.media.containers.source import MOST_PARTS, MOST_TEXT_BYTES, Damaged, Form

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.media.containers.source import Source

STARTS: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Type of an entry → bytes of one value."""
_LETTERS: Final = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MOST_ENTRIES: Final = 100_000
_WIDTH, _HEIGHT = 256, 257
_ASCII: Final = 2
_OF_EXIF, _USER_COMMENT = 34665, 37510
_DATA: Final = ((273, 279), (324, 325))
"""Offsets and lengths of strips, and of tiles."""
_READ: Final = (_WIDTH, _HEIGHT, *(tag for pair in _DATA for tag in pair))


def tiff(source: Source) -> Form:
    """Look through the directories of a TIFF file of either size."""
    order = "<" if source.start[:2] == b"II" else ">"
    big = source.start[2:4] in (b"+\0", b"\0+")
    (at,) = struct.unpack(f"{order}{'Q' if big else 'I'}", source.at(8 if big else 4, 8 if big else 4))
    seen: set[int] = set()
    width = height = 0
    while at and at not in seen and len(seen) < _MOST_ENTRIES:
        seen.add(at)
        values, at = _directory(source, order, at, big=big)
        for offsets, lengths in _DATA:
            for offset, length in zip(values.get(offsets, ()), values.get(lengths, ()), strict=False):
                source.require(offset + length)
        if len(seen) == 1:
            width, height = (next(iter(values.get(tag, ())), 0) for tag in (_WIDTH, _HEIGHT))
    if width <= 0 or height <= 0:
        raise Damaged("it has no picture")
    return Form("image", "image/tiff", "tiff", width, height)


def exif_texts(source: Source) -> Iterator[tuple[int, bytes]]:
    """Yield tag and bytes of each text of the first directory of EXIF data, and of the comment of the user."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(source.start[:4])
    if order is None:
        return
    (first,) = struct.unpack(f"{order}I", source.at(4, 4))
    below: list[int] = []
    for tag, kind, number, at in _entries(source, order, first, big=False)[0]:
        if tag == _OF_EXIF:
            below += struct.unpack(f"{order}I", source.at(at, 4))
        elif kind == _ASCII:
            yield tag, source.at(at, min(number, MOST_TEXT_BYTES + 1))
    for place in below[:1]:
        for tag, _, number, at in _entries(source, order, place, big=False)[0]:
            if tag == _USER_COMMENT:
                yield tag, source.at(at, min(number, MOST_TEXT_BYTES + 1))


def _directory(source: Source, order: str, at: int, *, big: bool) -> tuple[dict[int, tuple[int, ...]], int]:
    """Return the numbers that a directory tells, by tag, and where the next one is."""
    entries, following = _entries(source, order, at, big=big)
    found: dict[int, tuple[int, ...]] = {}
    for tag, kind, number, place in entries:
        if kind in _LETTERS and tag in _READ and number <= MOST_PARTS:
            raw = source.at(place, number * _SIZES[kind])
            found[tag] = struct.unpack(f"{order}{number}{_LETTERS[kind]}", raw)
    return found, following


def _entries(source: Source, order: str, at: int, *, big: bool) -> tuple[list[tuple[int, int, int, int]], int]:
    """Return tag, type and number of the values of each entry, and where they are; and where the next directory is."""
    count_bytes, entry_bytes, letter = (8, 20, "Q") if big else (2, 12, "I")
    (count,) = struct.unpack(f"{order}{'Q' if big else 'H'}", source.at(at, count_bytes))
    if count > _MOST_ENTRIES:
        raise Damaged("a directory has no end")
    inline = struct.calcsize(f"={letter}")
    entries = source.at(at + count_bytes, count * entry_bytes + inline)
    found: list[tuple[int, int, int, int]] = []
    for place in range(0, count * entry_bytes, entry_bytes):
        tag, kind, number = struct.unpack_from(f"{order}HH{letter}", entries, place)
        length = number * _SIZES.get(kind, 0)
        value = place + entry_bytes - inline
        offset = at + count_bytes + value
        if length > inline:
            (offset,) = struct.unpack_from(f"{order}{letter}", entries, value)
            source.require(offset + length)
        found.append((tag, kind, number, offset))
    return found, struct.unpack_from(f"{order}{letter}", entries, count * entry_bytes)[0]
