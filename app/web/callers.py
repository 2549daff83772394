"""Who sends a request, and whether that one may: asked once for each, before its handler."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from app.domain.access import ANYBODY, LINKED, READING, Ability, Caller
from app.domain.errors import BadParameter, DatabaseUnavailable, Fault, Forbidden, KeyInAddress, WrongKey
from app.domain.key_format import MOST_CHARS
from app.keys import ACCESS, SETTINGS, VIEWS
from app.services.access import SESSION_COOKIE, Shown
from app.settings import is_loopback
from app.web.header_marks import marks_of
from app.web.origin import check_origin, host_name
from app.web.permissions import PERMISSIONS, PUBLIC, SAFE_METHODS, SIGN_OUT, route_of
from app.web.proxies import came_through_proxy, client_address
from app.web.rates import count_request
from app.web.signed_links import check_link, shows_link
from app.web.socket_tickets import shows_ticket, take_ticket

if TYPE_CHECKING:
    from app.storage.job_views import JobViews

CALLER: Final = web.RequestKey("CALLER", Caller)
"""Who the request is from; absent where anybody is served."""
SUBPROTOCOL: Final = "genonaut"
"""The WebSocket subprotocol that is agreed upon with a client that sends its key as another one."""
_KEY_PROTOCOL: Final = "genonaut.key."
_ANYBODYS_NAME: Final = "api"
"""The actor in the events of what a client of the API does while there are no keys."""
_KEY_LIKE: Final = re.compile(r"gno?_[\w-]{40,}")
_NAMES_OF_KEYS: Final = frozenset({"key", "api_key", "apikey", "api-key", "access_token", "authorization", "bearer"})


async def authorize(request: web.Request) -> Caller | None:
    """Note, and return, who the request is from; None where anybody is served.

    Raises
    ------
    SignInNeeded, WrongKey, TooManyWrongKeys, BadParameter
        It is not said who it is, or wrongly.
    TooMany
        That one sends more requests than it may.
    Forbidden, ForeignOrigin
        That one may not do this, or not from there.
    WrongSignature, LinkExpired, WrongTicket
    DatabaseUnavailable, QueueUnavailable
    """
    route = route_of(request)
    ability = PERMISSIONS.get(route)
    if route in PUBLIC or (ability is Ability.SEE_HEALTH and main_app(request)[SETTINGS].metrics_open):
        return None
    if shows_link(request):
        # Any page may show it: who has the link may see what it leads to.
        await check_link(request)
        request[CALLER] = LINKED
        return LINKED
    try:
        caller = request[CALLER] = await caller_of(request)
    except DatabaseUnavailable:
        if ability is Ability.SEE_HEALTH and is_local(request):
            # Just now it is needed to be seen what is away.
            return None
        raise
    await count_request(request, caller)
    if ability is None or not caller.may(ability):
        raise Forbidden(f"As {caller.role} you may not do this.")
    changes = request.method not in SAFE_METHODS and ability not in READING and route != SIGN_OUT
    by_session = changes and caller.signed_in and not shows_key(request)
    if by_session and main_app(request)[ACCESS].read_only:
        raise Forbidden("The page is read-only (MONITOR_READ_ONLY), and so is a session of it. Nothing was done.")
    return caller


async def caller_of(request: web.Request) -> Caller:
    """Return who the request is from; raises as `authorize`."""
    shown = shown_by(request)
    if shows_ticket(request):
        if shown.key is not None:
            detail = "A key or a ticket is taken, and not both."
            raise BadParameter(detail, [Fault("ticket", "repeated", detail)])
        # A page must know it, as it must know a key. It is not used up by one that is not welcome.
        check_origin(request, by_key=True, by_session=False)
        return await take_ticket(request, shown)
    caller = await main_app(request)[ACCESS].caller(shown)
    check_origin(request, by_key=shown.key is not None, by_session=shown.key is None and caller is not ANYBODY)
    return caller


def shown_by(request: web.Request) -> Shown:
    """Return what the request shows of who it is from; raises `BadParameter`, `KeyInAddress`, `WrongKey`."""
    if request.query_string:
        _refuse_keys_in_address(request)
    key, cookie = _key_of(request), marks_of(request).cookie
    session = request.cookies.get(SESSION_COOKIE) if cookie else None
    # Whoever shows a key may be anywhere.
    return Shown(key, session, client_address(request), is_local=key is None and is_local(request))


def shows_key(request: web.Request) -> bool:
    """Whether the request shows a key, and not only a session of the page."""
    return _key_of(request) is not None


def subprotocols_of(request: web.Request) -> tuple[str, ...]:
    """Return the WebSocket subprotocol to agree upon: a browser breaks off if none of those that it offers is."""
    offered = [each.strip() for each in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(",")]
    if SUBPROTOCOL in offered:
        return (SUBPROTOCOL,)
    return tuple(each for each in offered if each.startswith(_KEY_PROTOCOL))


def is_local(request: web.Request) -> bool:
    """Whether the request comes from this machine itself, through no proxy, and calls this server by its own name."""
    if request.remote is None or not is_loopback(request.remote):
        return False
    name = host_name(request)
    if name is not None and not is_loopback(name):
        return False
    return not came_through_proxy(request)


def actor_of(request: web.Request) -> str:
    """Return by which name events and audit call who the request is from."""
    caller, is_of_page = request[CALLER], len(request.match_info.apps) > 1
    return caller.name if caller.signed_in or is_of_page else _ANYBODYS_NAME


def main_app(request: web.Request) -> web.Application:
    """Return the application that has the parts, also for a request of the page, a sub-application.

    `request.config_dict` finds them too, but takes longer than what is done with them here.
    """
    return request.match_info.apps[0]


def views_of(request: web.Request) -> JobViews:
    """Return the reads of the jobs that the caller may see."""
    return main_app(request)[VIEWS].seen_by(request[CALLER].scope)


def owner_of(caller: Caller, asked: str | None, pointer: str) -> str | None:
    """Return the `user_id` of what the caller sends: the one that is asked for, else its own, if it has one.

    Raises `Forbidden` if it is another's, and the caller may not send for others.
    """
    if asked is None or asked == caller.owner:
        return caller.owner
    if not caller.may(Ability.SEND_FOR_OTHERS):
        raise Forbidden(f"{pointer}: this key sends for {caller.owner} alone.")
    return asked


def _key_of(request: web.Request) -> str | None:
    """Return the key that the request shows in one of its headers."""
    if not marks_of(request).key:
        return None
    headers = request.headers
    found = [_bearer(value) for value in headers.getall(hdrs.AUTHORIZATION, ())]
    found += [value.strip() for value in headers.getall("X-API-Key", ())]
    for value in headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, ()):
        offered = [each.strip() for each in value.split(",")]
        found += [each.removeprefix(_KEY_PROTOCOL) for each in offered if each.startswith(_KEY_PROTOCOL)]
    if not found:
        return None
    if len(found) > 1:
        detail = "One key is taken: in Authorization, in X-API-Key, or as a subprotocol of a WebSocket."
        raise BadParameter(detail, [Fault("Authorization", "repeated", detail)])
    return found[0][: MOST_CHARS + 1]


def _bearer(value: str) -> str:
    scheme, _, key = value.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise WrongKey("Authorization is to be: Bearer <key>.")
    return key.strip()


def _refuse_keys_in_address(request: web.Request) -> None:
    for name, value in request.query.items():
        is_itself = _KEY_LIKE.search(name) is not None
        if is_itself or name.lower() in _NAMES_OF_KEYS or _KEY_LIKE.search(value):
            detail = "A key does not belong in an address, which is logged: send it as Authorization: Bearer <key>."
            raise KeyInAddress(detail, [Fault("" if is_itself else name[:100], "key_in_address", detail)])
