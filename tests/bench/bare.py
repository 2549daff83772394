"""What the machine could do at best: aiohttp handlers that do nothing but answer, on the loop that the service uses.

`python -m tests.bench.bare PORT`: POST and GET `/job`, and `/ws`, whose watchers POST `/end` sends one frame each.
"""

from __future__ import annotations

import sys
from typing import Final

import uvloop
from aiohttp import web

JOB: Final = b'{"job_id": 1, "status": "pending", "prompt": "%s"}' % (b"x" * 1500)
"""About as long as a job of ours."""
FRAME: Final = '{"job_id": 1, "status": "%s", "timestamp": "2026-01-01T00:00:00.000Z", "seq": 1}'
SOCKETS: Final = web.AppKey("SOCKETS", set[web.WebSocketResponse])


async def create(request: web.Request) -> web.Response:
    """Read a job, and answer one."""
    await request.json()
    return web.Response(body=JOB, status=201, content_type="application/json")


async def read(request: web.Request) -> web.Response:
    """Answer a job."""
    del request
    return web.Response(body=JOB, content_type="application/json")


async def watch(request: web.Request) -> web.WebSocketResponse:
    """Send a first frame, and wait until the client leaves."""
    ws = web.WebSocketResponse(compress=False)
    await ws.prepare(request)
    await ws.send_str(FRAME % "pending")
    request.app[SOCKETS].add(ws)
    async for _ in ws:
        pass
    request.app[SOCKETS].discard(ws)
    return ws


async def end(request: web.Request) -> web.Response:
    """Send the last frame to everybody."""
    for ws in list(request.app[SOCKETS]):
        await ws.send_str(FRAME % "cancelled")
    return web.Response()


def main() -> None:
    """Serve until a signal."""
    app = web.Application()
    app[SOCKETS] = set()
    app.add_routes([web.post("/job", create), web.get("/job", read), web.get("/ws", watch), web.post("/end", end)])
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
        print=None,
        shutdown_timeout=0.2,
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    main()
