"""Bodies that do not come to their end, wherever they are sent, and what all that slow clients do costs the others."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from integration.hostile import UPGRADE, request_of
from integration.slow_clients import HALF_HEAD, Bare

from app.domain.errors import BodyTooSlow
from app.keys import HUB, METRICS
from app.main import create_app
from app.web.body_intake import BYTES_A_SECOND, HELD, INCOMING, Incoming, Patience
from app.web.socket_client import text_frame
from harness import GUARD_S, SMALL_BODY, ServedAsOurs, eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.test_utils import TestClient

    from app.settings import Settings

    Start = Callable[..., Awaitable[TestClient[Any, Any]]]

pytestmark = pytest.mark.slow

JOBS = "/api/v1/generation-jobs/"
FORM = b"multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n'
PAGE = {"Cookie": b"monitor_csrf=" + b"a" * 43, "Sec-Fetch-Site": b"same-origin", "Connection": b"keep-alive"}
TOKEN = PART % (b"csrf", b"") + b"a" * 43 + b"\r\n"
FILE = PART % (b"file", b'; filename="a.png"') + b"\x89PNG"
PLAIN = {"Content-Type": b"application/x-www-form-urlencoded"}
JSON = {"Content-Type": b"application/json"}
CHUNKED = {"Transfer-Encoding": b"chunked"}
PROMISED = {"Content-Length": b"10000"}

UNFINISHED: dict[str, tuple[bytes, int]] = {
    "JSON": (request_of("POST", JOBS, JSON | PROMISED, b"{"), 408),
    "nothing of JSON": (request_of("POST", JOBS, JSON | PROMISED), 408),
    "chunks": (request_of("POST", JOBS, JSON | CHUNKED, b"1\r\n{\r\n"), 408),
    "half a chunk": (request_of("POST", JOBS, JSON | CHUNKED, b"ff\r\n{"), 408),
    "the size of a chunk": (request_of("POST", JOBS, JSON | CHUNKED, b"1;" + b"x" * 100), 408),
    "gzip": (request_of("POST", JOBS, JSON | PROMISED | {"Content-Encoding": b"gzip"}, b"\x1f\x8b\x08\0"), 408),
    "100-continue": (request_of("POST", JOBS, JSON | PROMISED | {"Expect": b"100-continue"}), 100),
    "a file": (
        request_of("POST", "/api/v1/uploads?user_id=u", PROMISED | {"Content-Type": b"image/png"}, b"\x89P"),
        408,
    ),
    "a form with a file": (
        request_of("POST", "/api/v1/uploads?user_id=u", PROMISED | {"Content-Type": FORM}, FILE),
        408,
    ),
    "half a form": (request_of("POST", "/api/v1/uploads?user_id=u", PROMISED | {"Content-Type": FORM}, FILE[:20]), 408),
    "a form of the page": (request_of("POST", "/monitor/jobs/1/retry", PAGE | PLAIN | PROMISED, b"csrf="), 408),
    "the sign-in": (request_of("POST", "/monitor/sign-in", PAGE | PLAIN | PROMISED, b"csrf="), 408),
    "the sign-in, in parts": (
        request_of("POST", "/monitor/sign-in", PAGE | PROMISED | {"Content-Type": FORM}, TOKEN),
        408,
    ),
    "a new job": (request_of("POST", "/monitor/new", PAGE | PROMISED | {"Content-Type": FORM}, TOKEN[:30]), 408),
    "a new job, after its token": (
        request_of("POST", "/monitor/new", PAGE | PROMISED | {"Content-Type": FORM}, TOKEN + FILE),
        408,
    ),
    "what nobody reads": (request_of("GET", "/health/live", PROMISED, b"x"), 200),
    "an unknown address": (request_of("POST", "/nothing", JSON | PROMISED, b"{"), 404),
    "a wrong method": (request_of("PUT", "/health/live", JSON | PROMISED, b"{"), 405),
    "another host": (request_of("POST", JOBS, JSON | PROMISED | {"Host": b"evil.example"}, b"{"), 421),
    "too large": (request_of("POST", JOBS, JSON | {"Content-Length": b"9" * 12}, b"{"), 413),
    "another encoding": (request_of("POST", JOBS, JSON | PROMISED | {"Content-Encoding": b"br"}, b"{"), 415),
}
"""Requests whose bodies never come to their end, and what the first answer to each is."""


@pytest.fixture
def start(settings: Settings, aiohttp_client: Any) -> Start:
    """Start a server with these settings changed, served as `make up` serves it."""

    async def start_one(**changes: Any) -> TestClient[Any, Any]:
        return await aiohttp_client(ServedAsOurs(create_app(settings.model_copy(update=changes))))

    return start_one


async def test_an_unfinished_body_is_given_up_wherever_it_is_sent(start: Start) -> None:
    client = await start(body_seconds=0.5)
    answers: dict[str, bytes] = {}

    async def send(name: str, request: bytes) -> None:
        async with Bare(client) as bare:
            await bare.send(request.replace(b"\r\nConnection: close", b""))
            answers[name] = await bare.rest()

    await asyncio.gather(*(send(name, request) for name, (request, _) in UNFINISHED.items()))
    first = {name: int(answer[9:12] or b"0") for name, answer in answers.items()}
    assert first == {name: status for name, (_, status) in UNFINISHED.items()}
    assert b"HTTP/1.1 408 " in answers["100-continue"]
    assert client.app[INCOMING].held_bytes == 0


async def test_who_sends_much_at_once_is_not_waited_for_the_longer() -> None:
    patience = Patience(0.2)
    patience.count(100 * BYTES_A_SECOND)
    with pytest.raises(BodyTooSlow):
        async with asyncio.timeout(GUARD_S):
            await patience.wait_for(asyncio.Event().wait())


async def test_what_comes_quickly_enough_is_waited_for() -> None:
    """Each piece buys as much time as is spent: in the end more than there was in the beginning."""
    loop = asyncio.get_running_loop()
    patience, until = Patience(2.0), loop.time() + 3.0
    while loop.time() < until:
        await patience.wait_for(asyncio.sleep(0.1))
        patience.count(BYTES_A_SECOND)
    assert await patience.wait_for(asyncio.sleep(0, "more")) == "more"


async def test_while_room_is_short_slow_bodies_make_way(aiohttp_client: Any) -> None:
    """One of them sends as quickly as is asked of it otherwise."""
    most = 2**20

    async def read(request: web.Request) -> web.Response:
        try:
            async with request.app[INCOMING].body(request):
                return web.Response()
        except BodyTooSlow as error:
            return web.Response(status=408, text=error.code)

    app = web.Application()
    incoming = app[INCOMING] = Incoming(most, patience_s=2.0)
    app.router.add_post("/", read)
    client = await aiohttp_client(app)
    request = request_of("POST", "/", {"Content-Length": b"%d" % most})

    async def trickle(bare: Bare) -> bytes:
        await bare.send(request + b"x" * 300_000)
        refused = asyncio.create_task(bare.receive(b"body_too_slow"))
        for _ in range(60):
            await bare.send(b"x" * (BYTES_A_SECOND // 5))
            await asyncio.wait([refused], timeout=0.1)
            if refused.done():
                return await refused
        refused.cancel()
        return b"still read"

    async with Bare(client) as alone:
        assert await trickle(alone) == b"still read"
    await eventually(lambda: nothing_held(incoming))
    incoming.held_bytes = HELD * most // 2
    async with Bare(client) as crowded:
        assert b" 408 " in await trickle(crowded)


async def nothing_held(incoming: Incoming) -> bool:
    return incoming.held_bytes == 0


async def test_all_slow_clients_together_cost_the_others_nothing(start: Start) -> None:
    """Half heads, unfinished bodies, and sockets that are not read; then all of them are gone."""
    client = await start(
        header_seconds=4.0, body_seconds=4.0, unread_seconds=1.0, max_body_bytes=2**20, ws_outbox_bytes=2**16
    )
    registry, hub, incoming = client.app[METRICS].registry, client.app[HUB], client.app[INCOMING]
    job_id = (await (await client.post(JOBS, json=SMALL_BODY)).json())["job_id"]
    body = request_of("POST", JOBS, JSON | {"Content-Length": b"%d" % 2**20}, b" " * 15 * 2**16)

    async def live() -> None:
        assert (await client.get("/health/live", timeout=GUARD_S)).status == 200

    async def left() -> bool:
        await live()
        # The client of this test keeps connections of its own.
        gone = (registry.get_sample_value("genonaut_connections_open") or 0.0) < 10
        return gone and not hub.watched_jobs and incoming.held_bytes == 0

    async with AsyncExitStack() as stack:
        heads = [await stack.enter_async_context(Bare(client)) for _ in range(500)]
        sockets = [await stack.enter_async_context(Bare(client, window=4096)) for _ in range(50)]
        bodies = [await stack.enter_async_context(Bare(client)) for _ in range(60)]
        for bare in sockets:
            await bare.send(request_of("GET", f"/ws/jobs/{job_id}", UPGRADE))
        await asyncio.gather(*(bare.receive(b"}") for bare in sockets))
        for bare in heads:
            await bare.send(HALF_HEAD)
        sending = asyncio.gather(*(bare.send(body) for bare in bodies), return_exceptions=True)
        frame = text_frame(b"x" * 5_000_000)
        for watcher in hub.watchers_of(job_id):
            watcher.send(frame)  # type: ignore[attr-defined]
        await live()
        assert incoming.held_bytes <= HELD * 2**20
        await sending
        await eventually(left)
        assert (registry.get_sample_value("genonaut_slow_clients_total", {"what": "head"}) or 0) >= 500
        assert (registry.get_sample_value("genonaut_slow_clients_total", {"what": "unread"}) or 0) >= 50
