"""What happens around every request: faults, the check of the origin, and what ComfyUI answers when it fails."""

import asyncio
import ipaddress
import logging
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from worker.standin.control_routes import is_local
from worker.standin.faults import FaultKind
from worker.standin.server import STANDIN
from worker.standin.versions import GROWING_INPUTS

log = logging.getLogger(__name__)

CONTROL = "/standin/"
"""Routes below it are never disturbed."""


@web.middleware
async def guard_control(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let only this machine use the control routes."""
    if request.path.startswith(CONTROL) and not is_local(request):
        return web.Response(status=403)
    return await handler(request)


@web.middleware
async def disturb(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the request and apply the faults of HTTP."""
    standin = request.app[STANDIN]
    if request.path.startswith(CONTROL):
        return await handler(request)
    route = request.path.removeprefix("/api") or "/"
    occasion = {"route": route, "method": request.method}
    standin.log.requests[f"{request.method} {route}"] += 1
    if request.method == "OPTIONS":
        return web.Response()
    if standin.down or standin.crashed.is_set() or standin.faults.take(FaultKind.DROP_CONNECTION, **occasion):
        return _cut(request)
    slow = standin.faults.take(FaultKind.SLOW_HTTP, **occasion)
    if delay := standin.options.latency_seconds + (slow.seconds if slow else 0.0):
        await asyncio.sleep(delay)
    fault = standin.faults.take(FaultKind.REFUSE, **occasion)
    if fault is None and request.method == "POST" and route == "/prompt":
        fault = standin.faults.take(FaultKind.REFUSE_PROMPT)
    if fault is not None:
        content_type = "application/json" if fault.body.startswith("{") else "text/plain"
        return web.Response(status=fault.status, text=fault.body, content_type=content_type)
    if fault := standin.faults.take(FaultKind.NONSENSE, **occasion):
        body = fault.body or "<!doctype html><title>Welcome</title><p>It works!"
        return web.Response(text=body, content_type=fault.content_type)
    response = await handler(request)
    return _cut(request) if standin.crashed.is_set() else response


@web.middleware
async def check_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a page of another site that talks to a server on this machine."""
    newer = request.app[STANDIN].version >= GROWING_INPUTS
    if newer and request.headers.get("Sec-Fetch-Site") == "cross-site":
        return web.Response(status=403)
    if "Origin" in request.headers and "Host" in request.headers:
        host = urlsplit(f"//{request.headers['Host'].lower()}")
        origin = urlsplit(request.headers["Origin"].lower())
        same = (host.hostname, host.port) == (origin.hostname, origin.port)
        if _is_loopback(host.hostname) and origin.netloc and not same:
            return web.Response(status=403)
    return await handler(request)


@web.middleware
async def answer_trouble(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 500 and close the connection for a request whose content makes the handler raise, as ComfyUI does."""
    try:
        return await handler(request)
    except (LookupError, TypeError, ValueError, AttributeError, OSError, OverflowError, RecursionError) as error:
        log.info("%s %s: %s: %s", request.method, request.path, type(error).__name__, error)
    response = web.Response(status=500, text="500 Internal Server Error\n\nServer got itself in trouble")
    response.force_close()
    return response


def _cut(request: web.Request) -> web.Response:
    """Close the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _is_loopback(name: str | None) -> bool:
    """Tell whether a host name means this machine."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name or "").is_loopback
    except ValueError:
        return False
