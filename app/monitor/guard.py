"""What stands between a browser and the handlers: headers of every answer, errors as pages, and who may act."""

from __future__ import annotations

import hmac
import logging
import math
import re
import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from aiohttp import web

from app.domain.errors import Forbidden, GenonautError, NotFound, SignInNeeded, TooMany, Unavailable, WrongKey
from app.domain.text import printable
from app.keys import ACCESS, METRICS
from app.monitor.rendering import CSRF_COOKIE, CSRF_FIELD, CSRF_TOKEN, FRAGMENT_HEADER, render
from app.web.auditing import note_wrong_key
from app.web.bodies import read_form
from app.web.body_intake import comes_with_files
from app.web.callers import CALLER, authorize, caller_of
from app.web.file_forms import FILE_FORM, FileForm
from app.web.permissions import SAFE_METHODS, SIGN_OUT, route_of
from app.web.problems import REQUEST_ID, STATUS_OF
from app.web.proxies import asked_host

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

SECURITY_HEADERS: Final = {
    # Everything from this server and nothing inline; pictures, sound and events are this server's too.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # With no-referrer browsers would send `Origin: null` along with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


async def add_security_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers to every answer."""
    del request
    response.headers.update(SECURITY_HEADERS)


@web.middleware
async def errors_as_pages(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Let only our own page change things, give every browser its token, and answer errors as pages."""
    given = request.cookies.get(CSRF_COOKIE, "")
    known = re.fullmatch(r"[\w-]{43}", given) is not None
    request[CSRF_TOKEN] = given if known else secrets.token_urlsafe(32)
    try:
        await _let_in(request)
        if request.method not in SAFE_METHODS and request.match_info.http_exception is None:
            await _check_own_page(request, given if known else "")
        response = await handler(request)
    except GenonautError as error:
        response = await _of_error(request, error)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        response = await _of_http(request, error)
    except Exception:
        log.exception("request %s: %s %s", request.get(REQUEST_ID), request.method, request.path)
        response = await _broken(request)
    return response


async def _let_in(request: web.Request) -> None:
    """Note who it is from; raises as `authorize`, and `Forbidden` on a page that is read-only."""
    if request.match_info.http_exception is not None:
        request[CALLER] = await caller_of(request)
        return
    await authorize(request)
    changes = request.method not in SAFE_METHODS and route_of(request) not in (SIGN_OUT, "POST /monitor/sign-in")
    if changes and request.config_dict[ACCESS].read_only:
        raise Forbidden("This page is read-only (MONITOR_READ_ONLY), so nothing was done.")


async def _check_own_page(request: web.Request, cookie: str) -> None:
    """Raise `Forbidden` unless the form comes from a page that we sent to this browser.

    Two checks, because neither works in every browser: the origin that the browser reports, and a token in both the
    cookie and the form, which another origin can neither read nor set.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        own = site in ("same-origin", "none")
    else:
        own = origin is None or origin.partition("://")[2] == asked_host(request)
    if not own:
        raise Forbidden("The request comes from another site's page, so nothing was done.")
    if comes_with_files(request):
        # Nothing more of it is read before.
        form = request[FILE_FORM] = FileForm(request)
        field = await form.first(CSRF_FIELD)
    else:
        field = (await read_form(request)).get(CSRF_FIELD, "")
    if not cookie or not isinstance(field, str) or not hmac.compare_digest(_bytes(field), _bytes(cookie)):
        raise Forbidden(
            "The form is not from this page, or it is out of date. Go back, reload the page, and try again."
        )


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


async def _of_error(request: web.Request, error: GenonautError) -> web.Response:
    if isinstance(error, WrongKey):
        await note_wrong_key(request, error)
    if isinstance(error, SignInNeeded):
        return await _to_sign_in(request, error)
    if isinstance(error, Unavailable):
        again = request.method in SAFE_METHODS
        detail = f"{error} {'This page tries again by itself.' if again else 'Please try again in a moment.'}"
        response = await _page(request, HTTPStatus.SERVICE_UNAVAILABLE, "One moment", detail, again=again)
        response.headers["Retry-After"] = str(error.retry_after_s)
        return response
    if isinstance(error, NotFound):
        return await _page(request, HTTPStatus.NOT_FOUND, "Not here", str(error))
    if isinstance(error, TooMany):
        request.config_dict[METRICS].limited(error.code)
        response = await _page(request, HTTPStatus.TOO_MANY_REQUESTS, "Too much at once", str(error))
        response.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
        return response
    status = next((STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF), None)
    if status is None:
        log.error("request %s: unexpected %s", request.get(REQUEST_ID), type(error).__name__, exc_info=error)
        return await _broken(request)
    title = "Not allowed" if status is HTTPStatus.FORBIDDEN else "That did not work"
    response = await _page(request, status, title, str(error))
    if isinstance(error, TooMany):
        response.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    return response


async def _to_sign_in(request: web.Request, error: SignInNeeded) -> web.Response:
    """Lead a reader to the sign-in page, and back afterwards; what is no page of its own is only refused."""
    if request.method in SAFE_METHODS and FRAGMENT_HEADER not in request.headers:
        where = urlencode({"next": request.path_qs})
        headers = {"Location": f"/monitor/sign-in?{where}", "Cache-Control": "no-store"}
        return web.Response(status=HTTPStatus.SEE_OTHER, headers=headers)
    return await _page(request, HTTPStatus.UNAUTHORIZED, "Sign in first", str(error))


async def _of_http(request: web.Request, error: web.HTTPException) -> web.Response:
    match error.status:
        case HTTPStatus.NOT_FOUND:
            title, detail = "Not here", f"There is nothing at {request.path}."
        case HTTPStatus.METHOD_NOT_ALLOWED:
            title = "Not like this"
            detail = f"{request.path} takes {error.headers.get('Allow', '')}, not {request.method}."
        case _:
            title, detail = HTTPStatus(error.status).phrase, error.text or error.reason
    response = await _page(request, HTTPStatus(error.status), title, detail)
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


async def _broken(request: web.Request) -> web.Response:
    detail = f"Something went wrong here. The server's log knows it as request {request.get(REQUEST_ID, '')}."
    return await _page(request, HTTPStatus.INTERNAL_SERVER_ERROR, "Our fault", detail)


async def _page(
    request: web.Request, status: HTTPStatus, title: str, detail: str, *, again: bool = False
) -> web.Response:
    """Return a page that says what is the matter; `again`: it looks from time to time whether that is over."""
    # It may tell what was sent, and that may be any bytes.
    context = {"title": title, "detail": printable(detail), "again": again}
    return await render(request, "message.html", context, status=status)
