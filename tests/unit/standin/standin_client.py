"""A stand-in on a port of its own, a client that speaks to it as ComfyUI's clients do, and graphs to send."""

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from PIL import Image

from worker.standin.main import STANDIN, Standin, StandinOptions, create_app

FAST = {"model_load_seconds": 0.0, "lora_load_seconds": 0.0, "step_seconds": 0.0, "history_delay_seconds": 0.0}
PATIENCE_SECONDS = 60.0


class Client:
    """One client of one stand-in."""

    def __init__(self, server: TestServer, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session

    @property
    def standin(self) -> Standin:
        """The server's state."""
        return self.server.app[STANDIN]

    async def post(self, path: str, body: Any = None) -> tuple[int, Any]:
        """Return status and body of a POST."""
        async with self.session.post(self.server.make_url(path), json=body) as response:
            return response.status, await _body(response)

    async def get(self, path: str, **query: str) -> tuple[int, Any]:
        """Return status and body of a GET."""
        async with self.session.get(self.server.make_url(path).with_query(query)) as response:
            return response.status, await _body(response)

    async def submit(self, graph: Any, **more: Any) -> str:
        """Queue a prompt and return its id."""
        status, answer = await self.post("/prompt", {"prompt": graph, **more})
        assert status == 200, answer
        return str(answer["prompt_id"])

    async def idle(self) -> None:
        """Wait until nothing runs or waits."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.standin.queue.idle.wait()
            await self.standin.sockets.delivered()

    async def run(self, graph: Any, **more: Any) -> dict[str, Any]:
        """Run a prompt to its end and return its history entry."""
        prompt_id = await self.submit(graph, **more)
        await self.idle()
        entry: dict[str, Any] = (await self.get(f"/history/{prompt_id}"))[1][prompt_id]
        return entry

    async def connect(self, client_id: str) -> aiohttp.ClientWebSocketResponse:
        """Open a socket and take its first frame."""
        ws = await self.session.ws_connect(self.server.make_url("/ws").with_query(clientId=client_id), max_msg_size=0)
        assert json.loads(await ws.receive_str())["data"]["sid"] == client_id
        return ws

    async def upload(
        self, data: bytes, name: str = "in.png", route: str = "/upload/image", **fields: str
    ) -> tuple[int, Any]:
        """Upload a file with these further fields; return status and body."""
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("image", io.BytesIO(data), filename=name)
        for key, value in fields.items():
            form.add_field(key, value)
        async with self.session.post(self.server.make_url(route), data=form) as response:
            return response.status, await _body(response)

    async def saved(self, entry: dict[str, Any], node: str = "2") -> list[Image.Image]:
        """Return the pictures that a node of a finished prompt has saved."""
        assert entry["status"]["completed"] is True, entry["status"]
        pictures = []
        for named in entry["outputs"][node]["images"]:
            _, data = await self.get("/view", **named)
            pictures.append(Image.open(io.BytesIO(data)))
        return pictures


def png(color: Any = 0, size: tuple[int, int] = (40, 24), mode: str = "RGB") -> bytes:
    """Return a PNG of one colour."""
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, "PNG")
    return buffer.getvalue()


async def _body(response: aiohttp.ClientResponse) -> Any:
    if response.content_type == "application/json":
        return await response.json()
    return await response.read()


async def frames_until(ws: aiohttp.ClientWebSocketResponse, kind: str, **data: Any) -> list[dict[str, Any]]:
    """Return the text frames up to the first of this kind with these data."""
    frames: list[dict[str, Any]] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            message = await ws.receive()
            assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
            if message.type is aiohttp.WSMsgType.TEXT:
                frames.append(json.loads(message.data))
                last = frames[-1]
                if last["type"] == kind and all(last["data"].get(key) == value for key, value in data.items()):
                    return frames


OLD = pytest.mark.parametrize("client", ["0.3.64"], indirect=True, ids=["0.3.64"])
"""For tests of what only the older age does."""

BOTH = pytest.mark.parametrize("client", ["0.3.64", "0.33.0"], indirect=True)

StartStandin = Callable[..., AbstractAsyncContextManager[Client]]
"""Starts a stand-in with these options besides the fast ones."""


@contextlib.asynccontextmanager
async def serve_standin(**options: Any) -> AsyncIterator[Client]:
    """Start a stand-in with these options besides the fast ones."""
    app = create_app(StandinOptions(**{**FAST, **options}))
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        yield Client(server, session)


def image_graph(prefix: str = "test", **inputs: Any) -> dict[str, Any]:
    """Return the smallest graph that writes a file."""
    empty = {"width": 16, "height": 16, "batch_size": 1, "color": 1, **inputs}
    return {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def graph_through(class_type: str, prefix: str = "test", **inputs: Any) -> dict[str, Any]:
    """Return a graph in which a node stands between picture and file."""
    graph = image_graph(prefix)
    graph["3"] = {"class_type": class_type, "inputs": {"image": ["1", 0], **inputs}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    return graph


def slow_graph(steps: int = 1000, seconds: float = 0.01) -> dict[str, Any]:
    """Return a graph that runs for a while."""
    return graph_through("SlowProgress", steps=steps, seconds_per_step=seconds)


def text_to_image(text: str = "a lighthouse at dusk", **sampler: Any) -> dict[str, Any]:
    """Return a text-to-image graph with the first checkpoint."""
    settings = {"seed": 1, "steps": 3, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    return {
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": StandinOptions().checkpoints[0]}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 96, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": text, "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
        "3": {"class_type": "KSampler", "inputs": {**settings, **sampler, **links}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "t2i"}},
    }
