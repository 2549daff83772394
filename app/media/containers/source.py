"""Reads parts of a file for structure checks: every read is checked against the end of the file, and is small."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

MOST_PARTS: Final = 4_000_000
"""Maximum number of parts of a file that are checked, which takes seconds; further ones are not."""
STEP_BYTES: Final = 2**20
MOST_TEXT_BYTES: Final = 8 * 2**20
"""Of a text that a file carries besides its pictures or sounds. Longer ones are read up to one byte more."""
_START_BYTES: Final = 64
_LONGEST_S: Final = 366 * 86400.0
"""No file is longer; a greater number is an error in its head."""


class Damaged(Exception):
    """A file is truncated or inconsistent."""


class TooMuch(Exception):
    """More of a file would have to be read than `Bounded` allows."""


@dataclass(frozen=True, slots=True)
class Form:
    """The type and size of a file."""

    kind: str
    content_type: str
    extension: str
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    """Seconds of a video or sound; None where the file does not say."""


def seconds(count: float, per_second: float) -> float | None:
    """Return how long `count` units last, rounded to milliseconds; None for what cannot be a duration."""
    try:
        found = count / per_second
    except (ZeroDivisionError, OverflowError):
        return None
    return round(found, 3) if 0 < found <= _LONGEST_S else None


class Source:
    """A file whose structure is checked."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self.start = file.read(_START_BYTES)

    def at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`; raises `Damaged` if the file is shorter."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise Damaged("it is cut off")
        self._file.seek(offset)
        return self._file.read(length)

    def most(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`."""
        return self.at(offset, max(0, min(length, self.size - offset)))

    def number(self, offset: int, length: int, order: str = "big") -> int:
        """Return an unsigned number."""
        return int.from_bytes(self.at(offset, length), "little" if order == "little" else "big")

    def pieces(self, offset: int, length: int) -> Iterator[bytes]:
        """Yield `length` bytes from `offset` in pieces; raises `Damaged` if the file is shorter."""
        self.require(offset + length)
        while length > 0:
            piece = self.at(offset, min(length, STEP_BYTES))
            yield piece
            offset += len(piece)
            length -= len(piece)

    def require(self, end: int) -> None:
        """Raise `Damaged` if the file is shorter than `end` bytes."""
        if end > self.size:
            raise Damaged("it is cut off")


class Bounded(Source):
    """A file of which only so many pieces, and bytes of them, are read: then it raises `TooMuch`."""

    def __init__(self, file: BinaryIO, *, reads: int, read_bytes: int) -> None:
        super().__init__(file)
        self._reads = reads
        self._bytes = read_bytes

    def at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`; raises `Damaged` if the file is shorter."""
        self._reads -= 1
        self._bytes -= max(length, 0)
        if self._reads < 0 or self._bytes < 0:
            raise TooMuch
        return super().at(offset, length)
