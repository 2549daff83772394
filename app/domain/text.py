"""Texts from other people's servers, made fit to be kept and shown."""

from __future__ import annotations

import re
from typing import Any, Final

MAX_CHARS: Final = 2000
MAX_TRACEBACK_BYTES: Final = 16 * 1024
_MOST_LINES: Final = 10_000

_LONG: Final = 10**30
"""A number of more digits names nothing."""
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""NUL, which PostgreSQL refuses, line ends, which would make two lines of one in a log, and what terminals obey."""
_QUOTED_PATH: Final = re.compile(r"(?<=['\"])(?:[A-Za-z]:)?(?:/|\\{1,2})[^'\"\n]*[/\\]([^'\"/\\\n]*)(?=['\"])")
"""Between quotes a folder's name may have spaces."""
_PATH: Final = re.compile(
    # A path begins anew, so neither `and/or/both` nor the path of a URL is one …
    r"(?<![\w/\\.])(?:file://)?(?:[A-Za-z]:)?(?:/|\\{1,2})"
    # … and has a folder at least; in a `repr` a backslash stands twice.
    r"(?:[^\s/\\:'\"]+[/\\]+)+([^\s/\\:'\"]*)"
)


def word(value: object, limit: int = 200) -> str:
    """Return a name or number that another server gave, short and fit to be kept; empty for what is none.

    Lists and objects are none: how deep they go, and so what writing them out would take, is not known.
    """
    if not isinstance(value, str | int | float):
        return ""
    if isinstance(value, int) and abs(value) >= _LONG:
        return ""
    plain = str(value)[:limit].encode("utf-8", "replace").decode()
    return _UNPRINTABLE.sub("", plain)


def clean(text: object, limit: int = MAX_CHARS) -> str:
    """Return the text without what PostgreSQL refuses (NUL, lone surrogates) or users must not see (server paths).

    ComfyUI's error texts can be megabytes long and show folders of its machine (manual, comfyui.md, "Error texts").
    """
    # A structure may be nested without limit. Cut first: a replacement over megabytes would block the event loop.
    plain = "" if isinstance(text, dict | list) else str(text)[: limit * 2]
    plain = plain.replace("\0", "").encode("utf-8", "replace").decode()
    plain = _PATH.sub(r"…/\1", _QUOTED_PATH.sub(r"…/\1", plain)).strip()
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


def is_plain(text: str) -> bool:
    """Whether a text can be kept as it is: without NUL and lone surrogates."""
    if text.isascii():
        return "\0" not in text
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def plain(text: str) -> str:
    """Return the text with a mark for NUL and for each lone surrogate, which PostgreSQL does not keep."""
    return text if is_plain(text) else printable(text).replace("\0", "?")


def printable(text: str) -> str:
    """Return the text with each lone surrogate, as which a byte that is no UTF-8 comes out of a header, as a mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def traceback_of(lines: Any) -> str | None:
    """Return the traceback that ComfyUI tells line by line, its end if it is long; None when it tells none.

    It shows folders of ComfyUI's machine, which an operator needs and users must not see.
    """
    whole = "".join(line for line in lines[-_MOST_LINES:] if isinstance(line, str)) if isinstance(lines, list) else ""
    # The innermost calls stand at the end. Cut in characters first, for the same reason as above.
    raw = whole[-MAX_TRACEBACK_BYTES:].replace("\0", "").encode("utf-8", "replace")
    return raw[-MAX_TRACEBACK_BYTES:].decode("utf-8", "ignore").strip("\n") or None
