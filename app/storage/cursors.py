"""Cursors of lists: where a page ended, as a text that clients send back for the next one."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import TypeVar

from app.domain.errors import Fault, InvalidRequest

_Id = TypeVar("_Id", int, str)


def write_cursor(order: str, at: datetime, row_id: int | str) -> str:
    """Return the cursor after a row, of a list in this order."""
    return base64.urlsafe_b64encode(json.dumps([order, at.isoformat(), row_id]).encode()).decode().rstrip("=")


def read_cursor(cursor: str, order: str, kind: type[_Id]) -> tuple[datetime, _Id]:
    """Return time and id of the row after which a page begins; raises `InvalidRequest` for another list's cursor."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        written_for, value, row_id = json.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
        # Of a time without a zone, or none in UTC, the driver would make an error of its own.
        at = datetime.fromisoformat(value).astimezone(UTC)
        fits = written_for == order and type(row_id) is kind
        fits = fits and (0 <= row_id < 2**63 if isinstance(row_id, int) else len(row_id) <= 64 and row_id.isascii())
    except (ValueError, TypeError, OverflowError, RecursionError):
        fits = False
    if not fits:
        detail = "Take next_cursor of the page before, with the same sort, or leave the cursor out."
        fault = Fault("cursor", "invalid_cursor", detail)
        raise InvalidRequest("The cursor is none that this service gave out.", [fault])
    return at, kind(row_id)
