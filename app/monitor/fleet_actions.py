"""Forms that act on backends, workers and periodic tasks: what they ask for, the next heartbeat confirms."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from app.keys import FLEET
from app.monitor.actions import lead_back
from app.web.auditing import noted
from app.web.callers import CALLER

routes: Final = web.RouteTableDef()


def asked(_: object) -> str:
    """Return what became of it: it was asked for, and the next heartbeat shows whether it is so."""
    return "asked"


@routes.post("/backends/{name}/{action:drain|resume|free}")
async def steer_backend(request: web.Request) -> web.Response:
    """Drain a backend, give it prompts again, or have it free its memory."""
    name, action, actor = request.match_info["name"], request.match_info["action"], request[CALLER].name
    fleet = request.config_dict[FLEET]
    act = {"drain": fleet.drain, "resume": fleet.resume, "free": fleet.free}[action]
    await noted(request, action, f"backend {name}", act(name, actor), asked)
    return await lead_back(request, f"backend_{action}", otherwise="/monitor/backends")


@routes.post("/workers/{worker_id}/{action:quiet|resume|stop}")
async def steer_worker(request: web.Request) -> web.Response:
    """Ask a worker to take no more turns, to take turns again, or to end when nothing runs."""
    worker_id, action, actor = request.match_info["worker_id"], request.match_info["action"], request[CALLER].name
    fleet = request.config_dict[FLEET]
    act = {"quiet": fleet.quiet, "resume": fleet.resume_worker, "stop": fleet.stop}[action]
    await noted(request, action, f"worker {worker_id}", act(worker_id, actor), asked)
    return await lead_back(request, f"worker_{action}", otherwise="/monitor/workers")


@routes.post("/schedule/{task}/run")
async def run_task(request: web.Request) -> web.Response:
    """Have a periodic task run now."""
    task = request.match_info["task"]
    acting = request.config_dict[FLEET].run_now(task, request[CALLER].name)
    await noted(request, "run", f"task {task}", acting, asked)
    return await lead_back(request, "task_run", otherwise="/monitor/schedule")
