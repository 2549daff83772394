"""Graphs built from the simple fields, and what is changed in a graph before it is sent."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from samples import SAMPLER, standin_catalog, text_to_image

from app.domain.graph_check import check_against
from app.domain.structure import check_structure
from app.domain.values import links
from app.domain.workflow import Graph, with_overrides

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


@pytest.mark.parametrize(
    ("key", "node_id", "name"),
    [
        ("5.0.1.a", "5.0.1", "a"),
        ("5.0.1.values.a", "5.0.1", "values.a"),
        ("5.0.2", "5", "0.2"),
        ("4.resize_type.multiplier", "4", "resize_type.multiplier"),
        ("4.format.codec.encoding.crf", "4", "format.codec.encoding.crf"),
        ("12:3.images.image0", "12:3", "images.image0"),
        ("12.images.image0", "12", "images.image0"),
        ("4..", "4", "."),
    ],
)
def test_of_ids_and_inputs_with_dots_the_longest_id_that_is_there_wins(key: str, node_id: str, name: str) -> None:
    graph = {each: {"class_type": "X", "inputs": {"a": 1}} for each in ("5.0.1", "5", "4", "12", "12:3")}
    changed, faults = with_overrides(graph, {key: 2})
    assert faults == []
    assert {each: node["inputs"] for each, node in changed.items() if node != graph[each]} == {
        node_id: {"a": 1, name: 2} if name != "a" else {"a": 2}
    }


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("sampleer.values.a", "sampler"),
        ("a.bb.c.values", "a.b.c"),
        ("a.b.x.width", "a.b.c"),
        ("sampler.", "sampler"),
        ("sampler", "sampler"),
    ],
)
def test_an_override_of_no_node_names_the_nearest_one(key: str, suggestion: str | None) -> None:
    graph = text_to_image() | {"a.b.c": {"class_type": "X", "inputs": {}}}
    (fault,) = with_overrides(graph, {key: 1})[1]
    assert fault.suggestion == suggestion


def test_an_override_of_nothing_but_dots_is_looked_at_in_no_time() -> None:
    graph = {"." * 300_000: {"class_type": "X", "inputs": {}}, "1": {"class_type": "X", "inputs": {}}}
    # What grows with the square of the length would take hours: the time-out of all tests ends it.
    assert with_overrides(graph, {"." * 8_000_000: 1, "." * 400_000: 1})[1]


@pytest.mark.parametrize("key", ["sampler", "", ".", ".steps", "sampler.", "sampleer.steps", "a/b~c.steps"])
def test_an_override_that_names_no_input_is_a_fault_with_its_name(key: str) -> None:
    (fault,) = with_overrides(text_to_image(), {key: 1})[1]
    assert fault.code == "unknown_node"
    assert fault.pointer == "/overrides/" + key.replace("~", "~0").replace("/", "~1")
    assert fault.suggestion == ("sampler" if key == "sampleer.steps" else fault.suggestion)


def test_what_is_outside_a_mask_is_put_back_after_decoding() -> None:
    graph = text_to_image(batch_size=3, image="upload:a", mask="upload:b")
    assert graph["save"]["inputs"]["images"] == ["composite", 0]
    composite = graph["composite"]
    assert composite["class_type"] == "ImageCompositeMasked"
    assert (composite["inputs"]["destination"], composite["inputs"]["source"]) == (["originals", 0], ["decode", 0])
    # Of a batch each picture is put into one of its own.
    assert graph["originals"]["inputs"] == {"image": ["scaled", 0], "amount": 3}
    assert graph["sampler"]["inputs"]["latent_image"] == ["latent", 0]
    assert graph["latent"]["inputs"] == {"samples": ["masked", 0], "amount": 3}
    assert graph["masked"]["inputs"] == {"samples": ["encode", 0], "mask": ["mask", 0]}


def test_a_picture_and_its_mask_are_scaled_and_cropped_alike() -> None:
    graph = text_to_image(width=128, height=64, image="upload:a", mask="upload:b")
    size = {"width": 128, "height": 64, "crop": "center"}
    for node, source in (("scaled", "image"), ("mask_scaled", "mask_image")):
        inputs = graph[node]["inputs"]
        assert {name: inputs[name] for name in size} == size
        assert inputs["image"] == [source, 0]
    assert graph["mask"]["inputs"] == {"image": ["mask_scaled", 0], "channel": "red"}


def test_without_a_mask_the_whole_picture_is_painted_over() -> None:
    graph = text_to_image(image="upload:a")
    assert graph["save"]["inputs"]["images"] == ["decode", 0]
    assert not {"composite", "masked", "mask_image"} & graph.keys()
