"""How a key is written: `gno_`, 43 random characters, and 6 of a checksum, by which scanners for secrets know it."""

from __future__ import annotations

import re
import secrets
import string
import zlib
from typing import Final

PREFIX: Final = "gno_"
MOST_CHARS: Final = 200
"""No key is longer, and no more of a text that is none is looked at."""
_DIGITS: Final = string.digits + string.ascii_letters
_RANDOM_CHARS: Final = 43
"""Characters of 62 kinds: 256 bits."""
_CHECK_CHARS: Final = 6
_KEY: Final = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_RANDOM_CHARS + _CHECK_CHARS}}}", re.ASCII)
_OLD_KEY: Final = re.compile(r"gn_[\w-]{43}", re.ASCII)
"""As keys of the page were written before there were keys for REST."""


def new_key() -> str:
    """Return a new key."""
    random = "".join(secrets.choice(_DIGITS) for _ in range(_RANDOM_CHARS))
    return PREFIX + random + _checksum(random)


def is_key(text: str) -> bool:
    """Whether this could be a key: one that is mistyped or cut is known without being looked for."""
    if _OLD_KEY.fullmatch(text):
        return True
    return _KEY.fullmatch(text) is not None and text[-_CHECK_CHARS:] == _checksum(text[len(PREFIX) : -_CHECK_CHARS])


def _checksum(text: str) -> str:
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(_CHECK_CHARS):
        number, place = divmod(number, len(_DIGITS))
        digits = _DIGITS[place] + digits
    return digits
