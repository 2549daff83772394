"""Texts from other people's servers, made fit to be kept and shown."""

from __future__ import annotations

import re
from typing import Final

MAX_CHARS: Final = 2000

_QUOTED_PATH: Final = re.compile(r"(?<=['\"])(?:[A-Za-z]:)?(?:/|\\{1,2})[^'\"\n]*[/\\]([^'\"/\\\n]*)(?=['\"])")
"""Between quotes a folder's name may have spaces."""
_PATH: Final = re.compile(
    # A path begins anew, so neither `and/or/both` nor the path of a URL is one …
    r"(?<![\w/\\.])(?:file://)?(?:[A-Za-z]:)?(?:/|\\{1,2})"
    # … and has a folder at least; in a `repr` a backslash stands twice.
    r"(?:[^\s/\\:'\"]+[/\\]+)+([^\s/\\:'\"]*)"
)


def clean(text: object, limit: int = MAX_CHARS) -> str:
    """Return the text without what PostgreSQL refuses (NUL, lone surrogates) or users must not see (server paths).

    ComfyUI's error texts can be megabytes long and show folders of its machine (COMFYUI, section 0, point 14).
    """
    # Cut first: a replacement over megabytes would block the event loop.
    plain = str(text)[: limit * 2].replace("\0", "").encode("utf-8", "replace").decode()
    plain = _PATH.sub(r"…/\1", _QUOTED_PATH.sub(r"…/\1", plain)).strip()
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"
