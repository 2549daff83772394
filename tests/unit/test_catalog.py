"""What a backend offers, read from its `GET /object_info`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import standin_catalog

from app.domain.catalog import Catalog, InputSpec, read_catalog
from app.domain.fitting import check_against
from app.domain.hints import nearest


def catalog(spec: Any, *, section: str = "required", **more: Any) -> Catalog:
    """Return a catalog of one output node `X` with one input `a`."""
    return read_catalog({"X": {"input": {section: {"a": spec}}, "output": [], "output_node": True} | more})


def codes(spec: Any, value: Any) -> list[str]:
    """Return what is wrong with `X` whose input `a` has this value."""
    graph = {"1": {"class_type": "X", "inputs": {"a": value}}}
    return [fault.code for fault in check_against(graph, catalog(spec))]


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


@pytest.mark.parametrize(
    "spec",
    [
        [["a"], {"image_upload": True}],
        ["COMBO", {"options": ["a"], "video_upload": True}],
        ["COMBO", {"options": [], "remote": {"route": "/x"}}],
        ["COMBO", {"options": ["a"], "multiselect": True}],
        ["COMBO", {}],
        [[]],
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


def test_a_choice_written_as_a_number_is_the_same_choice() -> None:
    assert codes([[1, 2, 0.5]], "2") == []
    assert codes([["1", "2"]], 2) == []
    assert codes([[1, 2]], 3) == ["value_not_in_list"]


def test_required_counts_over_optional_and_dynamic_inputs_are_never_demanded() -> None:
    both = read_catalog({"X": {"input": {"optional": {"a": ["INT"]}, "required": {"a": ["INT"]}}}})
    assert both.nodes["X"].inputs["a"].required
    assert not catalog(["INT"], section="optional").nodes["X"].inputs["a"].required
    assert not catalog(["COMFY_AUTOGROW_V3", {}]).nodes["X"].inputs["a"].required


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
        ("COMBO", "STRING", True),
        ("STRING", "COMBO", True),
        ("COMFY_MATCHTYPE_V3", "IMAGE", True),
        ("IMAGE", "COMFY_MATCHTYPE_V3", True),
    ],
)
def test_types_fit_as_comfyui_has_it(ours: str, given_type: str, fits: bool) -> None:
    assert InputSpec("a", ours, required=True).accepts_type(given_type) is fits


def test_a_link_into_a_list_of_choices_is_taken() -> None:
    assert InputSpec("a", "COMBO", required=True, choices=("x",)).accepts_type("INT")


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
    assert check_against(graph, offered) == []


def test_limits_that_are_no_numbers_do_not_count() -> None:
    assert codes(["INT", {"min": "a", "max": None}], 10**30) == []
    assert codes(["FLOAT", {"min": float("nan"), "max": True}], 5) == []


def test_limits_are_exact_for_the_greatest_seed() -> None:
    spec = ["INT", {"min": 0, "max": 2**64 - 1}]
    assert (codes(spec, 2**64 - 1), codes(spec, 2**64)) == ([], ["value_bigger_than_max"])


@pytest.mark.parametrize("value", ["9" * 5000, float("inf"), "", "0x10", "1e400", [], {}])
def test_numbers_that_are_none_are_a_fault_and_no_crash(value: Any) -> None:
    assert codes(["INT", {"max": 10}], value) in (["invalid_input_type"], ["value_bigger_than_max"])


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
