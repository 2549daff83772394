"""Templates into answers: whole pages, and the fragments that live pages fetch, from the very same templates."""

from __future__ import annotations

import asyncio
import re
import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import aiohttp_jinja2
from aiohttp import web
from markupsafe import Markup

from app.domain.access import READING, Ability
from app.keys import ACCESS, SETTINGS
from app.monitor.page_data import NOT_KNOWN, read_health
from app.web.callers import CALLER
from app.web.proxies import is_secure, outside_address, root_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.domain.access import Caller

CSRF_COOKIE: Final = "monitor_csrf"
CSRF_FIELD: Final = "csrf"
CSRF_TOKEN: Final = web.RequestKey("CSRF_TOKEN", str)
FLASH_COOKIE: Final = "monitor_flash"
FRAGMENT_HEADER: Final = "X-Fragment"
"""A request with it is answered with what changes on the page, and nothing around it."""
_ANY_TOKEN: Final = secrets.token_urlsafe(32)
"""Placeholder for the browser's own token in shared fragments; it is secret, so no text can contain it."""
FOR_ALL: Final = web.RequestKey("FOR_ALL", bool)
"""Whether what is made is for everybody of the same role; `send_shared` makes it each one's own."""
ACTED: Final = "acted"
"""Value of `FRAGMENT_HEADER` when the page's script sends a form: the answer also says what was done."""


@dataclass(frozen=True, slots=True)
class Undo:
    """A form that takes back what was done."""

    label: str
    path: str
    """With a place for a part that travels in the cookie, mostly the first."""
    ability: Ability
    fields: Mapping[str, str]
    """With such places too."""
    carries: int = 0
    """Number of parts for the undo alone, after those of the sentence; if the last one is 0, there is no undo."""


@dataclass(frozen=True, slots=True)
class Flash:
    """What is said once after an action."""

    tone: str
    sentence: str
    """With a place for each part that travels in the cookie."""
    undo: Undo | None = None


_AGAIN: Final = Undo("Undo: give it another attempt", "/monitor/jobs/{}/retry", Ability.RETRY, {"seed": "same"})
_STOP: Final = Undo("Undo: cancel it", "/monitor/jobs/{}/cancel", Ability.CANCEL, {})
_STOP_NEW: Final = Undo("Undo: cancel the new one", "/monitor/jobs/{1}/cancel", Ability.CANCEL, {})


_RETRY_THEM: Final = Undo(
    "Undo: give them another attempt", "/monitor/bulk/retry", Ability.RETRY, {"entry": "{4}"}, carries=1
)
_STOP_THEM: Final = Undo("Undo: cancel them", "/monitor/bulk/cancel", Ability.CANCEL, {"entry": "{3}"}, carries=1)


def _undo_of_queue(label: str, path: str) -> Undo:
    """Return the undo of a pause, or of its end: the audit has whose it is, and why it was."""
    return Undo(label, path, Ability.PAUSE, {"entry": "{0}"}, carries=1)


FLASHES: Final[Mapping[str, Flash]] = {
    "cancelled": Flash("good", "Job {} is cancelled.", _AGAIN),
    "cancelling": Flash("wait", "Job {} was asked to stop: it is cancelling until ComfyUI confirms it."),
    "asked": Flash("wait", "Job {} is being cancelled."),
    "saving": Flash("wait", "Job {} is being saved already, too late to cancel it."),
    "late": Flash("bad", "Job {} had ended before it could be cancelled."),
    "retried": Flash("good", "Job {} waits for another attempt, with the same seed.", _STOP),
    "reseeded": Flash("good", "Job {} waits for another attempt, with a new seed.", _STOP),
    "again": Flash("good", "What job {} asked for is sent again as job {}, with a new seed.", _STOP_NEW),
    "again_alike": Flash(
        "good", "What job {} asked for is sent again as job {}, as it was: it has no seed to change.", _STOP_NEW
    ),
    "no_seed": Flash(
        "bad", "Job {} was not retried: its workflow has no seed to change. Retry it with the same inputs.", _AGAIN
    ),
    "sent": Flash("good", "Job {} is sent.", _STOP),
    "sent_before": Flash("wait", "This form was sent already, as job {}. Open it anew to send another."),
    "not_completed": Flash("bad", "Job {} was not sent again: only what a completed job asked for can be."),
    "deleted": Flash("good", "Job {} and its files are deleted."),
    "not_retryable": Flash("bad", "Job {} was not retried: only a failed or cancelled job can be."),
    "not_finished": Flash("bad", "Job {} was not deleted: it has not finished. Cancel it first."),
    "bulk_cancel": Flash(
        "good", "Of {} jobs: {} cancelled, {} cancelling until ComfyUI confirms it, {} not any more.", _RETRY_THEM
    ),
    "bulk_retry": Flash("good", "Of {} jobs: {} wait for another attempt, {} could not be retried.", _STOP_THEM),
    "bulk_delete": Flash("good", "Of {} jobs: {} deleted with their files, {} could not be."),
    "backend_drain": Flash("wait", "Asked: the backend is given no more prompts as soon as its driver confirms it."),
    "backend_resume": Flash("wait", "Asked: the backend is given prompts again as soon as its driver confirms it."),
    "backend_free": Flash("wait", "Asked: ComfyUI is told to free the backend's memory, which it does when idle."),
    "worker_quiet": Flash("wait", "Asked: the worker takes no more turns once its state says quiet."),
    "worker_resume": Flash("wait", "Asked: the worker takes turns again once its state says working."),
    "worker_stop": Flash("wait", "Asked: the worker finishes what it has, ends, and leaves this page then."),
    "task_run": Flash("wait", "Asked: a worker runs the task within seconds; its last run says when it has."),
    "key_revoked": Flash(
        "good",
        "Key {} opens nothing any more, and its sessions have ended.",
        Undo("Undo: restore it", "/monitor/keys/{}/restore", Ability.MANAGE_KEYS, {}),
    ),
    "key_restored": Flash(
        "good", "Key {} opens again.", Undo("Undo: revoke it", "/monitor/keys/{}/revoke", Ability.MANAGE_KEYS, {})
    ),
    "key_limited": Flash(
        "good",
        "The limits of key {} are changed.",
        Undo("Undo: the limits of before", "/monitor/keys/{}/limits", Ability.MANAGE_KEYS, {"entry": "{1}"}, carries=1),
    ),
    "key_not_limited": Flash("bad", "The limits of key {} stay: what they were before is not in the audit."),
    "key_needed": Flash(
        "bad",
        "Key {} was not revoked: it is the last one of an admin, and nobody could make keys any more. Make another one "
        "with the role admin first.",
    ),
    "queue_pause": Flash(
        "good",
        "The queue is paused: within 2 s no worker takes a job any more. What runs goes on.",
        _undo_of_queue("Undo: resume it", "/monitor/queue/resume"),
    ),
    "queue_resume": Flash("good", "The queue goes on.", _undo_of_queue("Undo: pause it again", "/monitor/queue/pause")),
    "user_pause": Flash(
        "good",
        "The user's jobs are paused: within 2 s no worker takes one any more. What runs goes on.",
        _undo_of_queue("Undo: resume them", "/monitor/users/resume"),
    ),
    "user_resume": Flash(
        "good", "The user's jobs go on.", _undo_of_queue("Undo: pause them again", "/monitor/users/pause")
    ),
    "user_weight": Flash(
        "good",
        "The weight holds for jobs that the user sends from now on.",
        Undo("Undo: the weight of before", "/monitor/users/weight", Ability.SET_WEIGHT, {"entry": "{0}"}, carries=1),
    ),
    "moved_to_front": Flash("good", "Job {} is the next one of its user and priority."),
    "job_not_waiting": Flash("bad", "Job {} has not been moved: it does not wait any more."),
    "job_not_movable": Flash(
        "bad", "Job {} has not been moved: it is not to begin yet, or came while fairness was off (FAIRNESS)."
    ),
    "priority_set": Flash(
        "good",
        "Job {} has the priority that was asked for.",
        Undo("Undo: the one of before", "/monitor/jobs/{0}/priority", Ability.MOVE, {"entry": "{1}"}, carries=1),
    ),
    "bulk_none": Flash("bad", "No job was ticked that this can be done to, so nothing was done."),
}
"""By code. Only the code and the parts travel in the cookie, and the parts are numbers."""


async def render(
    request: web.Request,
    template: str,
    context: Mapping[str, Any],
    *,
    status: HTTPStatus = HTTPStatus.OK,
    apart: bool = False,
) -> web.Response:
    """Return a page, or its fragment if that was asked for; reads the header's figures, and never fails for them.

    `apart`: it may have thousands of rows, and is made in a thread, which lets the loop in again and again.
    """
    fragment = FRAGMENT_HEADER in request.headers
    shows_flash = not fragment or request.headers[FRAGMENT_HEADER] == ACTED
    settings, viewer = request.config_dict[SETTINGS], request.get(CALLER)
    make = partial(
        aiohttp_jinja2.render_template,
        template,
        request,
        {
            "layout": "fragment.html" if fragment else "page.html",
            "health": context.get("health") or (await read_health(request) if viewer else NOT_KNOWN),
            "environment": settings.genonaut_env,
            "api_address": outside_address(request) or f"http://localhost:{settings.api_port}",
            "csrf": _ANY_TOKEN if request.get(FOR_ALL) else request[CSRF_TOKEN],
            "here": request.path_qs,
            "root": Markup(root_path(request)),  # noqa: S704  # letters, digits and . _ - / only
            "now": datetime.now(UTC),
            "viewer": viewer,
            "can": lambda ability: _may(request, viewer, Ability(ability)),
            "flash": _flash(request) if shows_flash else None,
            **context,
        },
        status=status,
    )
    response = await asyncio.to_thread(make) if apart else make()
    _finish(request, response)
    if shows_flash and FLASH_COOKIE in request.cookies:
        response.del_cookie(FLASH_COOKIE, path="/monitor")
    return response


def send_shared(request: web.Request, text: str) -> web.Response:
    """Answer with a fragment that was made for several, its forms with this browser's token."""
    response = web.Response(text=text.replace(_ANY_TOKEN, request[CSRF_TOKEN]), content_type="text/html")
    _finish(request, response)
    return response


def _finish(request: web.Request, response: web.Response) -> None:
    response.headers["Cache-Control"] = "no-store"
    response.headers["Vary"] = FRAGMENT_HEADER
    give_token(request, response)


def give_token(request: web.Request, response: web.StreamResponse) -> None:
    """Give the browser the token that its forms must carry, unless it has it."""
    if request.cookies.get(CSRF_COOKIE) != request[CSRF_TOKEN]:
        _set_cookie(request, response, CSRF_COOKIE, request[CSRF_TOKEN], None)


def leave_flash(request: web.Request, response: web.StreamResponse, code: str, *parts: int) -> None:
    """Have the next page say what happened; `code` is one of `FLASHES`, whose sentence the parts fill."""
    _set_cookie(request, response, FLASH_COOKIE, ".".join([code, *map(str, parts)]), 60)


def _may(request: web.Request, viewer: Caller | None, ability: Ability) -> bool:
    reads = ability in READING or not request.config_dict[ACCESS].read_only
    return viewer is not None and viewer.may(ability) and reads


def _set_cookie(
    request: web.Request, response: web.StreamResponse, name: str, value: str, max_age_s: int | None
) -> None:
    response.set_cookie(
        name, value, path="/monitor", max_age=max_age_s, httponly=True, samesite="Strict", secure=is_secure(request)
    )


def _flash(request: web.Request) -> Flash | None:
    """Return what the last action left to say."""
    code, *parts = request.cookies.get(FLASH_COOKIE, "").split(".")
    flash = FLASHES.get(code)
    carried = flash.undo.carries if flash is not None and flash.undo else 0
    if flash is None or len(parts) != flash.sentence.count("{}") + carried:
        return None
    if not all(re.fullmatch(r"[0-9]{1,19}", part) for part in parts):
        return None
    undo = flash.undo
    if undo is not None and carried and parts[-1] == "0":
        undo = None
    if undo is not None:
        fields = {name: value.format(*parts) for name, value in undo.fields.items()}
        undo = replace(undo, path=undo.path.format(*parts), fields=fields)
    return Flash(flash.tone, flash.sentence.format(*parts), undo)
