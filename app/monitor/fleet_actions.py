"""Forms that act on backends, workers and periodic tasks: what they ask for, the next heartbeat confirms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from app.domain.errors import GenonautError
from app.keys import FLEET
from app.monitor.actions import lead_back
from app.monitor.auditing import note
from app.web.callers import CALLER

if TYPE_CHECKING:
    from collections.abc import Awaitable

routes: Final = web.RouteTableDef()


@routes.post("/backends/{name}/{action:drain|resume|free}")
async def steer_backend(request: web.Request) -> web.Response:
    """Drain a backend, give it prompts again, or have it free its memory."""
    name, action, actor = request.match_info["name"], request.match_info["action"], request[CALLER].name
    fleet = request.config_dict[FLEET]
    act = {"drain": fleet.drain, "resume": fleet.resume, "free": fleet.free}[action]
    await _noted(request, action, f"backend {name}", act(name, actor))
    return await lead_back(request, f"backend_{action}", otherwise="/monitor/backends")


@routes.post("/workers/{worker_id}/{action:quiet|resume|stop}")
async def steer_worker(request: web.Request) -> web.Response:
    """Ask a worker to take no more turns, to take turns again, or to end when nothing runs."""
    worker_id, action, actor = request.match_info["worker_id"], request.match_info["action"], request[CALLER].name
    fleet = request.config_dict[FLEET]
    act = {"quiet": fleet.quiet, "resume": fleet.resume_worker, "stop": fleet.stop}[action]
    await _noted(request, action, f"worker {worker_id}", act(worker_id, actor))
    return await lead_back(request, f"worker_{action}", otherwise="/monitor/workers")


@routes.post("/schedule/{task}/run")
async def run_task(request: web.Request) -> web.Response:
    """Have a periodic task run now."""
    task = request.match_info["task"]
    await _noted(request, "run", f"task {task}", request.config_dict[FLEET].run_now(task, request[CALLER].name))
    return await lead_back(request, "task_run", otherwise="/monitor/schedule")


async def _noted(request: web.Request, action: str, target: str, acting: Awaitable[object]) -> None:
    """Act, and note what became of it; raises what acting raises."""
    try:
        await acting
    except GenonautError as error:
        await note(request, action, target, error.code)
        raise
    await note(request, action, target, "asked")
