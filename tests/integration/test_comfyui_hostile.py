"""The client of ComfyUI and a server that wants to do harm: what it answers has an end, and limits."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, CookieJar, web
from hostile import ID, PICTURE, ROUTES, ask, bomb, drip, says, serving, speaking

from app.domain.errors import AttemptFailed, BackendLost, OutputInvalid, OutputNotOwn
from app.storage.files import FileStore
from harness import GUARD_S, eventually
from worker.comfyui.client import DOWNLOADS_AT_ONCE, ComfyUI, UnclearSubmission
from worker.comfyui.file_ownership import Run
from worker.comfyui.node_outputs import OutputFile
from worker.outputs.collector import Collector

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("route", [*ROUTES, "/view", "/ws"])
async def test_nobody_is_followed_to_another_place(route: str, status: int) -> None:
    async with serving({"*": says({})}) as (elsewhere, asked):

        async def away(request: web.Request) -> web.StreamResponse:
            if request.path == "/queue" and route == "/interrupt":
                return web.Response()
            return web.Response(status=status, headers={"Location": f"{elsewhere}/secret"})

        async with speaking({"*": away}) as comfyui:
            with pytest.raises(BackendLost, match="redirect"):
                await ask(comfyui, route)
        assert asked == []


MOST = {"/object_info": 64, "/queue": 64, f"/history/{ID}": 64, "/prompt": 16}
"""Route → mebibytes of an answer that are read; of the others it is one."""


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
async def test_a_packed_answer_that_is_longer_than_any_is_not_inflated_to_its_end(route: str) -> None:
    most = MOST.get(route, 1)
    answer = says(bomb(b"{", 4 * most + 40, b"}"), **{"Content-Encoding": "gzip"})
    async with speaking({"*": answer, "/queue": says({}) if route == "/interrupt" else answer}, 30) as comfyui:
        with pytest.raises(BackendLost, match=f"longer than {most} MiB"):
            await ask(comfyui, route)


@pytest.mark.parametrize("route", sorted(set(ROUTES) - MOST.keys()))
async def test_an_answer_that_is_longer_than_any_is_not_read_to_its_end(route: str) -> None:
    answer = says(b"{" + b" " * 40 * 2**20 + b"}")
    async with speaking({"*": answer, "/queue": says({}) if route == "/interrupt" else answer}) as comfyui:
        with pytest.raises(BackendLost, match="longer than 1 MiB"):
            await ask(comfyui, route)


async def test_a_packed_answer_of_usual_length_is_read() -> None:
    body = gzip.compress(json.dumps({"devices": [{"name": "cuda:0", "vram_total": 3, "vram_free": 2}]}).encode())
    async with speaking({"*": says(body, **{"Content-Encoding": "gzip"})}) as comfyui:
        assert (await comfyui.system_stats()).vram_free == 2


@pytest.mark.parametrize("route", [*ROUTES, "/view", "/ws"])
async def test_an_answer_that_comes_at_a_drip_has_an_end(route: str) -> None:
    queue = says({}) if route == "/interrupt" else drip
    async with asyncio.timeout(GUARD_S), speaking({"*": drip, "/queue": queue}, timeout_s=0.5) as comfyui:
        with pytest.raises(BackendLost):
            await ask(comfyui, route)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_a_head_that_never_ends_has_an_end(head: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            line = head
            while True:
                writer.write(line)
                await writer.drain()
                await asyncio.sleep(0.02)
                line = b"X-A: b\r\n" if head.count(b"\r\n") == 1 else head

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, ClientSession() as session, asyncio.timeout(GUARD_S):
        comfyui = ComfyUI(session, url, timeout_s=0.5, max_message_bytes=2**20)
        for route in ("/view", "/queue", "/ws"):
            with pytest.raises(BackendLost):
                await ask(comfyui, route)


async def test_a_file_that_comes_slowly_and_comes_is_taken(tmp_path: Path) -> None:
    async def slowly(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        # Longer than the time-out as a whole, and a long way from it each time.
        for _ in range(6):
            await asyncio.sleep(0.3)
            await response.write(b"x" * 20_000)
        return response

    async with speaking({"*": slowly}, timeout_s=1.5) as comfyui:
        received = await FileStore(tmp_path).receive(comfyui.download(PICTURE), 2**20)
    assert received.size_bytes == 120_000


@pytest.mark.parametrize("prompt_id", ["../../x", "a/b", "a?b=c", "\0", "x" * 2**20, "", 7, None, ["a"], {"a": 1}])
async def test_an_id_that_none_can_be_is_no_answer(prompt_id: Any) -> None:
    async with speaking({"*": says({"prompt_id": prompt_id})}) as comfyui:
        with pytest.raises(UnclearSubmission):
            await ask(comfyui, "/prompt")


@pytest.mark.parametrize(
    "items", [5, "abc", {"a": 1}, [5], [[]], [[1]], [[1, [ID]]], [[1, "../x", {}, 3]], [None], None]
)
async def test_a_queue_that_is_none_is_empty(items: Any) -> None:
    answers = {"/queue": says({"queue_running": items, "queue_pending": items}), f"/history/{ID}": says({ID: items})}
    async with speaking(answers) as comfyui:
        assert (await comfyui.queue_state())[0] is None
        assert await comfyui.marked_prompts() == {}
        place, entry = await comfyui.locate(ID)
        assert entry is None or (place == "finished" and entry == items)


async def test_a_socket_on_which_frames_come_without_end_can_be_closed() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                # Also after the other side has said that it closes.
                await ws.send_str("{}")
                await asyncio.sleep(0.01)
        return ws

    async with speaking({"/ws": answer}, timeout_s=600) as comfyui, asyncio.timeout(GUARD_S), comfyui.socket("c") as ws:
        await ws.receive()


async def test_cookies_are_not_kept() -> None:
    async def with_cookie(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Cookie"))
        return web.Response(body=b"{}", headers={"Set-Cookie": "session=secret; Path=/"})

    seen: list[str | None] = []
    # A jar that would keep them, of a server without a name too.
    jar = CookieJar(unsafe=True)
    async with serving({"*": with_cookie}) as (url, _), ClientSession(cookie_jar=jar) as session:
        comfyui = ComfyUI(session, url, timeout_s=5, max_message_bytes=2**20)
        for route in ("/queue", "/view", "/system_stats"):
            await ask(comfyui, route)
    assert seen == [None, None, None]


async def test_downloads_that_hang_take_few_connections_and_leave_the_other_routes_alone(tmp_path: Path) -> None:
    open_now, most = 0, 0
    hanging = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await hanging.wait()
        open_now -= 1
        return web.Response()

    async with speaking({"/view": hang, "/queue": says({})}, timeout_s=30) as comfyui:
        store = FileStore(tmp_path)
        tasks = [
            asyncio.create_task(store.receive(comfyui.download(PICTURE), 10)) for _ in range(3 * DOWNLOADS_AT_ONCE)
        ]

        async def full() -> bool:
            return open_now == DOWNLOADS_AT_ONCE

        await eventually(full)
        assert (await comfyui.queue_state())[0] is None
        hanging.set()
        await asyncio.gather(*tasks)
    assert most == DOWNLOADS_AT_ONCE


async def test_outputs_must_have_come_within_a_limit_of_time(tmp_path: Path) -> None:
    async def slowly(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        return web.Response(body=b"some text")

    async with speaking({"*": slowly}) as comfyui:
        collector = Collector(FileStore(tmp_path), 2**20, limit_s=0.2)
        job: Any = SimpleNamespace(job_id=1, attempt=1, created_at=datetime.now(UTC))
        collection = collector.collection(comfyui)
        found = [OutputFile("9", f"{number}.txt", ID) for number in range(100)]
        run = Run(prompt_id=ID, folder_id=ID, graph={}, alone=False, watched=True, began_ms=None, ended_ms=None)
        with pytest.raises(BackendLost, match="were not downloaded within"):
            await collection.keep(job, found, run)
        await collection.downloads.drop()
        collector.close()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("cached", "raised"), [(frozenset[str](), OutputInvalid), (frozenset({"9"}), OutputNotOwn)], ids=["ran", "cached"]
)
async def test_of_what_is_gone_only_the_answer_of_an_earlier_run_may_be_had_by_another_one(
    tmp_path: Path, cached: frozenset[str], raised: type[AttemptFailed]
) -> None:
    async def gone(request: web.Request) -> web.StreamResponse:
        return web.Response(status=404)

    async with speaking({"*": gone}) as comfyui:
        collector = Collector(FileStore(tmp_path), 2**20)
        job: Any = SimpleNamespace(job_id=1, attempt=1, created_at=datetime.now(UTC))
        collection = collector.collection(comfyui)
        found = [OutputFile("8", "a.png", ID), OutputFile("9", "b.png", ID)]
        run = Run(
            prompt_id=ID,
            folder_id=ID,
            graph={},
            alone=False,
            watched=True,
            began_ms=None,
            ended_ms=None,
            cached=cached,
        )
        with pytest.raises(raised):
            await collection.keep(job, found, run)
        await collection.downloads.drop()
        collector.close()
