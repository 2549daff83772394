"""What makes a healthy server hard to tell from a dead one: broken devices, silent nodes, slow checks, other people."""

import asyncio
from typing import Any

import pytest
from unit.standin.standin_client import Client, StartStandin, frames_until, graph_through, image_graph

from worker.standin.faults import Fault, FaultKind, ForeignPrompt
from worker.standin.gpu_faults import GpuFault

WORDS = {
    "cuda": ("RuntimeError", "CUDA error: an illegal memory access was encountered"),
    "accelerator": ("torch.AcceleratorError", "CUDA error: an illegal memory access was encountered"),
    "hip": ("torch.AcceleratorError", "HIP error: an illegal memory access was encountered"),
    "mps": ("RuntimeError", "MPS error: "),
    "cublas": ("RuntimeError", "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
    "cudnn": ("RuntimeError", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
}


def kinds_of(frames: list[dict[str, Any]]) -> list[str]:
    """Return the types of frames that are no `status`."""
    return [frame["type"] for frame in frames if frame["type"] != "status"]


async def test_a_broken_device_fails_every_run_at_its_first_node_until_it_is_mended(client: Client) -> None:
    await client.post("/standin/faults", {"kind": "broken_gpu", "times": None})
    for color in (1, 2):
        failed = (await client.run(image_graph(color=color)))["status"]["messages"][-1]
        assert (failed[0], failed[1]["node_id"], failed[1]["executed"]) == ("execution_error", "1", [])
    client.standin.faults.clear(FaultKind.BROKEN_GPU)
    assert (await client.run(image_graph(color=3)))["status"]["completed"] is True


@pytest.mark.parametrize("gpu", GpuFault)
async def test_a_broken_device_speaks_its_makers_words(client: Client, gpu: GpuFault) -> None:
    await client.post("/standin/faults", {"kind": "broken_gpu", "gpu": gpu})
    failed = (await client.run(image_graph()))["status"]["messages"][-1][1]
    exception_type, beginning = WORDS[gpu]
    assert failed["exception_type"] == exception_type
    assert failed["exception_message"].startswith(beginning)


async def test_a_silent_node_sends_nothing_while_it_works(running_standin: StartStandin) -> None:
    async with running_standin(speed=1.0) as client:
        ws = await client.connect("me")
        await client.submit(graph_through("SilentNode", seconds=0.2), client_id="me")
        await frames_until(ws, "executing", node="3")
        loop = asyncio.get_running_loop()
        began = loop.time()
        frame = await ws.receive_json()
        assert frame["type"] == "progress_state"
        assert loop.time() - began >= 0.1
        frames = await frames_until(ws, "executing", node=None)
        assert "execution_success" in kinds_of(frames)
        await ws.close()


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [("slow_check", "execution_start", "execution_cached"), ("slow_first_node", "execution_cached", "progress_state")],
)
async def test_a_run_can_be_silent_before_its_first_node(client: Client, kind: str, before: str, after: str) -> None:
    await client.post("/standin/faults", {"kind": kind, "seconds": 0.2})
    await check_silence(client, image_graph(), before, after)


async def test_a_node_can_take_long_to_say_whether_it_changed(client: Client) -> None:
    await check_silence(client, graph_through("SlowChanged", seconds=0.2), "execution_start", "execution_cached")


async def check_silence(client: Client, graph: dict[str, Any], before: str, after: str) -> None:
    """Check that 0.2 s pass between two frames that follow on each other."""
    ws = await client.connect("me")
    await client.submit(graph, client_id="me")
    await frames_until(ws, before)
    loop = asyncio.get_running_loop()
    began = loop.time()
    frames = await frames_until(ws, after)
    assert kinds_of(frames) == [after]
    assert loop.time() - began >= 0.15
    await frames_until(ws, "executing", node=None)
    await ws.close()


async def test_somebody_elses_prompts_stand_in_the_queue_and_send_us_nothing(running_standin: StartStandin) -> None:
    async with running_standin(speed=1.0) as client:
        ws = await client.connect("me")
        foreign = {"kind": "foreign_prompt", "foreign": "silent", "seconds": 600, "client_id": "somebody", "times": 2}
        await client.post("/standin/faults", foreign)
        mine = await client.submit(image_graph(), client_id="me")
        _, queue = await client.get("/queue")
        (running,) = queue["queue_running"]
        assert running[3] == {"client_id": "somebody"}
        assert mine in [item[1] for item in queue["queue_pending"]]
        assert len(queue["queue_pending"]) == 2
        await client.standin.sockets.delivered()
        assert client.standin.log.accepted == [mine]
        await ws.close()


async def test_somebody_elses_slow_prompt_ends_and_ours_runs(client: Client) -> None:
    await client.standin.apply(Fault(kind=FaultKind.FOREIGN_PROMPT, foreign=ForeignPrompt.SLOW, seconds=0.1))
    assert (await client.run(image_graph()))["status"]["completed"] is True
    assert [one.outcome for one in client.standin.log.executions] == ["success", "success"]


async def test_somebody_elses_prompt_can_end_the_thread_with_ours_behind_it(client: Client) -> None:
    await client.standin.apply(Fault(kind=FaultKind.FOREIGN_PROMPT, foreign=ForeignPrompt.DEADLY))
    mine = await client.submit(image_graph())
    while not client.standin.executor.dead:
        await client.get("/queue")
    _, queue = await client.get("/queue")
    assert [item[1] for item in queue["queue_pending"]] == [mine]
    assert len(queue["queue_running"]) == 1


@pytest.mark.parametrize("data", [{"gpu": "x"}, {"foreign": "x"}])
async def test_a_word_that_is_none_is_refused(client: Client, data: dict[str, Any]) -> None:
    assert (await client.post("/standin/faults", {"kind": "broken_gpu", **data}))[0] == 400
