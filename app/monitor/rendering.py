"""Templates into answers: whole pages, and the fragments that live pages fetch, from the very same templates."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import aiohttp_jinja2
from aiohttp import web

from app.keys import SETTINGS
from app.monitor.reading import read_health

if TYPE_CHECKING:
    from collections.abc import Mapping

CSRF_COOKIE: Final = "monitor_csrf"
CSRF_FIELD: Final = "csrf"
CSRF_TOKEN: Final = web.RequestKey("CSRF_TOKEN", str)
FLASH_COOKIE: Final = "monitor_flash"
FRAGMENT_HEADER: Final = "X-Fragment"
"""A request with it is answered with what changes on the page, and nothing around it."""

FLASHES: Final[Mapping[str, tuple[str, str]]] = {
    "cancelled": ("good", "Job {} is cancelled."),
    "cancelling": ("wait", "Job {} was asked to stop: it is cancelling until ComfyUI confirms it."),
    "asked": ("wait", "The wish to cancel job {} is on its way."),
    "saving": ("wait", "Job {} is being saved already, too late to cancel it."),
    "late": ("bad", "Job {} had ended before it could be cancelled."),
    "retried": ("good", "Job {} waits for another attempt, with the same seed."),
    "reseeded": ("good", "Job {} waits for another attempt, with a new seed."),
    "deleted": ("good", "Job {} and its files are deleted."),
    "not_retryable": ("bad", "Job {} was not retried: only a failed or cancelled job can be."),
    "not_finished": ("bad", "Job {} was not deleted: it has not finished. Cancel it first."),
}
"""What is said once after an action: code → tone and sentence. Only the code and the number travel in the cookie."""


async def render(
    request: web.Request, template: str, context: Mapping[str, Any], *, status: HTTPStatus = HTTPStatus.OK
) -> web.Response:
    """Return a page, or its fragment if that was asked for; reads the header's figures, and never fails for them."""
    fragment = FRAGMENT_HEADER in request.headers
    settings = request.config_dict[SETTINGS]
    flash = None if fragment else _flash(request)
    response = aiohttp_jinja2.render_template(
        template,
        request,
        {
            "layout": "fragment.html" if fragment else "page.html",
            "health": context.get("health") or await read_health(request),
            "environment": settings.genonaut_env,
            "api_address": f"http://localhost:{settings.api_port}",
            "csrf": request[CSRF_TOKEN],
            "here": request.path_qs,
            "now": datetime.now(UTC),
            "flash": flash,
            **context,
        },
        status=status,
    )
    response.headers["Cache-Control"] = "no-store"
    response.headers["Vary"] = FRAGMENT_HEADER
    if request.cookies.get(CSRF_COOKIE) != request[CSRF_TOKEN]:
        _set_cookie(request, response, CSRF_COOKIE, request[CSRF_TOKEN], None)
    if not fragment and FLASH_COOKIE in request.cookies:
        response.del_cookie(FLASH_COOKIE, path="/monitor")
    return response


def leave_flash(request: web.Request, response: web.StreamResponse, code: str, job_id: int) -> None:
    """Have the next page say what happened to a job; `code` is one of `FLASHES`."""
    _set_cookie(request, response, FLASH_COOKIE, f"{code}.{job_id}", 60)


def _set_cookie(
    request: web.Request, response: web.StreamResponse, name: str, value: str, max_age_s: int | None
) -> None:
    response.set_cookie(
        name, value, path="/monitor", max_age=max_age_s, httponly=True, samesite="Strict", secure=request.secure
    )


def _flash(request: web.Request) -> tuple[str, str] | None:
    """Return tone and sentence of what the last action left to say."""
    match = re.fullmatch(r"([a-z_]+)\.([0-9]{1,19})", request.cookies.get(FLASH_COOKIE, ""))
    if match is None or match[1] not in FLASHES:
        return None
    tone, sentence = FLASHES[match[1]]
    return tone, sentence.format(match[2])
