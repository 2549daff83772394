"""What a backend offers, read from its `GET /object_info`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import standin_catalog

from app.domain.catalog import Catalog, InputSpec, read_catalog
from app.domain.graph_check import check_against
from app.domain.hints import nearest


def catalog(spec: Any, *, section: str = "required", **more: Any) -> Catalog:
    """Return a catalog of one output node `X`, of ComfyUI 0.33.0 itself, with one input `a`."""
    usual = {"output": [], "output_node": True, "python_module": "nodes", "has_intermediate_output": False}
    return read_catalog({"X": {"input": {section: {"a": spec}}} | usual | more})


def codes(spec: Any, value: Any) -> list[str]:
    """Return what is wrong with `X` whose input `a` has this value."""
    graph = {"1": {"class_type": "X", "inputs": {"a": value}}}
    return [fault.code for fault in check_against(graph, catalog(spec)).faults]


def test_a_real_backend_is_read_whole() -> None:
    found = standin_catalog()
    assert "sd_xl_base_1.0.safetensors" in found.checkpoints
    assert "add_detail.safetensors" in found.loras
    assert "euler" in found.samplers
    assert "karras" in found.schedulers
    seed = found.nodes["KSampler"].inputs["seed"]
    assert (seed.minimum, seed.maximum, seed.required) == (0, 2**64 - 1, True)
    assert found.nodes["CheckpointLoaderSimple"].outputs == ("MODEL", "CLIP", "VAE")
    assert [found.nodes[name].is_output for name in ("SaveImage", "KSampler")] == [True, False]


def test_what_is_not_offered_has_no_choices() -> None:
    assert Catalog({}).checkpoints == ()
    assert standin_catalog().choices("KSampler", "nothing") == ()
    assert standin_catalog().choices("KSampler", "steps") == ()


@pytest.mark.parametrize("spec", [[["a", "b"]], [["a", "b"], {"tooltip": "x"}], ["COMBO", {"options": ["a", "b"]}]])
def test_choices_are_read_in_the_old_form_and_the_new(spec: Any) -> None:
    assert catalog(spec).choices("X", "a") == ("a", "b")
    assert codes(spec, "c") == ["value_not_in_list"]


def test_what_people_see_of_a_class_is_read_as_far_as_it_is_text() -> None:
    more = {"display_name": "The X", "category": 5, "output_name": ["a", None], "output_is_list": [True, 0]}
    found = catalog(["FLOAT", {"default": 0.5, "step": 0.1}], **more).nodes["X"]
    assert (found.display_name, found.category) == ("The X", "")
    assert (found.output_names, found.output_lists) == (("a", ""), (True, False))
    assert (found.inputs["a"].default, found.inputs["a"].step) == (0.5, 0.1)
    assert catalog(["FLOAT", {"step": float("nan")}], output_name="odd").nodes["X"].inputs["a"].step is None


@pytest.mark.parametrize(
    ("config", "uploads", "folder"),
    [
        ({"image_upload": True}, "image", ""),
        ({"animated_image_upload": True, "image_folder": "output"}, "image", "output"),
        ({"video_upload": True, "image_folder": 5}, "video", ""),
        ({"audio_upload": True}, "audio", ""),
        ({"file_upload": True}, "file", ""),
        ({"remote": {"route": "/internal/files/output"}}, "remote", ""),
        ({"image_upload": False, "video_upload": True}, "video", ""),
        ({"remote": {"route": "/x"}, "image_upload": True}, "image", ""),
        ({"image_upload": False}, "", ""),
        ({}, "", ""),
    ],
)
@pytest.mark.parametrize("form", ["old", "new"])
def test_an_input_says_which_kind_of_file_it_takes(
    config: dict[str, Any], uploads: str, folder: str, form: str
) -> None:
    spec = [["a"], config] if form == "old" else ["COMBO", {"options": ["a"], **config}]
    found = catalog(spec).nodes["X"].inputs["a"]
    assert (found.uploads, found.folder) == (uploads, folder)


@pytest.mark.parametrize(
    "spec",
    [
        [["a"], {"image_upload": True}],
        ["COMBO", {"options": ["a"], "video_upload": True}],
        ["COMBO", {"options": [], "remote": {"route": "/x"}}],
        ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "a", "inputs": {}}]}],
        ["STRING", {"multiline": True}],
        ["BOOLEAN"],
        ["*"],
        [],
        None,
        "nonsense",
        [5],
        [{"a": 1}],
    ],
)
def test_where_the_list_proves_nothing_every_value_is_taken(spec: Any) -> None:
    assert codes(spec, "c") == []


@pytest.mark.parametrize("form", ["old", "new"])
@pytest.mark.parametrize(
    ("choices", "value", "taken"),
    [
        ([1, 2, 0.5], 1.0, True),
        ([1, 2, 0.5], True, True),
        ([1, 2, 0.5], "1", False),
        ([1.0, 2.0], 1, True),
        ([True, False], 0, True),
        ([True, False], "True", False),
        (["1", "2"], 1, False),
        ([None, "a"], None, True),
        (["None"], None, False),
        ([[1, "a"], {"b": 2}], {"__value__": [True, "a"]}, True),
        ([[1, "a"], {"b": 2}], {"__value__": [2, "a"]}, False),
        ([[1, "a"], {"b": 2}], {"b": 2.0}, True),
        ([[1, "a"], {"b": 2}], "a", False),
        ([], "a", False),
        ([], None, False),
        (["a"], {"__value__": "a"}, True),
        (["a"], {"__value__": "b"}, False),
    ],
)
def test_choices_are_compared_as_python_does(form: str, choices: list[Any], value: Any, taken: bool) -> None:
    spec = [choices] if form == "old" else ["COMBO", {"options": choices}]
    assert codes(spec, value) == ([] if taken else ["value_not_in_list"])


def test_of_several_choices_each_is_looked_up() -> None:
    spec = ["COMBO", {"options": ["a", "b"], "multiselect": True}]
    assert codes(spec, {"__value__": ["a", "b"]}) == []
    assert codes(spec, {"__value__": []}) == []
    assert codes(spec, {"__value__": ["a", "c"]}) == ["value_not_in_list"]
    assert codes(spec, "b") == []
    assert codes(spec, "c") == ["value_not_in_list"]
    assert codes(spec, ["a", "b", "a"]) == ["bad_linked_input"]


def test_required_counts_over_optional() -> None:
    both = read_catalog({"X": {"input": {"optional": {"a": ["INT"]}, "required": {"a": ["INT"]}}}})
    assert both.nodes["X"].inputs["a"].required
    assert not catalog(["INT"], section="optional").nodes["X"].inputs["a"].required


@pytest.mark.parametrize(
    ("ours", "given_type", "fits"),
    [
        ("IMAGE", "IMAGE", True),
        ("IMAGE", "MASK", False),
        ("*", "MASK", True),
        ("IMAGE", "*", True),
        ("IMAGE,MASK", "MASK", True),
        ("IMAGE,MASK", "LATENT", False),
        ("IMAGE", "MASK,IMAGE", True),
        ("IMAGE, MASK", "MASK", True),
        ("IMAGE", "LATENT , IMAGE", True),
        ("A,*", "MASK", True),
        ("COMBO", "COMBO", True),
        ("COMBO", "STRING", False),
        ("STRING", "COMBO", False),
        ("COMFY_MATCHTYPE_V3", "IMAGE", True),
        ("IMAGE", "COMFY_MATCHTYPE_V3", True),
    ],
)
def test_types_fit_as_comfyui_has_it(ours: str, given_type: str, fits: bool) -> None:
    assert InputSpec("a", ours, required=True).accepts_type(given_type) is fits


def test_a_list_of_choices_is_a_type_that_fits_itself() -> None:
    listed = InputSpec("a", "COMBO", required=True, choices=("x", "y"), listed=True)
    assert listed.accepts_type(("x", "y"))
    assert not listed.accepts_type(("y", "x"))
    assert not listed.accepts_type("STRING")
    assert not listed.accepts_type("COMBO")
    assert listed.accepts_type("*")
    assert not InputSpec("a", "STRING", required=True).accepts_type(("x",))


def test_a_class_that_does_not_say_what_it_gives_may_give_anything() -> None:
    offered = read_catalog(
        {
            "Odd": {"input": {}, "output": None},
            "X": {"input": {"required": {"a": ["IMAGE"]}}, "output": [], "output_node": True},
        }
    )
    graph = {
        "1": {"class_type": "Odd", "inputs": {}},
        "2": {"class_type": "X", "inputs": {"a": ["1", 5]}},
    }
    assert check_against(graph, offered).faults == []


def test_limits_that_are_no_numbers_can_be_compared_with_none() -> None:
    spec = ["STRING", {"min": "a", "max": None}]
    assert codes(spec, "b") == []
    assert len(check_against({"1": {"class_type": "X", "inputs": {"a": "b"}}}, catalog(spec)).warnings) == 1
    assert codes(["INT", {"max": None}], 1) == ["invalid_input_type"]
    assert codes(["FLOAT", {"min": float("nan"), "max": float("inf")}], 5) == []
    assert codes(["FLOAT", {"max": True}], 5) == ["value_bigger_than_max"]


def test_limits_are_exact_for_the_greatest_seed() -> None:
    spec = ["INT", {"min": 0, "max": 2**64 - 1}]
    assert (codes(spec, 2**64 - 1), codes(spec, 2**64)) == ([], ["value_bigger_than_max"])


@pytest.mark.parametrize("value", ["9" * 5000, float("inf"), "", "0x10", "1e400", [], {}])
def test_numbers_that_are_none_are_a_fault_and_no_crash(value: Any) -> None:
    assert codes(["INT", {"max": 10}], value) in (
        ["invalid_input_type"],
        ["value_bigger_than_max"],
        ["bad_linked_input"],
    )


@pytest.mark.parametrize(
    ("value", "allowed", "expected"),
    [
        ("euller", ["euler", "heun"], "euler"),
        ("zzz", ["euler", "heun"], None),
        ("", ["euler"], None),
        ("x", [], None),
        ("10", [1, 10], "10"),
    ],
)
def test_the_nearest_is_what_was_most_likely_meant(value: str, allowed: list[Any], expected: str | None) -> None:
    assert nearest(value, allowed) == expected


@given(st.text(max_size=20), st.lists(st.text(max_size=20)))
def test_a_suggestion_is_always_one_of_the_allowed(value: str, allowed: list[str]) -> None:
    assert nearest(value, allowed) in (None, *allowed)
