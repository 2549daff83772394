"""What a person sees: lines from several sources, tables, and one bar of progress below them."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

BAR_WIDTH: Final = 40
_CLEAR_LINE: Final = "\r\x1b[K"


class Terminal:
    """Standard output. The bar is one line that is redrawn on a terminal, and a line at each tenth elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._redraws = self._stream.isatty()
        self._bar = ""
        self._told: tuple[int, str] | None = None
        encoding = (self._stream.encoding or "ascii").lower().replace("-", "")
        self._full, self._empty = ("█", "░") if encoding == "utf8" else ("#", ".")

    def line(self, text: str) -> None:
        """Write a line, above the bar if there is one."""
        self._write(f"{_CLEAR_LINE if self._bar else ''}{text}\n{self._bar}")

    def progress(self, percent: int, text: str) -> None:
        """Show how far something is."""
        percent = max(0, min(100, percent))
        # A bar that is wider than the window would not be redrawn in place.
        columns = shutil.get_terminal_size().columns if self._redraws else 120
        width = max(10, min(BAR_WIDTH, columns - 30))
        full = width * percent // 100
        bar = f"  {self._full * full}{self._empty * (width - full)} {percent:3d} %  {text}"[: columns - 1]
        if self._redraws:
            self._bar = bar
            self._write(f"{_CLEAR_LINE}{bar}")
        elif self._told != (percent // 10, text):
            self._told = percent // 10, text
            self._write(f"{bar}\n")

    def end_progress(self) -> None:
        """Leave the bar as it is; what follows comes below it."""
        if self._bar:
            self._bar = ""
            self._write("\n")
        self._told = None

    def _write(self, text: str) -> None:
        encoding = self._stream.encoding or "ascii"
        try:
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
            self._stream.flush()
        except BrokenPipeError:
            # The reader has gone, as in `make demo | head`. Python would complain when it flushes at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def show(text: str) -> None:
    """Write what a command was asked for."""
    print(text)  # noqa: T201  # it is what standard output is for


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return columns as wide as they need to be, below their names."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def duration(seconds: float) -> str:
    """Return a length of time as people say it: 12 s, 3 min, 5 h, 2 d."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def amount(size_bytes: float) -> str:
    """Return a size as people say it: 120 bytes, 3.4 KiB, 1.2 MiB."""
    if size_bytes < 1024:
        return f"{size_bytes:.0f} bytes"
    for unit in ("KiB", "MiB"):
        size_bytes /= 1024
        if size_bytes < 1024:
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / 1024:.1f} GiB"
