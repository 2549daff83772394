"""Replays recorded exchanges with ComfyUI against a stand-in, and compares what comes with what came then."""

import asyncio
import base64
import contextlib
import json
import math
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from worker.standin.main import STANDIN, Standin, StandinOptions, create_app
from worker.standin.node_run import NodeRun

OLD, NEW = "0.3.64", "0.33.0"
CAPTURES = {
    OLD: Path(__file__).parents[1] / "data" / "comfyui-captures",
    NEW: Path(__file__).parents[1] / "data" / "comfyui-captures-0.33",
}
PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 0.3
"""A gap in a recording that is longer was the client waiting for the job to end."""

OPTIONS = StandinOptions(
    version=OLD,
    checkpoints=("tiny-random.safetensors",),
    loras=("tiny-random-lora.safetensors",),
    model_load_seconds=0.0,
    lora_load_seconds=0.0,
    step_seconds=0.0,
    speed=3.0,
)
Row = dict[str, Any]
Frame = dict[str, Any] | bytes


def load(name: str, age: str = OLD) -> list[Row]:
    """Return the rows of a capture; those of 0.33.0, which were written otherwise, as the older ones are."""
    rows: list[Row] = json.loads((CAPTURES[age] / f"{name}.json").read_text())
    return rows if age == OLD else as_older(rows)


def as_older(rows: list[Row]) -> list[Row]:
    """Return rows with the socket's beginning and end, and answers and binary frames under the older names."""
    found = []
    for row in rows:
        data = row["data"]
        match row["kind"]:
            case "note":
                continue
            case "ws_text" if row["direction"] == "in" and data["type"].startswith("assets."):
                continue
            case "http_request":
                raw = {} if not isinstance(data["body"], str) else {"raw": data["body"]}
                body = {"body": data["body"]} if isinstance(data["body"], dict) else raw
                data = {"method": data["method"], "path": data["path"], **body}
            case "http_response":
                body = data["body"]
                told = data.get("headers", {}).get("Content-Type")
                if isinstance(body, str) and body.startswith("{"):
                    body = json.loads(body)
                headers = data.get("headers", {})
                data = {"status": data["status"], "content_type": told, "body": body, "headers": headers}
            case "ws_binary":
                data = {"length": data["length"], "base64_first_200": data["head_base64"]}
        found.append({**row, "data": data})
    sids = [row["data"]["data"]["sid"] for row in found if row["kind"] == "ws_text" and "sid" in row["data"]["data"]]
    if not sids:
        return found
    opened = {"t": 0.0, "direction": "out", "kind": "ws_connect", "data": {"path": f"/ws?clientId={sids[0]}"}}
    return [opened, *found, {"t": found[-1]["t"] + 1, "direction": "in", "kind": "ws_close", "data": {}}]


@contextlib.asynccontextmanager
async def standin_server(options: StandinOptions = OPTIONS) -> AsyncIterator[tuple[TestServer, Standin]]:
    """Serve a stand-in on a port of its own."""
    app = create_app(options)
    async with TestServer(app) as server:
        yield server, app[STANDIN]


class Pace:
    """Lets the nodes of a stand-in make as many steps as the recorded client had seen before it acted.

    So what a client did between two steps falls between them here too, however slow the machine is.
    """

    def __init__(self) -> None:
        self._made = 0
        self._allowed = math.inf
        self._changed = asyncio.Condition()

    async def step(self) -> None:
        """Return when one more step may be made, and count it."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._made < self._allowed)
            self._made += 1

    async def allow(self, steps: float) -> None:
        """Let so many steps be made, those before included."""
        async with self._changed:
            self._allowed = steps
            self._changed.notify_all()

    def begin_anew(self) -> None:
        """Count from the next step on: nothing runs."""
        self._made = 0

    @contextlib.contextmanager
    def of_all_nodes(self) -> Iterator[None]:
        """Have the nodes of all stand-ins in this process keep to it."""
        shown = NodeRun.progress

        async def paced(run: NodeRun, *arguments: Any, **named: Any) -> None:
            await self.step()
            await shown(run, *arguments, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(NodeRun, "progress", paced)
            yield


def steps_of(rows: list[Row]) -> int:
    """Return how many steps of nodes these rows show: the highest of each prompt and node."""
    highest: dict[tuple[str, str], int] = {}
    for row in rows:
        if row["kind"] == "ws_text" and row["direction"] == "in" and row["data"]["type"] == "progress":
            told = row["data"]["data"]
            of = str(told.get("prompt_id")), str(told.get("node"))
            highest[of] = max(highest.get(of, 0), int(told["value"]))
    return sum(highest.values())


def shows_an_end(rows: list[Row]) -> bool:
    """Whether a prompt ends within these rows."""
    ends = ("execution_interrupted", "execution_success", "execution_error")
    return any(row["kind"] == "ws_text" and row["data"]["type"] in ends for row in rows)


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
            frame = message.data if isinstance(message.data, bytes) else json.loads(message.data)
            if kind_of(frame).startswith("assets."):
                continue
            async with self.changed:
                self.frames.append(frame)
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

    def __init__(
        self, server: TestServer, standin: Standin, session: aiohttp.ClientSession, pace: Pace | None = None
    ) -> None:
        self._pace = pace
        self._server = server
        self._standin = standin
        self._session = session
        self._clients: dict[str, Client] = {}
        self._asked_ms = 0
        self._ids: dict[str, str] = {}
        """Recorded prompt id → the one that was given now."""
        self.answers: list[tuple[Row, dict[str, Any]]] = []

    async def run(self, rows: list[Row], *, waits: bool = True) -> dict[str, list[Frame]]:
        """Replay a capture and return the frames of each client; `self.answers` pairs answers with recorded ones."""
        expected: dict[str, list[Frame]] = {}
        last = 0.0
        pending: dict[str, Any] | None = None
        since, acted = 0, 0
        for index, row in enumerate(rows):
            name = row.get("client", "")
            if self._pace is not None and acts(row):
                relaxed = row["kind"] == "ws_connect" or row["t"] - last <= PAUSE_SECONDS
                ends = shows_an_end(rows[acted:index])
                await self._pace.allow(steps_of(rows[since:index]) if relaxed and not ends else math.inf)
                if not relaxed:
                    await self._standin.queue.idle.wait()
                    self._pace.begin_anew()
                    since = index
                acted = index
            match row["direction"], row["kind"]:
                case "in", "ws_text" | "ws_binary":
                    expected.setdefault(name, []).append(recorded_frame(row))
                case "in", "http_response":
                    assert pending is not None
                    self.answers.append((row["data"], pending))
                    if isinstance(body := row["data"]["body"], dict) and "prompt_id" in body:
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

    async def _served(self) -> None:
        """Return when the server has dealt with what came before."""
        async with self._session.get(self._server.make_url("/features")) as response:
            await response.read()

    async def _next_millisecond(self) -> None:
        """Return in another millisecond than last time: lists are in the order of times, which are told in those."""
        while (now_ms := int(time.time() * 1000)) == self._asked_ms:
            await asyncio.sleep(0.0005)
        self._asked_ms = now_ms

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
        await self._served()
        await client.ws.close()
        if client.reader is not None:
            await client.reader
        await self._served()

    async def _request(self, data: dict[str, Any]) -> dict[str, Any]:
        for recorded, given in self._ids.items():
            data = json.loads(json.dumps(data).replace(recorded, given))
        url = self._server.make_url(data["path"])
        body: Any = json.dumps(data["body"]) if "body" in data else data.get("raw")
        if data["path"].startswith("/upload/"):
            body = aiohttp.FormData()
            newer = "cap.svg" in str(data.get("raw"))
            name, content = ("cap.svg", b"abc") if newer else ("in.png", b"\x89PNG not really")
            body.add_field("image", content, filename=name, content_type="image/png")
        if "params" in data:
            url = url.with_query(data["params"])
        await self._next_millisecond()
        async with self._session.request(data["method"], url, data=body) as response:
            return await read_answer(response)


def acts(row: Row) -> bool:
    """Whether the recorded client did something here."""
    return (row["direction"], row["kind"]) in (("out", "ws_connect"), ("out", "http_request"), ("in", "ws_close"))


async def read_answer(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """Return an answer the way the captures record it."""
    raw = await response.read()
    content_type = response.headers.get("Content-Type", "")
    body: Any = {"length": len(raw), "base64_first_200": base64.b64encode(raw[:200]).decode()}
    if content_type.startswith("application/json"):
        body = json.loads(raw)
    elif content_type.startswith("text/"):
        body = raw.decode()
    return {"status": response.status, "content_type": content_type, "body": body, "headers": dict(response.headers)}


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


_MACHINES_OWN = {
    "timestamp", "create_time", "execution_start_time", "execution_end_time", "asset_hash", "ram_total", "ram_free",
    "vram_total", "vram_free", "torch_vram_total", "torch_vram_free", "python_version", "pytorch_version",
}  # fmt: skip
"""Keys whose values differ from server to server."""


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
        for name, value in recorded.get("headers", {}).items():
            assert received["headers"].get(name) == value, f"{request}: {name}"
        if isinstance(recorded["body"], str) and "base64_first_200" in received["body"]:
            assert base64.b64decode(received["body"]["base64_first_200"]).decode() == recorded["body"], request
        elif not recorded["body"]:
            assert not received["body"] or not received["body"].get("length"), request
        elif "base64_first_200" in recorded["body"]:
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
        if key in _MACHINES_OWN:
            assert type(received) is type(recorded), where
        elif key in ("argv", "traceback"):
            assert [type(one) for one in received[:1]] == [type(one) for one in recorded[:1]], where
            assert isinstance(received, list), where
        elif key == "current_outputs":
            assert sorted(received) == sorted(recorded), where
        elif key in ("number", "priority"):
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
        text = re.sub(r"_temp_[a-z]{5}_", "_temp_xxxxx_", text)

        def ordinal(match: re.Match[str]) -> str:
            known = self._seen[side]
            return known.setdefault(match[0], f"<{len(known)}>")

        return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|[\w.-]+_\d{5}_?\.\w+", ordinal, text)


def check_ends(frames: list[Frame]) -> None:
    """Check where `status` stands: before each start, and between each end and the last frame of the job."""
    kinds = ["end" if is_end(frame) else kind_of(frame) for frame in frames]
    for index, kind in enumerate(kinds):
        if kind == "execution_start":
            assert kinds[index - 1] == "status"
        if kind == "end":
            assert kinds[index - 1] == "status"
            assert kinds[index - 2] in ("execution_success", "execution_error", "execution_interrupted", "status")


async def compare(
    name: str,
    server: TestServer,
    standin: Standin,
    *,
    waits: bool = True,
    age: str = OLD,
    pace: Pace | None = None,
) -> None:
    """Replay a capture and compare everything."""
    rows = load(name, age)
    async with aiohttp.ClientSession() as session:
        replay = Replay(server, standin, session, pace)
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
