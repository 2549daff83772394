"""What is refused before an upgrade, what clients may say after it, and how a connection ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import WSMsgType, WSServerHandshakeError

from app.domain.job import Phase
from app.domain.message import frame, snapshot_of
from app.keys import HUB, VIEWS
from app.main import create_app
from app.web.socket_commands import MAX_FRAME_BYTES
from harness import GUARD_S, SMALL_BODY, eventually, transport_of

if TYPE_CHECKING:
    from aiohttp import ClientWebSocketResponse
    from aiohttp.test_utils import TestClient
    from arq.connections import ArqRedis

    from app.messaging.channels import Names
    from app.settings import Settings

BASE = "/api/v1/generation-jobs"
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


async def create(client: TestClient[Any, Any], **changes: Any) -> int:
    """Create a job, and return its id."""
    answer = await client.post(f"{BASE}/", json=SMALL_BODY | changes)
    assert answer.status == 201, await answer.text()
    return int((await answer.json())["job_id"])


async def next_frame(ws: ClientWebSocketResponse) -> dict[str, Any]:
    """Return the next frame."""
    async with asyncio.timeout(GUARD_S):
        return dict(await ws.receive_json())


def handshake(job_id: int) -> bytes:
    """Return a request to follow a job, for a client that is a bare socket."""
    headers = {"Host": "localhost"} | UPGRADE
    lines = [f"GET /ws/jobs/{job_id} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode()


async def until_cut_off(connection: socket.socket) -> None:
    """Read a socket to its end, whichever way it ends."""
    with contextlib.suppress(ConnectionError):
        while await asyncio.get_running_loop().sock_recv(connection, 65536):
            pass


REFUSED = [
    ("/ws/jobs", 400, "bad_parameter"),
    ("/ws/jobs?job_ids=", 400, "bad_parameter"),
    ("/ws/jobs?job_ids=,,%20,", 400, "bad_parameter"),
    ("/ws/jobs?job_ids=abc", 400, "bad_parameter"),
    ("/ws/jobs?job_ids=1,two,3", 400, "bad_parameter"),
    ("/ws/jobs?job_ids=1;2", 400, "bad_parameter"),
    ("/ws/jobs?job_ids=-1", 400, "bad_parameter"),
    ("/ws/jobs?job_ids=1.5", 400, "bad_parameter"),
    ("/ws/jobs?job_ids=%D9%A3", 400, "bad_parameter"),
    ("/ws/jobs?job_ids=" + "9" * 5000, 400, "bad_parameter"),
    ("/ws/jobs?job_ids=" + ",".join(map(str, range(501))), 400, "bad_parameter"),
    ("/ws/jobs?job_ids=9223372036854775808", 404, "job_not_found"),
    ("/ws/jobs?job_ids=777", 404, "job_not_found"),
    ("/ws/jobs/abc", 400, "bad_parameter"),
    ("/ws/jobs/-1", 400, "bad_parameter"),
    ("/ws/jobs/1,2", 400, "bad_parameter"),
    ("/ws/jobs/%00", 400, "bad_parameter"),
    ("/ws/jobs/777", 404, "job_not_found"),
    ("/ws/jobs/0", 404, "job_not_found"),
    ("/ws/jobs/" + "9" * 19, 404, "job_not_found"),
    ("/ws/jobs/" + "9" * 5000, 404, "job_not_found"),
    ("/ws/nothing", 404, "not_found"),
]


async def test_what_cannot_be_followed_is_refused_before_the_upgrade(client: TestClient[Any, Any]) -> None:
    for path, status, code in REFUSED:
        answer = await client.get(path, headers=UPGRADE)
        assert (answer.status, answer.content_type) == (status, "application/problem+json"), path
        problem = await answer.json()
        assert problem["code"] == code
        assert len(problem["detail"]) < 20_000
        with pytest.raises(WSServerHandshakeError) as refused:
            await client.ws_connect(path)
        assert refused.value.status == status


async def test_unknown_jobs_are_listed(client: TestClient[Any, Any]) -> None:
    job_id = await create(client)
    answer = await client.get(f"/ws/jobs?job_ids=901,{job_id},900", headers=UPGRADE)
    problem = await answer.json()
    assert (answer.status, problem["code"]) == (404, "job_not_found")
    assert "900" in problem["detail"]
    assert "901" in problem["detail"]
    assert f" {job_id}," not in problem["detail"]


async def test_words_among_the_ids_are_listed(client: TestClient[Any, Any]) -> None:
    problem = await (await client.get("/ws/jobs?job_ids=a,1,b")).json()
    assert [fault["pointer"] for fault in problem["errors"]] == ["job_ids", "job_ids"]
    assert "'a'" in problem["errors"][0]["detail"]


async def test_ids_may_be_given_in_several_parameters(client: TestClient[Any, Any]) -> None:
    first, second = await create(client), await create(client)
    async with client.ws_connect(f"/ws/jobs?job_ids={first}&job_ids=%20{second}%20,{first}") as ws:
        assert {(await next_frame(ws))["job_id"] for _ in range(2)} == {first, second}
        await ws.send_json({"type": "ping"})
        assert (await next_frame(ws)) == {"type": "pong"}


@pytest.mark.parametrize(
    "headers", [{}, {"Upgrade": "h2c", "Connection": "Upgrade"}, UPGRADE | {"Sec-WebSocket-Version": "99"}]
)
async def test_without_a_proper_upgrade_it_is_400(client: TestClient[Any, Any], headers: dict[str, str]) -> None:
    job_id = await create(client)
    for path in (f"/ws/jobs/{job_id}", f"/ws/jobs?job_ids={job_id}", "/ws/events"):
        answer = await client.get(path, headers=headers)
        assert (answer.status, answer.content_type) == (400, "application/problem+json")
        assert (await answer.json())["errors"][0]["code"] == "not_a_websocket"


@pytest.mark.parametrize("origin", ["http://evil.example", "https://127.0.0.1.evil.example", "http://[", "evil", "//"])
async def test_pages_of_other_sites_are_refused(client: TestClient[Any, Any], origin: str) -> None:
    job_id = await create(client)
    for path in (f"/ws/jobs/{job_id}", "/ws/events"):
        answer = await client.get(path, headers=UPGRADE | {"Origin": origin})
        assert (answer.status, (await answer.json())["code"]) == (403, "foreign_origin")


async def test_a_ping_is_answered_with_its_id(client: TestClient[Any, Any]) -> None:
    async with client.ws_connect(f"/ws/jobs/{await create(client)}") as ws:
        await next_frame(ws)
        for identity in (None, 7, "a", 0, "", 2**64, 1.5, True, "\ud800", "ü"):
            own = {"id": identity} if identity is not None else {}
            await ws.send_str(json.dumps({"type": "ping"} | own))
            assert await next_frame(ws) == {"type": "pong"} | own


GARBAGE = {
    "nothing": "",
    "text": "hello",
    "half": '{"type": "ping"',
    "list": "[]",
    "number": "17",
    "null": "null",
    "no type": "{}",
    "type that is no text": '{"type": 7}',
    "unknown command": '{"type": "dance"}',
    "id that is an object": '{"type": "ping", "id": {}}',
    "id that is a list": '{"type": "ping", "id": [1]}',
    "id that is no number": '{"type": "ping", "id": NaN}',
    "id beyond all numbers": '{"type": "ping", "id": 1e999}',
    "number of 5000 digits": '{"type": "ping", "id": ' + "9" * 5000 + "}",
    "deep": "[" * 60_000,
    "long": '{"type": "ping", "id": "' + "x" * 100_000 + '"}',
    "huge": "x" * (MAX_FRAME_BYTES - 1),
    "NUL": "\0",
}


async def test_nonsense_is_answered_and_the_connection_stays(client: TestClient[Any, Any]) -> None:
    job_id = await create(client)
    async with client.ws_connect(f"/ws/jobs/{job_id}") as ws:
        await next_frame(ws)
        for name, text in GARBAGE.items():
            await ws.send_str(text)
            told = await next_frame(ws)
            assert (told["type"], set(told)) == ("error", {"type", "code", "detail"}), name
            assert len(json.dumps(told)) < 500
        await ws.send_bytes(b"\x00\xff" * 50)
        assert (await next_frame(ws))["code"] == "binary_frame"
        await ws.send_json({"type": "ping", "id": "still there"})
        assert (await next_frame(ws))["id"] == "still there"
        await client.post(f"{BASE}/{job_id}/cancel")
        assert (await next_frame(ws))["status"] == "cancelled"


async def test_a_stalled_reader_is_closed_and_delays_nobody(
    settings: Settings, aiohttp_client: Any, redis: ArqRedis, names: Names
) -> None:
    """It subscribes over a socket with a tiny window, and never reads."""
    app = create_app(settings.model_copy(update={"ws_outbox_bytes": 2**16}))
    client = await aiohttp_client(app)
    job_id = await create(client)
    snapshot = snapshot_of((await app[VIEWS].view(job_id)).job)
    # Frames large enough to fill what the kernel would buffer.
    padding = "x" * 200_000
    loop = asyncio.get_running_loop()
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.setblocking(False)
        await loop.sock_connect(stalled, (client.server.host, client.server.port))
        await loop.sock_sendall(stalled, handshake(job_id))
        hub = app[HUB]

        async def watched(count: int) -> bool:
            return len(hub.watchers_of(job_id)) == count

        await eventually(lambda: watched(1))
        async with client.ws_connect(f"/ws/jobs/{job_id}") as ws:
            await next_frame(ws)
            await eventually(lambda: watched(2))
            for number in range(1, 61):
                told = frame(replace(snapshot, phase=Phase.EXECUTING, tick=number)) | {"padding": padding}
                await redis.publish(names.events, json.dumps({"type": "job"} | told))
                assert (await next_frame(ws))["seq"] == snapshot.order + number
            await eventually(lambda: watched(1))
            # Not only forgotten: cut off, though it has read nothing of what lies in between.
            async with asyncio.timeout(GUARD_S):
                await until_cut_off(stalled)
            await ws.send_json({"type": "ping"})
            assert await next_frame(ws) == {"type": "pong"}


async def test_a_client_that_floods_and_does_not_read_costs_a_bounded_outbox(
    settings: Settings, aiohttp_client: Any
) -> None:
    app = create_app(settings.model_copy(update={"ws_outbox_bytes": 2**16}))
    client = await aiohttp_client(app)
    job_id = await create(client)
    loop = asyncio.get_running_loop()
    text = json.dumps({"type": "ping", "id": "x" * 60_000}).encode()
    frame = struct.pack("!BBQ", 0x81, 0x80 | 127, len(text)) + b"\0\0\0\0" + text
    with socket.socket() as flooding:
        flooding.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        flooding.setblocking(False)
        await loop.sock_connect(flooding, (client.server.host, client.server.port))
        await loop.sock_sendall(flooding, handshake(job_id))
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(GUARD_S):
                while True:
                    await loop.sock_sendall(flooding, frame)
    assert (await client.get("/health/live")).status == 200


@pytest.mark.parametrize("count", [1, 20])
async def test_a_server_that_stops_says_that_it_is_going_away(
    settings: Settings, aiohttp_client: Any, count: int
) -> None:
    client = await aiohttp_client(create_app(settings))
    job_id = await create(client)
    sockets = [await client.ws_connect(f"/ws/jobs/{job_id}") for _ in range(count)]
    sockets.append(await client.ws_connect("/ws/events"))
    for ws in sockets:
        await next_frame(ws)

    async def end(ws: ClientWebSocketResponse) -> int | None:
        message = await ws.receive()
        assert message.type is WSMsgType.CLOSE
        return ws.close_code

    ends = [asyncio.create_task(end(ws)) for ws in sockets]
    async with asyncio.timeout(GUARD_S):
        await client.server.close()
        assert await asyncio.gather(*ends) == [1001] * len(sockets)


@pytest.mark.parametrize(("reason", "code"), [("its job has ended", 1000), ("the server stops", 1001)])
async def test_a_client_that_reads_late_learns_why_it_was_closed(
    settings: Settings, aiohttp_client: Any, reason: str, code: int
) -> None:
    client = await aiohttp_client(create_app(settings))
    job_id = await create(client)
    async with asyncio.timeout(GUARD_S), asyncio.TaskGroup() as group:
        ws = await client.ws_connect(f"/ws/jobs/{job_id}")
        await next_frame(ws)
        if reason == "the server stops":
            group.create_task(client.server.close())
        else:
            await client.post(f"{BASE}/{job_id}/cancel")
        await asyncio.sleep(1)
        async for _ in ws:
            pass
        assert ws.close_code == code


async def test_a_client_that_does_not_answer_the_close_is_not_waited_for_long(client: TestClient[Any, Any]) -> None:
    job_id = await create(client)
    loop = asyncio.get_running_loop()
    with socket.socket() as mute:
        mute.setblocking(False)
        await loop.sock_connect(mute, (client.server.host, client.server.port))
        await loop.sock_sendall(mute, handshake(job_id))
        assert b" 101 " in await loop.sock_recv(mute, 65536)
        await client.post(f"{BASE}/{job_id}/cancel")
        async with asyncio.timeout(GUARD_S):
            await until_cut_off(mute)


async def test_a_client_that_leaves_is_forgotten(settings: Settings, aiohttp_client: Any) -> None:
    app = create_app(settings)
    client = await aiohttp_client(app)
    job_id = await create(client)
    polite = await client.ws_connect(f"/ws/jobs/{job_id}")
    rude = await client.ws_connect(f"/ws/jobs/{job_id}")
    for ws in (polite, rude):
        await next_frame(ws)
    await polite.close()
    transport_of(rude).abort()

    async def forgotten() -> bool:
        return not app[HUB].watched_jobs

    await eventually(forgotten)
    assert (await client.get(f"{BASE}/{job_id}")).status == 200


@pytest.mark.parametrize("length", [1, 125, 126, 65_535, 65_536])
async def test_a_text_of_any_length_arrives_whole(
    settings: Settings, aiohttp_client: Any, redis: ArqRedis, names: Names, length: int
) -> None:
    app = create_app(settings)
    client = await aiohttp_client(app)
    async with client.ws_connect("/ws/events") as ws:
        assert (await next_frame(ws))["type"] == "hello"
        # JSON texts of this length.
        for text in ("1", "2") if length == 1 else (f'"{letter * (length - 2)}"' for letter in "xy"):
            await redis.publish(names.events, text)
            # There is another hello as soon as the hub listens.
            while "hello" in (told := await ws.receive_str(timeout=GUARD_S)):
                pass
            assert told == text


async def test_a_client_that_pauses_misses_nothing_and_nothing_twice(
    settings: Settings, aiohttp_client: Any, redis: ArqRedis, names: Names
) -> None:
    """What it does not read at once is more than the kernel and the transport take, and less than its outbox."""
    app = create_app(settings.model_copy(update={"ws_outbox_bytes": 2**25}))
    client = await aiohttp_client(app)
    job_id = await create(client)
    snapshot, padding = snapshot_of((await app[VIEWS].view(job_id)).job), "x" * 500_000
    loop = asyncio.get_running_loop()
    with socket.socket() as pausing:
        pausing.setblocking(False)
        await loop.sock_connect(pausing, (client.server.host, client.server.port))
        await loop.sock_sendall(pausing, handshake(job_id))
        received = b""
        while b'"seq"' not in received:
            received += await loop.sock_recv(pausing, 65_536)
        (connection,) = app[HUB].watchers_of(job_id)
        for number in range(1, 31):
            told = frame(replace(snapshot, phase=Phase.EXECUTING, tick=number)) | {"padding": padding}
            await redis.publish(names.events, json.dumps({"type": "job"} | told))

        async def waiting() -> bool:
            return connection.waiting > 5 and connection.told(job_id) == snapshot.order + 30

        await eventually(waiting)
        chunks = []
        async with asyncio.timeout(GUARD_S):
            while sum(map(len, chunks)) < 30 * len(json.dumps(told, separators=(",", ":"))):
                chunks.append(await loop.sock_recv(pausing, 1 << 20))
    seqs = re.findall(rb'"seq": ?(\d+)', received + b"".join(chunks))
    assert [int(seq) - snapshot.order for seq in seqs] == list(range(31))


async def test_a_client_that_answers_no_ping_is_dropped(settings: Settings, aiohttp_client: Any) -> None:
    app = create_app(settings.model_copy(update={"ws_heartbeat_seconds": 0.2}))
    client = await aiohttp_client(app)
    job_id = await create(client)
    loop = asyncio.get_running_loop()
    with socket.socket() as silent:
        silent.setblocking(False)
        await loop.sock_connect(silent, (client.server.host, client.server.port))
        await loop.sock_sendall(silent, handshake(job_id))
        async with asyncio.timeout(GUARD_S):
            await until_cut_off(silent)
    await eventually(lambda: _nobody_watches(app[HUB]))


async def _nobody_watches(hub: Any) -> bool:
    return not hub.watched_jobs
