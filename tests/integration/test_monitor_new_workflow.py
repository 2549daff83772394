"""Sending a workflow from the page: where it is read from, which fields are made of it, and what becomes of them."""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from integration.monitor_fixtures import HOSTILE, Document, read
from integration.new_job_forms import NEW, check, job_of, jobs, picture, refused, send, value
from integration.new_job_graphs import GRAPH, png
from integration.offers import XL, loader, tell

from app import keys
from app.domain.envelopes import UI_FORMAT

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient

WORKFLOW = {"kind": "workflow", "user_id": "ann"}
UI = {"nodes": [{"id": 1, "type": "EmptyImage"}], "links": []}


def graph_in(page: str) -> dict[str, Any]:
    """Return the graph of the hidden field."""
    found = re.search(r'<textarea name="graph" hidden>(.*?)</textarea>', page, re.DOTALL)
    assert found
    return dict(json.loads(html.unescape(found[1])))


async def shown(client: TestClient[Any, Any], graph: Any, status: int = 200, **fields: str) -> tuple[Document, str]:
    """Have a pasted graph read; return the form and its HTML."""
    text = graph if isinstance(graph, str) else json.dumps(graph)
    answer = await send(client, WORKFLOW | {"workflow_text": text, "do": "read"} | fields)
    page = await answer.text()
    assert answer.status == status, page
    return Document(page), page


def field(page: Document, name: str) -> dict[str, str]:
    (found,) = [each for _, each in page.elements if each.get("id") == name]
    return found


async def test_a_pasted_workflow_becomes_fields_and_what_is_changed_in_them_is_sent(service, life, database):
    client = service.client
    (tab,) = (await read(client, NEW)).all("a", href=f"{NEW}?kind=workflow")
    assert "workflow_text" in str((await read(client, tab["href"])).elements)
    page, text = await shown(client, GRAPH)
    assert await jobs(database) == 0
    labels = [each.get("for", "") for each in page.all("label")]
    assert [name for name in labels if name.startswith("in_")] == ["in_0", "in_1", "in_2", "in_3", "in_4"]
    width = field(page, "in_0")
    assert (width["type"], width["value"], width["min"]) == ("number", "64", "1")
    assert field(page, "in_4")["value"] == "square"
    assert "Keep it" in text
    fields = WORKFLOW | {"graph": json.dumps(GRAPH), "in_0": "128", "in_1": "64", "in_4": "a.b\r\nc", "priority": "2"}
    job = await life.store.whole(job_of(await send(client, fields)))
    assert job.workflow == {
        "1": {**GRAPH["1"], "inputs": GRAPH["1"]["inputs"] | {"width": 128}},
        "2": {**GRAPH["2"], "inputs": GRAPH["2"]["inputs"] | {"filename_prefix": "a.b\nc"}},
    }
    assert (job.user_id, job.priority, job.job_type) == ("ann", 2, "workflow")
    done = await service.finished(job.job_id)
    assert (done["status"], done["outputs"][0]["width"]) == ("completed", 128)


async def test_choices_switches_long_texts_and_large_numbers_have_their_own_fields(service, life):
    client = service.client
    inputs = {"seed": 2**64 - 1, "steps": 4, "cfg": 5.5, "sampler_name": "euler", "scheduler": "gone", "denoise": 1}
    graph = {
        "a.b": {"class_type": "KSampler", "inputs": inputs},
        "c": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox\n" * 20, "clip": ["x", 1]}},
        "d": {"class_type": "NotThere", "inputs": {"on": True, "off": {"__value__": False}, "n": None, "l": [1, 2, 3]}},
    }
    page, text = await shown(client, graph | GRAPH)
    assert field(page, "in_0")["type"] == "text"
    assert field(page, "in_0")["value"] == str(2**64 - 1)
    assert (field(page, "in_2")["type"], field(page, "in_2")["max"]) == ("number", "100.0")
    assert {
        kind: tuple(each["id"] for each in page.all(kind) if each.get("id", "").startswith("in_"))
        for kind in ("select", "textarea")
    } == {"select": ("in_3", "in_4"), "textarea": ("in_6",)}
    assert "gone (not among the choices)" in text
    assert [("checked" in each) for each in page.all("input", type="checkbox")] == [True, False]
    fields = {"in_3": "dpmpp_2m", "in_4": "normal", "in_5": "0,5", "in_7": "false", "in_8": "true", "in_1": "many"}
    answer = await send(client, WORKFLOW | {"graph": json.dumps(graph | GRAPH)} | fields)
    page, said = await refused(answer)
    assert said["in_1"] == "This is to be a whole number."
    assert field(page, "in_1")["value"] == "many"
    kept = graph_in(await answer.text())
    assert kept["a.b"]["inputs"] == inputs | {"sampler_name": "dpmpp_2m", "scheduler": "normal", "denoise": 0.5}
    assert kept["d"]["inputs"] == {"on": False, "off": {"__value__": True}, "n": None, "l": [1, 2, 3]}


async def test_faults_of_the_graph_stand_at_the_inputs_that_they_are_about(service, database):
    graph = {**GRAPH, "2": {**GRAPH["2"], "class_type": "SaveImages"}}
    fields = WORKFLOW | {"graph": json.dumps(GRAPH), "in_0": "99999"}
    _, said = await refused(await send(service.client, fields))
    assert said.keys() == {"in_0"}
    page, said = await refused(await send(service.client, WORKFLOW | {"graph": json.dumps(graph)}))
    assert said == {}
    assert "/workflow/2" in page.text
    assert "Did you mean SaveImage?" in page.text
    assert await jobs(database) == 0


@pytest.mark.parametrize(
    ("content", "width"),
    [
        (json.dumps(GRAPH, indent=4).encode(), "64"),
        (json.dumps({"prompt": GRAPH, "client_id": "x"}).encode("utf-16"), "64"),
        (png(prompt=GRAPH, workflow=UI), "64"),
    ],
    ids=["json", "request", "png"],
)
async def test_a_workflow_is_read_from_a_file_which_is_not_kept(client, settings, content, width):
    answer = await send(client, WORKFLOW | {"do": "read"}, {"workflow_file": content})
    page = Document(await answer.text())
    assert answer.status == 200
    assert field(page, "in_0")["value"] == width
    assert not [path for path in settings.storage_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("content", "said_"),
    [
        (json.dumps(UI).encode(), UI_FORMAT),
        (png(workflow=UI), UI_FORMAT),
        (png(), "There is no workflow in it"),
        (b"MZ\0\0", "There is no workflow in it"),
        (b'{"a": ', "This is no JSON"),
        (b"[]", "This is a list"),
        (b'{"1": {"inputs": {}}, "2": {"class_type": "A", "inputs": 1}}', "/workflow/2"),
        (b"{}", ""),
        (png(prompt=GRAPH)[:-60], ""),
        (b'{"1":' * 1000, "nests too deep"),
    ],
)
async def test_a_file_that_is_no_workflow_is_refused_in_words(client, database, settings, content, said_):
    answer = await send(client, WORKFLOW | {"do": "read"}, {"workflow_file": content})
    _, said = await refused(answer)
    assert said.keys() == {"workflow_text"}
    assert said_ in Document(await answer.text()).text
    assert not [path for path in settings.storage_path.rglob("*") if path.is_file()]


async def test_nothing_or_too_much_is_refused(client, monkeypatch):
    page, said = await refused(await send(client, WORKFLOW | {"do": "read"}))
    assert said == {"workflow_text": "Choose a file or paste a workflow."}
    monkeypatch.setattr(client.app[keys.UPLOADS], "max_bytes", 1000)
    _, said = await refused(await send(client, WORKFLOW | {"do": "read"}, {"workflow_file": b"x" * 2000}))
    assert "more than 1000 bytes" in said["workflow_text"]
    large = {"1": {"class_type": "A", "inputs": {"a": "x" * (2 * 2**20)}}}
    page, said = await refused(await send(client, WORKFLOW | {"workflow_text": json.dumps(large)}))
    assert "MAX_WORKFLOW_BYTES" in said["workflow_text"]
    assert page


async def test_what_was_pasted_stays_when_it_is_wrong(client):
    page, _ = await shown(client, '{"a": 1', 422)
    assert '{"a": 1' in page.text


async def test_of_a_long_workflow_the_first_inputs_are_shown_and_all_are_sent(client, life):
    graph = {str(n): {"class_type": "A", "inputs": {"a": n, "b": "x", "c": ["0", 0]}} for n in range(150)}
    page, text = await shown(client, graph)
    assert field(page, "in_199")
    assert 'id="in_200"' not in text
    assert "100 more inputs are not shown, and stay as they are." in page.text
    answer = await send(client, WORKFLOW | {"graph": json.dumps(graph), "in_0": "7", "in_200": "no"})
    assert (await life.store.whole(job_of(answer))).workflow == graph | {
        "0": {**graph["0"], "inputs": graph["0"]["inputs"] | {"a": 7}}
    }


async def test_a_file_for_a_node_becomes_an_upload_of_the_user(service, life):
    client = service.client
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": "none.png"}}, "2": GRAPH["2"]}
    page, _ = await shown(client, graph)
    assert (field(page, "in_0")["value"], field(page, "in_0_file")["accept"]) == ("none.png", "image/*")
    fields = WORKFLOW | {"graph": json.dumps(graph), "in_0": "none.png"}
    _, said = await refused(await send(client, fields, {"in_0_file": b"nothing"}))
    assert said.keys() == {"in_0"}
    job = await life.store.whole(job_of(await send(client, fields, {"in_0_file": picture()})))
    text = job.workflow["1"]["inputs"]["image"]
    upload_id = text.removeprefix("upload:")
    assert (await client.app[keys.UPLOAD_STORE].read([upload_id]))[upload_id].user_id == "ann"
    page = await read(client, f"{NEW}?again={job.job_id}")
    assert field(page, "in_0")["value"] == text
    assert page.all("a", href=f"/api/v1/uploads/{upload_id}/data")
    # For another user it is taken over.
    fields = WORKFLOW | {"user_id": "bob", "graph": json.dumps(job.workflow)}
    other = (await life.store.whole(job_of(await send(client, fields)))).workflow["1"]["inputs"]["image"]
    assert other != text
    gone = {"1": {"class_type": "LoadImage", "inputs": {"image": "upload:none"}}, "2": GRAPH["2"]}
    _, said = await refused(await send(client, WORKFLOW | {"graph": json.dumps(gone)}))
    assert said == {"in_0": "This file is no longer there. Choose another one."}


async def test_again_fills_in_the_workflow_of_a_job(client, life):
    first = await life.submit(
        job_type="video", prompt="a fox", workflow=GRAPH, user_id="bob", extra_pnginfo={"workflow": UI, "a": "\ud800"},
        metadata={"x": "y"}, sampler_params={},
    )  # fmt: skip
    page = await read(client, f"{NEW}?again={first}")
    assert (field(page, "in_0")["value"], value(page, "user_id"), value(page, "kind")) == ("64", "bob", "workflow")
    fields = WORKFLOW | {"graph": json.dumps(GRAPH), "again": str(first), "in_0": "72", "prompt": "a ship"}
    job = await life.store.whole(job_of(await send(client, fields)))
    one = await life.store.whole(first)
    assert (job.job_type, job.prompt) == ("video", "a ship")
    assert "a fox" in page.text
    assert (job.extra_pnginfo, job.metadata, job.workflow["1"]["inputs"]["width"]) == (
        one.extra_pnginfo,
        {"x": "y"},
        72,
    )


async def test_hostile_names_and_values_come_back_as_texts(client):
    node = {"class_type": HOSTILE, "inputs": {HOSTILE: HOSTILE, "a": "\ud800"}, "_meta": {"title": HOSTILE}}
    page, text = await shown(client, {HOSTILE: node})
    assert graph_in(text) == {HOSTILE: node}
    assert page.text.count(HOSTILE) >= 4
    assert not [each for each in page.all("script") if "src" not in each]
    assert "1 more inputs" in page.text


async def test_a_workflow_is_checked_while_it_is_filled_in(service, database):
    fields = WORKFLOW | {"graph": json.dumps(GRAPH)}
    assert "It can run on standin." in (await check(service.client, fields))["said"]
    found = await check(service.client, fields | {"in_0": "99999"})
    assert found["faults"].keys() == {"in_0"}
    gone = {"1": {"class_type": "Gone", "inputs": {}}}
    found = await check(service.client, fields | {"graph": json.dumps(gone)})
    assert "/workflow/1" in found["said"]
    assert await jobs(database) == 0


async def test_inputs_that_come_of_a_choice_have_their_own_fields_too(client):
    below = {"required": {"width": ["INT", {"min": 8, "max": 512, "step": 8}], "how": [["near", "far"]]}}
    options = {"options": [{"key": "by size", "inputs": below}, {"key": "as it is", "inputs": {"required": {}}}]}
    node = {
        "input": {"required": {"resize": ["COMFY_DYNAMICCOMBO_V3", options]}},
        "output": ["IMAGE"],
        "output_matchtypes": None,
    }
    await tell(client, "gpu-a", loader(XL, Resize=node))
    inputs = {"resize": "by size", "resize.width": 64, "resize.how": "far"}
    page, _ = await shown(client, {"1": {"class_type": "Resize", "inputs": inputs}})
    assert (field(page, "in_1")["type"], field(page, "in_1")["max"]) == ("number", "512")
    assert [each["id"] for each in page.all("select") if each.get("id", "").startswith("in_")] == ["in_0", "in_2"]
