"""What people see: lines, tables, and a bar that is redrawn only where that can be."""

from __future__ import annotations

import io

import pytest

from app.commands.terminal import Terminal, amount, duration, table


class Window(io.TextIOWrapper):
    """A terminal that remembers what was written to it."""

    def __init__(self, encoding: str = "utf-8", *, terminal: bool = True) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, newline="")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    @property
    def text(self) -> str:
        return self.buffer.getvalue().decode(self.encoding)


def test_a_line_goes_above_the_bar_which_is_drawn_again():
    window = Window()
    terminal = Terminal(window)
    terminal.progress(50, "processing")
    bar = window.text.removeprefix("\r\x1b[K")
    terminal.line("said")
    assert window.text == f"\r\x1b[K{bar}\r\x1b[Ksaid\n{bar}"
    terminal.end_progress()
    terminal.line("after")
    assert window.text.endswith(f"{bar}\nafter\n")


def test_elsewhere_a_tenth_is_a_line():
    window = Window(terminal=False)
    terminal = Terminal(window)
    for percent in range(101):
        terminal.progress(percent, "processing")
    assert window.text.count("\n") == 11
    assert "\r" not in window.text


def test_what_the_encoding_lacks_is_replaced():
    window = Window("ascii", terminal=False)
    terminal = Terminal(window)
    terminal.progress(50, "processing")
    terminal.line("832 × 1216")
    assert "#....." in window.text
    assert window.text.endswith("832 ? 1216\n")


def test_columns_are_as_wide_as_they_need_to_be():
    assert (
        table(("A", "LONGER"), [("wide enough", 1), ("b", 22)])
        == "A            LONGER\nwide enough  1\nb            22"
    )


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (3 * 86400, "3 d")]
)
def test_durations_have_one_unit(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("size", "said"), [(12, "12 bytes"), (1536, "1.5 KiB"), (5 * 2**20, "5.0 MiB"), (3 * 2**30, "3.0 GiB")]
)
def test_sizes_have_one_unit(size, said):
    assert amount(size) == said
