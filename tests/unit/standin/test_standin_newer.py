"""What only the newer age of ComfyUI does, and what custom nodes do, beyond the recorded exchanges and graphs."""

import json
from io import BytesIO
from typing import Any

import pytest
from PIL import Image
from unit.standin.standin_client import BOTH, OLD, Client, frames_until, image_graph, text_to_image

PICTURE = {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 5}}


def saved(node: dict[str, Any]) -> dict[str, Any]:
    """Return a graph that saves what this node makes of a picture, node 1."""
    saver = {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "x"}}
    return {"1": PICTURE, "4": node, "2": saver}


def error_of(entry: dict[str, Any]) -> str:
    kind, data = entry["status"]["messages"][-1]
    assert kind == "execution_error", kind
    return str(data["exception_message"])


async def test_an_input_grows_up_to_its_most_and_what_is_beyond_fails_the_node(client: Client) -> None:
    links = {f"images.image{number}": ["1", 0] for number in range(3)}
    entry = await client.run(saved({"class_type": "BatchImagesNode", "inputs": links}))
    assert len(entry["outputs"]["2"]["images"]) == 3
    links["images.image50"] = ["1", 0]
    failed = await client.run(saved({"class_type": "BatchImagesNode", "inputs": links}))
    assert "unexpected keyword argument 'images.image50'" in error_of(failed)


@pytest.mark.parametrize("given", [{}, {"resize_type": "nonsense"}])
async def test_a_choice_that_is_none_is_taken_and_fails_the_node(client: Client, given: dict[str, Any]) -> None:
    inputs = {"input": ["1", 0], "scale_method": "area", **given}
    failed = await client.run(saved({"class_type": "ResizeImageMaskNode", "inputs": inputs}))
    assert "missing 1 required positional argument: 'resize_type'" in error_of(failed)


async def test_inputs_of_an_option_that_is_not_chosen_are_neither_checked_nor_passed(client: Client) -> None:
    inputs = {
        "input": ["1", 0],
        "scale_method": "area",
        "resize_type": "scale by multiplier",
        "resize_type.multiplier": 0.5,
        "resize_type.width": "no number",
    }
    entry = await client.run(saved({"class_type": "ResizeImageMaskNode", "inputs": inputs}))
    assert entry["status"]["completed"] is True


async def test_an_upstream_node_that_a_lazy_input_does_not_need_never_runs(client: Client) -> None:
    slow = {"class_type": "RaiseError", "inputs": {"image": ["1", 0], "message": "never"}}
    mask = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 16, "height": 16}}
    mixed = {"class_type": "TestLazyMixImages", "inputs": {"image1": ["7", 0], "image2": ["1", 0], "mask": ["5", 0]}}
    entry = await client.run({**saved(mixed), "5": mask, "7": slow})
    assert entry["status"]["completed"] is True
    assert "7" not in client.standin.log.executions[-1].nodes


@BOTH
async def test_each_member_of_a_list_is_saved_by_a_call_of_its_own(client: Client) -> None:
    entry = await client.run(saved({"class_type": "OwnListOut", "inputs": {"n": 3}}))
    assert len(entry["outputs"]["2"]["images"]) == 3


@BOTH
@pytest.mark.parametrize(
    ("ui", "raw", "shown"),
    [
        ({"text": "abc"}, False, {"text": ["a", "b", "c"]}),
        ({"text": "abc"}, True, {"text": "abc"}),
        ({"n": 5}, True, {"n": 5}),
        ({"box": {"a": [1]}}, False, {"box": ["a"]}),
        ({"text": [""], "deep": [[1], {"a": None}]}, False, {"text": [""], "deep": [[1], {"a": None}]}),
    ],
)
async def test_whatever_a_node_says_stands_in_the_history(client: Client, ui: Any, raw: bool, shown: Any) -> None:
    entry = await client.run({"1": {"class_type": "ToldUi", "inputs": {"ui": json.dumps(ui), "raw": raw}}})
    assert entry["outputs"] == {"1": shown}


@BOTH
async def test_a_number_where_a_list_belongs_fails_the_node(client: Client) -> None:
    entry = await client.run({"1": {"class_type": "ToldUi", "inputs": {"ui": '{"n": 5}', "raw": False}}})
    assert "not iterable" in error_of(entry)


@BOTH
async def test_a_saver_that_says_nothing_has_no_entry_and_its_job_succeeds(client: Client) -> None:
    entry = await client.run({"1": PICTURE, "2": {"class_type": "OwnNoUi", "inputs": {"image": ["1", 0]}}})
    assert (entry["outputs"], entry["status"]["completed"]) == ({}, True)


@BOTH
async def test_pictures_for_the_websocket_are_sent_and_not_told(client: Client) -> None:
    graph = {"1": PICTURE, "2": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}}
    ws = await client.connect("me")
    prompt_id = await client.submit(graph, client_id="me")
    pictures = []
    while True:
        message = await ws.receive(10)
        if isinstance(message.data, bytes):
            pictures.append(message.data)
        elif json.loads(message.data)["type"] == "execution_success":
            break
    await client.idle()
    assert [Image.open(BytesIO(one[8:])).size for one in pictures] == [(16, 16)]
    assert client.standin.queue.history[prompt_id]["outputs"] == {}
    await ws.close()


async def test_a_prompt_says_itself_whether_it_wants_previews(client: Client) -> None:
    ws = await client.connect("me")
    for seed, (method, wanted) in enumerate((("none", False), ("latent2rgb", True), ("nonsense", True))):
        graph = text_to_image(seed=seed)
        await client.submit(graph, client_id="me", extra_data={"preview_method": method})
        binary, kind = False, ""
        while kind != "execution_success":
            message = await ws.receive(10)
            binary = binary or isinstance(message.data, bytes)
            kind = "" if isinstance(message.data, bytes) else json.loads(message.data)["type"]
        assert binary is wanted, method
    await ws.close()


@pytest.mark.parametrize(
    ("form", "suffix", "head"),
    [
        ({"format": "png", "format.bit_depth": "16-bit"}, ".png", b"\x89PNG"),
        ({"format": "png", "format.bit_depth": "8-bit"}, ".png", b"\x89PNG"),
        ({"format": "exr", "format.bit_depth": "32-bit float"}, ".exr", b"v/1\x01"),
    ],
)
async def test_the_newer_saver_puts_nothing_behind_the_number(
    client: Client, form: dict[str, Any], suffix: str, head: bytes
) -> None:
    inputs = {"images": ["1", 0], "filename_prefix": "adv", "format.input_color_space": "sRGB", **form}
    entry = await client.run({"1": PICTURE, "2": {"class_type": "SaveImageAdvanced", "inputs": inputs}})
    (named,) = entry["outputs"]["2"]["images"]
    assert named["filename"] == f"adv_00001{suffix}"
    data = (client.standin.folders.inside("output", "") / named["filename"]).read_bytes()
    assert data.startswith(head)
    if suffix == ".png":
        assert Image.open(BytesIO(data)).size == (16, 16)


async def test_json_is_written_anew_and_told_as_it_came(client: Client) -> None:
    text = {"class_type": "SaveText", "inputs": {"text": '{"a":1}', "filename_prefix": "t", "format": "json"}}
    entry = await client.run({"2": text})
    assert entry["outputs"]["2"]["text"] == ['{"a":1}']
    (named,) = entry["outputs"]["2"]["files"]
    assert (client.standin.folders.inside("output", "") / named["filename"]).read_text() == '{\n  "a": 1\n}'


async def test_what_a_node_shows_that_is_no_output_is_told_again_when_it_is_kept(client: Client) -> None:
    region = {"x": 0, "y": 0, "width": 8, "height": 8}
    graph = saved({"class_type": "ImageCropV2", "inputs": {"image": ["1", 0], "crop_region": region}})
    first = await client.run(graph)
    graph["2"]["inputs"]["filename_prefix"] = "other"
    second = await client.run(graph)
    assert "4" not in client.standin.log.executions[-1].nodes
    assert second["outputs"]["4"] == first["outputs"]["4"]


async def test_a_node_type_that_is_gone_is_replaced_if_the_node_has_meta(client: Client) -> None:
    graph = image_graph()
    graph["4"] = {"class_type": "T2IAdapterLoader", "inputs": {"t2i_adapter_name": "x"}, "_meta": {"title": "t"}}
    entry = await client.run(graph)
    assert entry["prompt"][2]["4"]["class_type"] == "ControlNetLoader"
    assert entry["prompt"][2]["4"]["inputs"] == {"control_net_name": "x"}
    del graph["4"]["_meta"]
    status, answer = await client.post("/prompt", {"prompt": graph})
    assert (status, answer[:3]) == (500, b"500")


@OLD
async def test_the_older_age_knows_no_replacement(client: Client) -> None:
    graph = image_graph()
    graph["4"] = {"class_type": "T2IAdapterLoader", "inputs": {}, "_meta": {"title": "t"}}
    status, answer = await client.post("/prompt", {"prompt": graph})
    assert (status, answer["error"]["type"]) == (400, "invalid_prompt")


async def test_a_cancel_that_comes_after_the_end_never_hits_the_successor(client: Client) -> None:
    ws = await client.connect("me")
    first = await client.submit(image_graph(color=1), client_id="me")
    await frames_until(ws, "execution_success", prompt_id=first)
    slow = {"class_type": "SlowProgress", "inputs": {"image": ["1", 0], "steps": 20, "seconds_per_step": 0.01}}
    second = await client.submit(saved(slow), client_id="me")
    await frames_until(ws, "progress", value=1)
    assert (await client.post(f"/api/jobs/{first}/cancel"))[1] == {"cancelled": False}
    await frames_until(ws, "execution_success", prompt_id=second)
    await ws.close()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sort_by", "sort_by must be 'created_at' or 'execution_duration'"),
        ("sort_order", "sort_order must be 'asc' or 'desc'"),
        ("limit", "limit must be an integer"),
    ],
)
async def test_what_is_wrong_with_a_list_of_jobs_is_said(client: Client, name: str, said: str) -> None:
    status, answer = await client.get("/api/jobs", **{name: "x"})
    assert (status, answer) == (400, {"error": said})


async def test_jobs_are_listed_by_age_and_by_duration(client: Client) -> None:
    for color in range(3):
        await client.run(image_graph(color=color), extra_data={"extra_pnginfo": {"workflow": {"id": f"w{color}"}}})
    listed = (await client.get("/api/jobs", sort_order="asc"))[1]["jobs"]
    assert [job["workflow_id"] for job in listed] == ["w0", "w1", "w2"]
    assert len((await client.get("/api/jobs", workflow_id="w1"))[1]["jobs"]) == 1
    page = (await client.get("/api/jobs", limit="1", offset="1", sort_by="execution_duration"))[1]
    assert page["pagination"] == {"offset": 1, "limit": 1, "total": 3, "has_more": True}


@pytest.mark.parametrize("destination", ["", "image"])
async def test_a_drawing_is_shown_only_where_it_cannot_run(client: Client, destination: str) -> None:
    graph = {
        "1": {"class_type": "OwnSvg", "inputs": {}},
        "2": {"class_type": "SaveSVGNode", "inputs": {"svg": ["1", 0], "filename_prefix": "d"}},
    }
    entry = await client.run(graph)
    url = client.server.make_url("/view").with_query(entry["outputs"]["2"]["images"][0])
    async with client.session.get(url, headers={"Sec-Fetch-Dest": destination}) as response:
        shown = response.headers["Content-Type"], "attachment" in response.headers["Content-Disposition"]
    assert shown == (("image/svg+xml", False) if destination else ("application/octet-stream", True))


async def test_another_sites_page_is_refused(client: Client) -> None:
    async with client.session.get(client.server.make_url("/queue"), headers={"Sec-Fetch-Site": "cross-site"}) as answer:
        assert answer.status == 403
