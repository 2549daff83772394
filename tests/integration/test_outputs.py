"""Every output is kept, as ComfyUI called it, and nothing good is thrown away with what cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness import Service
from worker.standin.faults import Fault, FaultKind, ViewFault
from worker.standin.image_nodes import prefix_input
from worker.standin.nodes import Input, NodeType, Result

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp.test_utils import TestClient

    from app.settings import Settings
    from harness import StandinServer, Workers
    from worker.standin.node_run import NodeRun

CASES = sorted((Path(__file__).parent.parent / "data" / "cases" / "endings").glob("*.json"))
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><script>alert(1)</script></svg>'
IMAGE = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}}
SAVE = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "mine"}}


async def _show(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Show what one is told to: a text that is no JSON is shown by nobody."""
    return Result((inputs["ui"],), ui=json.loads(inputs["ui"]) if inputs["ui"] else None)


async def _leave(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Write files below the prefix, each `{name, text, type, key}`, and name them; one without a text is not there.

    Of one that is `bare` only the path is told.
    """
    shown: dict[str, list[Any]] = {}
    for file in json.loads(inputs["files"]):
        target = run.folders.target(inputs["filename_prefix"], file.get("type", "output"), (1, 1))
        if "text" in file:
            await run.in_thread((target.folder / file["name"]).write_text, file["text"])
        record = {"filename": file["name"], "subfolder": target.subfolder, "type": file.get("type", "output")}
        told = f"{target.subfolder}/{file['name']}" if file.get("bare") else record
        shown.setdefault(file.get("key", "files"), []).append(told)
    return Result(ui=shown)


SHOWS = NodeType(name="Shows", run=_show, required={"ui": Input("STRING", {})}, outputs=("STRING",), output_node=True)
LEAVES = NodeType(
    name="Leaves",
    run=_leave,
    required={"files": Input("STRING", {}), "filename_prefix": prefix_input()},
    output_node=True,
)


@pytest.fixture
async def odd(
    client: TestClient[Any, Any],
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_worker: Workers,
) -> Service:
    """The whole service, with a backend whose nodes show and leave what they are told to."""
    standin = await start_standin()
    others = {"OnTheWay": replace(SHOWS, name="OnTheWay", output_node=False)}
    standin.state.types |= {"Shows": SHOWS, "Leaves": LEAVES, **others}
    service = Service(client, standin, await start_worker(f"standin={standin.url}"))
    await service.backend_online()
    return service


def shows(ui: Any) -> dict[str, Any]:
    return {"class_type": "Shows", "inputs": {"ui": json.dumps(ui) if ui is not None else ""}}


def leaves(*files: dict[str, Any]) -> dict[str, Any]:
    return {"class_type": "Leaves", "inputs": {"files": json.dumps(files), "filename_prefix": "left"}}


async def run(service: Service, graph: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return await service.run(job_type="workflow", workflow=graph, **changes)


async def text_of(service: Service, output: dict[str, Any]) -> str:
    answer = await service.client.get(output["url"])
    assert answer.status == 200
    return await answer.text()


SAID = {
    "number": ({"number": [42]}, [("data", "42")]),
    "boolean": ({"bool": [True]}, [("data", "true")]),
    "nested": ({"points": [[[1, 2]], {"a": None}]}, [("data", "[[1,2]]"), ("data", '{"a":null}')]),
    "letters": ({"text": list("A cat.")}, [("text", "A cat.")]),
    "tags": ({"tags": ["1girl, solo", "lamp"]}, [("text", "1girl, solo"), ("text", "lamp")]),
    "empty text": ({"text": [""]}, [("text", "")]),
    "mixed": ({"text": ["hello", 5]}, [("text", "hello"), ("data", "5")]),
    "two keys": ({"dims": [8, 8], "why": ["so it is"]}, [("data", "8"), ("data", "8"), ("text", "so it is")]),
}


@pytest.mark.parametrize("name", SAID)
async def test_whatever_a_node_says_is_kept_and_served(odd: Service, name: str) -> None:
    ui, said = SAID[name]
    job = await run(odd, {"7": shows(ui)})
    assert (job["status"], job["attempt"], job["warnings"]) == ("completed", 1, []), job
    assert [output["kind"] for output in job["outputs"]] == [kind for kind, _ in said]
    assert [await text_of(odd, output) for output in job["outputs"]] == [text for _, text in said]
    for output, key in zip(job["outputs"], [key for key, values in ui.items() for _ in values], strict=False):
        assert output["node_id"] == "7"
        assert (output["preview"], output["thumbnail_url"]) == (False, None)
        assert output["source"]["filename"] is output["source"]["subfolder"] is output["source"]["type"] is None
        assert output["source"]["key"] in ui
        assert key in ui


async def test_data_is_served_as_json_and_shown_on_the_page(odd: Service) -> None:
    job = await run(odd, {"7": shows({"boxes": [{"x": "<b>1</b>"}]})})
    (output,) = job["outputs"]
    answer = await odd.client.get(output["url"])
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox; frame-ancestors 'none'"
    assert await answer.json(content_type="application/json") == {"x": "<b>1</b>"}
    page = await (await odd.client.get(f"/monitor/jobs/{job['job_id']}")).text()
    assert "{&#34;x&#34;:&#34;&lt;b&gt;1&lt;/b&gt;&#34;}" in page


async def test_a_run_that_leaves_nothing_is_completed_and_says_so(odd: Service) -> None:
    graph = {"7": shows(None)}
    job_id = (await odd.submit(job_type="workflow", workflow=graph))["job_id"]
    async with odd.client.ws_connect(f"/ws/jobs/{job_id}") as ws:
        frames = [message.json() async for message in ws]
    job = await odd.job(job_id)
    assert (job["status"], job["attempt"], job["error_code"]) == ("completed", 1, None)
    assert (job["outputs"], job["output_paths"]) == ([], [])
    (warning,) = job["warnings"]
    assert "7 (Shows)" in warning
    assert (frames[-1]["status"], frames[-1]["output_paths"]) == ("completed", [])
    assert frames[-1]["content_id"] == job["content_id"] is not None
    content = await (await odd.client.get(job["links"]["content"])).json()
    assert content["outputs"] == []
    assert (await odd.client.get(f"{job['links']['content']}/thumbnail")).status == 404
    for path in (f"/monitor/jobs/{job_id}", "/monitor/"):
        page = await odd.client.get(path)
        assert page.status == 200
    assert (await odd.client.delete(job["links"]["self"])).status == 204


async def test_a_node_that_another_one_blocks_leaves_nothing_and_that_is_no_failure(odd: Service) -> None:
    blocked = {"class_type": "BlockOutput", "inputs": {"image": ["1", 0], "message": ""}}
    job = await run(odd, {"1": IMAGE, "3": blocked, "2": SAVE | {"inputs": SAVE["inputs"] | {"images": ["3", 0]}}})
    assert (job["status"], job["outputs"], len(job["warnings"])) == ("completed", [], 1)
    assert "2 (SaveImage)" in job["warnings"][0]


async def test_previews_beside_saved_files_are_kept_and_marked(odd: Service) -> None:
    other = IMAGE | {"inputs": IMAGE["inputs"] | {"color": 0xFF0000}}
    preview = {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}}
    job = await run(odd, {"1": IMAGE, "2": preview, "3": SAVE, "4": other})
    assert [(each["node_id"], each["kind"], each["preview"]) for each in job["outputs"]] == [
        ("2", "image", True),
        ("3", "image", False),
    ]
    assert [each["source"]["type"] for each in job["outputs"]] == ["temp", "output"]
    assert job["warnings"] == []
    page = await (await odd.client.get(f"/monitor/jobs/{job['job_id']}")).text()
    assert page.count("<span>preview</span>") == 1
    listed = await (await odd.client.get("/monitor/")).text()
    assert f'{job["outputs"][1]["url"]}/thumbnail"' in listed
    assert f'{job["outputs"][0]["url"]}/thumbnail"' not in listed
    await odd.worker.thumbnails.done()
    shown = [await (await odd.client.get(f"{url}/thumbnail")).read() for url in (job["links"]["content"],)]
    assert shown == [await (await odd.client.get(job["outputs"][1]["thumbnail_url"])).read()]


async def test_an_output_keeps_the_name_that_comfyui_gave_it(odd: Service) -> None:
    """The run's folder included: it is where the file is."""
    job = await run(odd, {"7": leaves({"name": 'Grüße "1".txt', "text": "hello", "key": "docs"})})
    (output,) = job["outputs"]
    folder = f"genonaut/{job['job_id']}/{job['comfyui_prompt_id']}"
    assert output["source"] == {"filename": 'Grüße "1".txt', "subfolder": folder, "type": "output", "key": "docs"}
    answer = await odd.client.get(output["url"])
    assert answer.headers["Content-Disposition"] == (
        "inline; filename=\"Gr__e _1_.txt\"; filename*=UTF-8''Gr%C3%BC%C3%9Fe%20%221%22.txt"
    )
    assert answer.content_disposition is not None
    assert answer.content_disposition.filename == 'Grüße "1".txt'


async def test_what_may_run_in_a_browser_is_saved_and_not_shown(odd: Service) -> None:
    job = await run(
        odd, {"7": leaves({"name": "a.svg", "text": SVG}, {"name": "b.html", "text": "<script>1</script>"})}
    )
    assert len(job["outputs"]) == 2
    for output in job["outputs"]:
        answer = await odd.client.get(output["url"])
        assert answer.headers["Content-Disposition"].startswith("attachment; ")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.content_type != "text/html"


async def test_a_text_that_was_saved_and_shown_is_one_output(odd: Service) -> None:
    saved = leaves({"name": "t_00001.md", "text": "hello there"})
    told = {"text": ["hello there"], "files": [{"filename": "t_00001.md", "subfolder": "gone", "type": "output"}]}
    job = await run(odd, {"6": saved, "7": shows(told)})
    assert [(each["node_id"], each["source"]["key"]) for each in job["outputs"]] == [("6", "files"), ("7", "text")]
    # The second one's file is not there: then its text is kept, once.
    assert await text_of(odd, job["outputs"][1]) == "hello there"
    (warning,) = job["warnings"]
    assert "t_00001.md" in warning
    assert "404 Not Found" in warning


async def test_a_file_of_which_only_the_path_is_told_is_kept(odd: Service) -> None:
    mesh = {"name": "mesh.stl", "text": "solid of mine", "key": "result", "bare": True}
    (output,) = (await run(odd, {"6": leaves(mesh)}))["outputs"]
    assert (output["source"]["filename"], output["source"]["key"]) == ("mesh.stl", "result")
    assert await text_of(odd, output) == "solid of mine"
    # That of another run is a text, and its file another job's.
    path = f"{output['source']['subfolder']}/mesh.stl"
    outputs = (await run(odd, {"7": shows({"result": [path, {"zoom": 1}, None]})}))["outputs"]
    assert [(each["kind"], each["source"]["key"]) for each in outputs] == [
        (kind, "result") for kind in ("text", "data", "data")
    ]
    assert await text_of(odd, outputs[0]) == path


async def test_one_lost_output_among_good_ones_is_a_warning_that_names_it(odd: Service) -> None:
    graph = {"1": IMAGE, "2": SAVE, "7": leaves({"name": "gone.png"}, {"name": "there.txt", "text": "x"})}
    job = await run(odd, graph)
    assert (job["status"], job["attempt"]) == ("completed", 1)
    assert [(each["index"], each["node_id"]) for each in job["outputs"]] == [(0, "2"), (1, "7")]
    (warning,) = job["warnings"]
    assert "gone.png" in warning
    assert "node 7" in warning
    assert "404" in warning
    assert set(odd.executions().values()) == {1}


async def test_of_many_lost_outputs_the_first_ones_are_named(odd: Service) -> None:
    gone = [{"name": f"gone{number}.png"} for number in range(30)]
    job = await run(odd, {"1": IMAGE, "2": SAVE, "7": leaves(*gone)})
    assert (job["status"], len(job["outputs"])) == ("completed", 1)
    assert len(job["warnings"]) == 21
    assert job["warnings"][-1] == "And 10 more outputs could not be kept."


async def test_a_file_that_is_too_large_is_lost_alone(odd: Service, start_worker: Workers) -> None:
    await odd.exchange_worker(start_worker, f"small={odd.standin.url}", max_output_bytes=1000)
    big = {"name": "big.txt", "text": "x" * 1001}
    job = await run(odd, {"7": leaves(big, {"name": "small.txt", "text": "y"})})
    assert (job["status"], len(job["outputs"])) == ("completed", 1)
    assert "big.txt" in job["warnings"][-1]
    assert "1000 bytes" in job["warnings"][-1]
    job = await run(odd, {"7": leaves(big)}, max_attempts=1)
    assert (job["status"], job["error_code"]) == ("failed", "output_invalid")
    assert "big.txt" in job["error_message"]


async def test_a_file_over_which_comfyui_stumbles_each_time_is_lost_alone(odd: Service) -> None:
    await odd.standin.state.apply(Fault(kind=FaultKind.VIEW, how=ViewFault.ERROR, times=None))
    job = await run(odd, {"7": leaves({"name": "a.txt", "text": "x"}), "8": shows({"text": ["still here"]})})
    assert (job["status"], job["attempt"], len(job["outputs"])) == ("completed", 1, 1)
    assert "500" in job["warnings"][0]


async def test_a_preview_that_may_be_anothers_is_lost_alone_and_costs_no_run(odd: Service) -> None:
    shown = {"images": [{"filename": "fixed_00001_.png", "subfolder": "", "type": "temp"}]}
    (odd.standin.state.folders.inside("temp", "") / "fixed_00001_.png").write_bytes(b"another job's")
    on_the_way = {"class_type": "OnTheWay", "inputs": {"ui": json.dumps(shown)}}
    graph = {"1": IMAGE, "2": SAVE, "7": on_the_way, "8": {"class_type": "PreviewAny", "inputs": {"source": ["7", 0]}}}
    job = await run(odd, graph)
    assert (job["status"], job["attempt"]) == ("completed", 1)
    assert [each["node_id"] for each in job["outputs"]] == ["2", "8"]
    assert "fixed_00001_.png" in job["warnings"][0]


async def test_an_empty_text_beside_a_picture_costs_neither_a_run_nor_the_picture(odd: Service) -> None:
    empty = {"class_type": "PrimitiveString", "inputs": {"value": ""}}
    preview = {"class_type": "PreviewAny", "inputs": {"source": ["5", 0]}}
    job = await run(odd, {"1": IMAGE, "5": empty, "2": preview, "3": SAVE})
    assert (job["status"], job["attempt"], job["warnings"]) == ("completed", 1, [])
    assert [(each["kind"], each["size_bytes"] == 0) for each in job["outputs"]] == [("text", True), ("image", False)]


async def test_an_empty_file_of_text_is_kept(odd: Service) -> None:
    job = await run(odd, {"7": leaves({"name": "empty.txt", "text": ""})})
    assert (job["status"], [each["size_bytes"] for each in job["outputs"]]) == ("completed", [0])


async def test_of_outputs_none_of_which_is_there_nothing_is_left(odd: Service, settings: Settings) -> None:
    job = await run(odd, {"7": leaves({"name": "a.png"}, {"name": "b.png"})}, max_attempts=1)
    assert (job["status"], job["error_code"], job["outputs"]) == ("failed", "output_invalid", [])
    assert "a.png" in job["error_message"]
    assert [path for path in settings.storage_path.rglob("*") if path.is_file()] == []
