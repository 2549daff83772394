"""Pages about the fleet: backends, workers, and what is done by the clock. No GET changes anything."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from aiohttp import web

from app.domain.errors import Unavailable
from app.domain.message import snapshot_of
from app.keys import EVENTS, FLEET, FLEET_FIGURES, PREVIEWS, QUEUE_CONTROL
from app.monitor.fleet_view import ShownBackend, ShownRun, show_backend, show_run, show_worker
from app.monitor.page_data import PATIENCE_S, read_health
from app.monitor.rendering import render
from app.monitor.shared_fragments import shared
from app.services.fleet_control import known_backends

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from typing import TypeVar

    from app.domain.heartbeats import BackendBeat

    T = TypeVar("T")

routes: Final = web.RouteTableDef()
MOST_USERS: Final = 100
"""Of more users those are shown of whom something is set, and then those with the most jobs waiting."""


@routes.get("/backends")
@routes.get("/backends/")
@shared
async def list_backends(request: web.Request) -> web.Response:
    """Show the backends: what they do, how they are, and what was decided about them."""
    health = await read_health(request)
    backends = await _backends(request, health.backends or ())
    context = {"health": health, "known": health.backends is not None, "backends": backends}
    return await render(request, "backends.html", context)


@routes.get("/workers")
@routes.get("/workers/")
@shared
async def list_workers(request: web.Request) -> web.Response:
    """Show the workers, live and lost."""
    health = await read_health(request)
    live = [beat.name for beat in health.workers or () if beat.live]
    asked = await _if_there(request.config_dict[FLEET].asked(live), {})
    workers = [show_worker(beat, asked.get(beat.name)) for beat in health.workers or ()]
    return await render(
        request, "workers.html", {"health": health, "known": health.workers is not None, "workers": workers}
    )


@routes.get("/schedule")
@routes.get("/schedule/")
@shared
async def show_schedule(request: web.Request) -> web.Response:
    """Show what steers the queue, and the periodic tasks and how they went."""
    tasks, users = await asyncio.gather(
        request.config_dict[FLEET].schedule(), request.config_dict[QUEUE_CONTROL].present(MOST_USERS)
    )
    return await render(request, "schedule.html", {"tasks": tasks, "users": users})


async def _backends(request: web.Request, beats: Sequence[BackendBeat]) -> list[ShownBackend]:
    """Return the backends that are known by a heartbeat, or by being drained."""
    fleet, figures = request.config_dict[FLEET], request.config_dict[FLEET_FIGURES]
    decided = await _if_there(fleet.decisions(), {})
    told = {beat.name: beat for beat in beats}
    names = known_backends(beats, decided)
    hour, freeing, runs = await asyncio.gather(
        _if_there(figures.last_hour(), None), _if_there(fleet.asked_to_free(names), set()), _runs(request)
    )
    return [
        show_backend(
            name, told.get(name), decided=decided.get(name), freeing=name in freeing, runs=runs[name], hour=hour
        )
        for name in names
    ]


async def _runs(request: web.Request) -> defaultdict[str, list[ShownRun]]:
    """Return backend → the jobs that run on it, with their pictures."""
    running = await _if_there(request.config_dict[FLEET_FIGURES].running(), [])
    told = await request.config_dict[EVENTS].with_live([snapshot_of(run.job) for run in running])
    previews = await request.config_dict[PREVIEWS].numbers([run.job.job_id for run in running])
    runs: defaultdict[str, list[ShownRun]] = defaultdict(list)
    for run, snapshot in zip(running, told, strict=True):
        runs[run.job.backend_name or ""].append(show_run(run, snapshot, previews.get(run.job.job_id)))
    return runs


async def _if_there(read: Awaitable[T], otherwise: T) -> T:
    """Return what is read, or `otherwise` when what would tell it is away, or slow."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await read
    except (Unavailable, TimeoutError):
        return otherwise
