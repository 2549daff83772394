"""Noting what was done by hand, by REST or by the page: who, to what, from where, and what became of it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar

from app.domain.access import Caller, Role
from app.domain.errors import (
    DatabaseUnavailable,
    GenonautError,
    JobNotFound,
    KeyNotFound,
    UploadNotFound,
    WrongKey,
)
from app.domain.text import printable
from app.keys import AUDIT, BACKGROUND
from app.web.callers import CALLER, actor_of
from app.web.problems import REQUEST_ID
from app.web.proxies import client_address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

log = logging.getLogger(__name__)
T = TypeVar("T")

PATIENCE_S: Final = 2.0
"""Seconds after which what was done is answered although it is not noted yet."""
NOBODY: Final = Caller("nobody", Role.USER, owner=None)
"""Who shows a wrong key."""
MAX_SCOPE: Final = 500
"""Characters of what a bulk action was for, as the page printed it or the filter says, that are noted."""
ACTED_ON: Final = "acted_on"
"""Name in an entry of the audit of the jobs to which a bulk action was done."""
_NOT_NOTED: Final = (JobNotFound, UploadNotFound, KeyNotFound, DatabaseUnavailable)
"""Nothing was there that could be changed, and anybody may ask for any number; or it cannot be noted."""


async def note(request: web.Request, action: str, target: str, outcome: str, **data: Any) -> int | None:
    """Note who did what to what, and what became of it, and return the entry's number.

    What is done stays done when that cannot be noted, or takes long; None then.
    """
    caller, target = request[CALLER], printable(target).replace("\0", "")
    who = Caller(actor_of(request), caller.role, caller.owner, caller.key_id)
    return await _append(request, who, action, target, outcome, data)


def became_of_many(done: int, refused: int) -> str:
    """Return the outcome of an action that so many jobs took, and so many did not."""
    if not refused:
        return "done"
    return "partly" if done else "none"


def sender_of(request: web.Request) -> dict[str, str | None]:
    """Return who sends a job, as the job keeps it for the audit: an entry of its own would cost as much again."""
    return {
        "actor": actor_of(request),
        "role": request[CALLER].role.value,
        "address": client_address(request),
        "request_id": request[REQUEST_ID],
    }


async def noted(
    request: web.Request,
    action: str,
    target: str,
    acting: Awaitable[T],
    became: Callable[[T], str] = lambda _: "done",
    **data: Any,
) -> T:
    """Act, note what became of it, and return what acting returns; raise what it raises, which is noted by its code.

    `became` says it of what acting returned.
    """
    try:
        result = await acting
    except _NOT_NOTED:
        raise
    except GenonautError as error:
        await note(request, action, target, error.code, **data)
        raise
    await note(request, action, target, became(result), **data)
    return result


async def note_wrong_key(request: web.Request, error: WrongKey) -> None:
    """Note that a wrong key was shown, unless the address has shown one lately: who guesses cannot fill the audit."""
    if error.is_first:
        await _append(request, NOBODY, "show_key", client_address(request) or "", "refused", {})


async def _append(
    request: web.Request, who: Caller, action: str, target: str, outcome: str, data: dict[str, Any]
) -> int | None:
    audit, address, request_id = request.config_dict[AUDIT], client_address(request), request[REQUEST_ID]
    entry: list[int] = []

    async def append() -> None:
        try:
            entry.append(await audit.note(who, action, target, outcome, address=address, request_id=request_id, **data))
        except Exception:
            log.exception("not in the audit: %s by %s of %s was %s %s", action, who.name, target, outcome, data)

    # A task of its own, because a statement that is cancelled in the middle spoils its connection.
    appending, background = asyncio.create_task(append(), name="audit"), request.config_dict[BACKGROUND]
    background.add(appending)
    appending.add_done_callback(background.discard)
    await asyncio.wait({appending}, timeout=PATIENCE_S)
    return entry[0] if entry else None
