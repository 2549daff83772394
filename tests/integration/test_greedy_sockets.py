"""WebSocket clients that say much and read little."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import WSMsgType
from integration.hostile import UPGRADE, request_of
from integration.slow_clients import Bare

from app.keys import HUB, METRICS
from app.main import create_app
from app.web.socket_client import text_frame
from app.web.socket_commands import COMMANDS_AT_ONCE, MAX_FRAME_BYTES
from harness import GUARD_S, SMALL_BODY, ServedAsOurs, eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.test_utils import TestClient

    from app.settings import Settings
    from app.web.socket_client import Connection

    Start = Callable[..., Awaitable[TestClient[Any, Any]]]

PING = b"\x89\x80\0\0\0\0"
"""An empty ping of a client, masked with zeros."""


def said(text: bytes, first: int = 0x81) -> bytes:
    """Return a frame of a client, masked with zeros; by default a text."""
    return struct.pack("!BBQ", first, 0x80 | 127, len(text)) + b"\0\0\0\0" + text


@pytest.fixture
def start(settings: Settings, aiohttp_client: Any) -> Start:
    """Start a server with these settings changed, served as `make up` serves it."""

    async def start_one(**changes: Any) -> TestClient[Any, Any]:
        return await aiohttp_client(ServedAsOurs(create_app(settings.model_copy(update=changes))))

    return start_one


async def upgraded(client: TestClient[Any, Any], bare: Bare) -> Connection:
    """Follow a new job over a bare socket, and return the server's end."""
    answer = await client.post("/api/v1/generation-jobs/", json=SMALL_BODY)
    job_id = (await answer.json())["job_id"]
    await bare.send(request_of("GET", f"/ws/jobs/{job_id}", UPGRADE))
    await bare.receive(b"}")
    (connection,) = client.app[HUB].watchers_of(job_id)
    return connection


async def too_slow(client: TestClient[Any, Any]) -> bool:
    return bool(client.app[METRICS].registry.get_sample_value("genonaut_websockets_too_slow_total"))


async def test_what_waits_for_a_client_is_bounded_by_its_bytes(start: Start) -> None:
    client = await start(ws_outbox_bytes=2**20)
    async with Bare(client, window=4096) as bare:
        connection = await upgraded(client, bare)
        frame, most = text_frame(b'"' + b"x" * 100_000 + b'"'), 0
        while not await too_slow(client):
            connection.send(frame)
            most = max(most, connection.waiting_bytes)
            await asyncio.sleep(0)
        assert 2**20 - 2 * len(frame) < most <= 2**20
        await bare.rest()


async def test_a_small_frame_that_waits_is_counted_with_what_it_takes_besides(start: Start) -> None:
    client = await start(ws_outbox_bytes=2**24)
    async with Bare(client, window=4096) as bare:
        connection = await upgraded(client, bare)
        connection.send(text_frame(b"x" * 12_000_000))
        for _ in range(2**24 // 100):
            connection.send(text_frame(b"1"))
        await eventually(lambda: too_slow(client))


async def test_a_frame_that_is_larger_than_the_outbox_arrives_all_the_same(start: Start) -> None:
    client = await start(ws_outbox_bytes=2**16)
    async with Bare(client) as bare:
        connection = await upgraded(client, bare)
        for letter in (b"x", b"y"):
            connection.send(text_frame(letter * 12_000_000 + b"!"))
        received = await bare.receive(b"!", 2)
        assert (received.count(b"x"), received.count(b"y")) == (12_000_000, 12_000_000)


async def test_the_present_state_arrives_however_large_it_is(start: Start) -> None:
    client = await start(ws_outbox_bytes=2**16)
    async with Bare(client) as bare:
        connection = await upgraded(client, bare)
        texts = [b"%d" % number + b"x" * 1_000_000 + b"!" for number in range(1, 13)]
        connection.follow([(number, 1, text_frame(text), False) for number, text in enumerate(texts)])
        assert connection.waiting > 1
        received = await bare.receive(b"!", len(texts))
        assert received.count(b"x") == 12_000_000
        assert not await too_slow(client)


async def test_pings_of_websocket_are_answered_with_their_data(start: Start) -> None:
    client = await start()
    async with Bare(client) as bare:
        await upgraded(client, bare)
        for data in (b"", b"a", b"x" * 125):
            await bare.send(bytes([0x89, 0x80 | len(data)]) + b"\0\0\0\0" + data)
            assert await bare.receive(data if data else b"\x8a\x00") == bytes([0x8A, len(data)]) + data


async def test_a_flood_of_pings_is_answered_no_faster_than_the_others_can_bear(start: Start) -> None:
    client = await start()
    async with Bare(client) as bare:
        await upgraded(client, bare)
        # More than are let through at once, in what one read of the socket brings.
        await bare.send(PING * 100 * COMMANDS_AT_ONCE)
        answered = await bare.receive(b"\x8a\x00")
        for _ in range(20):
            assert (await client.get("/health/live")).status == 200
        with contextlib.suppress(BlockingIOError):
            answered += bare.socket.recv(2**20)
        assert len(answered) // 2 < 20 * COMMANDS_AT_ONCE
        await bare.send(said(b"", 0x88))


async def test_pings_whose_answers_are_not_read_end_the_connection(start: Start) -> None:
    """Its kernel is full, then ours; it goes on sending, which alone would pass for a sign of life."""
    client = await start(ws_outbox_bytes=2**16, unread_seconds=0.3)
    async with Bare(client, window=4096) as bare:
        connection = await upgraded(client, bare)
        connection.send(text_frame(b"x" * 10_000_000))
        ended = asyncio.create_task(until_closed(bare))
        await eventually(lambda: cut_off(client))
        await ended
        assert connection.waiting_bytes < 2**16 + 10_000_100


async def test_a_client_that_is_cut_off_while_frames_wait_stops_nobody(start: Start) -> None:
    client = await start(ws_outbox_bytes=2**25, unread_seconds=0.3)
    async with Bare(client, window=4096) as bare:
        connection = await upgraded(client, bare)
        for _ in range(3):
            connection.send(text_frame(b"x" * 10_000_000))
        assert connection.waiting > 0
        (sending,) = (task for task in asyncio.all_tasks() if task.get_name() == "ws-drain")
        await eventually(lambda: cut_off(client))
    assert (await client.get("/health/live")).status == 200
    # It once went round for ever, and what ends a hanging test ended only that task.
    await asyncio.wait([sending])
    assert sending.cancelled() or sending.exception() is None


async def until_closed(bare: Bare) -> None:
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(GUARD_S):
            while True:
                await bare.send(PING)
                await asyncio.sleep(0.01)


async def cut_off(client: TestClient[Any, Any]) -> bool:
    return bool(client.app[METRICS].registry.get_sample_value("genonaut_slow_clients_total", {"what": "unread"}))


@pytest.mark.parametrize("parts", [1, 10])
async def test_a_message_that_is_too_long_is_not_received(start: Start, parts: int) -> None:
    client = await start()
    async with client.ws_connect("/ws/events") as ws, Bare(client) as bare:
        await upgraded(client, bare)
        for part in range(parts):
            first = (0 if part else 1) | (0x80 if part == parts - 1 else 0)
            with contextlib.suppress(ConnectionError):
                await bare.send(said(b"x" * (MAX_FRAME_BYTES // parts + 1), first))
        assert (await bare.rest())[2:4] == struct.pack("!H", 1009)
        await ws.send_json({"type": "ping", "id": "others go on"})
        while "others go on" not in await ws.receive_str(timeout=GUARD_S):
            pass


async def test_a_compressed_frame_is_not_inflated(start: Start) -> None:
    client = await start()
    async with Bare(client) as bare:
        await upgraded(client, bare)
        packing = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        packed = packing.compress(json.dumps({"type": "ping"}).encode()) + packing.flush(zlib.Z_SYNC_FLUSH)
        with contextlib.suppress(ConnectionError):
            await bare.send(said(packed.removesuffix(b"\0\0\xff\xff"), 0x81 | 0x40))
        assert (await bare.rest())[2:4] == struct.pack("!H", 1002)
    async with client.ws_connect("/ws/events", compress=15) as ws:
        assert ws.compress == 0
        assert (await ws.receive()).type is WSMsgType.TEXT
