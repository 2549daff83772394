"""New seeds: which numbers of a graph are seeds, and that each new one is within what its node takes."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.catalog import Catalog, read_catalog
from app.domain.errors import NoSeedToChange
from app.domain.seeds import Drawing

if TYPE_CHECKING:
    from app.domain.workflow import Graph

INFO = {
    "KSampler": {"input": {"required": {"seed": ["INT", {"min": 0, "max": 2**64 - 1}], "steps": ["INT", {}]}}},
    "Half": {"input": {"required": {"seed": ["INT", {"min": 0, "max": 2**32 - 1}]}}, "output": ["IMAGE"]},
    "Few": {"input": {"required": {"seed": ["INT", {"min": 3, "max": 5}]}}, "output": ["IMAGE"]},
    "One": {"input": {"required": {"seed": ["INT", {"min": 7, "max": 7}]}}, "output": ["IMAGE"]},
    "Below": {"input": {"required": {"seed": ["INT", {"min": -1, "max": 2**31 - 1}]}}, "output": ["IMAGE"]},
    "Unsaid": {"input": {"required": {"seed": ["INT", {}]}}, "output": ["IMAGE"]},
    "Marked": {
        "input": {
            "required": {
                "chance": ["INT", {"min": 0, "max": 1000, "control_after_generate": True}],
                "other": ["INT", {"min": 0, "max": 1000}],
                "which": [["a", "b"], {"control_after_generate": True}],
            }
        },
        "output": ["IMAGE"],
    },
    "PrimitiveInt": {
        "input": {"required": {"value": ["INT", {"min": -(2**63), "max": 2**63 - 1, "control_after_generate": True}]}},
        "output": ["INT"],
    },
    "Reroute": {"input": {"required": {"in": ["*"]}}, "output": ["*"]},
    "EmptyImage": {"input": {"required": {"width": ["INT", {"min": 1}]}}, "output": ["IMAGE"]},
    "Add": {"input": {"required": {"a": ["INT", {}], "b": ["INT", {}]}}, "output": ["INT"]},
}


def described(**changed: Any) -> Catalog:
    return read_catalog(INFO | changed)


DRAWING = Drawing([described()])


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def values(graph: Graph | None, *places: tuple[str, str]) -> list[Any]:
    assert graph is not None
    return [graph[key]["inputs"][name] for key, name in places]


@pytest.mark.parametrize(
    ("class_type", "low", "high"),
    [
        ("KSampler", 0, 2**64 - 1),
        ("Half", 0, 2**32 - 1),
        ("Few", 3, 5),
        ("Below", 0, 2**31 - 1),
        ("Unsaid", 0, 2**32 - 1),
        ("Unknown", 0, 2**32 - 1),
    ],
)
def test_a_new_seed_is_within_what_its_node_takes_and_is_another(class_type: str, low: int, high: int) -> None:
    graph, found = {"1": node(class_type, seed=4)}, set()
    for _ in range(60):
        changed, drawn = DRAWING.anew(graph, 0)
        (seed,) = values(changed, ("1", "seed"))
        assert seed == drawn
        assert low <= seed <= high
        assert seed != 4
        found.add(seed)
    assert len(found) > 1
    assert max(found) > high // 2
    assert graph == {"1": node(class_type, seed=4)}


def test_the_same_number_is_drawn_for_all_where_one_fits_all() -> None:
    graph = {"1": node("KSampler", seed=1), "2": node("Half", seed=2), "3": node("Unknown", noise_seed=3)}
    for _ in range(20):
        changed, drawn = DRAWING.anew(graph, 0)
        assert set(values(changed, ("1", "seed"), ("2", "seed"), ("3", "noise_seed"))) == {drawn}
        assert drawn < 2**32


def test_where_bounds_are_narrow_each_gets_one_that_fits() -> None:
    graph = {"1": node("KSampler", seed=1), "2": node("Few", seed=4)}
    large = 0
    for _ in range(20):
        first, second = values(DRAWING.anew(graph, 0)[0], ("1", "seed"), ("2", "seed"))
        assert second in (3, 5)
        large = max(large, first)
    assert large > 2**60


def test_of_several_backends_the_narrowest_counts() -> None:
    narrow = described(KSampler={"input": {"required": {"seed": ["INT", {"min": 10, "max": 2**40}]}}})
    both = Drawing([described(), narrow])
    for _ in range(20):
        assert 10 <= values(both.anew({"1": node("KSampler", seed=1)}, 0)[0], ("1", "seed"))[0] <= 2**40
        assert 10 <= both.anew(None, 5)[1] <= 2**40
    assert {Drawing().anew(None, 5)[1] > 2**32 for _ in range(5)} == {False}


def test_an_input_that_is_marked_as_one_is_a_seed_whatever_its_name() -> None:
    graph = {"1": node("Marked", chance=5, other=6, which="a")}
    for _ in range(20):
        changed, drawn = DRAWING.anew(graph, 0)
        assert values(changed, ("1", "chance"), ("1", "other"), ("1", "which")) == [drawn, 6, "a"]
        assert drawn <= 1000


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_number_that_only_seeds_are_linked_to_is_changed_where_it_stands(wrapped: bool) -> None:
    link: Any = {"__value__": ["p", 0]} if wrapped else ["p", 0]
    graph = {
        "1": node("KSampler", seed=["r", 0]),
        "r": node("Reroute", **{"in": link}),
        "p": node("PrimitiveInt", value=5),
    }
    graph["2"] = node("Half", seed=["p", 0])
    before = copy.deepcopy(graph)
    for _ in range(20):
        changed, drawn = DRAWING.anew(graph, 0)
        assert values(changed, ("p", "value")) == [drawn]
        assert drawn < 2**32
        assert {key: each for key, each in (changed or {}).items() if key != "p"} == {
            key: each for key, each in before.items() if key != "p"
        }
    assert graph == before


def test_a_number_that_something_else_is_linked_to_is_no_seed() -> None:
    graph = {"1": node("KSampler", seed=["p", 0]), "p": node("PrimitiveInt", value=512)}
    assert DRAWING.can(graph)
    for more in (node("EmptyImage", width=["p", 0]), node("Unknown", a=["p", 0]), node("Add", a=["p", 0], b=1)):
        assert not DRAWING.can(graph | {"2": more})
    by_way = {"2": node("Reroute", **{"in": ["p", 0]}), "3": node("EmptyImage", width=["2", 0])}
    assert not DRAWING.can(graph | by_way)


def test_a_primitive_by_itself_is_a_number_and_no_seed() -> None:
    assert not DRAWING.can({"p": node("PrimitiveInt", value=512), "1": node("EmptyImage", width=["p", 0])})


@pytest.mark.parametrize(
    "graph",
    [
        {"1": node("LoadImage", image="a.png")},
        {"1": node("KSampler", seed=["2", 0]), "2": node("Unknown", a="x")},
        {"1": node("KSampler", seed=["2", 0]), "2": node("Add", a=1, b=2)},
        {"1": node("KSampler", seed=["1", 0])},
        {"1": node("KSampler", seed=["2", 0]), "2": node("Reroute", **{"in": ["2", 0]})},
        {"1": node("KSampler", seed=["9", 0])},
        {"1": node("One", seed=7)},
        {"1": node("Unknown", seed="5"), "2": node("Unknown", seed=True), "3": node("Unknown", seed=None)},
    ],
)
def test_where_no_literal_seed_can_be_changed_it_is_said(graph: Graph) -> None:
    assert not DRAWING.can(graph)
    with pytest.raises(NoSeedToChange) as refused:
        DRAWING.anew(graph, 1)
    assert [(fault.pointer, fault.code) for fault in refused.value.faults] == [("/seed", "no_seed")]


def test_literals_of_every_form_are_seeds_and_links_stay() -> None:
    graph = {
        "1": node("KSampler", seed=5, steps=3),
        "2": node("KSampler", seed={"__value__": 5}),
        "3": node("KSampler", seed=5.0),
        "4": node("KSampler", seed="5"),
        "5": node("KSampler", seed=["1", 0]),
        "6": node("KSampler", seed=5.5),
        "7": node("KSampler", seed={"__value__": ["9", 0]}),
    }
    changed, drawn = DRAWING.anew(graph, 0)
    assert [values(changed, (key, "seed"))[0] for key in graph] == [
        *(drawn, {"__value__": drawn}, drawn, drawn, ["1", 0], 5.5),
        {"__value__": ["9", 0]},
    ]
    assert values(changed, ("1", "steps")) == [3]


def test_a_new_seed_of_the_simple_fields_is_within_the_samplers_bounds() -> None:
    graph, seed = DRAWING.anew(None, 5)
    assert graph is None
    assert 0 <= seed < 2**64
    assert seed != 5
