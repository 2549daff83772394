"""Workflows in the form that sends jobs: read from a text, a file or a job, and shown as fields by what classes say."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from app.domain.errors import (
    BodyTooLarge,
    ContentNotFound,
    Fault,
    InvalidRequest,
    InvalidUpload,
    NodeClassNotFound,
    Unavailable,
)
from app.domain.uploads import id_in, text_of, text_of_reference
from app.domain.workflow import with_overrides
from app.keys import INVENTORY, SETTINGS, SIDELINE, UPLOADS
from app.monitor.new_job_files import own
from app.monitor.new_job_graph import classes_shown, fields_of, graph_in, read_graph
from app.runtime.json_text import loads, size_bytes
from app.web.callers import CALLER
from app.web.checking import check_texts
from app.web.uploads import note_upload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web

    from app.domain.job import Job
    from app.domain.workflow import Graph
    from app.monitor.new_job_form import Form
    from app.monitor.new_job_graph import GraphFields
    from app.web.file_forms import Filled


async def of_job(request: web.Request, job: Job) -> GraphFields:
    """Return the workflow of a job as fields, with its files as uploads."""
    placed = {place: text_of_reference(each) for place, each in job.inputs.items() if "upload" in each}
    graph, _ = with_overrides(job.workflow or {}, placed)
    return await _fields(request, graph)


async def read(request: web.Request, form: Form, filled: Filled, *, keep: bool) -> bool:
    """Read the workflow of the form with all that is filled in; return whether there is one, or say what is wrong.

    `keep`: files become uploads of the user.
    """
    form.places["/workflow"] = "workflow_text"
    try:
        graph = await _graph(request, form, filled)
    except InvalidRequest as error:
        form.blame_all(error.faults or [Fault("/workflow", error.code, str(error))])
        return False
    form.graph = await _fields(request, graph)
    form.values.pop("workflow_text", None)
    # The field is no longer shown.
    form.places.pop("/workflow")
    form.graph.take(form)
    if keep:
        await _take_files(request, form, form.graph, filled)
    return True


async def _graph(request: web.Request, form: Form, filled: Filled) -> Graph:
    most, do = request.config_dict[SETTINGS].max_workflow_bytes, request.config_dict[SIDELINE].do
    if "workflow_file" in filled.too_large:
        detail = f"The file has more than {request.config_dict[UPLOADS].max_bytes} bytes (MAX_UPLOAD_BYTES)."
        raise InvalidRequest(detail)
    if (file := filled.files.pop("workflow_file", None)) is not None:
        try:
            return await asyncio.to_thread(graph_in, file[1].open(), most)
        finally:
            await request.config_dict[UPLOADS].discard(file[1])
    text = form.values.pop("graph", "") or form.values.get("workflow_text", "")
    if not text.strip():
        raise InvalidRequest("Choose a file or paste a workflow.")
    raw = text.encode()
    return await do(len(raw), read_graph, raw, most)


async def _fields(request: web.Request, graph: Graph) -> GraphFields:
    described = {name: await _description(request, name) for name in classes_shown(graph)}
    return await request.config_dict[SIDELINE].do(size_bytes(graph), fields_of, graph, described)


async def _description(request: web.Request, node_class: str) -> dict[str, dict[str, Any]]:
    """Return what a class says of each of its inputs; nothing of one that no backend has, or while that is unknown."""
    try:
        told = loads((await request.config_dict[INVENTORY].node(node_class)).decode())
    except (NodeClassNotFound, Unavailable):
        return {}
    return {each["name"]: each for each in _with_those_that_come(told["inputs"])}


def _with_those_that_come(inputs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the inputs, each after those that come of it, so that of one name the outermost counts."""
    for each in inputs:
        grows = each["grows"] or {"options": [], "inputs": []}
        for option in grows["options"]:
            yield from _with_those_that_come(option["inputs"])
        yield from _with_those_that_come(grows["inputs"])
        yield each


async def _take_files(request: web.Request, form: Form, graph: GraphFields, filled: Filled) -> None:
    """Put uploads into the graph: of the files that were chosen, and of those of others that it names."""
    user_id, uploads = form.values.get("user_id", ""), request.config_dict[UPLOADS]
    usable = 0 < len(user_id) <= 255 and not check_texts(user_id)
    for each in graph.inputs:
        file = filled.files.pop(f"{each.name}_file", None)
        try:
            if f"{each.name}_file" in filled.too_large:
                form.blame(Fault(each.pointer, "too_large", f"The file has more than {uploads.max_bytes} bytes."))
            elif file is not None and usable:
                most_bytes = request[CALLER].limits_for(user_id).upload_bytes
                upload, created = await uploads.keep(file[1], user_id, file[0], most_bytes=most_bytes)
                await note_upload(request, upload, created=created)
                form.values.pop(each.name, None)
                graph.put(each, text_of(upload.upload_id))
            elif file is not None:
                await uploads.discard(file[1])
                form.blame(Fault(each.pointer, "no_user", "Choose the file again: it is kept only for a user."))
            elif usable and isinstance(each.value, str) and id_in(each.value) is not None:
                reference = await own(request, each.value, user_id)
                if (kept := text_of(reference["upload"])) != each.value:
                    form.values.pop(each.name, None)
                    graph.put(each, kept)
        except (InvalidUpload, ContentNotFound, BodyTooLarge, FileNotFoundError) as error:
            gone = "This file is no longer there. Choose another one."
            detail = str(error) if isinstance(error, InvalidUpload | BodyTooLarge) else gone
            form.blame(Fault(each.pointer, "unusable", detail))
