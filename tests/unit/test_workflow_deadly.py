"""Graphs that end ComfyUI's execution thread are refused, and what it runs is not: held to what both ages of it did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from app.domain.catalog import Catalog, read_catalog
from app.domain.dependencies import MAX_ANCESTRY, MAX_CHAIN
from app.domain.graph_check import check_against, check_without_offers
from app.domain.structure import check_structure
from app.domain.values import link_of, unwrap

if TYPE_CHECKING:
    from app.domain.errors import Fault
    from app.domain.workflow import Graph

DATA: Final = json.loads((Path(__file__).parent.parent / "data/graph-verdicts/verdicts.json").read_text())
CASES: Final[dict[str, dict[str, Any]]] = {case["name"]: case for case in DATA["cases"]}
CATALOGS: Final[dict[str, Catalog]] = {version: read_catalog(info) for version, info in DATA["object_info"].items()}
ENDS: Final = [
    (name, version, told["end"]) for name, case in CASES.items() for version, told in sorted(case["ends"].items())
]

REFUSED_ALL_THE_SAME: Final = {
    "node extra key deep": "deeper than a value may be",
    "slot out of range kw, not cached": "ends 0.33.0 once the source is cached",
    "wrapped slot out of range, not cached": "ends 0.33.0 once the source is cached",
    "wrapped float slot, cached": "ends 0.33.0",
}
"""What ran in at least one ComfyUI, and why we refuse it."""


def faults_of(graph: Graph, version: str) -> list[Fault]:
    return check_structure(graph) or check_against(graph, CATALOGS[version]).faults


def node(**inputs: Any) -> dict[str, Any]:
    return {"class_type": "PreviewAny", "inputs": inputs}


def dangling(value: Any) -> Graph:
    return {"1": node(source=value)}


@pytest.mark.parametrize(("name", "version"), [(name, version) for name, version, end in ENDS if end == "dead"])
def test_what_ends_the_execution_thread_is_refused_where_it_stands(name: str, version: str) -> None:
    (fault,) = faults_of(CASES[name]["graph"], version)
    assert fault.pointer.startswith("/workflow/")
    assert fault.code in ("bad_link", "missing")


@pytest.mark.parametrize(("name", "version"), [(name, version) for name, version, end in ENDS if end == "success"])
def test_what_comfyui_runs_is_taken(name: str, version: str) -> None:
    assert bool(faults_of(CASES[name]["graph"], version)) == (name in REFUSED_ALL_THE_SAME)


def test_of_what_is_refused_all_the_same_each_is_among_what_ran() -> None:
    assert REFUSED_ALL_THE_SAME.keys() <= {name for name, _, end in ENDS if end == "success"}


@pytest.mark.parametrize("slot", [0, -1, True, 0.5, 10**30])
def test_a_wrapped_link_to_nowhere_is_a_link_whatever_its_slot(slot: Any) -> None:
    for wrapped in ({"__value__": ["99", slot]}, {"__value__": ["99", slot], "more": 1}):
        (fault,) = faults_of(dangling(wrapped), "0.33.0")
        assert (fault.pointer, fault.code) == ("/workflow/1/inputs/source", "bad_link")
        assert "99" in fault.detail


@pytest.mark.parametrize(
    "literal",
    [[], [1, 2], ["99"], ["99", "0"], ["99", None], ["99", 0, 0], [["99", 0]], {"__value__": ["99", 0]}, None],
)
def test_what_is_wrapped_and_no_link_is_a_value(literal: Any) -> None:
    for version in CATALOGS:
        assert faults_of(dangling({"__value__": literal}), version) == []


def test_a_node_that_is_needed_by_a_wrapped_link_only_is_followed_and_not_checked() -> None:
    inputs = {"width": -5, "height": 64, "batch_size": 1, "color": 0}
    graph = dangling({"__value__": ["2", 0]}) | {"2": {"class_type": "EmptyImage", "inputs": inputs}}
    assert faults_of(graph, "0.3.64") == []
    inputs["more"] = ["99", 0]
    (fault,) = faults_of(graph, "0.3.64")
    assert (fault.pointer, fault.code) == ("/workflow/2/inputs/more", "bad_link")
    # It was not unwrapped, as nothing checked the node.
    inputs["more"] = {"__value__": ["99", 0]}
    assert faults_of(graph, "0.3.64") == []


def test_numbers_and_choices_are_checked_inside_their_wrapper() -> None:
    def scaled(**changes: Any) -> list[str]:
        usual = {"image": ["1", 0], "upscale_method": {"__value__": "area"}, "width": {"__value__": 32}, "height": 32}
        empty = {"width": {"__value__": "64"}, "height": 64, "batch_size": 1, "color": 0}
        graph = {
            "1": {"class_type": "EmptyImage", "inputs": empty},
            "2": {"class_type": "ImageScale", "inputs": usual | {"crop": "disabled"} | changes},
            "3": node(source=["2", 0]),
        }
        return [fault.code for fault in faults_of(graph, "0.3.64")]

    assert scaled() == []
    assert scaled(upscale_method={"__value__": "nope"}) == ["value_not_in_list"]
    assert scaled(width={"__value__": -1}) == ["value_smaller_than_min"]
    assert scaled(width={"__value__": 10**9}) == ["value_bigger_than_max"]
    assert scaled(width={"__value__": {"__value__": 32}}) == ["invalid_input_type"]
    assert scaled(width={"__value__": [1, 2]}) == ["invalid_input_type"]


@pytest.mark.parametrize("version", CATALOGS)
def test_what_could_not_be_converted_is_a_link_all_the_same_when_another_way_leads_to_it(version: str) -> None:
    inputs = {"width": {"__value__": ["99", 0]}, "height": 8, "batch_size": 1, "color": 0}
    graph = {"1": node(source="x", more=["2", 0]), "2": {"class_type": "EmptyImage", "inputs": inputs}}
    assert faults_of(graph, version) == []
    (fault,) = faults_of(graph | {"3": node(source=["2", 0])}, version)
    assert (fault.pointer, fault.code) == ("/workflow/2/inputs/width", "bad_link")


def test_a_cycle_that_comfyui_does_not_see_before_it_runs_is_told() -> None:
    first, second = ({"class_type": "ImageInvert", "inputs": {"image": [other, 0]}} for other in ("2", "1"))
    wrapped = {"class_type": "ImageInvert", "inputs": {"image": {"__value__": ["2", 0]}}}
    drawn = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}
    undeclared = {"class_type": "ImageInvert", "inputs": {"image": ["4", 0], "more": ["2", 0]}}
    for version, catalog in CATALOGS.items():
        for one in (wrapped, undeclared):
            checked = check_against({"1": one, "2": second, "3": node(source=["1", 0]), "4": drawn}, catalog)
            assert checked.faults == []
            assert "1 → 2 → 1" in checked.warnings[0]
        assert [fault.code for fault in faults_of({"1": first, "2": second, "3": node(source=["1", 0])}, version)] == [
            "cycle"
        ]


def test_a_chain_through_wrappers_is_as_long_as_the_stack_of_comfyui_bears() -> None:
    def chain(length: int) -> list[str]:
        graph = {str(at): node(source={"__value__": [str(at + 1), 0]}) for at in range(length - 1)}
        return [fault.code for fault in faults_of(graph | {str(length - 1): node(source="end")}, "0.33.0")]

    assert chain(MAX_CHAIN) == []
    assert chain(MAX_CHAIN + 1) == ["too_long_chain"]


def test_a_graph_whose_nodes_all_depend_on_all_is_more_than_comfyui_can_write_down() -> None:
    def layered(layers: int, width: int = 20) -> list[str]:
        graph = {str(at): node() for at in range(width)}
        for layer in range(1, layers):
            above = {f"in_{at}": [str((layer - 1) * width + at), 0] for at in range(width)}
            graph |= {str(layer * width + at): node(**above) for at in range(width)}
        return [fault.code for fault in check_structure(graph)]

    most = int((2 * MAX_ANCESTRY) ** 0.5 / 20)
    assert layered(most) == []
    assert layered(most + 1) == ["too_entangled"]


def test_of_a_backend_that_tells_nothing_each_wrapped_link_counts() -> None:
    sound = dangling({"__value__": ["2", 0]}) | {"2": node(source={"__value__": [1, 2]})}
    assert check_without_offers(sound) == []
    for value in (["99", 0], ["2", 0.5]):
        graph = sound | {"1": {"class_type": "Unknown", "inputs": {"a/b": {"__value__": value}}}}
        (fault,) = check_without_offers(graph)
        assert (fault.pointer, fault.code) == ("/workflow/1/inputs/a~1b", "bad_link")


def test_one_home_says_what_is_a_link() -> None:
    assert unwrap({"__value__": {"__value__": 1}}) == {"__value__": 1}
    assert unwrap({"value": 1}) == {"value": 1}
    assert link_of(["1", True]) == ("1", True)
    assert [
        link_of(value) for value in (None, "1", [1, 0], ["1"], ["1", "0"], ["1", 0, 0], {"__value__": ["1", 0]})
    ] == [None] * 7
