"""Noting what was done by the page."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from app.domain.errors import Unavailable
from app.domain.text import printable
from app.keys import AUDIT
from app.web.callers import CALLER
from app.web.problems import REQUEST_ID
from app.web.proxies import client_address

if TYPE_CHECKING:
    from aiohttp import web

log = logging.getLogger(__name__)


async def note(request: web.Request, action: str, target: str, outcome: str, **data: Any) -> int | None:
    """Note who did what to what, and what became of it, and return the entry's number.

    What is done stays done when that cannot be noted; None then.
    """
    caller, target = request[CALLER], printable(target).replace("\0", "")
    try:
        return await request.config_dict[AUDIT].note(
            caller, action, target, outcome, address=client_address(request), request_id=request[REQUEST_ID], **data
        )
    except Unavailable:
        log.exception("not in the audit: %s by %s of %s was %s %s", action, caller.name, target, outcome, data)
        return None
