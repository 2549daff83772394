"""What clients send wrongly: each fault is named, nothing is accepted, and no server is harmed."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select

from app.domain.dependencies import MAX_CHAIN
from app.domain.hints import MAX_HINTS
from app.domain.structure import MAX_NODES
from app.domain.workflow import MAX_FAULTS
from app.storage.schema import JobRow
from harness import SMALL_BODY

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient

    from app.storage.database import Database
    from harness import Service

BASE = "/api/v1/generation-jobs/"
SAVED = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}
EMPTY = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}}
GRAPH = {"1": EMPTY, "2": SAVED}
DELETE = object()


def changed(body: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy of the body with what a pointer names replaced or deleted."""
    copy: dict[str, Any] = json.loads(json.dumps(body))
    *parents, last = path.strip("/").split("/")
    inside = copy
    for key in parents:
        inside = inside.setdefault(key, {})
    if value is DELETE:
        del inside[last]
    else:
        inside[last] = value
    return copy


async def problem_of(client: TestClient[Any, Any], status: int, **request: Any) -> dict[str, Any]:
    """POST what is refused, and return the problem."""
    answer = await client.post(BASE, **request)
    text = await answer.text()
    assert answer.status == status, text[:2000]
    assert answer.content_type == "application/problem+json"
    assert "Traceback" not in text
    return dict(json.loads(text))


async def accepted(database: Database) -> int:
    """Count the rows of jobs."""
    async with database.transaction() as session:
        return await session.scalar(select(func.count()).select_from(JobRow)) or 0


# No JSON.

MALFORMED = {
    "nothing": b"",
    "spaces": b"  \n",
    "text": b"hello",
    "half": b'{"user_id": "a"',
    "two": b"{}{}",
    "trailing comma": b'{"a": 1,}',
    "single quotes": b"{'a': 1}",
    "NaN": b'{"params": {"a": NaN}}',
    "Infinity": b'{"params": {"a": Infinity}}',
    "-Infinity": b'{"params": [-Infinity]}',
    "NaN at the top": b"NaN",
    "no UTF-8": b'{"user_id": "\xff"}',
    "number of 5000 digits": b'{"params": {"a": ' + b"9" * 5000 + b"}}",
    "deep list": b'{"params": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "65 levels": b'{"params": ' + b'{"a":' * 65 + b"1" + b"}" * 66,
    "a list": b"[]",
    "a text": b'"hello"',
    "null": b"null",
    "a number": b"17",
    "a field twice": b'{"user_id": "a", "user_id": "b", "job_type": "image", "prompt": "p"}',
    "a node twice": b'{"user_id":"a","job_type":"workflow","workflow":{"1":{"class_type":"A"},"1":{"class_type":"B"}}}',
}


async def test_a_body_that_is_no_json_object_is_400(client: TestClient[Any, Any], database: Database) -> None:
    for name, data in MALFORMED.items():
        problem = await problem_of(client, 400, data=data, headers={"Content-Type": "application/json"})
        assert problem["code"] == "malformed_json", name
        assert len(problem["detail"]) < 300, name
    assert await accepted(database) == 0


async def test_where_the_json_breaks_is_said(client: TestClient[Any, Any]) -> None:
    data = b'{\n  "user_id": "a",\n  "prompt" "b"\n}'
    problem = await problem_of(client, 400, data=data, headers={"Content-Type": "application/json"})
    assert "line 3, column 12" in problem["detail"]


async def test_a_surrogate_that_is_encoded_as_utf_8_is_named(client: TestClient[Any, Any]) -> None:
    data = b'{"user_id": "\xed\xa0\x80"}'
    problem = await problem_of(client, 422, data=data, headers={"Content-Type": "application/json"})
    assert problem["errors"][0]["code"] == "lone_surrogate"


async def test_numbers_that_overflow_to_infinity_are_named(client: TestClient[Any, Any]) -> None:
    data = b'{"user_id": "u", "job_type": "image", "prompt": "p", "params": {"a": [1e999, -1e999]}}'
    problem = await problem_of(client, 422, data=data, headers={"Content-Type": "application/json"})
    assert [(fault["pointer"], fault["code"]) for fault in problem["errors"]] == [
        ("/params/a/0", "not_finite"),
        ("/params/a/1", "not_finite"),
    ]


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/xml", "image/png"])
async def test_another_media_type_is_415(client: TestClient[Any, Any], kind: str) -> None:
    problem = await problem_of(client, 415, data=json.dumps(SMALL_BODY), headers={"Content-Type": kind})
    assert problem["code"] == "unsupported_media_type"


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/problem+json", "APPLICATION/JSON"])
async def test_json_by_another_name_is_taken(client: TestClient[Any, Any], kind: str) -> None:
    answer = await client.post(BASE, data=json.dumps(SMALL_BODY), headers={"Content-Type": kind})
    assert answer.status == 201


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_is_not_what_its_encoding_says_is_400(client: TestClient[Any, Any], encoding: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    problem = await problem_of(client, 400, data=b"\x01 this is not compressed", headers=headers)
    assert problem["code"] == "malformed_json"


# Fields.

WRONG = [
    *(("/user_id", value) for value in (DELETE, None, "", "x" * 256, 7, ["a"], {})),
    *(("/job_type", value) for value in (DELETE, None, "", "Image", "picture", 1, ["image"])),
    *(("/prompt", value) for value in (DELETE, None, "", " \n\t\u00a0", "x" * 10_001, 7, ["a"], {})),
    *(("/negative_prompt", value) for value in (None, "x" * 20_001, 7, [])),
    *(("/checkpoint_model", value) for value in ("", "x" * 256, 7, [])),
    *(("/lora_models", value) for value in (None, {}, "a", 7)),
    *(("/lora_models/0", value) for value in (None, "a", [])),
    *(("/lora_models/0/name", value) for value in (DELETE, None, "", "x" * 256, 7)),
    *(("/lora_models/0/strength_model", value) for value in (None, "1", 100.1, -101, True, 10**400)),
    *(("/lora_models/0/strength_clip", value) for value in ([], 101)),
    *(("/lora_models/0/strength", value) for value in (1,)),
    *(
        (f"/{side}", value)
        for side in ("width", "height")
        for value in (None, 0, 63, 2049, -832, 10**30, "832", 832.0, 832.5, True, [])
    ),
    *(("/batch_size", value) for value in (None, 0, 9, "1", 1.0, False)),
    *(("/sampler_params", value) for value in (None, [], "euler", 7)),
    *(("/sampler_params/seed", value) for value in ("1", 1.0, 1e300, -2, 2**64, True, [])),
    *(("/sampler_params/steps", value) for value in (None, 0, 151, "28", 28.0)),
    *(("/sampler_params/cfg", value) for value in (None, -0.1, 30.1, "5", True, 10**400)),
    *(("/sampler_params/denoise", value) for value in (None, -0.1, 1.1, "1")),
    *(("/sampler_params/sampler_name", value) for value in (None, "", "x" * 65, 1)),
    *(("/sampler_params/scheduler", value) for value in (None, "", "x" * 65, 1)),
    *(("/sampler_params/sampler", value) for value in ("euler",)),
    *(("/workflow", value) for value in ([], "x", 7)),
    *(("/overrides", value) for value in (None, [], "x", {"1.width": 1})),
    *(("/backend", value) for value in ("", "x" * 256, 7)),
    *(("/priority", value) for value in (None, -101, 101, "0", 0.0, True, 10**30)),
    *(("/not_before", value) for value in ("", "tomorrow", "2026-11-23", "2026-11-23T12:00:00", 1700000000, True, [])),
    *(("/not_before", value) for value in ("1700000000", "2026-02-30T00:00:00Z", "1969-12-31T23:59:59Z", "-1")),
    *(("/not_before", value) for value in ("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00")),
    *(("/max_attempts", value) for value in (None, 0, 11, "4", 4.0)),
    *(("/timeout_seconds", value) for value in (None, 0, 7201, -1, 0.5)),
    *(("/metadata", value) for value in (None, [], "x", {str(number): "" for number in range(17)})),
    *(("/metadata/a", value) for value in (None, 1, {}, [])),
    *(("/params", value) for value in (None, [], "x", {"a": "x" * 65_536})),
    *(("/promt", value) for value in ("typo",)),
    *(("/id", value) for value in (1,)),
    *(("/a~1b~0c", value) for value in (None,)),
]


async def test_a_wrong_value_is_named_by_its_pointer(client: TestClient[Any, Any], database: Database) -> None:
    otherwise = {}
    for pointer, value in WRONG:
        body: dict[str, Any]
        if pointer.startswith("/lora_models/0"):
            rest = pointer.removeprefix("/lora_models/0")
            body = SMALL_BODY | {"lora_models": [changed({"name": "a"}, rest, value) if rest else value]}
        elif pointer == "/a~1b~0c":
            body = SMALL_BODY | {"a/b~c": value}
        else:
            body = changed(SMALL_BODY, pointer, value)
        answer = await client.post(BASE, json=body)
        problem = await answer.json()
        named = [fault["pointer"] for fault in problem.get("errors", [])]
        if (answer.status, problem.get("code"), named) != (422, "invalid_request", [pointer]):
            otherwise[pointer, str(value)[:30]] = (answer.status, problem.get("code"), named)
        else:
            assert problem["errors"][0]["detail"] in problem["detail"]
    assert otherwise == {}
    assert await accepted(database) == 0


async def test_every_fault_is_listed_at_once(client: TestClient[Any, Any]) -> None:
    body = {"job_type": "picture", "width": 1, "sampler_params": {"steps": 0, "sede": 1}, "colour": "red"}
    problem = await problem_of(client, 422, json=body)
    pointers = {fault["pointer"] for fault in problem["errors"]}
    assert pointers == {
        "/user_id",
        "/job_type",
        "/prompt",
        "/width",
        "/sampler_params/steps",
        "/sampler_params/sede",
        "/colour",
    }
    by_pointer = {fault["pointer"]: fault for fault in problem["errors"]}
    assert by_pointer["/job_type"]["allowed"] == ["image", "image_generation", "video", "audio", "workflow"]
    assert by_pointer["/colour"]["code"] == "unknown_field"


async def test_a_misspelt_field_is_refused_with_the_one_that_was_meant(client: TestClient[Any, Any]) -> None:
    problem = await problem_of(client, 422, json=SMALL_BODY | {"negative_promt": "x"})
    (fault,) = problem["errors"]
    assert (fault["code"], fault["suggestion"]) == ("unknown_field", "negative_prompt")


async def test_thousands_of_faults_are_answered_with_a_short_list(client: TestClient[Any, Any]) -> None:
    body = SMALL_BODY | {f"field {number}": "\0" for number in range(20_000)}
    for each in (body, dict.fromkeys(body, 1), SMALL_BODY | {"x" * 1_000_000: 1}):
        answer = await client.post(BASE, json=each)
        assert answer.status == 422
        problem = await answer.json()
        assert len(json.dumps(problem)) < 50_000
        # Not even counted is what is wrong beyond a bound.
        more = re.search(r"and (\d+) more", problem["detail"])
        assert more is None or int(more[1]) < 200


@pytest.mark.parametrize("job_type", ["video", "audio", "workflow"])
async def test_a_type_without_a_template_brings_its_workflow(client: TestClient[Any, Any], job_type: str) -> None:
    problem = await problem_of(client, 422, json=SMALL_BODY | {"job_type": job_type})
    assert [fault["pointer"] for fault in problem["errors"]] == ["/workflow"]


TEXTS = [
    "/user_id",
    "/prompt",
    "/negative_prompt",
    "/checkpoint_model",
    "/backend",
    "/sampler_params/sampler_name",
    "/metadata/key",
    "/params/deep/er",
    "/unknown",
]


@pytest.mark.parametrize(("text", "code"), [("a\0b", "nul_character"), ("a\ud800b", "lone_surrogate")])
async def test_nul_and_lone_surrogates_are_refused_in_every_text_but_those_of_a_graph(
    client: TestClient[Any, Any], database: Database, text: str, code: str
) -> None:
    for pointer in TEXTS:
        problem = await problem_of(client, 422, json=changed(SMALL_BODY, pointer, text))
        assert [(fault["pointer"], fault["code"]) for fault in problem["errors"]] == [(pointer, code)]
    assert await accepted(database) == 0


@pytest.mark.parametrize("key", ["a\0", "\udfff"])
async def test_nul_and_lone_surrogates_are_refused_in_names_too(client: TestClient[Any, Any], key: str) -> None:
    for where in ("metadata", "params", "workflow", "overrides", "sampler_params"):
        problem = await problem_of(client, 422, json=SMALL_BODY | {where: {key: "x"}})
        assert problem["errors"][0]["code"] in ("nul_character", "lone_surrogate")
        assert re.search("[\0\ud800-\udfff]", problem["errors"][0]["pointer"]) is None


async def test_nul_is_refused_in_the_reason_of_a_cancel(client: TestClient[Any, Any]) -> None:
    job = await (await client.post(BASE, json=SMALL_BODY)).json()
    wrong: list[Any] = [{"reason": "a\0"}, {"reason": "\ud800"}, {"reason": "x" * 2001}, {"reason": 7}, {"why": "x"}]
    for body in wrong:
        answer = await client.post(f"{BASE}{job['job_id']}/cancel", json=body)
        assert answer.status == 422, body
    for raw, status in ((b"[]", 400), (b"{", 400), (b"   ", 200)):
        headers = {"Content-Type": "application/json"}
        answer = await client.post(f"{BASE}{job['job_id']}/cancel", data=raw, headers=headers)
        assert answer.status == status


@pytest.mark.parametrize("body", [{"seed": 7}, {"seed": "old"}, {"seed": None}, {"new": True}])
async def test_a_wrong_retry_is_refused(client: TestClient[Any, Any], body: Any) -> None:
    job = await (await client.post(BASE, json=SMALL_BODY)).json()
    await client.post(f"{BASE}{job['job_id']}/cancel")
    answer = await client.post(f"{BASE}{job['job_id']}/retry", json=body)
    assert answer.status == 422
    assert (await (await client.get(f"{BASE}{job['job_id']}")).json())["attempt"] == 1


# Graphs.

BAD_GRAPHS: dict[str, tuple[Any, str, str, str | None]] = {
    "empty": ({}, "/workflow", "no_output", None),
    "no output": ({"1": EMPTY}, "/workflow", "no_output", None),
    "unknown class": (
        {"1": EMPTY | {"class_type": "EmptyImag"}, "2": SAVED},
        "/workflow/1/class_type",
        "unknown_node_class",
        "EmptyImage",
    ),
    "missing model": (
        GRAPH
        | {"3": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "dreamshaper_9.safetensors"}}}
        | {"2": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "x"}}}
        | {"4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}}
        | {"5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["3", 2]}}},
        "/workflow/3/inputs/ckpt_name",
        "value_not_in_list",
        "dreamshaper_8.safetensors",
    ),
    "UI format": ({"nodes": [], "links": [], "version": 0.4}, "/workflow", "ui_format", None),
    "wrapped": ({"prompt": GRAPH}, "/workflow", "wrapped_graph", None),
    "wrapped with client_id": ({"prompt": GRAPH, "client_id": "a"}, "/workflow", "wrapped_graph", None),
    "cycle": (
        {
            "1": {"class_type": "ImageInvert", "inputs": {"image": ["3", 0]}},
            "3": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
            "2": SAVED,
        },
        "/workflow/1",
        "cycle",
        None,
    ),
    "link to nowhere": (
        {"10": EMPTY, "2": SAVED | {"inputs": {"images": ["100", 0], "filename_prefix": "x"}}},
        "/workflow/2/inputs/images",
        "bad_link",
        "10",
    ),
    "link to no output": (
        {"1": EMPTY, "2": SAVED | {"inputs": {"images": ["1", 7], "filename_prefix": "x"}}},
        "/workflow/2/inputs/images",
        "bad_link",
        None,
    ),
    "link with a text as index": (
        {"1": EMPTY, "2": SAVED | {"inputs": {"images": ["1", "0"], "filename_prefix": "x"}}},
        "/workflow/2/inputs/images",
        "bad_link",
        None,
    ),
    "node without inputs": (GRAPH | {"3": {"class_type": "EmptyImage"}}, "/workflow/3/inputs", "missing", None),
    "node with null inputs": (
        GRAPH | {"3": {"class_type": "EmptyImage", "inputs": None}},
        "/workflow/3/inputs",
        "missing",
        None,
    ),
    "node that is a text": (GRAPH | {"3": "EmptyImage"}, "/workflow/3", "invalid_type", None),
    "node that is null": (GRAPH | {"3": None}, "/workflow/3", "invalid_type", None),
    "node without class": (GRAPH | {"3": {"inputs": {}}}, "/workflow/3/class_type", "missing", None),
    "class that is a number": (
        GRAPH | {"3": {"class_type": 7, "inputs": {}}},
        "/workflow/3/class_type",
        "missing",
        None,
    ),
    "required input missing": (
        {"1": EMPTY | {"inputs": {"width": 64, "batch_size": 1, "color": 0}}, "2": SAVED},
        "/workflow/1/inputs/height",
        "required_input_missing",
        None,
    ),
    "value too great": (
        {"1": EMPTY | {"inputs": EMPTY["inputs"] | {"width": 10**9}}, "2": SAVED},  # type: ignore[operator]
        "/workflow/1/inputs/width",
        "value_bigger_than_max",
        None,
    ),
    "text for a number": (
        {"1": EMPTY | {"inputs": EMPTY["inputs"] | {"width": "wide"}}, "2": SAVED},  # type: ignore[operator]
        "/workflow/1/inputs/width",
        "invalid_input_type",
        None,
    ),
    "too many nodes": ({str(number): EMPTY for number in range(MAX_NODES + 1)}, "/workflow", "too_large", None),
    "wrapped by another service": ({"input": {"workflow": GRAPH}}, "/workflow", "wrapped_graph", None),
    "wrapped with more": ({"prompt": GRAPH, "front": True, "number": 1}, "/workflow", "wrapped_graph", None),
    "number among the nodes": (GRAPH | {"version": 0.4}, "/workflow/version", "invalid_type", None),
    # The following would end the execution thread of a real one.
    "wrapped link to nowhere": (
        {"1": EMPTY, "2": SAVED | {"inputs": {"images": {"__value__": ["99", 0]}, "filename_prefix": "x"}}},
        "/workflow/2/inputs/images",
        "bad_link",
        None,
    ),
    "link to nowhere where none belongs": (
        {"1": EMPTY, "2": SAVED | {"inputs": SAVED["inputs"] | {"more": ["99", 0]}}},  # type: ignore[operator]
        "/workflow/2/inputs/more",
        "bad_link",
        None,
    ),
    "link to no output where none belongs": (
        {"1": EMPTY, "2": SAVED | {"inputs": SAVED["inputs"] | {"more": ["1", 7]}}},  # type: ignore[operator]
        "/workflow/2/inputs/more",
        "bad_link",
        None,
    ),
    "chain": (
        GRAPH
        | {f"n{at}": {"class_type": "ImageInvert", "inputs": {"image": [f"n{at + 1}", 0]}} for at in range(MAX_CHAIN)}
        | {f"n{MAX_CHAIN}": EMPTY},
        "/workflow",
        "too_long_chain",
        None,
    ),
}


async def test_a_graph_that_cannot_run_is_refused_and_never_reaches_comfyui(
    service: Service, database: Database
) -> None:
    """Some of these would end ComfyUI's execution thread for good (manual, comfyui.md)."""
    state = service.standin.state
    for name, (graph, pointer, code, suggestion) in BAD_GRAPHS.items():
        body = {"user_id": "u", "job_type": "workflow", "workflow": graph}
        problem = await problem_of(service.client, 422, json=body)
        assert problem["code"] == "invalid_workflow", name
        faults = [(fault["pointer"], fault["code"], fault.get("suggestion")) for fault in problem["errors"]]
        assert (pointer, code, suggestion) in faults, (name, faults)
        assert len(faults) == 1, (name, faults)
    assert await accepted(database) == 0
    assert state.log.requests.get("POST /prompt", 0) == 0
    assert not any("prompt" in route and "POST" in route for route in state.log.requests), state.log.requests
    assert state.log.accepted == []
    assert not state.executor.dead
    assert (await service.run())["status"] == "completed"


async def test_a_wrong_simple_field_is_named_where_the_client_wrote_it(service: Service) -> None:
    body = SMALL_BODY | {
        "checkpoint_model": "sd_xl_base_1.safetensors",
        "lora_models": [{"name": "lcm-lora-sdxl.safetensors"}, {"name": "watercolour_style.safetensors"}],
        "sampler_params": {"sampler_name": "eular", "scheduler": "normall"},
    }
    problem = await problem_of(service.client, 422, json=body)
    assert {fault["pointer"]: fault["suggestion"] for fault in problem["errors"]} == {
        "/checkpoint_model": "sd_xl_base_1.0.safetensors",
        "/lora_models/1/name": "watercolor_style.safetensors",
        "/sampler_params/sampler_name": "euler",
        "/sampler_params/scheduler": "normal",
    }
    allowed = next(fault for fault in problem["errors"] if fault["pointer"] == "/checkpoint_model")["allowed"]
    assert "dreamshaper_8.safetensors" in allowed


async def test_a_backend_that_is_not_there_is_named_with_those_that_are(service: Service) -> None:
    problem = await problem_of(service.client, 422, json=SMALL_BODY | {"backend": "standing"})
    (fault,) = problem["errors"]
    assert (fault["pointer"], fault["allowed"], fault["suggestion"]) == ("/backend", ["standin"], "standin")


@pytest.mark.parametrize("key", ["3.width", "width", "1.", ".width", ""])
async def test_an_override_of_nothing_is_named(client: TestClient[Any, Any], key: str) -> None:
    body = {"user_id": "u", "job_type": "workflow", "workflow": GRAPH, "overrides": {key: 8}}
    problem = await problem_of(client, 422, json=body)
    assert problem["errors"][0]["pointer"] == f"/overrides/{key}"


async def test_an_override_cannot_smuggle_in_what_a_graph_must_not_have(service: Service) -> None:
    for value in (["9", 0], {"__value__": ["9", 0]}, ["1", 7], {"__value__": ["1", 7]}):
        for key in ("2.images", "2.more"):
            body = {"user_id": "u", "job_type": "workflow", "workflow": GRAPH, "overrides": {key: value}}
            if key == "2.more" and isinstance(value, dict):
                # What is wrapped in an input that the class has not stays wrapped.
                assert (await service.client.post(BASE, json=body)).status == 201
                continue
            problem = await problem_of(service.client, 422, json=body)
            assert [(fault["pointer"], fault["code"]) for fault in problem["errors"]] == [
                (f"/workflow/2/inputs/{key[2:]}", "bad_link")
            ]


@pytest.mark.parametrize(
    "body",
    [
        GRAPH,
        {"prompt": GRAPH, "client_id": "a"},
        {"input": {"workflow": GRAPH}},
        {"output": GRAPH, "workflow": {"nodes": [], "links": []}},
        {"nodes": [], "links": []},
    ],
)
async def test_a_body_made_for_something_else_is_told_what_to_send(client: TestClient[Any, Any], body: Any) -> None:
    (fault,) = (await problem_of(client, 422, json=body))["errors"]
    assert (fault["pointer"], fault["code"] in ("wrapped_graph", "ui_format")) == ("", True)
    assert "workflow" in fault["detail"]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("workflow", json.dumps(GRAPH), "not a text"),
        ("workflow", [EMPTY, SAVED], "a list"),
        ("prompt", GRAPH, 'send it as "workflow"'),
    ],
)
async def test_a_graph_in_another_form_or_field_is_told_so(
    client: TestClient[Any, Any], field: str, value: Any, words: str
) -> None:
    problem = await problem_of(client, 422, json=SMALL_BODY | {field: value})
    ((pointer, detail),) = [(fault["pointer"], fault["detail"]) for fault in problem["errors"]]
    assert pointer == f"/{field}"
    assert words in detail


async def test_names_and_values_in_faults_are_short(service: Service) -> None:
    long = "n" * 100_000
    for graph in (
        {long: {"class_type": long, "inputs": {}}} | GRAPH,
        {long: {"inputs": {}}} | GRAPH,
        {long: {"class_type": "EmptyImage"}} | GRAPH,
        GRAPH | {"2": SAVED | {"inputs": {long: [long, 0]}}},
        GRAPH | {"1": EMPTY | {"inputs": EMPTY["inputs"] | {"width": 10**300}}},  # type: ignore[operator]
        GRAPH | {"1": EMPTY | {"inputs": EMPTY["inputs"] | {"width": long}}},  # type: ignore[operator]
        GRAPH
        | {
            "2": {"class_type": "SaveImage", "inputs": {"images": [long, 0], "filename_prefix": "x"}},
            long: {"class_type": "ImageInvert", "inputs": {"image": [long, 0]}},
        },
    ):
        body = {"user_id": "u", "job_type": "workflow", "workflow": graph}
        assert len(json.dumps(await problem_of(service.client, 422, json=body))) < 3000
    many = {f"nobody{at}.{long[:1000]}": 1 for at in range(300)}
    body = {"user_id": "u", "job_type": "workflow", "workflow": GRAPH, "overrides": many}
    problem = await problem_of(service.client, 422, json=body)
    assert len(problem["errors"]) == MAX_FAULTS
    assert len(json.dumps(problem)) < 50_000


async def test_of_many_slips_a_few_get_a_suggestion(service: Service) -> None:
    slips = {f"{at}.width": 1 for at in range(10, 30)}
    classes = {f"c{at}": {"class_type": "EmptyImag", "inputs": {}} for at in range(20)}
    fields = {f"prompt{at}": 1 for at in range(20)}
    for body in (
        {"user_id": "u", "job_type": "workflow", "workflow": GRAPH, "overrides": slips},
        {"user_id": "u", "job_type": "workflow", "workflow": GRAPH | classes},
        SMALL_BODY | fields,
    ):
        faults = (await problem_of(service.client, 422, json=body))["errors"]
        assert len(faults) == 20
        assert sum("suggestion" in fault for fault in faults) == MAX_HINTS
