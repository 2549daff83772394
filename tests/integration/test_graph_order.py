"""A graph reaches ComfyUI as it was written: it runs nodes, and hands them their inputs, in that order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import ClientSession

if TYPE_CHECKING:
    from harness import Service

IMAGE = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "color": 7, "batch_size": 1}}


def saver(**inputs: Any) -> dict[str, Any]:
    return {"class_type": "SaveImage", "inputs": {**inputs, "images": ["20", 0]}}


async def test_nodes_and_inputs_keep_their_order_and_so_do_outputs(service: Service) -> None:
    graph = {"100": saver(filename_prefix="b"), "20": IMAGE, "3": saver(filename_prefix="a"), "11": saver(zz=1, a=2)}
    job = await service.run(job_type="workflow", workflow=graph)
    assert job["status"] == "completed", job["error_message"]
    assert [output["node_id"] for output in job["outputs"]] == ["100", "3", "11"]
    async with ClientSession(service.standin.url) as comfyui, comfyui.get("/history") as answer:
        (entry,) = (await answer.json()).values()
    sent = entry["prompt"][2]
    assert list(sent) == list(graph)
    for key, node in graph.items():
        assert list(sent[key]["inputs"])[: len(node["inputs"])] == list(node["inputs"])
    assert list(job["workflow"]) == list(graph)


async def test_an_override_and_a_new_seed_change_no_order(service: Service) -> None:
    graph = {"100": saver(filename_prefix="b"), "20": IMAGE, "3": saver(filename_prefix="a")}
    job = await service.submit(
        job_type="workflow", workflow=graph, overrides={"20.width": 72, "3.filename_prefix": "c"}
    )
    kept = (await service.finished(job["job_id"]))["workflow"]
    assert list(kept) == list(graph)
    assert list(kept["20"]["inputs"]) == list(IMAGE["inputs"])
