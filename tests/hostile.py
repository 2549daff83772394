"""Servers that want to do harm: what they answer, by path, and a client of ours that speaks with one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import zlib
from typing import TYPE_CHECKING, Any

from aiohttp import ClientSession, WSMsgType, web

from worker.comfyui.client import ComfyUI
from worker.comfyui.node_outputs import OutputFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

PICTURE = OutputFile("9", "a.png")
ID = "0b1e7f6e-5a6b-4d0e-9a51-2f5d6f0f3c11"


def says(body: Any, **headers: str) -> Answer:
    """Answer a body: bytes as they are, anything else as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def answer(request: web.Request) -> web.StreamResponse:
        del request
        return web.Response(body=raw, headers=headers)

    return answer


def bomb(begin: bytes, mebibytes: int, end: bytes) -> bytes:
    """Pack so many spaces between two texts: a thousandth of its size."""
    packing = zlib.compressobj(9, zlib.DEFLATED, 31)
    spaces = b" " * 2**20
    return (
        packing.compress(begin)
        + b"".join(packing.compress(spaces) for _ in range(mebibytes))
        + packing.compress(end)
        + packing.flush()
    )


async def drip(request: web.Request) -> web.StreamResponse:
    """Answer one byte after the other, without an end."""
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.01)
    return response


@contextlib.asynccontextmanager
async def serving(answers: dict[str, Answer]) -> AsyncIterator[tuple[str, list[str]]]:
    """Serve these answers by path; yields the address and what was asked."""
    asked: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        found = answers.get(request.path) or answers.get("*")
        return await found(request) if found is not None else web.Response(status=404)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def speaking(answers: dict[str, Answer], timeout_s: float = 5) -> AsyncIterator[ComfyUI]:
    """Speak with a server that answers so."""
    async with serving(answers) as (url, _), ClientSession() as session:
        yield ComfyUI(session, url, timeout_s=timeout_s, max_message_bytes=2**20)


async def ask(comfyui: ComfyUI, route: str) -> Any:
    """Ask for what stands on a route."""
    match route:
        case "/system_stats":
            return await comfyui.system_stats()
        case "/object_info":
            return await comfyui.object_info()
        case "/queue":
            return await comfyui.queue_state()
        case "/prompt":
            return await comfyui.submit({}, prompt_id=ID, client_id="c", extra={})
        case "/interrupt":
            return await comfyui.stop(ID)
        case "/free":
            return await comfyui.free_memory()
        case "/ws":
            async with comfyui.socket("c"):
                return None
        case "/view":
            async with contextlib.aclosing(comfyui.download(PICTURE)) as chunks:
                return b"".join([chunk async for chunk in chunks])
        case _:
            return await comfyui.history(ID)


ROUTES = ["/system_stats", "/object_info", "/queue", f"/history/{ID}", "/prompt", "/interrupt", "/free"]


def deep(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = {"a": [value]}
    return value


def flood(frames: list[bytes | str], many: int) -> Answer:
    """Open a socket and send frames, one after the other, as fast as they are taken."""

    async def answer(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(max_msg_size=0)
        await ws.prepare(request)
        with contextlib.suppress(ConnectionError, RuntimeError):
            await ws.send_str(json.dumps({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}}}))
            for _ in range(many):
                for frame in frames:
                    await (ws.send_bytes(frame) if isinstance(frame, bytes) else ws.send_str(frame))
            async for message in ws:
                if message.type is WSMsgType.CLOSE:
                    break
        return ws

    return answer
