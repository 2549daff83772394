"""How a key is written: `gno_`, 43 random characters, and 6 of a checksum, by which scanners for secrets know it."""

from __future__ import annotations

import re
import secrets
import string
import zlib
from datetime import UTC, datetime, timedelta
from typing import Final

PREFIX: Final = "gno_"
COMMAND_LINE: Final = "command line"
"""From where, in the audit, what a command did was asked for; who did it is called so too, with the user's name."""
MOST_CHARS: Final = 200
"""No key is longer, and no more of a text that is none is looked at."""
_DIGITS: Final = string.digits + string.ascii_letters
_RANDOM_CHARS: Final = 43
"""Characters of 62 kinds: 256 bits."""
_CHECK_CHARS: Final = 6
_KEY: Final = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_RANDOM_CHARS + _CHECK_CHARS}}}", re.ASCII)
_OLD_KEY: Final = re.compile(r"gn_[\w-]{43}", re.ASCII)
"""As keys of the page were written before there were keys for REST."""


MOST_NAME_CHARS: Final = 255
MOST_DAYS: Final = 36_500
"""An expiry that lies further off is a slip of the keyboard."""
_OTHER_ACTORS: Final = frozenset({"api", "monitor", "nobody"})
"""Whom audit and events name where no key was shown."""


def name_fault(name: str) -> str | None:
    """Return what is wrong with a text as the name of a key; None if nothing is."""
    if (fault := owner_fault(name)) is not None:
        return fault
    if name.lower() in _OTHER_ACTORS or name.lower().startswith(COMMAND_LINE):
        return "cannot be that: the audit calls others so"
    return None


def owner_fault(owner: str) -> str | None:
    """Return what is wrong with a text as the owner of a key's jobs; None if nothing is."""
    if not 1 <= len(owner) <= MOST_NAME_CHARS or not owner.isprintable() or owner != owner.strip():
        return f"is to have 1 to {MOST_NAME_CHARS} characters, all of them printable, and no space at its ends"
    return None


def parse_expiry(text: str, now: datetime) -> datetime:
    """Read when a key ends: a number of days from now, or a day, or a time, which are UTC unless they say another zone.

    Raises
    ------
    ValueError
        Its message goes on after the name of what was filled in.
    """
    try:
        if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
            days = float(text)
            at = now + timedelta(days=days) if days <= MOST_DAYS else None
        else:
            at = datetime.fromisoformat(text)
            at = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        at = None
    if at is None or at > now + timedelta(days=MOST_DAYS):
        raise ValueError(
            f"is a number of days up to {MOST_DAYS}, or a time such as 2027-01-31 or 2027-01-31T12:00+01:00, and not "
            f"{text[:60]!r}"
        )
    if at <= now:
        raise ValueError(f"lies in the past: {at:%Y-%m-%d %H:%M} UTC")
    return at


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
