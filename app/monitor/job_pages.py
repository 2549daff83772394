"""The page of one job: what it left, what it was asked for, what happened to it, and its picture while it comes up."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from aiohttp import web

from app.domain.errors import JobNotFound, NotFound
from app.domain.job import JobStatus
from app.keys import ETA, FILES, PREVIEWS, SEEDS
from app.monitor import eta
from app.monitor.job_view import show, step_of
from app.monitor.listing import read_alike
from app.monitor.page_data import read_health, read_snapshots
from app.monitor.rendering import render
from app.monitor.shared_fragments import shared
from app.monitor.timeline import timelines
from app.runtime.json_text import dumps
from app.web.bodies import job_id_of
from app.web.callers import CALLER, views_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.domain.job import Attempt
    from app.monitor.job_view import ShownJob
    from app.storage.files import FileStore
    from app.storage.graphs import ShownGraphs
    from app.storage.job_views import JobViews
    from app.storage.whole_jobs import JobView
    from app.web.payloads import JobAnswer

routes: Final = web.RouteTableDef()

JOB: Final = r"/jobs/{job_id:\d+}"
_SAMPLER: Final = {
    "seed": "Seed",
    "steps": "Steps",
    "cfg": "CFG",
    "sampler_name": "Sampler",
    "scheduler": "Scheduler",
    "denoise": "Denoise",
}
_ASKED: Final = [
    *("user_id", "job_type", "prompt", "negative_prompt", "checkpoint_model", "lora_models", "width", "height"),
    *("batch_size", "sampler_params", "workflow", "backend", "prefer", "priority", "not_before", "max_attempts"),
    *("image", "mask", "inputs", "upscale_model", "timeout_seconds", "metadata", "params"),
]
"""Fields that a client sends with a job, as one could send them again."""
_EXCERPT_BYTES: Final = 4096
_EXCERPTS: Final = 4
"""Maximum number of text and data outputs shown on a job's page; the others are links."""
EVENTS_SHOWN: Final = 300
_SHOWN_PARAMS: Final = 100_000
_SHOWN_CHARACTERS: Final = 60_000
"""A longer workflow is linked and not shown: the page is fetched anew whenever the job changes."""


@routes.get(JOB)
@shared
async def show_job(request: web.Request) -> web.Response:
    """Show one job, whole."""
    views = views_of(request)
    view = await read_view(request, detailed=True)
    job_id = view.job.job_id
    (snapshot,), health, events, around, preview = await asyncio.gather(
        read_snapshots(request, [view]),
        read_health(request),
        views.last_events(job_id, EVENTS_SHOWN),
        views.around(job_id),
        _preview_of(request, view),
    )
    step = step_of(snapshot)
    graphs = await _graphs(views, job_id, step.node if step is not None else None)
    job = show(view, snapshot, graphs.asked_nodes)
    now = datetime.now(UTC)
    lines = await asyncio.to_thread(timelines, view, events, now)
    context: dict[str, Any] = {
        "job": job,
        "now": now,
        "health": health,
        "position": view.position,
        "eta": eta.in_words(await request.config_dict[ETA].of(view, snapshot.progress, now), now),
        "obstacle": await request.config_dict[ETA].obstacle(view),
        "preview": preview,
        "failed": _failed(view),
        "alike": await _alike(views, view),
        "inputs": inputs_of(job),
        "asked": _asked(job.answer),
        "graphs": graphs,
        # Of a long graph, which is not read for a page, it turns out when it is asked for.
        "reseedable": graphs.asked is None or (await request.config_dict[SEEDS].drawing()).can(graphs.asked),
        "attempts": list(zip_longest(lines, view.attempts)),
        "events": events,
        "excerpts": await _excerpts(request.config_dict[FILES], job.answer),
        "before": around[0],
        "after": around[1],
    }
    return await render(request, "job.html", context, apart=True)


@routes.get(JOB + "/preview")
async def show_preview(request: web.Request) -> web.Response:
    """Send the newest picture of a running job; the number in the address only makes it another address.

    Without one the answer is empty, and no error: a run may end between its last picture's news and this request.
    """
    job_id = job_id_of(request)
    if request[CALLER].scope is not None:
        # In Redis it is not said whose the job is.
        await read_view(request)
    preview = await request.config_dict[PREVIEWS].get(job_id)
    if preview is None:
        return web.Response(status=HTTPStatus.NO_CONTENT, headers={"Cache-Control": "no-store"})
    headers = {"Cache-Control": "private, max-age=60"}
    return web.Response(body=preview.image, content_type="image/webp", headers=headers)


@routes.get(JOB + "/confirm-delete")
async def confirm_delete(request: web.Request) -> web.Response:
    """Ask before a job is deleted."""
    view = await read_view(request)
    (snapshot,) = await read_snapshots(request, [view])
    context = {"job": show(view, snapshot), "back": request.query.get("back", "/monitor/")}
    return await render(request, "confirm_delete.html", context)


async def read_view(request: web.Request, *, detailed: bool = False) -> JobView:
    """Return the job of the address, or raise `NotFound`."""
    views, job_id = views_of(request), job_id_of(request)
    try:
        return await (views.detailed(job_id) if detailed else views.view(job_id))
    except JobNotFound as error:
        raise _gone(error) from error


async def _graphs(views: JobViews, job_id: int, node: str | None) -> ShownGraphs:
    try:
        return await views.shown_graphs(job_id, _SHOWN_CHARACTERS, node)
    except JobNotFound as error:
        # Deleted since its row was read.
        raise _gone(error) from error


def _gone(error: JobNotFound) -> NotFound:
    return NotFound(f"{error} It was deleted, or there never was one of this number.")


async def _preview_of(request: web.Request, view: JobView) -> int | None:
    """Return the number of the newest picture of a running job; None if there is none."""
    if view.job.status is not JobStatus.RUNNING:
        return None
    numbers = await request.config_dict[PREVIEWS].numbers([view.job.job_id])
    return numbers.get(view.job.job_id)


def _failed(view: JobView) -> Attempt | None:
    """Return the attempt that the job's error is of; None without an error, or an attempt that it could be of."""
    code = view.job.error_code
    return next((each for each in reversed(view.attempts) if code is not None and each.error_code == code), None)


async def _alike(views: JobViews, view: JobView) -> tuple[str, str] | None:
    """Return how many jobs failed like this one, itself among them, and the address of their list; None without."""
    node_type, count = (await read_alike(views, [view])).get(view.job.job_id, (None, ""))
    if not count:
        return None
    fields = {"status": JobStatus.FAILED.value, "error": view.job.error_code, "node": node_type}
    return count, f"/monitor/?{urlencode({name: value for name, value in fields.items() if value})}"


def inputs_of(job: ShownJob) -> list[tuple[str, Any]]:
    """Return what the job was asked for, name by name, without what it was not."""
    answer = job.answer
    asked: list[tuple[str, Any]] = [
        ("User", answer.user_id),
        ("Type", answer.job_type),
        ("Negative prompt", answer.negative_prompt),
        ("Model", answer.checkpoint_model),
    ]
    for lora in answer.lora_models:
        strengths = f"{lora.get('strength_model')} / {lora.get('strength_clip')}"
        asked.append(("LoRA", f"{lora.get('name')} (model / CLIP {strengths})"))
    asked += [(label, _file_words(reference)) for label, reference in _files_of(answer)]
    asked += [("Upscale model", answer.upscale_model)]
    if not job.has_workflow and answer.upscale_model is None:
        asked += [
            ("Size", f"{answer.width} × {answer.height}" if answer.width else ""),
            ("Pictures", answer.batch_size),
        ]
    asked += [(label, answer.sampler_params.get(name)) for name, label in _SAMPLER.items()]
    asked += [("Backend asked for", answer.backend), ("Backend preferred", answer.prefer)]
    asked += [("Priority", answer.priority)]
    asked += [("Not before", answer.not_before and f"{answer.not_before:%Y-%m-%d %H:%M:%S} UTC")]
    asked += [("Attempts at most", answer.max_attempts), ("Time limit", f"{answer.timeout_seconds} s")]
    asked += [(f"metadata.{name}", value) for name, value in answer.metadata.items()]
    asked += [("params", _short(answer.params))]
    return [(name, value) for name, value in asked if value not in (None, "", {})]


def _files_of(answer: JobAnswer) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the files that a job refers to, by what they are for."""
    for label, reference in (("Picture", answer.image), ("Mask", answer.mask)):
        if reference is not None:
            yield label, reference
    for place, reference in answer.inputs.items():
        yield f"Input {place}", reference


def _file_words(reference: dict[str, Any]) -> str:
    """Return in words which file an input reference names."""
    if "url" in reference:
        return str(reference["url"])
    if "content" in reference:
        return f"output {reference.get('output', 0)} of content {reference['content']}"
    return f"upload {reference.get('upload')}"


def _short(params: dict[str, Any]) -> dict[str, Any] | str:
    """Return what is shown of params: PostgreSQL writes `1e300` out, digit for digit."""
    return params if len(dumps(params)) <= _SHOWN_PARAMS else "They are long: see the job as JSON."


def _asked(answer: JobAnswer) -> dict[str, Any]:
    """Return what one would send to ask for the same, but for the workflow, which is shown by itself."""
    asked = answer.model_dump(mode="json", include=set(_ASKED), exclude={"workflow"})
    asked["params"] = _short(answer.params)
    return {name: asked[name] for name in _ASKED if asked.get(name) not in (None, "", {}, [])}


async def read_excerpt(files: FileStore, path: str) -> str | None:
    """Return the beginning of a text of the store; None when it cannot be read."""

    def read() -> str:
        with files.absolute(path).open("rb") as file:
            return file.read(_EXCERPT_BYTES).decode("utf-8", "replace")

    try:
        return await asyncio.to_thread(read)
    except OSError:
        return None


async def _excerpts(files: FileStore, answer: JobAnswer) -> dict[int, str]:
    """Return output index → the beginning of the text that it is."""
    found = {}
    texts = [output for output in answer.outputs if output.kind in ("text", "data")]
    for output in texts[:_EXCERPTS]:
        excerpt = await read_excerpt(files, answer.output_paths[output.index])
        if excerpt is not None:
            found[output.index] = excerpt
    return found
