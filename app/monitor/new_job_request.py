"""What the form that sends jobs asks for: its fields, its files, and what goes along from the job it began with."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import BodyTooLarge, ContentNotFound, Fault, InvalidRequest, InvalidUpload, JobNotFound, NotFound
from app.keys import SIDELINE, UPLOADS
from app.monitor import new_job_workflows as workflows
from app.monitor.new_job_files import GONE, own
from app.monitor.new_job_form import PICTURES, reference_in
from app.runtime.json_text import load_kept, size_bytes
from app.storage.idempotency import Once
from app.web.bodies import fingerprint
from app.web.callers import CALLER, views_of
from app.web.checking import check, check_texts
from app.web.requests import JobRequest
from app.web.uploads import note_upload

if TYPE_CHECKING:
    from aiohttp import web

    from app.domain.job import Job, NewJob
    from app.monitor.new_job_form import Form
    from app.web.file_forms import Filled

_KEPT_OF_JOB: Final = ("job_type", "max_attempts", "timeout_seconds", "metadata", "params")
"""What a job asked for and the form has no fields for: it is asked for again."""


async def body_of(request: web.Request, form: Form, filled: Filled, *, keep: bool = True) -> dict[str, Any] | None:
    """Return the request that the form makes, without the workflow; None when it has none that can be read.

    `keep`: files become uploads of the user.
    """
    body = form.common() if form.is_workflow else form.request()
    body |= await _kept(request, form)
    if form.is_workflow:
        return body if await workflows.read(request, form, filled, keep=keep) else None
    if keep:
        return body | await _pictures(request, form, filled)
    named = {name: reference_in(form.values.get(name, "")) for name in PICTURES}
    body |= {name: each for name, each in named.items() if each and not form.values.get(f"{name}_remove")}
    if form.values.get("image_file"):
        # Chosen, and not here yet: what goes with a picture cannot be checked.
        body.pop("upscale_model", None)
        body.pop("mask", None)
    return body


async def asked_of(request: web.Request, form: Form, body: dict[str, Any]) -> tuple[NewJob, Once | None] | None:
    """Return the job that is asked for, or None when something is wrong with it; everything that is has been blamed."""
    graph = form.graph.graph if form.graph is not None else None
    return await request.config_dict[SIDELINE].do(size_bytes(body | {"workflow": graph}), _checked, form, body)


def _checked(form: Form, body: dict[str, Any]) -> tuple[NewJob, Once | None] | None:
    if form.graph is not None:
        body = body | {"workflow": form.graph.graph}
    form.blame_all(check_texts(body, ("workflow", "extra_pnginfo")))
    try:
        asked = check(JobRequest, body)
    except InvalidRequest as error:
        known = set(form.faults)
        form.blame_all(fault for fault in error.faults if form.places.get(fault.pointer) not in known)
        return None
    return (asked.to_new_job(), _once(form, body)) if not form.summary else None


def _once(form: Form, body: dict[str, Any]) -> Once | None:
    """Return what makes a form that is sent twice send one job; None when it names no press."""
    press = form.values.get("press", "")
    if re.fullmatch("[0-9a-f]{32}", press) is None:
        return None
    digest = fingerprint(body)
    return Once(body["user_id"], f"new {press} {digest}", digest, lambda sent: str(sent.job_id))


async def _kept(request: web.Request, form: Form) -> dict[str, Any]:
    """Return what goes along from the job that the form was filled in from."""
    if not form.values.get("again"):
        return {}
    try:
        job = await job_of(request, form.values["again"])
    except NotFound:
        # Deleted meanwhile: what is in the fields is asked for.
        return {}
    if form.is_workflow is (job.workflow is None):
        return {}
    kept = {name: getattr(job, name) for name in _KEPT_OF_JOB}
    if form.is_workflow:
        kept["extra_pnginfo"] = load_kept(job.extra_pnginfo) if job.extra_pnginfo is not None else None
        # Nothing has been fetched for these yet; all others stand in the graph.
        kept["inputs"] = {place: each for place, each in job.inputs.items() if "upload" not in each}
    return {name: value for name, value in kept.items() if value}


async def _pictures(request: web.Request, form: Form, filled: Filled) -> dict[str, Any]:
    """Return the references to picture and mask: files become uploads, what belongs to another user is taken over."""
    found, user_id = {}, form.values.get("user_id", "")
    usable = 0 < len(user_id) <= 255 and not check_texts(user_id)
    for name in PICTURES:
        form.places[f"/{name}"] = name
        file = filled.files.pop(f"{name}_file", None)
        if f"{name}_file" in filled.too_large:
            most = request.config_dict[UPLOADS].max_bytes
            form.blame(Fault(f"/{name}", "too_large", f"The file has more than {most} bytes (MAX_UPLOAD_BYTES)."))
        if form.values.pop(f"{name}_remove", ""):
            form.values.pop(name, None)
        try:
            if file is not None and usable:
                most_bytes = request[CALLER].limits_for(user_id).upload_bytes
                keeping = request.config_dict[UPLOADS].keep(file[1], user_id, file[0], most_bytes=most_bytes)
                upload, created = await keeping
                await note_upload(request, upload, created=created)
                form.values[name] = f"upload:{upload.upload_id}"
            elif file is not None:
                await request.config_dict[UPLOADS].discard(file[1])
                form.blame(Fault(f"/{name}", "no_user", "Choose the file again: it is kept only for a user."))
            if form.values.get(name) and usable:
                found[name] = await own(request, form.values[name], user_id)
        except (InvalidUpload, ContentNotFound, BodyTooLarge, FileNotFoundError) as error:
            detail = GONE if isinstance(error, FileNotFoundError) else str(error)
            form.blame(Fault(f"/{name}", "unusable", detail))
    return found


async def job_of(request: web.Request, text: str) -> Job:
    """Return the job of this number, or raise `NotFound`."""
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise NotFound("There is no such job to begin with.")
    try:
        return await views_of(request).whole(int(text))
    except JobNotFound as error:
        raise NotFound(f"{error} It was deleted, or there never was one of this number.") from error
