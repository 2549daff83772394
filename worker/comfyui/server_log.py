"""What a ComfyUI's own log says of its execution thread: the one place where its death is told (manual, comfyui.md).

`GET /internal/logs/raw` holds the last 300 pieces that the server wrote to its terminal. A node that raises is logged
as one piece, by the thread that goes on. When the thread itself ends by an exception, Python prints "Exception in
thread … (prompt_worker)" and a traceback, in pieces of a line or less: of a long one only the end is still there.
Seen on 0.3.64 and 0.33.0; a node that calls `sys.exit` ends the thread without a word.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST_CHARS: Final = 400
"""A longer piece is none of a traceback's."""
_THREAD: Final = re.compile(r"Exception in thread [^\n]{0,80}\(prompt_worker\)|, in prompt_worker\b")
_EXECUTOR: Final = re.compile(r'[/\\](?:execution|comfy_execution[/\\]\w{1,40})\.py", line \d{1,6}, in \w')
_GOES_ON: Final = "Prompt executed in"
"""Logged by the thread after each prompt."""


class LogSays(StrEnum):
    """What the log says of the thread that executes prompts."""

    DEAD = "dead"
    PROBABLY_DEAD = "probably dead"
    """The end of a traceback through the executor, and nothing after it: its beginning is no longer there."""
    NOTHING = "nothing"
    UNREADABLE = "unreadable"
    """The server does not show it."""


def read_log(entries: Iterable[Any]) -> LogSays:
    """Return what these entries of the log say, the oldest first: `{"t": time, "m": text}`, or anything else."""
    text = "".join(_pieces(entries))
    if _THREAD.search(text):
        return LogSays.DEAD
    since = text.rpartition(_GOES_ON)[2]
    return LogSays.PROBABLY_DEAD if _EXECUTOR.search(since) else LogSays.NOTHING


def _pieces(entries: Iterable[Any]) -> Iterable[str]:
    for entry in entries:
        piece = entry.get("m") if isinstance(entry, dict) else None
        if isinstance(piece, str):
            # What was logged whole is cut to its first line, so that no traceback of a node is taken for the thread's.
            whole = piece.count("\n") > 1 or len(piece) > _MOST_CHARS
            yield f"{piece[:_MOST_CHARS].partition(chr(10))[0]}\n" if whole else piece
