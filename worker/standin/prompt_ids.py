"""The one form of a prompt's id that later versions take."""

import re
from typing import Any, Final

_CANONICAL: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_canonical(value: Any) -> bool:
    """Tell whether a value is a UUID in small letters with hyphens."""
    return isinstance(value, str) and _CANONICAL.fullmatch(value) is not None
