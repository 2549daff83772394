"""Reads the state of ComfyUI's execution thread from its log, the only place that shows its end (manual, comfyui.md).

`GET /internal/logs/raw` returns the last 300 pieces that the server wrote to its terminal. An exception in a node is
logged as one piece, and the thread continues. When the thread itself ends by an exception, Python prints "Exception in
thread … (prompt_worker)" and a traceback, in pieces of a line or less; of a long one only the end is still there.
Observed with 0.3.64 and 0.33.0. A node that calls `sys.exit` ends the thread without a log entry.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST_CHARS: Final = 400
"""Maximum characters of a piece of a traceback."""
_THREAD: Final = re.compile(r"Exception in thread [^\n]{0,80}\(prompt_worker\)|, in prompt_worker\b")
_EXECUTOR: Final = re.compile(r'[/\\](?:execution|comfy_execution[/\\]\w{1,40})\.py", line \d{1,6}, in \w')
_GOES_ON: Final = "Prompt executed in"
"""Logged by the thread after each prompt."""


class LogSays(StrEnum):
    """State of the execution thread according to the log."""

    DEAD = "dead"
    PROBABLY_DEAD = "probably dead"
    """The log ends with a traceback through the executor whose beginning is no longer there."""
    NOTHING = "nothing"
    UNREADABLE = "unreadable"
    """The server does not provide the log."""


def read_log(entries: Iterable[Any]) -> LogSays:
    """Return what the log's entries show; oldest first, `{"t": time, "m": text}`, others are ignored."""
    text = "".join(_pieces(entries))
    if _THREAD.search(text):
        return LogSays.DEAD
    since = text.rpartition(_GOES_ON)[2]
    return LogSays.PROBABLY_DEAD if _EXECUTOR.search(since) else LogSays.NOTHING


def _pieces(entries: Iterable[Any]) -> Iterable[str]:
    for entry in entries:
        piece = entry.get("m") if isinstance(entry, dict) else None
        if isinstance(piece, str):
            # Pieces with several lines are cut to the first, so that a node's traceback is not taken for the thread's.
            whole = piece.count("\n") > 1 or len(piece) > _MOST_CHARS
            yield f"{piece[:_MOST_CHARS].partition(chr(10))[0]}\n" if whole else piece
