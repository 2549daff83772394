"""The stand-in held to the recorded exchanges: the client's side is replayed, frames and answers are compared."""

import asyncio
import base64
import contextlib
import copy
import dataclasses
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from worker.standin.main import STANDIN, Standin, StandinOptions, create_app

CAPTURES = Path(__file__).parents[1] / "data" / "comfyui-captures"
PATIENCE_SECONDS = 10.0
PAUSE_SECONDS = 0.3
"""A gap in a recording that is longer was the client waiting for the job to end."""

OPTIONS = StandinOptions(
    checkpoints=("tiny-random.safetensors",),
    loras=("tiny-random-lora.safetensors",),
    model_load_seconds=0.0,
    lora_load_seconds=0.0,
    step_seconds=0.0,
    speed=3.0,
)
SLOWER = dataclasses.replace(OPTIONS, speed=0.4)
"""Slower than recorded: what a client does between two steps must fall between them here too."""

Row = dict[str, Any]
Frame = dict[str, Any] | bytes


def load(name: str) -> list[Row]:
    """Return the rows of a capture."""
    rows: list[Row] = json.loads((CAPTURES / f"{name}.json").read_text())
    return rows


@contextlib.asynccontextmanager
async def standin_server(options: StandinOptions = OPTIONS) -> AsyncIterator[tuple[TestServer, Standin]]:
    """Serve a stand-in on a port of its own."""
    app = create_app(options)
    async with TestServer(app) as server:
        yield server, app[STANDIN]


@dataclass
class Client:
    """One replayed connection: a socket, read at all times, and what came from it."""

    ws: aiohttp.ClientWebSocketResponse
    frames: list[Frame] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    reader: asyncio.Task[None] | None = None

    async def read(self) -> None:
        """Collect frames until the socket closes."""
        async for message in self.ws:
            async with self.changed:
                self.frames.append(message.data if isinstance(message.data, bytes) else json.loads(message.data))
                self.changed.notify_all()

    async def has(self, events: int, statuses: int = 0, ends: int = 0) -> None:
        """Wait until this many frames came, `status` frames and the last frames of jobs counted apart."""

        def enough() -> bool:
            counts = len(without_status(self.frames)), len(self.frames), count_ends(self.frames)
            return all(count >= least for count, least in zip(counts, (events, events + statuses, ends), strict=True))

        try:
            async with asyncio.timeout(PATIENCE_SECONDS), self.changed:
                await self.changed.wait_for(enough)
        except TimeoutError:
            kinds = [kind_of(frame) for frame in self.frames]
            raise AssertionError(f"expected {events} events and {statuses} statuses, got {kinds}") from None


class Replay:
    """Does what the recorded client did, each action once what it had seen before has come."""

    def __init__(self, server: TestServer, standin: Standin, session: aiohttp.ClientSession) -> None:
        self._server = server
        self._standin = standin
        self._session = session
        self._clients: dict[str, Client] = {}
        self._ids: dict[str, str] = {}
        """Recorded prompt id → the one that was given now."""
        self.answers: list[tuple[Row, dict[str, Any]]] = []

    async def run(self, rows: list[Row], *, waits: bool = True) -> dict[str, list[Frame]]:
        """Replay a capture and return the frames of each client; `self.answers` pairs answers with recorded ones."""
        expected: dict[str, list[Frame]] = {}
        last = 0.0
        pending: dict[str, Any] | None = None
        for row in rows:
            name = row.get("client", "")
            match row["direction"], row["kind"]:
                case "in", "ws_text" | "ws_binary":
                    expected.setdefault(name, []).append(recorded_frame(row))
                case "in", "http_response":
                    assert pending is not None
                    self.answers.append((row["data"], pending))
                    if "prompt_id" in (body := row["data"]["body"]):
                        self._ids[body["prompt_id"]] = pending["body"].get("prompt_id", "")
                    pending = None
                case "out", "ws_connect":
                    await self._catch_up(expected, relaxed=True)
                    await self._connect(name, row["data"]["path"])
                case "out", "ws_text":
                    await self._clients[name].ws.send_str(json.dumps(as_json(row["data"])))
                case "out", "http_request":
                    await self._catch_up(expected, relaxed=not waits or row["t"] - last <= PAUSE_SECONDS)
                    pending = await self._request(row["data"])
                case "in", "ws_close":
                    await self._catch_up(expected, relaxed=row["t"] - last <= PAUSE_SECONDS)
                    await self._finish(name, expected)
            last = row["t"]
        return {name: client.frames for name, client in self._clients.items()}

    async def _connect(self, name: str, path: str) -> None:
        ws = await self._session.ws_connect(self._server.make_url(path), max_msg_size=0)
        client = self._clients[name] = Client(ws)
        client.reader = asyncio.create_task(client.read())
        await client.has(0, 1)

    async def _catch_up(self, expected: dict[str, list[Frame]], *, relaxed: bool) -> None:
        """Wait until every open client has seen what the recorded one had; after a pause, until nothing runs."""
        if not relaxed:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._standin.queue.idle.wait()
                await self._standin.sockets.delivered()
        for name, frames in expected.items():
            if not self._clients[name].ws.closed:
                await self._clients[name].has(len(without_status(frames)), ends=count_ends(frames))

    async def _finish(self, name: str, expected: dict[str, list[Frame]]) -> None:
        """Wait for the client's last frames, and for any that should not come, and close."""
        client, frames = self._clients[name], expected.get(name, [])
        events = len(without_status(frames))
        await client.has(events, len(frames) - events, count_ends(frames))
        await self._standin.sockets.delivered()
        async with self._session.get(self._server.make_url("/features")) as response:
            await response.read()
        await client.ws.close()
        if client.reader is not None:
            await client.reader

    async def _request(self, data: dict[str, Any]) -> dict[str, Any]:
        for recorded, given in self._ids.items():
            data = json.loads(json.dumps(data).replace(recorded, given))
        url = self._server.make_url(data["path"])
        body: Any = json.dumps(data["body"]) if "body" in data else data.get("raw")
        if data["path"] == "/upload/image":
            body = aiohttp.FormData()
            body.add_field("image", b"\x89PNG not really", filename="in.png", content_type="image/png")
        if "params" in data:
            url = url.with_query(data["params"])
        async with self._session.request(data["method"], url, data=body) as response:
            return await read_answer(response)


async def read_answer(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """Return an answer the way the captures record it."""
    raw = await response.read()
    content_type = response.headers.get("Content-Type", "")
    body: Any = {"length": len(raw), "base64_first_200": base64.b64encode(raw[:200]).decode()}
    if content_type.startswith("application/json"):
        body = json.loads(raw)
    elif content_type.startswith("text/"):
        body = raw.decode()
    return {"status": response.status, "content_type": content_type, "body": body}


def as_json(data: Any) -> Any:
    return json.loads(data) if isinstance(data, str) else data


def recorded_frame(row: Row) -> Frame:
    """Return a recorded frame; a binary one as far as it was kept."""
    if row["kind"] == "ws_text":
        frame: dict[str, Any] = as_json(row["data"])
        return frame
    return base64.b64decode(row["data"]["base64_first_200"])


def kind_of(frame: Frame) -> str:
    return "binary" if isinstance(frame, bytes) else str(frame["type"])


def without_status(frames: list[Frame]) -> list[Frame]:
    return [frame for frame in frames if kind_of(frame) != "status"]


def is_end(frame: Frame) -> bool:
    """Tell whether a frame is the last one of a job."""
    return kind_of(frame) == "executing" and isinstance(frame, dict) and frame["data"]["node"] is None


def count_ends(frames: list[Frame]) -> int:
    return sum(is_end(frame) for frame in frames)


class Comparison:
    """Compares what was recorded with what came: ids, numbers, file names and times by their role, the rest exactly."""

    def __init__(self) -> None:
        self._seen: tuple[dict[str, str], dict[str, str]] = ({}, {})
        self._number_offset: int | None = None

    def frames(self, recorded: list[Frame], received: list[Frame]) -> None:
        """Compare one client's frames: `status` frames among themselves, the others one by one."""
        events, got = without_status(recorded), without_status(received)
        assert [kind_of(one) for one in got] == [kind_of(one) for one in events]
        for index, (one, other) in enumerate(zip(events, got, strict=True)):
            if isinstance(one, bytes) or isinstance(other, bytes):
                self._binary(one, other)
            else:
                self.json(one, other, f"frame {index}")
        statuses = [one for one in recorded if kind_of(one) == "status"]
        self.json(statuses, [one for one in received if kind_of(one) == "status"], "status frames")

    def answer(self, recorded: dict[str, Any], received: dict[str, Any], request: str) -> None:
        """Compare one HTTP answer."""
        assert received["status"] == recorded["status"], request
        if recorded["content_type"]:
            assert received["content_type"] == recorded["content_type"], request
        if "base64_first_200" in recorded["body"]:
            head = base64.b64decode(recorded["body"]["base64_first_200"])
            got = base64.b64decode(received["body"]["base64_first_200"])
            assert got[:200] == head[:200] if b'"EmptyImage"' in head else got[:8] == head[:8], request
            assert bool(got) == bool(head), request
        else:
            self.json(recorded["body"], received["body"], request)

    def json(self, recorded: Any, received: Any, where: str) -> None:
        """Compare two JSON values."""
        assert type(received) is type(recorded), f"{where}: {received!r} instead of {recorded!r}"
        match recorded:
            case dict():
                mine = {self._alias(0, key): key for key in recorded}
                theirs = {self._alias(1, key): key for key in received}
                assert set(theirs) == set(mine), where
                for alias, key in mine.items():
                    self._member(key, recorded[key], received[theirs[alias]], f"{where}.{key}")
            case list():
                self._list(recorded, received, where)
            case str():
                assert self._alias(1, received) == self._alias(0, recorded), where
            case _:
                assert received == recorded, where

    def _member(self, key: str, recorded: Any, received: Any, where: str) -> None:
        """Compare the values of one key, some of which differ from server to server."""
        if key in ("timestamp", "ram_total", "ram_free", "vram_total", "vram_free", "torch_vram_total",
                   "torch_vram_free", "python_version", "pytorch_version"):  # fmt: skip
            assert type(received) is type(recorded), where
        elif key in ("argv", "traceback"):
            assert [type(one) for one in received[:1]] == [type(one) for one in recorded[:1]], where
            assert isinstance(received, list), where
        elif key == "current_outputs":
            assert sorted(received) == sorted(recorded), where
        elif key == "number":
            self._number(recorded, received, where)
        elif key == "prompt" and isinstance(recorded, list):
            self._item(recorded, received, where)
        elif key in ("queue_running", "queue_pending"):
            assert len(received) == len(recorded), where
            for one, other in zip(recorded, received, strict=True):
                self._item(one, other, where)
        elif key == "errors":
            order = sorted(recorded, key=lambda one: str(one["details"]))
            self._list(order, sorted(received, key=lambda one: str(one["details"])), where)
        elif key == "devices":
            assert [set(one) for one in received] == [set(one) for one in recorded], where
            assert [one["type"] for one in received] == [one["type"] for one in recorded], where
        else:
            self.json(recorded, received, where)

    def _list(self, recorded: list[Any], received: list[Any], where: str) -> None:
        assert len(received) == len(recorded), where
        for index, (one, other) in enumerate(zip(recorded, received, strict=True)):
            self.json(one, other, f"{where}[{index}]")

    def _item(self, recorded: list[Any], received: list[Any], where: str) -> None:
        """Compare two queue items."""
        self._number(recorded[0], received[0], where)
        self._list(recorded[1:], received[1:], where)

    def _number(self, recorded: int, received: int, where: str) -> None:
        """Compare job numbers, which may start elsewhere."""
        assert type(received) is type(recorded), where
        if self._number_offset is None:
            self._number_offset = received - recorded
        assert received - recorded == self._number_offset, where

    def _binary(self, recorded: Frame, received: Frame) -> None:
        """Compare two binary frames: kind, image kind or metadata, and how the image begins."""
        assert isinstance(recorded, bytes)
        assert isinstance(received, bytes)
        assert received[:4] == recorded[:4]
        match int.from_bytes(recorded[:4], "big"):
            case 3:
                assert received == recorded
            case 4:
                ends = [8 + int.from_bytes(one[4:8], "big") for one in (recorded, received)]
                described = [json.loads(one[8:end]) for one, end in zip((recorded, received), ends, strict=True)]
                self.json(described[0], described[1], "preview metadata")
                assert received[ends[1] : ends[1] + 3] == recorded[ends[0] : ends[0] + 3]
            case _:
                assert received[:11] == recorded[:11]

    def _alias(self, side: int, text: str) -> str:
        """Return a text with its ids and file numbers replaced by the order in which they first appeared."""
        if text.startswith("tensor("):
            return "tensor"
        text = re.sub(r"ComfyUI_temp_[a-z]{5}_", "ComfyUI_temp_xxxxx_", text)

        def ordinal(match: re.Match[str]) -> str:
            known = self._seen[side]
            return known.setdefault(match[0], f"<{len(known)}>")

        return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|[\w-]+_\d{5}_\.\w+", ordinal, text)


def check_ends(frames: list[Frame]) -> None:
    """Check where `status` stands: before each start, and between each end and the last frame of the job."""
    kinds = ["end" if is_end(frame) else kind_of(frame) for frame in frames]
    for index, kind in enumerate(kinds):
        if kind == "execution_start":
            assert kinds[index - 1] == "status"
        if kind == "end":
            assert kinds[index - 1] == "status"
            assert kinds[index - 2] in ("execution_success", "execution_error", "execution_interrupted", "status")


async def compare(name: str, server: TestServer, standin: Standin, *, waits: bool = True) -> None:
    """Replay a capture and compare everything."""
    rows = load(name)
    async with aiohttp.ClientSession() as session:
        replay = Replay(server, standin, session)
        received = await replay.run(rows, waits=waits)
    compare_all(rows, received, replay.answers)


def compare_all(
    rows: list[Row], received: dict[str, list[Frame]], answers: list[tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    """Compare frames and answers of a capture with what came."""
    comparison = Comparison()
    requests = [str(row["data"])[:150] for row in rows if row["kind"] == "http_request"]
    for (recorded, got), request in zip(answers, requests, strict=True):
        comparison.answer(recorded, got, request)
    recorded_frames: dict[str, list[Frame]] = {}
    for row in rows:
        if row["direction"] == "in" and row["kind"] in ("ws_text", "ws_binary"):
            recorded_frames.setdefault(row.get("client", ""), []).append(recorded_frame(row))
    assert set(received) == set(recorded_frames)
    for name, frames in recorded_frames.items():
        comparison.frames(frames, received[name])
        check_ends(frames)
        check_ends(received[name])


@pytest.mark.parametrize(
    "name",
    [
        "success-model-free",
        "success-batch-of-three-in-subfolder",
        "success-text-to-image-legacy-previews",
        "cached-rerun",
        "invalid-prompts",
        "partly-invalid-prompt-runs-anyway",
        "node-exception",
        "node-out-of-memory",
        "delete-while-queued",
        "two-prompts-queued-at-once",
        "two-clients",
        "own-prompt-id-and-duplicate",
        "websocket-image-preview-image-and-progress-text",
        "execution-blocked-error-then-success",
    ],
)
async def test_a_recorded_exchange_is_repeated(name: str) -> None:
    async with standin_server() as (server, standin):
        await compare(name, server, standin)


async def test_a_second_exchange_finds_the_models_results_of_the_first() -> None:
    async with standin_server() as (server, standin):
        await compare("success-text-to-image-legacy-previews", server, standin)
        await compare_numbered_file("success-text-to-image-preview-metadata", server, standin)


async def compare_numbered_file(name: str, server: TestServer, standin: Standin) -> None:
    """Compare a capture, and that its file has the recorded number."""
    await compare(name, server, standin)
    assert standin.log.executions[-1].files == ["t2i_00002_.png"]


@pytest.mark.parametrize(
    "name", ["interrupt-running", "no-client-id-leaks-to-everyone", "overlapping-connections-same-client-id-go-deaf"]
)
async def test_what_is_done_in_the_middle_of_a_run_is_repeated(name: str) -> None:
    async with standin_server(SLOWER) as (server, standin):
        await compare(name, server, standin)


async def test_a_client_that_reconnects_gets_the_rest() -> None:
    """The recorded client saw steps 1 to 4, then 8 to 15; how many ours misses is a matter of time."""
    rows = load("reconnect-same-client-id-mid-run")
    async with standin_server(SLOWER) as (server, standin), aiohttp.ClientSession() as session:
        replay = Replay(server, standin, session)
        received = await replay.run(rows)
    first, second = received["first"], received["second"]
    closed = index_of_step(first, 4) + 1
    resumed = index_of_step(second, 8) - 1
    assert {kind_of(frame) for frame in [*first[closed:], *second[2:resumed]]} <= {"progress", "progress_state"}
    received["first"], received["second"] = first[:closed], second[:2] + second[resumed:]
    compare_all(rows, received, replay.answers)


def index_of_step(frames: list[Frame], value: int) -> int:
    """Return where a step of a node is told; its `progress_state` comes one frame before."""
    return next(
        index for index, frame in enumerate(frames)
        if isinstance(frame, dict) and frame["type"] == "progress" and frame["data"]["value"] == value
    )  # fmt: skip


async def test_a_dead_execution_thread_leaves_a_server_that_looks_alive() -> None:
    async with standin_server() as (server, standin):
        await compare("execution-thread-dead-server-looks-alive", server, standin, waits=False)
        assert standin.executor.dead


async def test_the_other_routes_answer_as_recorded() -> None:
    rows = load("http-routes")
    history = next(row["data"]["body"] for row in rows if row["kind"] == "http_response" and has_history(row))
    ((prompt_id, entry),) = history.items()
    body = {"prompt": entry["prompt"][2], "prompt_id": prompt_id, **entry["prompt"][3]}
    async with standin_server() as (server, standin), aiohttp.ClientSession() as session:
        async with session.post(server.make_url("/prompt"), json=body) as response:
            assert response.status == 200
        await standin.queue.idle.wait()
        replay = Replay(server, standin, session)
        await replay.run(rows)
    compare_all(rows, {}, replay.answers)


def has_history(row: Row) -> bool:
    body = row["data"]["body"]
    return isinstance(body, dict) and any("status" in str(entry) for entry in body.values() if isinstance(entry, dict))


def mutated(rows: list[Row], index: int, change: str) -> list[Row]:
    """Return a capture in which one frame is not as it was recorded."""
    changed = copy.deepcopy(rows)
    data = as_json(changed[index]["data"])
    key = next(iter(data["data"]))
    match change:
        case "a key is gone":
            del data["data"][key]
        case "a key is new":
            data["data"]["more"] = 1
        case "a value has another type":
            data["data"][key] = 1.5
        case "a frame is gone":
            data["type"] = "status"
        case "a frame comes later":
            changed[index + 1]["data"], data = data, as_json(changed[index + 1]["data"])
    changed[index]["data"] = data
    return changed


CHANGES = ["a key is gone", "a key is new", "a value has another type", "a frame is gone", "a frame comes later"]


@pytest.mark.parametrize("kind", ["execution_start", "progress_state", "executed", "execution_success"])
@pytest.mark.parametrize("change", CHANGES)
async def test_the_comparison_sees_every_change(change: str, kind: str) -> None:
    rows = load("success-model-free")
    async with standin_server() as (server, standin), aiohttp.ClientSession() as session:
        replay = Replay(server, standin, session)
        received = await replay.run(rows)
    compare_all(rows, received, replay.answers)
    index = next(i for i, row in enumerate(rows) if row["kind"] == "ws_text" and as_json(row["data"])["type"] == kind)
    with pytest.raises((AssertionError, KeyError)):
        compare_all(mutated(rows, index, change), received, replay.answers)
