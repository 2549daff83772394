"""Graphs checked before POST: what damages a ComfyUI (manual, comfyui.md), and what a backend would refuse."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import standin_catalog, text_to_image

from app.domain.catalog import read_catalog
from app.domain.dependencies import MAX_CHAIN, cycle_in, cycle_words, knots
from app.domain.errors import Fault
from app.domain.graph_check import check_against, lacks_model_or_node
from app.domain.structure import MAX_DEPTH, MAX_NODES, check_structure
from app.domain.workflow import MAX_FAULTS, Graph


def node(**inputs: Any) -> dict[str, Any]:
    return {"class_type": "X", "inputs": inputs}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def told(faults: list[Fault]) -> list[tuple[str, str]]:
    return [(fault.pointer, fault.code) for fault in faults]


# Structure.


@pytest.mark.parametrize("graph", [None, 1, "text", True, [], [{"1": node()}], 1.5])
def test_a_workflow_is_an_object(graph: Any) -> None:
    assert told(check_structure(graph)) == [("/workflow", "invalid_type")]


@pytest.mark.parametrize(
    ("graph", "code"),
    [
        ({}, "no_output"),
        ({"nodes": [{"id": 1, "type": "SaveImage"}], "links": [], "version": 0.4}, "ui_format"),
        ({"prompt": {"1": node()}}, "wrapped_graph"),
        ({"prompt": {"1": node()}, "client_id": "x", "extra_data": {}}, "wrapped_graph"),
        ({str(number): node() for number in range(MAX_NODES + 1)}, "too_large"),
    ],
)
def test_what_is_no_graph_in_api_format_is_named(graph: Any, code: str) -> None:
    (fault,) = check_structure(graph)
    assert (fault.pointer, fault.code) == ("/workflow", code)


def test_the_ui_format_fault_says_how_to_export() -> None:
    assert "API" in check_structure({"nodes": []})[0].detail


def test_the_greatest_graph_is_still_taken() -> None:
    assert check_structure({str(number): node() for number in range(MAX_NODES)}) == []


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (5, [("/workflow/1", "invalid_type")]),
        (None, [("/workflow/1", "invalid_type")]),
        ({"inputs": {}}, [("/workflow/1/class_type", "missing")]),
        ({"class_type": "", "inputs": {}}, [("/workflow/1/class_type", "missing")]),
        ({"class_type": 7, "inputs": {}}, [("/workflow/1/class_type", "missing")]),
        # The one that ends the server's execution thread for good, though nothing depends on the node.
        ({"class_type": "X"}, [("/workflow/1/inputs", "missing")]),
        ({"class_type": "X", "inputs": None}, [("/workflow/1/inputs", "missing")]),
        ({"class_type": "X", "inputs": []}, [("/workflow/1/inputs", "missing")]),
        ({}, [("/workflow/1/class_type", "missing"), ("/workflow/1/inputs", "missing")]),
        (node(a=float("nan")), [("/workflow/1/inputs/a", "not_finite")]),
        (node(a=[1, {"b": float("-inf")}]), [("/workflow/1/inputs/a", "not_finite")]),
        (node(a=nested(MAX_DEPTH + 1)), [("/workflow/1/inputs/a", "too_deep")]),
        (node() | {"_meta": {"title": float("inf")}}, [("/workflow/1/_meta", "not_finite")]),
        (node() | {"_meta": nested(20_000)}, [("/workflow/1/_meta", "too_deep")]),
        (node(**{"a/b~c": float("nan")}), [("/workflow/1/inputs/a~1b~0c", "not_finite")]),
    ],
)
def test_each_trap_is_named_where_it_stands(broken: Any, expected: list[tuple[str, str]]) -> None:
    assert told(check_structure({"1": broken, "0": node()})) == expected


def test_a_link_to_a_node_that_is_not_there_suggests_the_nearest() -> None:
    (fault,) = check_against(changed("decode", samples=["sampleer", 0]), standin_catalog()).faults
    assert (fault.code, fault.suggestion) == ("bad_link", "sampler")


def test_a_node_id_with_slashes_and_tildes_is_escaped_in_the_pointer() -> None:
    assert check_structure({"a/b~c": 1})[0].pointer == "/workflow/a~1b~0c"


@pytest.mark.parametrize("length", [1, 2, 3, 50, MAX_CHAIN])
def test_a_cycle_of_any_length_is_found(length: int) -> None:
    for order in (range(length), reversed(range(length))):
        targets = {str(number): [str((number + 1) % length)] for number in order}
        cycle = cycle_in(targets)
        assert len(cycle) == length + 1
        assert cycle[0] == cycle[-1] == next(iter(targets))
        assert knots(targets) in ([cycle[:-1]], [cycle[:-1][::-1]])


def test_a_cycle_is_found_beside_a_sound_part_and_named_in_its_order() -> None:
    targets = {"end": ["mid"], "mid": ["start", "x"], "start": [], "x": ["y"], "y": ["z", "start"], "z": ["y"]}
    assert cycle_in(targets) == ["y", "z", "y"]
    assert cycle_words(["y", "z", "y"]) == "The nodes y → z → y form a cycle."
    places = {key: place for place, knot in enumerate(knots(targets)) for key in knot}
    assert places["y"] == places["z"]
    assert all(places[target] <= places[key] for key in targets for target in targets[key])


def test_a_cycle_that_an_output_needs_is_a_fault_and_another_is_none() -> None:
    def with_loop(needed: bool) -> list[tuple[str, str]]:
        graph = text_to_image() | {
            "a": {"class_type": "VAEDecode", "inputs": {"samples": ["b", 0], "vae": ["checkpoint", 2]}},
            "b": {"class_type": "VAEEncode", "inputs": {"pixels": ["a", 0], "vae": ["checkpoint", 2]}},
        }
        if needed:
            graph["save"]["inputs"]["images"] = ["a", 0]
        assert check_structure(graph) == []
        return told(check_against(graph, standin_catalog()).faults)

    assert with_loop(needed=True) == [("/workflow/a", "cycle")]
    assert with_loop(needed=False) == []


def test_a_loop_counts_as_a_chain_of_all_its_nodes() -> None:
    def ring(length: int) -> list[str]:
        graph = {str(at): node(a=[str((at + 1) % length), 0]) for at in range(length)} | {"lone": node()}
        return [fault.code for fault in check_structure(graph)]

    assert ring(700) == []
    assert ring(720) == ["too_entangled"]
    assert ring(MAX_CHAIN + 1) == ["too_long_chain"]


def test_a_diamond_is_no_cycle() -> None:
    graph = {"a": node(x=["b", 0], y=["c", 0]), "b": node(x=["d", 0]), "c": node(x=["d", 0]), "d": node()}
    assert check_structure(graph) == []


@pytest.mark.parametrize(("length", "codes"), [(MAX_CHAIN, []), (MAX_CHAIN + 1, ["too_long_chain"])])
def test_a_chain_is_as_long_as_the_stack_of_comfyui_bears(length: int, codes: list[str]) -> None:
    for order in (range(length - 1), reversed(range(length - 1))):
        graph = {str(number): node(a=[str(number + 1), 0]) for number in order} | {str(length - 1): node()}
        assert [fault.code for fault in check_structure(graph)] == codes


@pytest.mark.slow
def test_a_graph_that_is_wrong_everywhere_is_answered_quickly_and_briefly() -> None:
    graph = {
        f"a_node_{number}": node(**{f"i{n}": [f"a_mode_{n}", 0] for n in range(50)}) for number in range(MAX_NODES)
    }
    # What grows with the square of the size would take hours: the time-out of all tests ends it.
    assert check_structure(graph) == []
    loose = {key: {"class_type": "SaveImage", "inputs": each["inputs"]} for key, each in graph.items()}
    assert len(check_against(loose, standin_catalog()).faults) == MAX_FAULTS
    unknown = {key: {"class_type": f"KSampler{key}", "inputs": {}} for key in graph}
    assert len(check_against(unknown, standin_catalog()).faults) == MAX_FAULTS


# Against a backend.


def changed(node_id: str, **inputs: Any) -> Graph:
    graph = text_to_image()
    graph[node_id]["inputs"].update(inputs)
    return graph


def without(node_id: str, name: str) -> Graph:
    graph = text_to_image()
    del graph[node_id]["inputs"][name]
    return graph


@pytest.mark.parametrize(
    ("graph", "pointer", "code"),
    [
        (without("sampler", "steps"), "sampler/inputs/steps", "required_input_missing"),
        (changed("sampler", steps=0), "sampler/inputs/steps", "value_smaller_than_min"),
        (changed("sampler", steps=10**9), "sampler/inputs/steps", "value_bigger_than_max"),
        (changed("sampler", seed=2**64), "sampler/inputs/seed", "value_bigger_than_max"),
        (changed("sampler", seed=-1), "sampler/inputs/seed", "value_smaller_than_min"),
        (changed("sampler", steps="many"), "sampler/inputs/steps", "invalid_input_type"),
        (changed("sampler", steps=None), "sampler/inputs/steps", "invalid_input_type"),
        (changed("sampler", cfg=[1, 2, 3]), "sampler/inputs/cfg", "bad_linked_input"),
        (changed("sampler", cfg={}), "sampler/inputs/cfg", "invalid_input_type"),
        (changed("sampler", sampler_name="euller"), "sampler/inputs/sampler_name", "value_not_in_list"),
        (changed("sampler", model=["checkpoint", 1]), "sampler/inputs/model", "return_type_mismatch"),
        (changed("sampler", model=["checkpoint", 3]), "sampler/inputs/model", "bad_link"),
        (changed("sampler", model=["checkpoint", -4]), "sampler/inputs/model", "bad_link"),
        (changed("sampler", model=["checkpoint", 0.0]), "sampler/inputs/model", "bad_link"),
        (changed("sampler", model=["checkpoint", "0"]), "sampler/inputs/model", "bad_link"),
        (changed("sampler", model=["checkpoint", None]), "sampler/inputs/model", "bad_link"),
        (changed("sampler", model=[1, 0]), "sampler/inputs/model", "bad_link"),
        (changed("sampler", model=[["checkpoint"], 0]), "sampler/inputs/model", "bad_link"),
        (changed("sampler", steps=[20]), "sampler/inputs/steps", "bad_linked_input"),
        (changed("sampler", sampler_name=[]), "sampler/inputs/sampler_name", "bad_linked_input"),
        (changed("decode", samples=["save", 1]), "decode/inputs/samples", "bad_link"),
    ],
)
def test_each_fault_has_its_code_and_pointer(graph: Graph, pointer: str, code: str) -> None:
    if graph["decode"]["inputs"]["samples"] == ["save", 1]:
        graph["save"]["inputs"]["images"] = ["decode", 0]
    assert told(check_against(graph, standin_catalog()).faults) == [(f"/workflow/{pointer}", code)]


def test_a_value_that_is_not_offered_comes_with_what_is_and_the_nearest() -> None:
    (fault,) = check_against(changed("checkpoint", ckpt_name="dreamshaper_9.safetensors"), standin_catalog()).faults
    assert fault.suggestion == "dreamshaper_8.safetensors"
    assert fault.allowed == standin_catalog().checkpoints
    assert "dreamshaper_9.safetensors" in fault.detail


def test_an_unknown_class_comes_with_the_nearest_and_before_all_else() -> None:
    graph = changed("sampler", steps=0)
    graph["save"]["class_type"] = "SaveImag"
    (fault,) = check_against(graph, standin_catalog()).faults
    assert (fault.pointer, fault.code) == ("/workflow/save/class_type", "unknown_node_class")
    assert fault.suggestion == "SaveImage"


def test_a_graph_without_an_output_node_is_refused() -> None:
    graph = text_to_image()
    del graph["save"]
    assert told(check_against(graph, standin_catalog()).faults) == [("/workflow", "no_output")]


def test_inputs_of_nodes_that_no_output_needs_are_not_checked_as_in_comfyui() -> None:
    graph = text_to_image()
    graph["loose"] = {"class_type": "KSampler", "inputs": {"steps": -5}}
    assert check_against(graph, standin_catalog()).faults == []


def test_faults_stand_in_the_order_of_the_graph() -> None:
    graph = changed("sampler", steps=0)
    graph["latent"]["inputs"]["width"] = 1
    graph["checkpoint"]["inputs"]["ckpt_name"] = "x"
    found = [fault.pointer.split("/")[2] for fault in check_against(graph, standin_catalog()).faults]
    assert found == ["checkpoint", "latent", "sampler"]


@pytest.mark.parametrize(
    "graph",
    [
        changed("sampler", steps="20", cfg="7.5"),
        changed("sampler", steps=20.7),
        changed("sampler", steps=True),
        changed("sampler", model=["checkpoint", -3]),
        changed("decode", vae=["checkpoint", -1]),
        changed("sampler", unknown="ignored and kept"),
        changed("sampler", unknown=["a", "b"], more=[], other=[1, 2, 3], id=[1, 0]),
        changed("sampler", steps={"__value__": 20}, sampler_name={"__value__": "euler", "beside": 1}),
        changed("sampler", seed=2**64 - 1),
    ],
)
def test_what_comfyui_takes_is_not_refused(graph: Graph) -> None:
    assert check_against(graph, standin_catalog()).faults == []


def test_an_uploaded_image_may_be_newer_than_the_list() -> None:
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "uploaded a second ago.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    assert check_against(graph, standin_catalog()).faults == []


def test_a_missing_model_or_class_may_be_had_elsewhere_whatever_else_is_wrong() -> None:
    absent, wrong = Fault("", "value_not_in_list", ""), Fault("", "bad_link", "")
    assert lacks_model_or_node([absent, Fault("", "unknown_node_class", "")])
    assert lacks_model_or_node([wrong, absent])
    assert not lacks_model_or_node([wrong])
    assert not lacks_model_or_node([])


# Whatever comes.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside, max_size=4),
    max_leaves=20,
)
IDS = st.sampled_from(["1", "2", "3"])
VALUES = JSON | st.tuples(IDS, st.integers(-5, 5)).map(list)
CLASSES = st.deferred(lambda: st.sampled_from([*standin_catalog().nodes, "Unknown"]))
NAMES = st.deferred(
    lambda: st.sampled_from(sorted({name for each in standin_catalog().nodes.values() for name in each.inputs}))
)
NODES = st.fixed_dictionaries({"class_type": CLASSES, "inputs": st.dictionaries(NAMES, VALUES)})


@given(JSON | st.dictionaries(IDS, JSON))
def test_the_structure_check_never_raises(graph: Any) -> None:
    assert all(isinstance(fault, Fault) for fault in check_structure(graph))


@pytest.mark.slow
@settings(max_examples=200)
@given(st.dictionaries(IDS, NODES | JSON, min_size=1))
def test_what_passes_the_structure_check_can_be_checked_against_a_backend(graph: Any) -> None:
    if not check_structure(graph):
        assert all(fault.pointer.startswith("/workflow") for fault in check_against(graph, standin_catalog()).faults)


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=4), JSON))
def test_whatever_a_backend_says_that_it_offers_can_be_read_and_checked_against(object_info: dict[str, Any]) -> None:
    catalog = read_catalog(object_info)
    for name in catalog.nodes:
        check_against({"1": {"class_type": name, "inputs": dict.fromkeys(catalog.nodes[name].inputs, 1)}}, catalog)
