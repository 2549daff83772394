"""Noting in the audit what was done by command: by which user of the machine."""

from __future__ import annotations

import logging
import os
import pwd
from typing import TYPE_CHECKING, Any

from app.domain.access import Caller, Role
from app.domain.errors import Unavailable
from app.domain.key_format import COMMAND_LINE

if TYPE_CHECKING:
    from app.storage.audit import Audit

log = logging.getLogger(__name__)


async def note(audit: Audit, action: str, target: str, **data: Any) -> None:
    """Note what was done; it stays done when that cannot be noted."""
    who = Caller(f"{COMMAND_LINE} ({_user()})", Role.ADMIN, owner=None)
    try:
        await audit.note(who, action, target, "done", address=COMMAND_LINE, **data)
    except Unavailable:
        log.exception("not in the audit: %s of %s", action, target)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        # A container may run as a user of whom its machine knows nothing.
        return str(os.getuid())
