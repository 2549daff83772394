"""Every fault on demand: armed in the options, by the control route and in the process."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest
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

from worker.standin.faults import Fault, FaultKind, Faults, ViewFault, parse_fault


async def arm(client: Client, kind: str, **fields: Any) -> None:
    """Ask for a fault over HTTP."""
    status, answer = await client.post("/standin/faults", {"kind": kind, **fields})
    assert status == 200, answer


def last_message(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the data of a history entry's last message."""
    data: dict[str, Any] = entry["status"]["messages"][-1][1]
    return data


def test_a_fault_is_counted_down_and_waits_for_its_occasion() -> None:
    faults = Faults((Fault(kind=FaultKind.NODE_ERROR, times=2, after=1, node="KSampler"),))
    taken = [
        faults.take(FaultKind.NODE_ERROR, node="3", node_type=node_type) is not None
        for node_type in ("KSampler", "SaveImage", "KSampler", "KSampler", "KSampler")
    ]
    assert taken == [False, False, True, True, False]
    assert faults.waiting() == []


def test_a_fault_without_end_lasts_until_it_is_cleared() -> None:
    faults = Faults()
    fault = faults.add(Fault(kind=FaultKind.SLOW_STEPS, times=None))
    assert all(faults.take(FaultKind.SLOW_STEPS) for _ in range(5))
    faults.clear(FaultKind.HANG)
    assert faults.waiting() == [fault]
    faults.clear()
    assert faults.take(FaultKind.SLOW_STEPS) is None


def test_faults_of_the_options_are_not_used_up_for_the_next_server() -> None:
    options = (Fault(kind=FaultKind.NODE_ERROR),)
    for _ in range(2):
        assert Faults(options).take(FaultKind.NODE_ERROR) is not None


@pytest.mark.parametrize("data", [{}, {"kind": "x"}, {"kind": "hang", "seconds": "5"}, {"kind": "hang", "x": 1}])
def test_a_wrong_fault_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_fault(data)


async def test_the_control_route_says_what_is_wrong(client: Client) -> None:
    status, answer = await client.post("/standin/faults", {"kind": "unheard"})
    assert status == 400
    assert "hang" in answer["kinds"]


async def test_faults_are_listed_and_cleared(client: Client) -> None:
    await arm(client, "hang", times=3)
    _, shown = await client.get("/standin/faults")
    assert [(fault["kind"], fault["times"]) for fault in shown["faults"]] == [("hang", 3)]
    async with client.session.delete(client.server.make_url("/standin/faults")) as response:
        assert await response.json() == {"faults": []}


async def test_a_node_fails_as_often_as_asked(running_standin: StartStandin) -> None:
    fault = Fault(kind=FaultKind.NODE_ERROR, message="boom", exception_type="ValueError", times=1)
    async with running_standin(faults=(fault,)) as client:
        failed = last_message(await client.run(image_graph()))
        assert (failed["exception_type"], failed["exception_message"]) == ("ValueError", "boom\n")
        assert (await client.run(image_graph()))["status"]["completed"] is True


async def test_memory_runs_out_at_the_named_node(client: Client) -> None:
    await arm(client, "out_of_memory", node="KSampler")
    failed = last_message(await client.run(text_to_image()))
    assert (failed["exception_type"], failed["node_id"]) == ("torch.OutOfMemoryError", "3")


async def test_a_hang_ends_when_it_is_cleared(client: Client) -> None:
    await arm(client, "hang", node="SaveImage")
    ws = await client.connect("me")
    prompt_id = await client.submit(image_graph(), client_id="me")
    await frames_until(ws, "executing", node="2")
    await client.post("/interrupt", {"prompt_id": prompt_id})
    assert (await client.get("/queue"))[1]["queue_running"][0][1] == prompt_id
    client.standin.faults.clear()
    await frames_until(ws, "executing", node=None)
    await ws.close()


async def test_steps_and_answers_can_be_slow(client: Client) -> None:
    loop = asyncio.get_running_loop()
    await arm(client, "slow_steps", seconds=0.1, times=2)
    started = loop.time()
    await client.run(graph_through("SlowProgress", steps=5, seconds_per_step=0.0))
    assert loop.time() - started >= 0.2
    await arm(client, "slow_http", seconds=0.1, route="/features")
    started = loop.time()
    await client.get("/api/features")
    assert loop.time() - started >= 0.1


async def test_history_can_be_late_while_the_job_is_still_in_the_queue(client: Client) -> None:
    await arm(client, "history_late", seconds=0.2)
    ws = await client.connect("me")
    prompt_id = await client.submit(image_graph(), client_id="me")
    await frames_until(ws, "execution_success")
    assert (await client.get(f"/history/{prompt_id}"))[1] == {}
    assert (await client.get("/queue"))[1]["queue_running"][0][1] == prompt_id
    await frames_until(ws, "executing", node=None)
    assert prompt_id in (await client.get(f"/history/{prompt_id}"))[1]
    await ws.close()


async def test_a_history_entry_can_be_missing(client: Client) -> None:
    await arm(client, "history_lost")
    prompt_id = await client.submit(image_graph())
    await client.idle()
    assert (await client.get(f"/history/{prompt_id}"))[1] == {}
    assert client.standin.log.starts(prompt_id) == 1


@pytest.mark.parametrize("status", [400, 500, 503])
async def test_prompts_are_refused_for_a_while(client: Client, status: int) -> None:
    await arm(client, "refuse_prompt", status=status, times=2, body='{"error": "busy"}')
    body = {"prompt": image_graph()}
    assert [(await client.post("/prompt", body))[0] for _ in range(3)] == [status, status, 200]
    await client.idle()
    assert len(client.standin.log.executions) == 1


async def test_any_route_can_be_refused(client: Client) -> None:
    await arm(client, "refuse", route="/history", status=502)
    assert (await client.get("/features"))[0] == 200
    assert (await client.get("/history/x"))[0] == 502


async def test_nonsense_is_answered(client: Client) -> None:
    await arm(client, "nonsense", route="/prompt", method="POST")
    await arm(client, "nonsense", route="/queue", body="{not json", content_type="application/json")
    async with client.session.post(client.server.make_url("/prompt"), json={"prompt": image_graph()}) as response:
        assert (response.status, response.content_type) == (200, "text/html")
    async with client.session.get(client.server.make_url("/queue")) as response:
        assert await response.text() == "{not json"


async def test_a_connection_can_be_cut_before_anything_happens(client: Client) -> None:
    await arm(client, "drop_connection", route="/prompt", method="POST")
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.post("/prompt", {"prompt": image_graph()})
    assert client.standin.log.accepted == []


@OLD
async def test_an_answer_can_be_lost_after_the_prompt_was_queued(client: Client) -> None:
    await arm(client, "lose_answer")
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.post("/prompt", {"prompt": image_graph(), "prompt_id": "mine"})
    await client.idle()
    assert client.standin.log.starts("mine") == 1


@pytest.mark.parametrize(
    ("how", "status", "length"),
    [("missing", 404, 0), ("error", 500, None), ("empty", 200, 0), ("not_an_image", 200, 16)],
)
async def test_a_file_cannot_be_viewed(client: Client, how: str, status: int, length: int | None) -> None:
    entry = await client.run(image_graph())
    named = entry["outputs"]["2"]["images"][0]
    await arm(client, "view", how=how)
    got, body = await client.get("/view", **named)
    assert got == status
    assert length is None or len(body) == length
    assert (await client.get("/view", **named))[1].startswith(b"\x89PNG")


async def test_a_file_can_be_cut_off(client: Client) -> None:
    entry = await client.run(image_graph(width=256, height=256))
    client.standin.faults.add(Fault(kind=FaultKind.VIEW, how=ViewFault.TRUNCATED))
    with pytest.raises(aiohttp.ClientError):
        await client.get("/view", **entry["outputs"]["2"]["images"][0])


async def test_sockets_can_be_dropped(client: Client) -> None:
    ws, other = await client.connect("me"), await client.connect("other")
    await arm(client, "drop_sockets", client_id="me")
    assert (await ws.receive()).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
    assert ws.close_code == 1006
    await client.submit(image_graph(), client_id="other")
    await frames_until(other, "executing", node=None)
    await other.close()


async def test_sockets_can_be_deaf(client: Client) -> None:
    ws = await client.connect("me")
    await arm(client, "deaf")
    await client.run(image_graph(), client_id="me")
    again = await client.connect("me")
    await client.submit(image_graph("again"), client_id="me")
    await frames_until(again, "executing", node=None)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ws.receive(), 0.05)
    await again.close()
    await ws.close()


async def test_the_next_connections_can_be_deaf_or_refused(client: Client) -> None:
    await arm(client, "refuse_sockets")
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await client.connect("me")
    await arm(client, "deaf_connections")
    url = client.server.make_url("/ws").with_query(clientId="me")
    async with client.session.ws_connect(url) as ws:
        await client.run(image_graph(), client_id="me")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ws.receive(), 0.05)


async def test_single_frames_can_be_lost_or_added(client: Client) -> None:
    ws = await client.connect("me")
    await arm(client, "lose_frames", frames=["execution_success", "executed"], times=2)
    await client.submit(image_graph(), client_id="me")
    kinds = [frame["type"] for frame in await frames_until(ws, "executing", node=None)]
    assert not {"executed", "execution_success"} & set(kinds)
    await arm(client, "send_frame", body='{"type": "unheard", "data": {}}')
    assert json.loads(await ws.receive_str())["type"] == "unheard"
    await ws.close()


async def test_the_execution_thread_can_die_while_it_runs(client: Client) -> None:
    ws = await client.connect("me")
    prompt_id = await client.submit(slow_graph(), client_id="me")
    await frames_until(ws, "progress", value=2)
    await arm(client, "dead_thread")
    await client.post("/interrupt", {"prompt_id": prompt_id})
    waiting = await client.submit(image_graph())
    _, queue = await client.get("/queue")
    assert (queue["queue_running"][0][1], queue["queue_pending"][0][1]) == (prompt_id, waiting)
    await ws.close()


async def test_the_execution_thread_can_die_at_the_next_start(client: Client) -> None:
    await arm(client, "dead_thread_at_start")
    ws = await client.connect("me")
    prompt_id = await client.submit(image_graph(), client_id="me")
    await frames_until(ws, "execution_start")
    assert (await client.get("/queue"))[1]["queue_running"][0][1] == prompt_id
    assert client.standin.executor.dead
    await ws.close()


async def test_a_restart_forgets_all_but_files_log_and_faults(client: Client) -> None:
    done = await client.submit(image_graph())
    await client.idle()
    await arm(client, "node_error")
    client.standin.faults.clear()
    await arm(client, "refuse_sockets", times=0)
    ws = await client.connect("me")
    running = await client.submit(slow_graph(), client_id="me")
    await client.submit(image_graph("waits"), client_id="me")
    await frames_until(ws, "progress", value=1)
    await arm(client, "restart")
    while not ws.closed:
        await ws.receive()
    assert ws.close_code == 1006
    assert (await client.get("/queue"))[1] == {"queue_running": [], "queue_pending": []}
    assert (await client.get("/history"))[1] == {}
    entry = await client.run(image_graph())
    assert entry["prompt"][0] == 0
    assert entry["outputs"]["2"]["images"][0]["filename"] == "test_00002_.png"
    outcomes = {one.prompt_id: one.outcome for one in client.standin.log.executions}
    assert (outcomes[done], outcomes[running]) == ("success", "lost")
    assert client.standin.log.restarts == 1


async def test_a_restart_can_take_a_while(client: Client) -> None:
    await arm(client, "restart", seconds=1.5)
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.get("/queue")
    while client.standin.down:
        await asyncio.sleep(0.01)
    assert (await client.get("/queue"))[0] == 200


async def test_a_fault_that_waits_outlives_a_restart(client: Client) -> None:
    await arm(client, "node_error", times=1)
    await client.standin.restart()
    assert last_message(await client.run(image_graph()))["exception_type"] == "RuntimeError"


async def test_several_stand_ins_share_nothing(running_standin: StartStandin) -> None:
    async with running_standin() as one, running_standin() as other:
        await arm(one, "node_error", times=None)
        assert (await one.run(image_graph()))["status"]["status_str"] == "error"
        assert (await other.run(image_graph()))["status"]["status_str"] == "success"


async def test_a_page_of_another_site_is_refused(client: Client) -> None:
    url = client.server.make_url("/queue")
    for origin, status in (("http://evil.example", 403), (str(url.origin()), 200)):
        async with client.session.get(url, headers={"Origin": origin}) as response:
            assert response.status == status
