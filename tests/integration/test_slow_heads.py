"""Requests whose heads come slowly, not at all, or without an end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from integration.slow_clients import HALF_HEAD, Bare

from app.keys import METRICS
from app.main import create_app
from app.web.connections import MAX_HEAD_BYTES, REFUSALS
from harness import GUARD_S, ServedAsOurs, eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.test_utils import TestClient

    from app.settings import Settings

    Start = Callable[..., Awaitable[TestClient[Any, Any]]]

LIVING = b'{"status": "live"}'
LIVE = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture
def start(settings: Settings, aiohttp_client: Any) -> Start:
    """Start a server with these settings changed, served as `make up` serves it."""

    async def start_one(**changes: Any) -> TestClient[Any, Any]:
        return await aiohttp_client(ServedAsOurs(create_app(settings.model_copy(update=changes))))

    return start_one


def counted(client: TestClient[Any, Any], name: str, **labels: str) -> float:
    return client.app[METRICS].registry.get_sample_value(name, labels) or 0.0


async def test_half_a_head_is_answered_with_408_when_its_time_is_up(start: Start) -> None:
    client = await start(header_seconds=0.3)
    async with Bare(client) as bare:
        await bare.send(HALF_HEAD)
        assert (await bare.rest()).startswith(b"HTTP/1.1 408 ")
    assert counted(client, "genonaut_slow_clients_total", what="head") == 1


async def test_who_sends_nothing_is_closed_without_a_word(start: Start) -> None:
    client = await start(header_seconds=0.3)
    async with Bare(client) as bare:
        assert await bare.rest() == b""
    assert counted(client, "genonaut_slow_clients_total", what="head") == 1


async def test_bytes_that_drip_do_not_make_the_time_longer(start: Start) -> None:
    client = await start(header_seconds=0.5)
    async with Bare(client) as bare:
        ended = asyncio.create_task(bare.rest())
        await bare.send(HALF_HEAD)
        while not ended.done():
            with contextlib.suppress(ConnectionError):
                await bare.send(b"a")
            await asyncio.sleep(0.05)
        assert (await ended).startswith(b"HTTP/1.1 408 ")


async def test_the_second_head_of_a_connection_has_a_time_too(start: Start) -> None:
    client = await start(header_seconds=0.3)
    async with Bare(client) as bare:
        await bare.send(LIVE)
        assert (await bare.receive(LIVING)).startswith(b"HTTP/1.1 200 ")
        await bare.send(HALF_HEAD)
        assert (await bare.rest()).startswith(b"HTTP/1.1 408 ")


async def test_between_two_requests_a_connection_has_the_longer_time(start: Start) -> None:
    client = await start(header_seconds=0.2, keep_alive_seconds=GUARD_S)
    async with Bare(client) as idle, Bare(client) as late:
        await idle.send(LIVE)
        await idle.receive(LIVING)
        # Opened later, and closed already: the time for a head has passed for the first one, too.
        assert await late.rest() == b""
        await idle.send(LIVE)
        assert (await idle.receive(LIVING)).startswith(b"HTTP/1.1 200 ")


async def test_an_idle_connection_is_closed_in_the_end(start: Start) -> None:
    client = await start(keep_alive_seconds=0.3)
    async with Bare(client) as bare:
        await bare.send(LIVE)
        await bare.receive(LIVING)
        assert await bare.rest() == b""


async def test_while_a_body_comes_no_head_is_waited_for(start: Start) -> None:
    client = await start(header_seconds=0.2)
    async with Bare(client) as slow:
        await slow.send(
            b"POST /api/v1/generation-jobs/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 3\r\n\r\n{"
        )
        for _ in range(2):
            async with Bare(client) as other:
                assert await other.rest() == b""
            await slow.send(b" ")
        assert (await slow.receive(b"}")).startswith(b"HTTP/1.1 400 ")


async def test_what_comes_of_a_body_after_the_answer_is_no_head(start: Start) -> None:
    client = await start()
    async with Bare(client) as bare:
        size = MAX_HEAD_BYTES + 1
        await bare.send(b"POST /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % size)
        assert (await bare.receive(b"}")).startswith(b"HTTP/1.1 404 ")
        # All of it at once, as the network may bring it or not.
        (connection,) = client.server.runner.server.connections
        connection.data_received(b"x" * size)
        await bare.send(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b"HTTP/1.1 200 " in await bare.receive(b'"live"}')
    assert counted(client, "genonaut_connections_refused_total", reason="large_head") == 0


async def test_a_head_is_large_in_all_or_in_one_line_only_up_to_a_bound(start: Start) -> None:
    client = await start()
    line = b"X-Line-%03d: " + b"x" * 8000 + b"\r\n"
    async with Bare(client) as bare:
        answer = asyncio.create_task(bare.rest())
        with contextlib.suppress(ConnectionError):
            await bare.send(b"GET / HTTP/1.1\r\n")
            for number in range(MAX_HEAD_BYTES // 8000 + 2):
                await bare.send(line % number)
        # The answer is lost when more came in than was read before the close.
        assert (await answer) in (REFUSALS[431], b"")
    assert counted(client, "genonaut_connections_refused_total", reason="large_head") == 1
    for head in (b"GET / HTTP/1.1\r\nX: " + b"x" * 9000, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 129 + b"\r\n"):
        async with Bare(client) as bare:
            await bare.send(head)
            assert (await bare.rest()).startswith(b"HTTP/1.0 400 ")


async def test_a_large_body_right_behind_its_head_is_no_large_head(start: Start) -> None:
    client = await start()
    body = b'{"prompt": "' + b"x" * (4 * MAX_HEAD_BYTES) + b'"}'
    head = b"POST /api/v1/generation-jobs/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    async with Bare(client) as bare:
        for _ in range(3):
            await bare.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert (await bare.receive(b"}")).startswith(b"HTTP/1.1 422 ")
    assert counted(client, "genonaut_connections_refused_total", reason="large_head") == 0


async def test_connections_are_counted_while_they_are_open(start: Start) -> None:
    client = await start()

    async def open_ones(count: int) -> bool:
        return counted(client, "genonaut_connections_open") == count

    async with Bare(client) as first, Bare(client):
        await eventually(lambda: open_ones(2))
        first.socket.close()
        await eventually(lambda: open_ones(1))
    await eventually(lambda: open_ones(0))
