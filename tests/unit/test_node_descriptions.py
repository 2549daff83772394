"""What is told of node classes: each input and output, and which backends describe a class differently."""

from __future__ import annotations

from typing import Any

from samples import standin_catalog

from app.domain.catalog import read_catalog
from app.domain.model_lists import Offering
from app.domain.node_descriptions import MOST_CHOICES, described, node_list, weight_of
from app.runtime.json_text import dump_bytes
from app.web.inventory_payloads import NodeAnswer, NodeListed

NOTHING: dict[str, Any] = dict.fromkeys(("default", "min", "max", "step", "choices", "choices_count", "uploads")) | {
    "multiselect": False,
    "folder": None,
    "grows": None,
    "required": True,
}


def offering(*backends: str, **nodes: Any) -> Offering:
    return Offering(backends, read_catalog(nodes))


def of_input(spec: Any, *, section: str = "required", **more: Any) -> dict[str, Any]:
    """Return what is told of the one input of a class."""
    told = described("X", [offering("a", X={"input": {section: {"a": spec}}} | more)])
    assert told is not None
    (found,) = told["inputs"]
    return dict(found)


def test_an_input_tells_all_that_its_backend_does() -> None:
    number = ["FLOAT", {"default": 0.5, "min": 0, "max": 1.5, "step": 0.01, "tooltip": "how much"}]
    assert of_input(number) == NOTHING | {
        "name": "a", "type": "FLOAT", "default": 0.5, "min": 0, "max": 1.5, "step": 0.01,
    }  # fmt: skip
    assert of_input(["IMAGE"], section="optional") == NOTHING | {"name": "a", "type": "IMAGE", "required": False}
    listed = of_input([["x", "y"], {"default": "y", "image_upload": True, "image_folder": "output"}])
    assert listed == NOTHING | {
        "name": "a", "type": "COMBO", "default": "y", "choices": ["x", "y"], "choices_count": 2, "uploads": "image",
        "folder": "output",
    }  # fmt: skip
    several = of_input(["COMBO", {"options": [1, True], "multiselect": True}])
    assert (several["choices"], several["multiselect"]) == ([1, True], True)
    assert of_input(["INT", {"step": "odd", "max": 2**64 - 1}])["step"] is None


def test_of_many_choices_the_first_are_listed_and_all_are_counted() -> None:
    many = [f"{number}.png" for number in range(MOST_CHOICES + 5)]
    told = of_input([many])
    assert (told["choices"], told["choices_count"]) == (many[:MOST_CHOICES], MOST_CHOICES + 5)
    node = offering("a", X={"output": [many], "output_name": ["which"]})
    (output,) = (described("X", [node]) or {})["outputs"]
    assert (output["name"], output["type"], output["choices_count"]) == ("which", "COMBO", MOST_CHOICES + 5)
    assert len(output["choices"]) == MOST_CHOICES


def test_required_inputs_stand_first_in_the_order_of_the_backend() -> None:
    sections = {"optional": {"z": ["INT"], "y": ["INT"]}, "required": {"x": ["INT"], "b": ["INT"], "a": ["INT"]}}
    told = described("X", [offering("a", X={"input": sections})])
    assert told is not None
    assert [each["name"] for each in told["inputs"]] == ["x", "b", "a", "z", "y"]


def test_outputs_have_names_and_types() -> None:
    outputs = {"output": ["IMAGE", "MASK", "INT"], "output_name": ["picture", ""], "output_is_list": [True]}
    told = described("X", [offering("a", X=outputs), offering("b", Y={})])
    assert told is not None
    assert [(each["name"], each["type"], each["is_list"]) for each in told["outputs"]] == [
        ("picture", "IMAGE", True),
        ("MASK", "MASK", False),
        ("INT", "INT", False),
    ]
    assert (described("Y", [offering("b", Y={})]) or {})["outputs"] is None


def test_growing_inputs_tell_what_comes_of_them() -> None:
    one = {"output_matchtypes": None}
    template = {"input": {"required": {"image": ["IMAGE"]}}, "prefix": "image", "min": 2, "max": 4}
    grown = of_input(["COMFY_AUTOGROW_V3", {"template": template}], **one)["grows"]
    assert (grown["by"], grown["least"]) == ("links", 2)
    assert grown["names"] == ["a.image0", "a.image1", "a.image2", "a.image3"]
    assert [each["type"] for each in grown["inputs"]] == ["IMAGE"]
    options = [{"key": "png", "inputs": {"required": {"depth": ["INT"]}}}, {"key": "jpeg"}]
    combo = ["COMFY_DYNAMICCOMBO_V3", {"options": options}]
    chosen = of_input(combo, **one)
    assert (chosen["choices"], chosen["grows"]["by"]) == (["png", "jpeg"], "choice")
    assert [(each["value"], [below["name"] for below in each["inputs"]]) for each in chosen["grows"]["options"]] == [
        ("png", ["a.depth"]),
        ("jpeg", []),
    ]
    slot = of_input(["COMFY_DYNAMICSLOT_V3", {"inputs": {"required": {"b": ["INT"]}}}], **one)["grows"]
    assert (slot["by"], [below["name"] for below in slot["inputs"]]) == ("presence", ["a.b"])
    # Of a class of the older form nothing grows.
    assert (of_input(combo)["grows"], of_input(combo)["choices"]) == (None, None)


def test_backends_that_describe_a_class_differently_are_told_apart() -> None:
    old, new = {"input": {"required": {"a": ["INT"]}}}, {"input": {"required": {"a": ["INT", {"max": 5}]}}}
    offerings = [offering("a", X=old), offering("c", "b", X=new), offering("d", Y=old), offering("e", X=new)]
    told = described("X", offerings)
    assert told is not None
    assert (told["backends"], told["differs"]) == (["a", "b", "c", "e"], True)
    assert told["inputs"][0]["max"] == 5
    assert [(each["backends"], each["inputs"][0]["max"]) for each in told["descriptions"]] == [
        (["b", "c", "e"], 5),
        (["a"], None),
    ]


def test_of_equally_many_the_first_backend_counts() -> None:
    offerings = [offering("b", X={"display_name": "of b"}), offering("a", X={"display_name": "of a"})]
    assert (described("X", offerings) or {})["display_name"] == "of a"


def test_what_all_describe_alike_is_described_once() -> None:
    same = {"input": {"required": {"a": [["x"]]}}, "output": ["INT"], "display_name": "The X", "category": "c/d"}
    told = described("X", [offering("b", X=dict(same)), offering("a", X=dict(same))])
    assert told is not None
    assert (told["backends"], told["differs"], told["descriptions"]) == (["a", "b"], False, [])
    assert (told["display_name"], told["category"], told["class"]) == ("The X", "c/d", "X")


def test_a_class_that_no_backend_has_is_none() -> None:
    assert described("Y", [offering("a", X={})]) is None
    assert weight_of("Y", [offering("a", X={})]) == 0


def test_the_list_has_every_class_once() -> None:
    a = offering("b", "a", beta={"output_node": True, "python_module": "nodes", "display_name": "B"}, Alpha={})
    found = node_list([a, offering("c", beta={"display_name": "other"}, gamma={})])
    assert [(each["class"], each["backends"]) for each in found] == [
        ("Alpha", ["a", "b"]),
        ("beta", ["a", "b", "c"]),
        ("gamma", ["c"]),
    ]
    assert found[1] | {"backends": []} == {
        "class": "beta", "display_name": "B", "category": "", "output_node": True, "core": True, "backends": [],
    }  # fmt: skip
    assert found[0]["display_name"] == "Alpha"


def test_large_classes_weigh_more() -> None:
    weights = [weight_of("X", [offering("a", X={"input": {"required": {"a": [["f"] * n]}}})]) for n in (1, 1_000)]
    assert weights[1] - weights[0] == 999
    below = {"options": [{"key": "k", "inputs": {"required": {"b": [["f"] * 500]}}}]}
    node = offering("a", X={"input": {"required": {"a": ["COMFY_DYNAMICCOMBO_V3", below]}}})
    assert weight_of("X", [node, node]) > 1_000


def test_all_that_a_stand_in_offers_is_told_as_the_models_say() -> None:
    offerings = [Offering(("a",), standin_catalog()), offering("b", KSampler={})]
    for each in node_list(offerings):
        assert each.keys() == {"class", *NodeListed.model_fields} - {"node_class"}
        told = described(each["class"], offerings)
        assert told is not None
        dump_bytes(told)
        whole = told | {"live": True, "node_class": told["class"]}
        listed = [one | {"node_class": one["class"]} for one in told["descriptions"]]
        found = NodeAnswer.model_validate(whole | {"descriptions": listed}).model_dump(by_alias=True)
        assert found == told | {"live": True}
