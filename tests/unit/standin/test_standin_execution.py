"""Order of the queue, results that are kept, interrupts, and the log of executions."""

import json
from io import BytesIO
from typing import Any

import aiohttp
import pytest
from PIL import Image
from unit.standin.standin_client import (
    OLD,
    Client,
    StartStandin,
    frames_until,
    graph_through,
    image_graph,
    slow_graph,
    text_to_image,
)

from harness import transport_of
from worker.standin.faults import Fault, FaultKind
from worker.standin.node_run import NodeRun


async def hold(client: Client) -> Fault:
    """Let a first prompt hang, so that what follows waits."""
    fault = client.standin.faults.add(Fault(kind=FaultKind.HANG))
    ws = await client.connect("holder")
    await client.submit(image_graph("holder"), client_id="holder")
    await frames_until(ws, "executing", node="1")
    await ws.close()
    return fault


@OLD
async def test_prompts_run_by_number_and_the_newest_front_one_first(client: Client) -> None:
    fault = await hold(client)
    await client.submit(image_graph("a"), prompt_id="plain-1")
    await client.submit(image_graph("b"), prompt_id="front-2", front=True)
    await client.submit(image_graph("c"), prompt_id="front-3", front=True)
    await client.submit(image_graph("d"), prompt_id="number-1.5", number="1.5")
    await client.submit(image_graph("e"), prompt_id="plain-4")
    pending = (await client.get("/queue"))[1]["queue_pending"]
    fault.released.set()
    await client.idle()
    ran = [execution.prompt_id for execution in client.standin.log.executions][1:]
    assert ran == ["front-3", "front-2", "plain-1", "number-1.5", "plain-4"]
    assert [item[1] for item in sorted(pending, key=lambda item: item[:2])] == ran


async def test_an_invalid_prompt_uses_up_a_number(client: Client) -> None:
    await client.post("/prompt", {"prompt": {}})
    assert (await client.run(image_graph()))["prompt"][0] == 1


@OLD
async def test_equal_number_and_id_are_answered_500_and_run_all_the_same(client: Client) -> None:
    fault = await hold(client)
    bodies = [{"prompt": image_graph(color=color), "prompt_id": "same", "number": 5} for color in (1, 2)]
    assert [(await client.post("/prompt", body))[0] for body in bodies] == [200, 500]
    fault.released.set()
    await client.idle()
    assert client.standin.log.starts("same") == 2


@OLD
async def test_delete_removes_one_of_several_with_the_same_id(client: Client) -> None:
    fault = await hold(client)
    for color in range(3):
        await client.submit(image_graph(color=color), prompt_id="same")
    await client.post("/queue", {"delete": ["same", "unknown"]})
    fault.released.set()
    await client.idle()
    assert client.standin.log.starts("same") == 2


@OLD
@pytest.mark.parametrize(("given", "taken"), [(12345, "12345"), (None, "None"), ("", ""), ("Any Text", "Any Text")])
async def test_any_prompt_id_is_taken_as_text(client: Client, given: Any, taken: str) -> None:
    assert await client.submit(image_graph(), prompt_id=given) == taken


async def test_the_same_graph_again_names_the_old_file_even_if_it_is_gone(client: Client) -> None:
    first = await client.run(image_graph())
    for path in (client.standin.folders.inside("output", "")).iterdir():
        path.unlink()
    second = await client.run(image_graph())
    assert second["outputs"] == first["outputs"]
    assert client.standin.log.executions[-1].nodes == []


async def test_only_the_preceding_prompt_is_kept(client: Client) -> None:
    files = [(await client.run(image_graph(color=color)))["outputs"] for color in (1, 2, 1)]
    names = [outputs["2"]["images"][0]["filename"] for outputs in files]
    assert names == ["test_00001_.png", "test_00002_.png", "test_00003_.png"]


async def test_node_ids_and_metadata_do_not_matter_for_what_is_kept(client: Client) -> None:
    await client.run(image_graph())
    renamed = json.loads(json.dumps(image_graph()).replace('"1"', '"x"').replace('"2"', '"y"'))
    await client.run(renamed, extra_data={"extra_pnginfo": {"workflow": {"other": 1}}})
    assert client.standin.log.executions[-1].cached == ["x", "y"]


async def test_freed_memory_forgets_results(client: Client) -> None:
    await client.run(image_graph())
    await client.post("/free", {"free_memory": True})
    await client.run(image_graph())
    assert client.standin.log.executions[-1].nodes == ["1", "2"]


@pytest.mark.parametrize(("cache", "files"), [("none", 4), ("100", 2), ("classic", 3)])
async def test_the_cache_is_a_server_option(running_standin: StartStandin, cache: str, files: int) -> None:
    async with running_standin(cache=cache) as client:
        for color in (1, 1, 2, 1):
            await client.run(image_graph(color=color))
        assert sum(len(execution.files) for execution in client.standin.log.executions) == files


async def test_after_a_failure_a_retry_resumes(client: Client) -> None:
    client.standin.faults.add(Fault(kind=FaultKind.NODE_ERROR, node="VAEDecode", message="broken"))
    failed = await client.run(text_to_image())
    assert failed["status"]["messages"][-1][1]["exception_message"] == "broken\n"
    retried = await client.run(text_to_image())
    assert retried["status"]["completed"] is True
    assert client.standin.log.executions[-1].nodes == ["8", "9"]


async def test_a_text_to_image_file_carries_the_graph_and_each_key_of_pnginfo(client: Client) -> None:
    graph = text_to_image()
    entry = await client.run(graph, extra_data={"extra_pnginfo": {"workflow": {"a": 1}, "job": "ü"}})
    named = entry["outputs"]["9"]["images"][0]
    _, data = await client.get("/view", **named)
    with Image.open(BytesIO(data)) as picture:
        assert picture.size == (64, 96)
        chunks = picture.text  # type: ignore[attr-defined]
    assert json.loads(chunks["prompt"]) == graph
    assert json.loads(chunks["workflow"]) == {"a": 1}
    assert chunks["job"] == '"\\u00fc"'


async def test_metadata_can_be_switched_off(running_standin: StartStandin) -> None:
    async with running_standin(metadata=False) as client:
        entry = await client.run(image_graph())
        _, data = await client.get("/view", **entry["outputs"]["2"]["images"][0])
        assert b"tEXt" not in data


async def test_a_model_takes_time_the_first_time_and_after_a_change(
    running_standin: StartStandin, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[float] = []

    async def take_time(_run: NodeRun, seconds: float) -> None:
        taken.append(seconds)

    monkeypatch.setattr(NodeRun, "take_time", take_time)
    async with running_standin(model_load_seconds=0.15, cache="none") as client:
        loads = []
        for checkpoint in (0, 0, 1, 0):
            graph = text_to_image()
            graph["4"]["inputs"]["ckpt_name"] = client.standin.options.checkpoints[checkpoint]
            taken.clear()
            await client.run(graph)
            loads.append(0.15 in taken)
        assert loads == [True, False, True, True]
        assert (await client.get("/standin/log"))[1]["loads"] == 3


async def test_a_targeted_interrupt_stops_only_the_running_prompt(client: Client) -> None:
    ws = await client.connect("me")
    prompt_id = await client.submit(slow_graph(), client_id="me")
    waiting = await client.submit(image_graph(), client_id="me")
    await frames_until(ws, "progress", value=2)
    await client.post("/interrupt", {"prompt_id": waiting})
    await frames_until(ws, "progress", value=4)
    await client.post("/interrupt", {"prompt_id": prompt_id})
    frames = await frames_until(ws, "executing", node=None, prompt_id=waiting)
    kinds = [frame["type"] for frame in frames]
    assert kinds.count("execution_interrupted") == 1
    assert kinds.count("execution_success") == 1
    await ws.close()


@pytest.mark.parametrize("body", [b"", b"{broken", b"{}", b'{"prompt_id": null}', b'{"prompt_id": ""}'])
async def test_an_interrupt_without_an_id_stops_whatever_runs(client: Client, body: bytes) -> None:
    ws = await client.connect("me")
    await client.submit(slow_graph(), client_id="me")
    await frames_until(ws, "progress", value=1)
    async with client.session.post(client.server.make_url("/interrupt"), data=body) as response:
        assert (response.status, await response.read()) == (200, b"")
    await frames_until(ws, "execution_interrupted")
    await ws.close()


async def test_an_interrupt_while_idle_does_not_hit_the_next_prompt(client: Client) -> None:
    await client.post("/interrupt", {})
    assert (await client.run(image_graph()))["status"]["completed"] is True


async def test_a_node_without_steps_ends_first_and_the_next_one_is_named(client: Client) -> None:
    ws = await client.connect("me")
    graph = graph_through("SlowProgress", steps=1, seconds_per_step=0.2, interruptible=False)
    await client.submit(graph, client_id="me")
    await frames_until(ws, "executing", node="3")
    await client.post("/interrupt", {})
    frames = await frames_until(ws, "execution_interrupted")
    assert frames[-1]["data"]["node_id"] == "2"
    assert frames[-1]["data"]["executed"] == ["1", "3"]
    await ws.close()


async def test_history_is_empty_at_success_and_there_at_the_last_frame(running_standin: StartStandin) -> None:
    async with running_standin(history_delay_seconds=0.05) as client:
        ws = await client.connect("me")
        prompt_id = await client.submit(image_graph(), client_id="me")
        await frames_until(ws, "execution_success")
        assert (await client.get(f"/history/{prompt_id}"))[1] == {}
        assert (await client.get("/queue"))[1]["queue_running"][0][1] == prompt_id
        await frames_until(ws, "executing", node=None)
        assert prompt_id in (await client.get(f"/history/{prompt_id}"))[1]
        await ws.close()


@OLD
async def test_history_is_paged_from_the_oldest(client: Client) -> None:
    for number in range(5):
        await client.run(image_graph(color=number), prompt_id=f"p{number}")

    async def ids(**query: str) -> list[str]:
        return list((await client.get("/history", **query))[1])

    assert await ids() == ["p0", "p1", "p2", "p3", "p4"]
    assert await ids(max_items="2") == ["p3", "p4"]
    assert await ids(max_items="2", offset="1") == ["p1", "p2"]
    assert await ids(max_items="0") == []
    await client.post("/history", {"delete": ["p2", "unknown"]})
    assert await ids() == ["p0", "p1", "p3", "p4"]
    await client.post("/history", {"clear": True})
    assert await ids() == []


async def test_the_oldest_history_is_dropped(running_standin: StartStandin) -> None:
    async with running_standin(version="0.3.64", max_history=2) as client:
        for number in range(3):
            await client.run(image_graph(color=number), prompt_id=f"p{number}")
        assert list((await client.get("/history"))[1]) == ["p1", "p2"]


@OLD
async def test_credentials_leave_the_history(client: Client) -> None:
    entry = await client.run(image_graph(), extra_data={"api_key_comfy_org": "secret", "mine": 1})
    assert entry["prompt"][3] == {"mine": 1}


@OLD
async def test_the_log_tells_what_ran_and_how_often(client: Client) -> None:
    await client.run(image_graph(), prompt_id="one", client_id="me")
    await client.run(graph_through("RaiseError", message="no"), prompt_id="two")
    _, log = await client.get("/standin/log")
    first, second = log["executions"]
    assert (first["prompt_id"], first["outcome"], first["nodes"], first["cached"]) == ("one", "success", ["1", "2"], [])
    assert first["files"] == ["test_00001_.png"]
    assert first["client_id"] == "me"
    assert first["started"] <= first["ended"]
    assert (second["prompt_id"], second["outcome"], second["cached"]) == ("two", "error", ["1"])
    assert log["accepted"] == ["one", "two"]
    assert log["requests"]["POST /prompt"] == 2


async def test_a_client_that_does_not_read_holds_up_everybody(client: Client) -> None:
    stuck = await client.connect("stuck")
    stuck_transport = transport_of(stuck)
    stuck_transport.pause_reading()
    reader = await client.connect("reader")
    for seed in range(3):
        graph = graph_through("RaiseError", message="x", kind="huge_message", seed=seed)
        await client.submit(graph, client_id="stuck")
    prompt_id = await client.submit(image_graph("other"), client_id="reader")
    await client.standin.queue.idle.wait()
    assert prompt_id in (await client.get("/history"))[1]
    blocked = client.standin.sockets.waiting
    stuck_transport.abort()
    await frames_until(reader, "executing", node=None, prompt_id=prompt_id)
    await reader.close()
    await stuck.close()
    assert blocked > 0


async def test_a_huge_error_closes_a_socket_with_the_default_limit(client: Client) -> None:
    url = client.server.make_url("/ws").with_query(clientId="me")
    async with client.session.ws_connect(url) as ws:
        await client.submit(graph_through("RaiseError", message="x", kind="huge_message"), client_id="me")
        while (message := await ws.receive()).type is aiohttp.WSMsgType.TEXT:
            pass
        assert message.type in (aiohttp.WSMsgType.ERROR, aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
        assert ws.close_code == 1009
