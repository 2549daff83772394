"""A stand-in whose prompt queues itself again, as the meta batch of VideoHelperSuite does it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from worker.standin.main import STANDIN, Standin, StandinOptions, create_app

PATIENCE_S = 60.0


def batch_graph(frames: int, per_batch: int, seconds_per_frame: float = 0.0) -> dict[str, Any]:
    """Return a graph that makes a video piece by piece."""
    source = {"frames": frames, "width": 16, "height": 16, "color": 7, "meta_batch": ["1", 0]}
    saver = {
        "images": ["2", 0], "meta_batch": ["1", 0], "frame_rate": 8, "loop_count": 0, "filename_prefix": "batch",
        "format": "image/gif", "pingpong": False, "save_output": True,
    }  # fmt: skip
    return {
        "1": {"class_type": "VHS_BatchManager", "inputs": {"frames_per_batch": per_batch}},
        "2": {"class_type": "BatchFrames", "inputs": source | {"seconds_per_frame": seconds_per_frame}},
        "3": {"class_type": "VHS_VideoCombine", "inputs": saver},
    }


class Client:
    """One client of a stand-in and the frames that it got."""

    def __init__(self, standin: Standin, server: TestServer, session: aiohttp.ClientSession) -> None:
        self.standin = standin
        self.server = server
        self.session = session
        self.frames: list[dict[str, Any]] = []

    async def read(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        async for message in ws:
            if isinstance(message.data, str):
                self.frames.append(json.loads(message.data))

    async def post(self, path: str, body: Any) -> Any:
        async with self.session.post(self.server.make_url(path), json=body) as response:
            assert response.status == 200
            return await response.json() if response.content_type == "application/json" else None

    async def run(self, graph: dict[str, Any], **extra: Any) -> list[dict[str, Any]]:
        """Send a graph, wait until nothing runs or waits, and return what the history then holds."""
        await self.post("/prompt", {"prompt": graph, "client_id": "me", "extra_data": extra})
        await self.rest()
        return list(self.standin.queue.history.values())

    async def told(self, kind: str, times: int) -> None:
        """Wait until frames of this kind have come so often."""
        async with asyncio.timeout(PATIENCE_S):
            while sum(frame["type"] == kind for frame in self.frames) < times:
                await asyncio.sleep(0.005)

    async def rest(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.standin.queue.idle.wait()
            await self.standin.sockets.delivered()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    app = create_app(StandinOptions(history_delay_seconds=0.0))
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        one = Client(app[STANDIN], server, session)
        async with session.ws_connect(server.make_url("/ws").with_query(clientId="me"), max_msg_size=0) as ws:
            reader = asyncio.create_task(one.read(ws))
            yield one
            await ws.close()
            await reader


def outputs_of(entries: list[dict[str, Any]]) -> list[Any]:
    return [entry["outputs"].get("3") for entry in entries]


async def test_a_batch_of_three_pieces_is_three_prompts_of_one_client_with_the_same_extra_data(client: Client) -> None:
    entries = await client.run(batch_graph(10, 4), mark="of the job")
    *unfinished, last = outputs_of(entries)
    assert unfinished == [{"unfinished_batch": [True]}] * 2
    assert [one["filename"] for one in last["gifs"]] == ["batch_00001_.gif"]
    assert {entry["prompt"][3]["mark"] for entry in entries} == {"of the job"}
    assert {entry["prompt"][3]["client_id"] for entry in entries} == {"me"}
    assert len({entry["prompt"][1] for entry in entries}) == 3
    await client.told("execution_success", 3)


async def test_a_batch_that_queues_itself_again_goes_before_what_waits(client: Client) -> None:
    client.standin.queue.number = 1
    await client.post("/prompt", {"prompt": batch_graph(4, 2, 0.05), "client_id": "me"})
    waiting = await client.post("/prompt", {"prompt": batch_graph(2, 2), "client_id": "me"})
    await client.rest()
    entries = list(client.standin.queue.history.values())
    assert [entry["prompt"][1] for entry in entries][2:] == [waiting["prompt_id"]]


async def test_a_batch_that_ends_with_its_first_piece_is_one_prompt(client: Client) -> None:
    assert len(outputs_of(await client.run(batch_graph(4, 4)))) == 1


async def test_the_same_batch_again_begins_anew(client: Client) -> None:
    await client.run(batch_graph(4, 2))
    entries = await client.run(batch_graph(4, 2))
    assert [list(one) for one in outputs_of(entries)] == [["unfinished_batch"], ["gifs"]] * 2


async def test_an_interrupted_piece_is_followed_by_none(client: Client) -> None:
    sent = await client.post("/prompt", {"prompt": batch_graph(200, 100, 0.05), "client_id": "me"})
    await client.told("progress", 1)
    await client.post("/interrupt", {"prompt_id": sent["prompt_id"]})
    await client.rest()
    assert list(client.standin.queue.history) == [sent["prompt_id"]]


async def test_two_savers_of_a_batch_queue_it_again_once(client: Client) -> None:
    graph = batch_graph(6, 2)
    graph["4"] = {"class_type": "VHS_VideoCombine", "inputs": graph["3"]["inputs"] | {"filename_prefix": "other"}}
    entries = await client.run(graph)
    assert len(entries) == 3
    assert [one["filename"] for one in entries[-1]["outputs"]["4"]["gifs"]] == ["other_00001_.gif"]
