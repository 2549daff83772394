"""Signing in with a key, and out again."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

import aiohttp_jinja2
from aiohttp import web

from app.domain.access import ANYBODY
from app.domain.errors import SignInNeeded, WrongKey
from app.domain.key_format import MOST_CHARS
from app.keys import ACCESS, KEYS, SETTINGS
from app.monitor.rendering import CSRF_TOKEN, give_token
from app.services.access import SESSION_COOKIE
from app.web.auditing import NOBODY, note
from app.web.bodies import read_form
from app.web.callers import CALLER, caller_of
from app.web.proxies import client_address, is_secure, root_path

routes: Final = web.RouteTableDef()

WRONG_S: Final = 1.0
"""Seconds that the answer to a wrong key is delayed. Other requests are not."""


@routes.get("/sign-in")
async def ask_for_key(request: web.Request) -> web.Response:
    """Show the form; who needs no key, or is signed in, is led on."""
    try:
        caller = await caller_of(request)
    except (SignInNeeded, WrongKey):
        return _form(request, request.query.get("next", ""), None)
    if caller == ANYBODY:
        raise web.HTTPSeeOther("/monitor/")
    raise web.HTTPSeeOther(_own(request.query.get("next", "")))


@routes.post("/sign-in")
async def sign_in(request: web.Request) -> web.Response:
    """Begin a session, and lead to where its owner wanted to go."""
    form = await read_form(request)
    secret, wanted = str(form.get("key", "")).strip(), str(form.get("next", ""))
    access, address, secret = request.config_dict[ACCESS], client_address(request), secret[: MOST_CHARS + 1]
    await access.admit(secret, address)
    try:
        token, request[CALLER] = await request.config_dict[KEYS].sign_in(secret, address)
    except WrongKey as error:
        request[CALLER] = NOBODY
        if access.wrong.count(address):
            await note(request, "sign_in", address or "", "refused")
        await asyncio.sleep(WRONG_S)
        return _form(request, wanted, str(error), HTTPStatus.FORBIDDEN)
    await note(request, "sign_in", address or "", "done")
    response = web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": _own(wanted)})
    # For the whole site: the events and the pictures are elsewhere on it. How long it lasts is the server's to say.
    response.set_cookie(SESSION_COOKIE, token, path="/", httponly=True, samesite="Strict", secure=is_secure(request))
    return response


@routes.post("/sign-out")
async def sign_out(request: web.Request) -> web.Response:
    """End the session, here and on the server."""
    if token := request.cookies.get(SESSION_COOKIE):
        await request.config_dict[KEYS].sign_out(token)
        await note(request, "sign_out", client_address(request) or "", "done")
    response = web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": "/monitor/sign-in"})
    response.del_cookie(SESSION_COOKIE, path="/")
    return response


def _own(address: str) -> str:
    """Return the address if it is one of our pages, else the first one."""
    return address if re.fullmatch(r"/monitor/[!-\[\]-~]*", address) else "/monitor/"


def _form(request: web.Request, wanted: str, fault: str | None, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    context = {
        "csrf": request[CSRF_TOKEN],
        "environment": request.config_dict[SETTINGS].genonaut_env,
        "next": _own(wanted),
        "root": root_path(request),
        "fault": fault,
        "now": datetime.now(UTC),
    }
    response = aiohttp_jinja2.render_template("sign_in.html", request, context, status=status)
    response.headers["Cache-Control"] = "no-store"
    give_token(request, response)
    return response
