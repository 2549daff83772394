"""Noting what was done by the page."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from app.domain.errors import Unavailable
from app.domain.text import printable
from app.keys import AUDIT
from app.monitor.rendering import VIEWER

if TYPE_CHECKING:
    from aiohttp import web

log = logging.getLogger(__name__)


async def note(request: web.Request, action: str, target: str, outcome: str, **data: Any) -> int | None:
    """Note who did what to what, and what became of it, and return the entry's number.

    What is done stays done when that cannot be noted; None then.
    """
    viewer, target = request[VIEWER], printable(target).replace("\0", "")
    try:
        return await request.config_dict[AUDIT].note(viewer, action, target, outcome, **data)
    except Unavailable:
        log.exception("not in the audit: %s by %s of %s was %s %s", action, viewer.name, target, outcome, data)
        return None
