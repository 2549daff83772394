"""What is refused, beyond the recorded refusals; and the prompts that do damage."""

from typing import Any

import aiohttp
import pytest
from unit.standin.standin_client import BOTH, OLD, Client, StartStandin, frames_until, image_graph, text_to_image


async def errors_of(client: Client, graph: Any) -> dict[str, Any]:
    """Return error type → whole entry of a refused prompt, and the answer's own type under ``""``."""
    status, answer = await client.post("/prompt", {"prompt": graph})
    assert status == 400, answer
    found = {error["type"]: error for entry in answer["node_errors"].values() for error in entry["errors"]}
    return found | {"": answer["error"]}


async def test_values_are_coerced_before_they_are_checked_and_kept_coerced(client: Client) -> None:
    entry = await client.run(image_graph(width="64", batch_size=True))
    assert entry["prompt"][2]["1"]["inputs"]["width"] == 64
    assert entry["prompt"][2]["1"]["inputs"]["batch_size"] == 1


async def test_a_seed_may_use_all_64_bits(client: Client) -> None:
    assert (await client.run(text_to_image(seed=2**64 - 1)))["status"]["completed"] is True
    assert "value_bigger_than_max" in await errors_of(client, text_to_image(seed=2**64))


@OLD
async def test_a_cycle_is_refused_without_details(client: Client) -> None:
    graph = image_graph()
    for node, other in (("5", "6"), ("6", "5")):
        inputs = {"image": [other, 0], "upscale_method": "area", "scale_by": 1.0}
        graph[node] = {"class_type": "ImageScaleBy", "inputs": inputs}
    graph["2"]["inputs"]["images"] = ["5", 0]
    status, answer = await client.post("/prompt", {"prompt": graph})
    assert (status, answer["error"]["details"], answer["node_errors"]) == (400, "", {})
    assert answer["error"]["type"] == "prompt_outputs_failed_validation"


@pytest.mark.parametrize(("index", "fine"), [(-1, True), (0, True), (1, False), (0.5, False)])
async def test_a_link_needs_an_output_that_is_there(client: Client, index: float, fine: bool) -> None:
    graph = image_graph()
    graph["2"]["inputs"]["images"] = ["1", index]
    status, _ = await client.post("/prompt", {"prompt": graph})
    assert status == (200 if fine else 400)


async def test_a_missing_input_file_is_a_failed_custom_validation(client: Client) -> None:
    graph = image_graph()
    graph["1"] = {"class_type": "LoadImage", "inputs": {"image": "nope.png"}}
    error = (await errors_of(client, graph))["custom_validation_failed"]
    assert error["details"] == "image - Invalid image file: nope.png"


async def test_a_link_to_nowhere_further_up_is_an_inner_exception(client: Client) -> None:
    graph = text_to_image()
    graph["3"]["inputs"]["model"] = ["99", 0]
    assert "exception_during_inner_validation" in await errors_of(client, graph)


async def test_partial_execution_runs_only_the_targets(client: Client) -> None:
    graph = image_graph()
    graph["7"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    entry = await client.run(graph, partial_execution_targets=["7"])
    assert list(entry["outputs"]) == ["7"]
    status, answer = await client.post("/prompt", {"prompt": graph, "partial_execution_targets": []})
    assert (status, answer["error"]["type"]) == (400, "prompt_no_outputs")


async def test_a_node_that_no_output_needs_is_not_checked(client: Client) -> None:
    graph = image_graph()
    graph["z"] = {"class_type": "KSampler", "inputs": {"seed": "not a number"}}
    assert (await client.run(graph))["status"]["completed"] is True


async def test_unknown_inputs_and_keys_are_ignored_and_kept(client: Client) -> None:
    graph = image_graph(unknown="kept")
    graph["1"]["_meta"] = {"title": "mine"}
    assert (await client.run(graph))["prompt"][2] == graph


@OLD
@pytest.mark.parametrize(
    "more",
    [{"extra_data": None}, {"extra_data": 5}, {"node": {"class_type": "EmptyImage"}},
     {"node": {"class_type": "EmptyImage", "inputs": None}}],
)  # fmt: skip
async def test_some_accepted_prompts_end_the_execution_thread(client: Client, more: dict[str, Any]) -> None:
    graph = image_graph()
    if "node" in more:
        graph["z"] = more.pop("node")
    dead = await client.submit(graph, **more)
    waiting = await client.submit(image_graph("later"))
    for _ in range(3):
        _, queue = await client.get("/queue")
    assert ([item[1] for item in queue["queue_running"]], [item[1] for item in queue["queue_pending"]]) == (
        [dead],
        [waiting],
    )
    assert (await client.get("/system_stats"))[0] == 200
    assert (await client.get("/standin/log"))[1]["dead"] is True
    assert client.standin.log.executions[-1].outcome == "lost"


async def test_a_node_that_exits_ends_the_execution_thread(client: Client) -> None:
    graph = image_graph()
    graph["3"] = {"class_type": "RaiseError", "inputs": {"image": ["1", 0], "message": "", "kind": "system_exit"}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    ws = await client.connect("me")
    await client.submit(graph, client_id="me")
    await frames_until(ws, "executing", node="3")
    await client.get("/queue")
    assert client.standin.executor.dead
    await ws.close()


@OLD
async def test_extra_data_of_the_wrong_type_fails_only_its_job(client: Client) -> None:
    failed = await client.run(image_graph(), extra_data=[])
    assert failed["status"]["status_str"] == "error"
    assert (await client.run(image_graph("next")))["status"]["completed"] is True


async def test_a_client_id_that_is_a_list_ends_the_process(client: Client) -> None:
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.post("/prompt", {"prompt": image_graph(), "client_id": ["x"]})
    assert client.standin.crashed.is_set()


async def test_an_image_larger_than_any_card_is_out_of_memory(client: Client) -> None:
    entry = await client.run(image_graph(width=16384, height=16384, batch_size=64))
    assert entry["status"]["messages"][-1][1]["exception_type"] == "torch.OutOfMemoryError"


@BOTH
async def test_every_node_type_describes_itself_as_comfyui_does(client: Client) -> None:
    newer = client.standin.version >= (0, 33)
    _, types = await client.get("/object_info")
    keys = {
        "input", "input_order", "output", "output_is_list", "output_name", "name", "display_name", "description",
        "python_module", "category", "output_node",
    }  # fmt: skip
    for name, described in types.items():
        modern = {"output_tooltips", "deprecated", "experimental", "api_node"}
        more = {"is_input_list", "has_intermediate_output", "search_aliases"} if newer else set()
        newest = {"output_matchtypes", "dev_only", "price_badge", "essentials_category"} if newer else set()
        form = keys | more | (modern | newest if "output_tooltips" in described else set())
        now_and_then = {"experimental"} | ({"essentials_category"} if newer else set())
        assert form <= set(described) <= form | now_and_then, name
        assert described["name"] == name
        assert len(described["output"]) == len(described["output_is_list"]) == len(described["output_name"])
    form = types["SaveVideo"]["input"]["required"]["format"]
    if newer:
        assert form[0] == "COMFY_DYNAMICCOMBO_V3"
        assert form[1]["options"][0]["inputs"]["required"]["codec"][0] == "COMFY_DYNAMICCOMBO_V3"
        template = types["BatchImagesNode"]["input"]["required"]["images"][1]["template"]
        assert template == {"input": {"required": {"image": ["IMAGE", {}]}}, "prefix": "image", "min": 1, "max": 50}
    else:
        assert form == ["COMBO", {"default": "auto", "multiselect": False, "options": ["auto", "mp4"]}]
    assert types["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0][0] == "sd_xl_base_1.0.safetensors"
    assert {"SaveImage", "SaveAudio", "SaveWEBM", "PreviewAny", "SlowProgress"} <= set(types)


async def test_later_versions_want_canonical_ids_once(running_standin: StartStandin) -> None:
    good = "0b1e7f6e-5a6b-4d0e-9a51-2f5d6f0f3c11"
    async with running_standin(version="0.38") as client:
        for bad in (good.upper(), "job-1", 5, good.replace("-", "")):
            status, answer = await client.post("/prompt", {"prompt": image_graph(), "prompt_id": bad})
            assert (status, answer["error"]["type"]) == (400, "invalid_prompt_id")
        await client.run(image_graph(), prompt_id=good)
        status, answer = await client.post("/prompt", {"prompt": image_graph(), "prompt_id": good})
        assert (status, answer) == (409, {"error": "prompt_id already exists"})
        assert len(await client.submit(image_graph(), prompt_id=None)) == 36
        assert (await client.get(f"/api/jobs/{good}"))[1]["status"] == "completed"
        assert (await client.get("/api/jobs/unknown"))[0] == 404


async def test_later_versions_cancel_in_one_call(running_standin: StartStandin) -> None:
    async with running_standin(version="0.38") as client:
        ws = await client.connect("me")
        graph = image_graph()
        inputs = {"image": ["1", 0], "steps": 999, "seconds_per_step": 0.01}
        graph["3"] = {"class_type": "SlowProgress", "inputs": inputs}
        graph["2"]["inputs"]["images"] = ["3", 0]
        running = await client.submit(graph, client_id="me")
        waiting = await client.submit(image_graph(), client_id="me", extra_data={"api_key_comfy_org": "secret"})
        await frames_until(ws, "progress", value=1)
        assert "secret" not in str((await client.get("/queue"))[1])
        assert (await client.post(f"/api/jobs/{waiting}/cancel"))[1] == {"cancelled": True}
        assert (await client.post("/api/jobs/cancel", {"job_ids": [running]}))[1] == {"cancelled": True}
        await frames_until(ws, "execution_interrupted")
        await client.idle()
        assert (await client.get(f"/api/jobs/{running}"))[1]["status"] == "cancelled"
        assert (await client.post(f"/api/jobs/{waiting}/cancel"))[1] == {"cancelled": False}
        await ws.close()


async def test_old_versions_make_their_own_ids_and_interrupt_whatever_runs(running_standin: StartStandin) -> None:
    async with running_standin(version="0.3.40") as client:
        assert await client.submit(image_graph(), prompt_id="mine") != "mine"
        await client.idle()
        assert (await client.get("/system_stats"))[1]["system"]["comfyui_version"] == "0.3.40"
