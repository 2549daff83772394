"""A file as those see it who walk through its parts: no read beyond its end goes unnoticed, and none is large."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

MOST_PARTS: Final = 4_000_000
"""So many parts of a file are walked through, which takes seconds; what comes behind them is believed."""
STEP_BYTES: Final = 2**20
_START_BYTES: Final = 64


class Damaged(Exception):
    """A file is cut off, or says one thing here and another there."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a file is."""

    kind: str
    content_type: str
    extension: str
    width: int | None = None
    height: int | None = None


class Source:
    """A file that is looked into."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self.start = file.read(_START_BYTES)

    def at(self, offset: int, length: int) -> bytes:
        """Return so many bytes from there; raises `Damaged` when they are not all there."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise Damaged("it is cut off")
        self._file.seek(offset)
        return self._file.read(length)

    def most(self, offset: int, length: int) -> bytes:
        """Return so many bytes from there, or as many as there are."""
        return self.at(offset, max(0, min(length, self.size - offset)))

    def number(self, offset: int, length: int, order: str = "big") -> int:
        """Return an unsigned number."""
        return int.from_bytes(self.at(offset, length), "little" if order == "little" else "big")

    def pieces(self, offset: int, length: int) -> Iterator[bytes]:
        """Yield so many bytes from there, piece by piece; raises `Damaged` when they are not all there."""
        self.require(offset + length)
        while length > 0:
            piece = self.at(offset, min(length, STEP_BYTES))
            yield piece
            offset += len(piece)
            length -= len(piece)

    def require(self, end: int) -> None:
        """Raise `Damaged` unless the file goes as far as that."""
        if end > self.size:
            raise Damaged("it is cut off")
