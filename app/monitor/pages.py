"""Pages that are read: the list of jobs, one job, workers and backends. No GET changes anything."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from app.keys import FILES, VIEWS
from app.monitor.listing import ListAddress, read_listing
from app.monitor.reading import read_health, read_snapshots
from app.monitor.rendering import render
from app.monitor.shown import show
from app.monitor.staff import show_backend, show_worker
from app.web.bodies import job_id_of, read_query
from app.web.checking import check

if TYPE_CHECKING:
    from app.storage.files import FileStore
    from app.web.payloads import JobAnswer

routes: Final = web.RouteTableDef()

JOB: Final = r"/jobs/{job_id:\d+}"
_API_JOB: Final = "/api/v1/generation-jobs/{job_id}"
_SAMPLER: Final = {
    "seed": "Seed",
    "steps": "Steps",
    "cfg": "CFG",
    "sampler_name": "Sampler",
    "scheduler": "Scheduler",
    "denoise": "Denoise",
}
_EXCERPT_BYTES: Final = 4096
_EXCERPTS: Final = 4
"""So many outputs of text are shown on a job's page; the others are linked."""


@routes.get("")
async def to_jobs(request: web.Request) -> web.Response:
    """Lead to the first page."""
    raise web.HTTPMovedPermanently("/monitor/")


@routes.get("/jobs")
@routes.get("/jobs/")
async def to_list(request: web.Request) -> web.Response:
    """Lead from what one would type to the list."""
    raise web.HTTPFound("/monitor/")


@routes.get("/")
async def list_jobs(request: web.Request) -> web.Response:
    """Show a page of the list of jobs, newest first."""
    address = check(ListAddress, read_query(request.query), pointer="")
    listing = await read_listing(request.config_dict[VIEWS], address)
    if listing is None:
        raise web.HTTPSeeOther(address.link())
    snapshots = await read_snapshots(request, listing.items)
    jobs = [show(view, snapshot) for view, snapshot in zip(listing.items, snapshots, strict=True)]
    return await render(request, "jobs.html", {"address": address, "listing": listing, "jobs": jobs})


@routes.get(JOB)
async def show_job(request: web.Request) -> web.Response:
    """Show one job, whole: what it left, what it was asked for, what happened to it."""
    views, job_id = request.config_dict[VIEWS], job_id_of(request)
    view = await views.view(job_id)
    (snapshot,) = await read_snapshots(request, [view])
    job = show(view, snapshot)
    context: dict[str, Any] = {
        "job": job,
        "position": view.position,
        "inputs": _inputs(job.answer),
        "events": await views.events(job_id),
        "excerpts": await _excerpts(request.config_dict[FILES], job.answer),
        "has_api": _has_api(request),
    }
    return await render(request, "job.html", context)


@routes.get(JOB + "/confirm-delete")
async def confirm_delete(request: web.Request) -> web.Response:
    """Ask before a job is deleted."""
    view = await request.config_dict[VIEWS].view(job_id_of(request))
    (snapshot,) = await read_snapshots(request, [view])
    context = {"job": show(view, snapshot), "back": request.query.get("back", "/monitor/")}
    return await render(request, "confirm_delete.html", context)


@routes.get("/workers")
@routes.get("/workers/")
async def list_workers(request: web.Request) -> web.Response:
    """Show the workers and the backends they drive."""
    health = await read_health(request)
    workers = [show_worker(beat) for beat in health.workers or ()]
    backends = [show_backend(beat) for beat in health.backends or ()]
    context = {"health": health, "known": health.workers is not None, "workers": workers, "backends": backends}
    return await render(request, "workers.html", context)


def _inputs(answer: JobAnswer) -> list[tuple[str, Any]]:
    """Return what the job was asked for, name by name, without what it was not."""
    asked: list[tuple[str, Any]] = [
        ("User", answer.user_id),
        ("Type", answer.job_type),
        ("Negative prompt", answer.negative_prompt),
        ("Model", answer.checkpoint_model),
    ]
    for lora in answer.lora_models:
        strengths = f"{lora.get('strength_model')} / {lora.get('strength_clip')}"
        asked.append(("LoRA", f"{lora.get('name')} (model / CLIP {strengths})"))
    if answer.workflow is None:
        asked += [("Size", f"{answer.width} × {answer.height}"), ("Pictures", answer.batch_size)]
    asked += [(label, answer.sampler_params.get(name)) for name, label in _SAMPLER.items()]
    asked += [("Backend asked for", answer.backend), ("Priority", answer.priority)]
    asked += [("Not before", answer.not_before and f"{answer.not_before:%Y-%m-%d %H:%M:%S} UTC")]
    asked += [("Attempts at most", answer.max_attempts), ("Time limit", f"{answer.timeout_seconds} s")]
    asked += [(f"metadata.{name}", value) for name, value in answer.metadata.items()]
    asked += [("params", answer.params)]
    return [(name, value) for name, value in asked if value not in (None, "", {})]


async def _excerpts(files: FileStore, answer: JobAnswer) -> dict[int, str]:
    """Return output index → the beginning of the text that it is."""

    def read(path: str) -> str:
        with files.absolute(path).open("rb") as file:
            return file.read(_EXCERPT_BYTES).decode("utf-8", "replace")

    found = {}
    texts = [output for output in answer.outputs if output.kind == "text"]
    for output in texts[:_EXCERPTS]:
        try:
            found[output.index] = await asyncio.to_thread(read, answer.output_paths[output.index])
        except OSError:
            continue
    return found


def _has_api(request: web.Request) -> bool:
    """Whether the server around the page serves jobs as JSON too; the page alone on its port may not."""
    return any(resource.canonical == _API_JOB for resource in request.match_info.apps[0].router.resources())
