"""What people send where a workflow is wanted: each gets the words that say what to send instead."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.domain.envelopes import body_fault, is_graph, workflow_fault
from app.domain.structure import check_structure

GRAPH = {"1": {"class_type": "PreviewAny", "inputs": {"source": 1}}}
UI = {"nodes": [{"id": 1, "type": "SaveImage"}], "links": [], "version": 0.4}
TEXT = json.dumps(GRAPH)


@pytest.mark.parametrize(
    ("sent", "below"),
    [
        ({"prompt": GRAPH}, '"prompt"'),
        ({"prompt": GRAPH, "client_id": "a", "extra_data": {}, "number": 1}, '"prompt"'),
        ({"prompt": GRAPH, "front": True, "something": "else"}, '"prompt"'),
        ({"prompt": {"1": {"inputs": {}}}, "client_id": "a"}, '"prompt"'),
        ({"workflow": GRAPH}, '"workflow"'),
        ({"workflow": {"workflow": GRAPH}}, '"workflow" → "workflow"'),
        ({"input": {"workflow": GRAPH, "images": []}}, '"input" → "workflow"'),
        ({"input": {"prompt": {"prompt": GRAPH}}, "webhook": "https://x"}, '"input" → "prompt" → "prompt"'),
        ({"output": GRAPH, "workflow": UI}, '"output"'),
        ({"workflow": UI, "prompt": GRAPH}, '"prompt"'),
        ({"api": GRAPH, "id": 7}, '"api"'),
    ],
)
def test_a_whole_request_is_told_what_of_it_is_wanted(sent: dict[str, Any], below: str) -> None:
    (fault,) = check_structure(sent)
    assert (fault.pointer, fault.code) == ("/workflow", "wrapped_graph")
    assert f"below {below}" in fault.detail
    assert body_fault(sent) is not None


def test_a_graph_that_is_a_text_below_is_told_so() -> None:
    (fault,) = check_structure({"prompt": TEXT})
    assert fault.code == "wrapped_graph"
    assert "text" in fault.detail


@pytest.mark.parametrize("sent", [UI, {"workflow": UI}, {"prompt": UI, "extra": 1}, {"nodes": []}])
def test_the_ui_format_is_told_how_to_export(sent: dict[str, Any]) -> None:
    (fault,) = check_structure(sent)
    assert "API" in fault.detail
    assert fault.code == ("ui_format" if "prompt" not in sent else fault.code)


@pytest.mark.parametrize(("sent", "word"), [(TEXT, "text"), ([GRAPH], "list"), (7, "object"), (None, "object")])
def test_what_is_no_object_is_told_what_one_is(sent: Any, word: str) -> None:
    fault = workflow_fault(sent, "/workflow")
    assert fault is not None
    assert (fault.code, word in fault.detail) == ("invalid_type", True)


@pytest.mark.parametrize("name", ["version", "extra_data", "client_id", "last_node_id", "number"])
def test_what_stands_among_the_nodes_and_is_none_may_be_left_out(name: str) -> None:
    (fault,) = check_structure(GRAPH | {name: 1})
    assert (fault.pointer, fault.code) == (f"/workflow/{name}", "invalid_type")
    assert f"'{name}'" in fault.detail
    assert "leave it out" in fault.detail


@pytest.mark.parametrize("name", ["prompt", "workflow", "output", "nodes", "input", "1"])
def test_a_node_may_have_any_name(name: str) -> None:
    graph = GRAPH | {name: GRAPH["1"]}
    assert check_structure(graph) == []
    assert check_structure({name: GRAPH["1"]}) == []


def test_a_bare_workflow_is_told_where_it_goes() -> None:
    fault = body_fault(GRAPH)
    assert fault is not None
    assert '"workflow"' in fault.detail


@pytest.mark.parametrize(
    "ours",
    [
        {"user_id": "u", "job_type": "image", "prompt": "p"},
        {"user_id": "u", "workflow": GRAPH},
        {"job_type": "workflow", "workflow": {"prompt": GRAPH}},
        {"prompt": "a cat"},
        {"prompt": 'a "class_type" {'},
        {},
        {"input": "text", "data": [], "api": None},
    ],
)
def test_what_may_be_meant_for_us_is_left_to_its_own_faults(ours: dict[str, Any]) -> None:
    assert body_fault(ours) is None


def test_a_graph_is_known_by_its_nodes() -> None:
    assert is_graph(GRAPH)
    assert is_graph({"1": {"class_type": 7}})
    assert not any(is_graph(value) for value in ({}, {"1": 1}, {"1": {"inputs": {}}}, [GRAPH], TEXT, None))


def test_layers_upon_layers_end() -> None:
    deep: dict[str, Any] = GRAPH
    for _ in range(60):
        deep = {"input": deep, "prompt": deep, "data": deep, "body": deep}
    assert workflow_fault(deep, "/workflow") is None
