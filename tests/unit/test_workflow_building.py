"""Graphs built from the simple fields, and what is changed in a graph before it is sent."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from samples import SAMPLER, standin_catalog, text_to_image

from app.domain.fitting import check_against
from app.domain.structure import check_structure
from app.domain.values import links
from app.domain.workflow import Graph, with_overrides, with_seed

LORAS = [
    {"name": f"{name}.safetensors", "strength_model": at, "strength_clip": -at} for name, at in (("a", 1), ("b", 2))
]


def one(graph: Graph, class_type: str) -> dict[str, Any]:
    """Return the inputs of the one node of that class."""
    (found,) = (node["inputs"] for node in graph.values() if node["class_type"] == class_type)
    return dict(found)


def test_all_fields_arrive() -> None:
    sampler = SAMPLER | {"denoise": 0.5, "scheduler": "karras"}
    graph = text_to_image(sampler=sampler, batch_size=3, width=512, height=768)
    assert one(graph, "CheckpointLoaderSimple")["ckpt_name"] == "sd_xl_base_1.0.safetensors"
    latent = one(graph, "EmptyLatentImage")
    assert (latent["width"], latent["height"], latent["batch_size"]) == (512, 768, 3)
    assert sampler.items() <= one(graph, "KSampler").items()
    texts = {graph[one(graph, "KSampler")[name][0]]["inputs"]["text"] for name in ("positive", "negative")}
    assert texts == {"a quiet harbour", "people"}
    assert graph[one(graph, "KSampler")["positive"][0]]["inputs"]["text"] == "a quiet harbour"


def test_loras_form_a_chain_in_the_order_given_from_the_checkpoint_to_sampler_and_texts() -> None:
    graph = text_to_image(loras=LORAS)
    names, key = [], one(graph, "KSampler")["model"][0]
    while graph[key]["class_type"] == "LoraLoader":
        inputs = graph[key]["inputs"]
        assert inputs["model"] == [inputs["clip"][0], 0]
        names.append((inputs["lora_name"], inputs["strength_model"], inputs["strength_clip"]))
        key = inputs["model"][0]
    assert names == [("b.safetensors", 2, -2), ("a.safetensors", 1, -1)]
    assert graph[key]["class_type"] == "CheckpointLoaderSimple"
    last = one(graph, "KSampler")["model"][0]
    assert all(node["inputs"]["clip"] == [last, 1] for node in graph.values() if node["class_type"] == "CLIPTextEncode")


def test_the_picture_is_decoded_with_the_checkpoints_own_vae_and_saved() -> None:
    graph = text_to_image(loras=LORAS)
    decode = one(graph, "VAEDecode")
    assert graph[decode["vae"][0]]["class_type"] == "CheckpointLoaderSimple"
    assert decode["vae"][1] == 2
    assert graph[decode["samples"][0]]["class_type"] == "KSampler"
    assert graph[one(graph, "SaveImage")["images"][0]]["class_type"] == "VAEDecode"


@pytest.mark.parametrize("seed", [0, 2**53 + 1, 2**63, 2**64 - 1])
def test_the_greatest_seeds_stay_exact_through_json(seed: int) -> None:
    graph = json.loads(json.dumps(text_to_image(sampler=SAMPLER | {"seed": seed})))
    assert one(graph, "KSampler")["seed"] == seed
    assert check_against(graph, standin_catalog()).faults == []


def test_a_built_graph_passes_both_checks() -> None:
    loras = [lora | {"name": "add_detail.safetensors"} for lora in LORAS]
    graph = text_to_image(loras=loras)
    assert check_structure(graph) == []
    assert check_against(graph, standin_catalog()).faults == []
    assert {target for node in graph.values() for _, target, _ in links(node["inputs"])} <= set(graph)


# Overrides.


def test_an_override_replaces_the_input_it_names_and_leaves_the_original_alone() -> None:
    graph = text_to_image()
    before = copy.deepcopy(graph)
    changed, faults = with_overrides(graph, {"sampler.steps": 4, "latent.width": 128, "positive.new": [1]})
    assert faults == []
    assert (changed["sampler"]["inputs"]["steps"], changed["latent"]["inputs"]["width"]) == (4, 128)
    assert changed["positive"]["inputs"]["new"] == [1]
    assert graph == before


def test_the_input_stands_after_the_last_dot_because_node_ids_may_have_dots() -> None:
    graph = {"5.0.1": {"class_type": "X", "inputs": {"a": 1}}}
    assert with_overrides(graph, {"5.0.1.a": 2})[0]["5.0.1"]["inputs"]["a"] == 2


@pytest.mark.parametrize("key", ["sampler", "", ".", ".steps", "sampler.", "sampleer.steps", "a/b~c.steps"])
def test_an_override_that_names_no_input_is_a_fault_with_its_name(key: str) -> None:
    (fault,) = with_overrides(text_to_image(), {key: 1})[1]
    assert fault.code == "unknown_node"
    assert fault.pointer == "/overrides/" + key.replace("~", "~0").replace("/", "~1")
    assert fault.suggestion == ("sampler" if key == "sampleer.steps" else fault.suggestion)


# Another seed.


def test_a_new_seed_replaces_every_literal_one_and_no_link() -> None:
    graph = {
        "1": {"class_type": "KSampler", "inputs": {"seed": 5, "steps": 3}},
        "2": {"class_type": "RandomNoise", "inputs": {"noise_seed": 0}},
        "3": {"class_type": "KSampler", "inputs": {"seed": ["2", 0]}},
        "4": {"class_type": "Odd", "inputs": {"seed": True, "noise_seed": "5"}},
        "5": {"class_type": "KSampler", "inputs": {"seed": {"__value__": 5}}},
        "6": {"class_type": "KSampler", "inputs": {"seed": {"__value__": ["2", 0]}}},
    }
    changed, found = with_seed(graph, 2**64 - 1)
    assert found
    assert [changed[key]["inputs"] for key in graph] == [
        {"seed": 2**64 - 1, "steps": 3},
        {"noise_seed": 2**64 - 1},
        {"seed": ["2", 0]},
        {"seed": True, "noise_seed": "5"},
        {"seed": {"__value__": 2**64 - 1}},
        {"seed": {"__value__": ["2", 0]}},
    ]
    assert graph["1"]["inputs"]["seed"] == 5


def test_a_graph_without_a_seed_says_so() -> None:
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}}
    assert with_seed(graph, 1) == (graph, False)
