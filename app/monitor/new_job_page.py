"""The page from which a job is sent: a form that works without JavaScript, and that brings files along."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

from app.domain.errors import (
    Fault,
    InvalidRequest,
    StorageFailed,
    TooMany,
    Unavailable,
)
from app.domain.job import SHOWN_BY_BROWSERS
from app.keys import INVENTORY, LIVE_FLEET, METRICS, QUEUE_CONTROL, SUBMITTING, UPLOADS
from app.monitor import new_job_workflows as workflows
from app.monitor.eta import between
from app.monitor.new_job_files import GONE, owner, upload_of
from app.monitor.new_job_form import DEFAULTS, PICTURES, SIZES, WORKFLOW, Form, reference_in, values_of
from app.monitor.new_job_request import asked_of, body_of, job_of
from app.monitor.rendering import leave_flash, render
from app.runtime.json_text import loads
from app.services.submit import Replayed
from app.web.auditing import note
from app.web.bodies import read_form
from app.web.callers import CALLER, owner_of, views_of
from app.web.file_forms import FILE_FORM, Filled
from app.web.jobs import expected
from app.web.responses import answered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.domain.model_lists import ModelKind
    from app.domain.run_times import Range
    from app.services.submit import DryRun

routes: Final = web.RouteTableDef()

_KINDS: Final[tuple[ModelKind, ...]] = ("checkpoints", "loras", "upscalers", "samplers", "schedulers")
LISTED: Final = 300
"""With more choices than these a field is typed into, and suggests them: a list of thousands is no help."""
SUGGESTED: Final = 2_000


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that a hidden field names."""

    words: str
    address: str | None
    """Where it can be seen whole."""
    thumbnail: str | None


@routes.get("/new")
async def show_form(request: web.Request) -> web.Response:
    """Show the form: empty, with a picture, or filled in from a job."""
    form = Form(dict(DEFAULTS))
    caller = request[CALLER]
    if caller.owner is not None:
        form.values["user_id"] = caller.owner
    if (again := request.query.get("again")) is not None:
        job = await job_of(request, again)
        form.values = values_of(job) | {"again": str(job.job_id)}
        if job.workflow is not None:
            form.graph = await workflows.of_job(request, job)
    elif request.query.get("kind") == WORKFLOW:
        form.values["kind"] = WORKFLOW
    if (image := request.query.get("image")) is not None:
        # A link from elsewhere shall not name an address that workers would fetch.
        form.values["image"] = image if not image.startswith("url:") else "none"
        if (user_id := await owner(request, image)) is not None:
            form.values["user_id"] = user_id
    return await _show(request, form)


@routes.post("/new")
async def send_job(request: web.Request) -> web.Response:
    """Send a job; what is wrong with it is said at the fields of the form, which stays filled in."""
    async with _filled(request) as filled:
        form = Form(filled.texts)
        _check_owner(request, form)
        if form.values.get("do") == "check":
            return await _foresee(request, form, filled)
        try:
            body = await body_of(request, form, filled)
            if body is None or form.values.get("do") == "read":
                return await _show(request, form, HTTPStatus.UNPROCESSABLE_ENTITY if form.summary else HTTPStatus.OK)
            asked = await asked_of(request, form, body)
            if asked is None:
                return await _show(request, form, HTTPStatus.UNPROCESSABLE_ENTITY)
            sent = await request.config_dict[SUBMITTING].submit(asked[0], {}, asked[1], sender=request[CALLER])
        except InvalidRequest as error:
            form.blame_all(error.faults or [Fault("", error.code, str(error))])
            return await _show(request, form, HTTPStatus.UNPROCESSABLE_ENTITY)
        except Unavailable as error:
            form.blame(Fault("", error.code, f"{error} Nothing was sent: please try again in a moment."))
            return await _show(request, form, HTTPStatus.SERVICE_UNAVAILABLE)
        except TooMany as error:
            request.config_dict[METRICS].limited(error.code)
            form.blame(Fault("", error.code, str(error)))
            return await _show(request, form, HTTPStatus.TOO_MANY_REQUESTS)
        except StorageFailed as error:
            form.blame(Fault("", error.code, str(error)))
            return await _show(request, form, HTTPStatus.INSUFFICIENT_STORAGE)
    job_id = int(sent.answer) if isinstance(sent, Replayed) else sent.job_id
    code = "sent_before" if isinstance(sent, Replayed) else "sent"
    await note(request, "send", f"job {job_id}", code)
    headers = {"Location": f"/monitor/jobs/{job_id}", "Cache-Control": "no-store"}
    response = web.Response(status=HTTPStatus.SEE_OTHER, headers=headers)
    leave_flash(request, response, code, job_id)
    return response


def _check_owner(request: web.Request, form: Form) -> None:
    """Have the form send for the caller where it names nobody; raises `Forbidden` for another, if that may not be."""
    if (user_id := owner_of(request[CALLER], form.values.get("user_id") or None, "User")) is not None:
        form.values["user_id"] = user_id


async def _foresee(request: web.Request, form: Form, filled: Filled) -> web.Response:
    """Answer the page's script what would become of the form as it is; nothing is kept or sent.

    The page asks here and not at the API: what a form makes of its fields is known here alone.
    """
    said = ""
    user_id = form.values.get("user_id", "").strip() or "somebody"
    try:
        form.values["user_id"] = await _owner_of_all(request, form) or user_id
        body = await body_of(request, form, filled, keep=False)
        asked = await asked_of(request, form, body) if body is not None else None
        if asked is not None:
            found = await request.config_dict[SUBMITTING].check(asked[0], {}, sender=request[CALLER])
            form.blame_all(found.refusal.faults if found.refusal is not None else ())
            if found.refusal is None:
                position, wait, run = await expected(request, asked[0], found)
                pauses = await request.config_dict[QUEUE_CONTROL].concerning(asked[0].user_id)
                said = _expectation(found, position, wait if not pauses else None, run)
                said = " ".join([said, *(pause.words for pause in pauses[:1])])
    except InvalidRequest as error:
        form.blame_all(error.faults)
    except Unavailable:
        said = "Whether it can be sent is not known at the moment."
    others = [fault for name, fault in form.summary if name is None]
    response = answered({"faults": form.faults, "said": " ".join([*others, said]).strip()})
    response.headers["Cache-Control"] = "no-store"
    return response


async def _owner_of_all(request: web.Request, form: Form) -> str | None:
    """Return whose picture the form names: before the job is sent, it becomes the user's."""
    for name in PICTURES:
        if (found := await owner(request, form.values.get(name, ""))) is not None:
            return found
    return None


def _expectation(found: DryRun, position: int, wait: Range | None, run: Range | None) -> str:
    eligible = [each.backend for each in found.backends if each.is_known and not each.faults]
    words = [*found.job.warnings]
    if eligible:
        words.append(f"It can run on {', '.join(eligible[:3])}{' and others' if len(eligible) > 3 else ''}.")
    place = "next in the queue" if position == 1 else f"number {position} in the queue"
    words.append(f"It would be {place}.")
    if wait is not None and position > 1:
        words.append(f"Wait {between(wait.low_s, wait.high_s)}.")
    if run is not None:
        words.append(f"Run {between(run.low_s, run.high_s)}.")
    return " ".join(words)


@asynccontextmanager
async def _filled(request: web.Request) -> AsyncIterator[Filled]:
    """Read the form, with or without files."""
    if (form := request.get(FILE_FORM)) is not None:
        async with form.rest() as filled:
            yield filled
        return
    fields = await read_form(request)
    yield Filled({name: value.replace("\r\n", "\n") for name, value in fields.items() if isinstance(value, str)})


async def _show(request: web.Request, form: Form, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    pictures = {name: await _picture(request, form, name) for name in PICTURES}
    context = {
        "form": form,
        "pictures": pictures,
        "choices": await _choices(request),
        "backends": await _backends(request),
        "sizes": SIZES,
        "labels": form.labels,
        "listed": LISTED,
        "press": secrets.token_hex(16),
        "max_bytes": request.config_dict[UPLOADS].max_bytes,
    }
    return await render(request, "new_job.html", context, status=status, apart=True)


async def _picture(request: web.Request, form: Form, name: str) -> Picture | None:
    """Return the picture that is filled in; what is not there any more is blamed, and taken out."""
    text = form.values.get(name, "")
    if not text:
        return None
    reference, found = reference_in(text), None
    if reference is not None and "url" in reference:
        return Picture(reference["url"], None, None)
    if reference is not None and "content" in reference:
        content, index = reference["content"], reference["output"]
        output = await views_of(request).output(content, index)
        if output is not None:
            address = f"/api/v1/contents/{content}/outputs/{index}"
            seen = output.thumbnail_path or output.content_type in SHOWN_BY_BROWSERS
            shown = f"{address}/thumbnail" if output.thumbnail_path else address
            found = Picture(f"output {index} of content {content}", address, shown if seen else None)
    elif reference is not None:
        upload = await upload_of(request, reference["upload"])
        if upload is not None:
            address = f"/api/v1/uploads/{upload.upload_id}/data"
            seen = upload.content_type in SHOWN_BY_BROWSERS
            size = f"{upload.width} × {upload.height}, " if upload.width and upload.height else ""
            found = Picture(f"{size}{upload.content_type}", address, address if seen else None)
    if found is None:
        form.values.pop(name)
        if name not in form.faults:
            form.places[f"/{name}"] = name
            form.blame(Fault(f"/{name}", "gone", GONE))
    return found


async def _choices(request: web.Request) -> dict[str, list[str]]:
    """Return kind of models → the names that there are; none while that cannot be known."""
    try:
        told = loads((await request.config_dict[INVENTORY].models(_KINDS)).decode())
    except Unavailable:
        told = {}
    return {kind: [each["name"] for each in told.get(kind, ())[:SUGGESTED]] for kind in _KINDS}


async def _backends(request: web.Request) -> list[str]:
    try:
        return sorted(beat.name for beat in (await request.config_dict[LIVE_FLEET].recently()).backends)
    except Unavailable:
        return []
