"""The terminal output of ComfyUI; `/internal/logs` returns its last part."""

import datetime
from collections import deque
from typing import Final

from worker.standin.nodes import ThreadDiedError
from worker.standin.tracebacks import pieces
from worker.standin.versions import LINKS_NOTED, Version

KEPT: Final = 300
"""Pieces that are kept, whole lines or less."""

_COLOURS: Final = {"INFO": "\x1b[32m", "WARNING": "\x1b[1m\x1b[33m", "ERROR": "\x1b[1m\x1b[31m"}
_PLAIN: Final = "\x1b[0m"


class Console:
    """The last pieces that were written; from 0.33 on a line tells its level, in colours."""

    def __init__(self, version: Version) -> None:
        self._version = version
        self.newer = version >= LINKS_NOTED
        """Whether levels are told, and more is said of memory."""
        self.entries: deque[dict[str, str]] = deque(maxlen=KEPT)

    def write(self, piece: str) -> None:
        """Add one piece as it is."""
        self.entries.append({"t": datetime.datetime.now().isoformat(), "m": piece})  # noqa: DTZ005 - as ComfyUI has it

    def say(self, text: str, level: str = "INFO") -> None:
        """Add a line."""
        tag = f"{_COLOURS[level]}[{level}]{_PLAIN} " if self.newer else ""
        self.write(f"{tag}{text}\n")

    def say_executed(self, seconds: float) -> None:
        """Add the line that stands at the end of every prompt, of failed ones too."""
        text = f"Prompt executed in {seconds:.2f} seconds"
        self.say(f"{_COLOURS['INFO']}{text}{_PLAIN}" if self.newer else text)

    def say_died(self, death: ThreadDiedError) -> None:
        """Add the output of Python when the execution thread ends by an error; some errors have none."""
        if death.place is not None:
            for piece in pieces(death.place, death.error, self._version):
                self.write(piece)

    def text(self) -> str:
        """Return all of it as one text, each piece behind its time."""
        return "".join(f"{entry['t']} - {entry['m']}" for entry in self.entries)
