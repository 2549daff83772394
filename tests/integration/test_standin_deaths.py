"""The stand-in held to recorded deaths of real servers, and to the graphs beside them that do no harm."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from worker.standin.main import STANDIN, Standin, StandinOptions, create_app

DEATHS = Path(__file__).parents[1] / "data" / "comfyui-deaths"
PATIENCE_SECONDS = 60.0
LATER = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 9}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "later"}},
}

Case = dict[str, Any]
RECORDED: dict[str, dict[str, Case]] = {
    path.stem: json.loads(path.read_text()) for path in sorted(DEATHS.glob("*.json"))
}


class Server:
    """A stand-in of one version, and a client `me` that reads its frames."""

    def __init__(self, server: TestServer, standin: Standin, session: aiohttp.ClientSession) -> None:
        self.standin = standin
        self.frames: list[str] = []
        self._server = server
        self._session = session

    async def read(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        """Collect frames until the socket closes."""
        async for message in ws:
            self.frames.append(told(json.loads(message.data)))

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Return status and body of an answer."""
        async with self._session.post(self._server.make_url(path), json=body) as response:
            return response.status, await response.json() if response.content_type == "application/json" else None

    async def rest(self, frames: int = 0) -> None:
        """Wait until nothing runs any more, or nothing ever will, and so many frames have come, or too many."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not (self.standin.executor.dead or self.standin.queue.idle.is_set()):
                    await asyncio.sleep(0.005)
                await self.standin.sockets.delivered()
                while len(self.frames) < frames:
                    await asyncio.sleep(0.005)
        await self.queue()

    async def queue(self) -> list[int]:
        """Return how many prompts run and wait."""
        async with self._session.get(self._server.make_url("/queue")) as response:
            queue = await response.json()
        return [len(queue["queue_running"]), len(queue["queue_pending"])]

    def log(self) -> list[str]:
        """Take the pieces of the log that came since the last call."""
        written = [entry["m"] for entry in self.standin.console.entries]
        self.standin.console.entries.clear()
        return written


@contextlib.asynccontextmanager
async def serve(version: str) -> AsyncIterator[Server]:
    """Start a stand-in with one client."""
    app = create_app(StandinOptions(version=version, history_delay_seconds=0.0, speed=10.0))
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        one = Server(server, app[STANDIN], session)
        async with session.ws_connect(server.make_url("/ws").with_query(clientId="me"), max_msg_size=0) as ws:
            reader = asyncio.create_task(one.read(ws))
            await one.rest(1)
            one.frames.clear()
            one.log()
            yield one
            await ws.close()
            await reader


def told(frame: dict[str, Any]) -> str:
    """Return a frame in the words of the records."""
    kind, data = frame["type"], frame["data"]
    match kind:
        case "status":
            return f"status {data['status']['exec_info']['queue_remaining']}"
        case "execution_cached":
            return " ".join([kind, *data["nodes"]])
        case "executing":
            return f"executing {data['node'] or 'null'}"
        case "executed":
            return f"executed {data['node']}"
        case "progress_state":
            return " ".join([kind, *(f"{node}:{one['state']}" for node, one in data["nodes"].items())])
        case "execution_error":
            return f"{kind} {data['node_id']} {data['exception_type']}"
        case _:
            return str(kind)


def lines_of(written: list[str]) -> list[str]:
    """Return the lines that the records keep, without what differs from run to run."""
    lines = "".join(written).split("\n")
    kept = [line for line in lines if line.strip(" ^~") and (line.startswith('  File "') or line[0] != " ")]
    return [plain(line) for line in kept]


def plain(line: str) -> str:
    """Return a line without its time, a line's number in a test node, and what depends on how a picture is held."""
    line = re.sub(r"executed in [\d.]+ seconds", "executed in 0.00 seconds", line)
    line = re.sub(r'(acceptance_nodes/__init__.py", line )\d+', r"\g<1>0", line)
    line = re.sub(r"has no attribute '\w+'", "has no such attribute", line)
    return re.sub(r" *\ud800.*", "", line)


def is_outline(lines: list[str]) -> list[str]:
    """Return the lines without the steps of a node's failure, which stand in one piece."""
    failed = any("!!! Exception during processing" in line for line in lines)
    return [line for line in lines if not (failed and line.startswith('  File "'))]


def without_numbers(outputs: Any) -> Any:
    """Return outputs without the counters of files."""
    return json.loads(re.sub(r"_\d{5}_", "_N_", json.dumps(outputs)))


ALL = [(version, name) for version, cases in RECORDED.items() for name in cases]


@pytest.mark.parametrize(("version", "name"), ALL)
async def test_a_graph_does_here_what_it_did_there(version: str, name: str) -> None:
    case = RECORDED[version][name]
    async with serve(version) as server:
        for step in case["steps"]:
            await follow(server, step)
        assert server.standin.executor.dead is case["dead"]
        if case["dead"]:
            await follow_death(server, case["afterwards"])


async def follow(server: Server, step: dict[str, Any]) -> None:
    """Send what was sent, and compare what follows."""
    status, answer = await server.post("/prompt", step["body"])
    assert status == step["status"], answer
    if status != 200:
        assert answer is None or answer["error"]["type"] == step.get("error")
        server.log()
        return
    await server.rest(len(step["frames"]))
    assert server.frames == step["frames"]
    assert await server.queue() == step["queue"]
    entry = server.standin.queue.history.get(answer["prompt_id"])
    assert without_numbers(entry and entry["outputs"]) == without_numbers(step["outputs"])
    written = server.log()
    assert is_outline(lines_of(written)) == is_outline([plain(line) for line in step["log"]])
    assert len(written) == step["pieces"]
    server.frames.clear()


async def follow_death(server: Server, afterwards: dict[str, Any]) -> None:
    """Check that a dead server takes everything and does nothing."""
    dead = server.standin.queue.running
    assert dead is not None
    assert (await server.post("/prompt", {"prompt": LATER, "client_id": "me"}))[0] == 200
    assert (await server.post("/interrupt", {"prompt_id": dead[1]}))[0] == 200
    assert (await server.post("/interrupt", {}))[0] == 200
    await server.rest(len(afterwards["frames"]))
    assert server.frames == afterwards["frames"]
    assert await server.queue() == afterwards["queue"]
    if "cancel" in afterwards:
        assert (await server.post(f"/api/jobs/{dead[1]}/cancel", None))[1] == afterwards["cancel"]
        assert await server.queue() == afterwards["queue"]


def test_both_versions_were_recorded_with_deaths_of_their_own() -> None:
    dead = {version: {name for name, case in cases.items() if case["dead"]} for version, cases in RECORDED.items()}
    assert {"slot_of_cached_source", "short_cached"} <= dead["0.33.0"] - dead["0.3.64"]
    assert {"extra_data_null", "inputs_null_unneeded"} <= dead["0.3.64"] - dead["0.33.0"]
    assert {"wrapped_dangling_link", "undeclared_dangling_link", "system_exit"} <= dead["0.3.64"] & dead["0.33.0"]
