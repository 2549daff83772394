"""Handlers that no real ComfyUI has: faults and the log of executions, for callers on the same machine only."""

import ipaddress

from aiohttp import web

from worker.standin.faults import FaultKind, parse_fault
from worker.standin.server import STANDIN


def is_local(request: web.Request) -> bool:
    """Tell whether the request comes from this machine."""
    if request.remote is None:
        return True
    try:
        return ipaddress.ip_address(request.remote).is_loopback
    except ValueError:
        return False


async def show_faults(request: web.Request) -> web.StreamResponse:
    """Answer the faults that still wait."""
    return web.json_response({"faults": [fault.as_json() for fault in request.app[STANDIN].faults.waiting()]})


async def add_fault(request: web.Request) -> web.StreamResponse:
    """Arm or carry out a fault, or several."""
    try:
        body = await request.json()
        wanted = [parse_fault(one) for one in (body if isinstance(body, list) else [body])]
    except (ValueError, TypeError, AttributeError) as error:
        return web.json_response({"error": str(error), "kinds": list(FaultKind)}, status=400)
    for fault in wanted:
        await request.app[STANDIN].apply(fault)
    return await show_faults(request)


async def clear_faults(request: web.Request) -> web.StreamResponse:
    """Forget the faults of one kind, or all of them."""
    kind = request.query.get("kind")
    try:
        request.app[STANDIN].faults.clear(FaultKind(kind) if kind is not None else None)
    except ValueError as error:
        return web.json_response({"error": str(error), "kinds": list(FaultKind)}, status=400)
    return await show_faults(request)


async def show_log(request: web.Request) -> web.StreamResponse:
    """Answer what was executed, who is connected, and how often a checkpoint was loaded."""
    standin = request.app[STANDIN]
    executor = standin.executor
    state = {"dead": executor.dead, "clients": standin.sockets.client_ids(), "loads": executor.models.loads}
    return web.json_response(standin.log.as_json() | state)
