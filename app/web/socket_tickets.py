"""Requests for a WebSocket that show a ticket in place of a key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from app.domain.errors import WrongTicket
from app.keys import ACCESS, TICKETS
from app.messaging.tickets import TTL_S, Ticket
from app.services.access import Shown
from app.web.permissions import TICKETED, route_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from app.domain.access import Caller

TICKET: Final = web.RequestKey("TICKET", Ticket)
"""The ticket that let the request in; absent if none did."""
PARAMETER: Final = "ticket"


def shows_ticket(request: web.Request) -> bool:
    """Whether the request is judged by its ticket, also if that is wrong."""
    return bool(request.query_string) and PARAMETER in request.query and route_of(request) in TICKETED


async def take_ticket(request: web.Request, shown: Shown) -> Caller:
    """Use up the ticket, and return who had it made.

    Raises
    ------
    WrongTicket
    SignInNeeded
        It was made when there were no keys, and now there are, or it is shown from another machine.
    QueueUnavailable, DatabaseUnavailable
    """
    texts, access = request.query.getall(PARAMETER), request.config_dict[ACCESS]
    ticket = await request.config_dict[TICKETS].take(texts[0]) if len(texts) == 1 else None
    if ticket is None:
        raise _wrong()
    request[TICKET] = ticket
    if ticket.key_id is None:
        return await access.caller(Shown(None, None, shown.address, shown.is_local))
    caller = await access.holder(ticket.key_id)
    if caller is None:
        raise _wrong()
    return caller


def check_jobs(request: web.Request, job_ids: Collection[int]) -> None:
    """Raise `WrongTicket` if the request shows a ticket, and that is not good for these jobs."""
    ticket = request.get(TICKET)
    if ticket is not None and not ticket.covers(job_ids):
        raise _wrong()


def check_events(request: web.Request) -> None:
    """Raise `WrongTicket` if the request shows a ticket, and that is not good for all events."""
    ticket = request.get(TICKET)
    if ticket is not None and not ticket.events:
        raise _wrong()


def _wrong() -> WrongTicket:
    # Which of them it is tells a guesser something.
    return WrongTicket(
        f"The ticket was used, is older than {TTL_S} s, is not for this, or its key has ended. Ask for another one."
    )
