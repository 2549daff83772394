"""Node classes that a backend takes for others: the graph as it is executed, and faults said of the one that came."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import offers
from app.domain.catalog import Catalog, read_catalog
from app.domain.offers import changed_by, joined, read_kept, read_offer
from app.domain.replacements import NewInput, check_as_executed, read_replacements, replaced, with_titles
from app.domain.stale_lists import classes_in_doubt

REPLACING = json.loads((Path(__file__).parents[1] / "data" / "node-replacements" / "0.33.0.json").read_text())
IMAGE = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}}
INFO: dict[str, Any] = {
    "EmptyImage": {"input": {"required": {"width": ["INT", {}]}}, "output": ["IMAGE", "MASK"]},
    "SaveImage": {"input": {"required": {"images": ["IMAGE"]}}, "output": [], "output_node": True},
    "ImageScaleToMaxDimension": {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "largest_size": ["INT", {"min": 1, "max": 512}],
                "upscale_method": [["area", "lanczos"]],
            }
        },
        "output": ["IMAGE"],
    },
    "ControlNetLoader": {"input": {"required": {"control_net_name": [["a.pth", "b.pth"]]}}, "output": ["CONTROL_NET"]},
    "ConditioningAverage": {"input": {"required": {"strength": ["FLOAT"]}}, "output": ["CONDITIONING"]},
    "Show": {"input": {"required": {"it": ["*"]}}, "output": [], "output_node": True},
}
for _each in INFO.values():
    _each["python_module"] = "nodes"


def catalog(replacing: dict[str, Any] | None = None, **changes: Any) -> Catalog:
    """Return what a backend offers with these replacements, ComfyUI's own by default, and these classes changed."""
    info = {name: each for name, each in (INFO | changes).items() if each is not None}
    return read_offer(json.dumps(info).encode(), REPLACING if replacing is None else replacing).catalog


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


LONGER = {
    "1": IMAGE,
    "4": node("ResizeImagesByLongerEdge", images=["1", 0], longer_edge=32),
    "2": node("SaveImage", images=["4", 0], filename_prefix="a"),
}


def test_a_class_is_renamed_and_its_inputs_are_mapped_and_set() -> None:
    given_text = json.dumps(LONGER)
    changed = replaced(LONGER, catalog())
    assert changed["4"] == node("ImageScaleToMaxDimension", image=["1", 0], largest_size=32, upscale_method="lanczos")
    assert (changed["1"], changed["2"], list(changed)) == (LONGER["1"], LONGER["2"], list(LONGER))
    assert json.dumps(LONGER) == given_text
    assert check_as_executed(LONGER, catalog()).faults == []


def test_what_else_the_node_has_stays() -> None:
    titled = LONGER | {"4": LONGER["4"] | {"_meta": {"title": "mine"}, "is_changed": 7}}
    changed = replaced(titled, catalog())["4"]
    assert (changed["_meta"], changed["is_changed"]) == ({"title": "mine"}, 7)


def test_inputs_of_a_class_without_a_mapping_are_dropped_as_comfyui_does_it() -> None:
    graph = {"1": node("ConditioningAverage ", strength=1.0), "2": node("Show", it=["1", 0])}
    assert replaced(graph, catalog())["1"] == node("ConditioningAverage")
    (fault,) = check_as_executed(graph, catalog()).faults
    assert (fault.pointer, fault.code) == ("/workflow/1/class_type", "required_input_missing")
    assert "takes 'ConditioningAverage ' for 'ConditioningAverage'" in fault.detail


def test_a_fault_is_said_of_the_input_that_was_given() -> None:
    graph = {"1": node("T2IAdapterLoader", t2i_adapter_name="c.pth"), "2": node("Show", it=["1", 0])}
    (fault,) = check_as_executed(graph, catalog()).faults
    assert (fault.pointer, fault.code) == ("/workflow/1/inputs/t2i_adapter_name", "value_not_in_list")
    assert classes_in_doubt(graph, catalog(), [fault]) == {"ControlNetLoader"}
    too_large = LONGER | {"4": node("ResizeImagesByLongerEdge", images=["1", 0], longer_edge=9000)}
    assert [each.pointer for each in check_as_executed(too_large, catalog()).faults] == [
        "/workflow/4/inputs/longer_edge"
    ]


def test_an_input_that_is_mapped_and_was_not_given_is_missing() -> None:
    graph = {"1": node("T2IAdapterLoader"), "2": node("Show", it=["1", 0])}
    assert replaced(graph, catalog())["1"] == node("ControlNetLoader")
    assert [each.code for each in check_as_executed(graph, catalog()).faults] == ["required_input_missing"]


def test_a_class_that_is_there_is_not_replaced_and_neither_is_one_by_a_class_that_is_not() -> None:
    native = catalog(ResizeImagesByLongerEdge={"input": {}, "output": ["IMAGE"]})
    assert replaced(LONGER, native) is LONGER
    without = catalog(ImageScaleToMaxDimension=None)
    assert replaced(LONGER, without) is LONGER
    assert [each.code for each in check_as_executed(LONGER, without).faults] == ["unknown_node_class"]
    assert replaced(LONGER, catalog({})) is LONGER


def test_links_lead_to_where_outputs_are_now_also_between_two_that_are_replaced() -> None:
    moving = {
        "Old": [
            {
                "new_node_id": "EmptyImage",
                "input_mapping": [{"new_id": "width", "old_id": "size"}],
                "output_mapping": [{"old_idx": 0, "new_idx": 1}, {"old_idx": 1, "new_idx": 0}],
            }
        ],
    }
    graph = {
        "1": node("Old", size=8),
        "2": node("Old", size=["1", 1]),
        "3": node("Show", it=["2", 0], other=["1", 0], more=["1", 5], text="1"),
    }
    changed = replaced(graph, catalog(moving))
    assert changed["2"]["inputs"] == {"width": ["1", 0]}
    assert changed["3"]["inputs"] == {"it": ["2", 1], "other": ["1", 1], "more": ["1", 5], "text": "1"}
    assert graph["3"]["inputs"]["it"] == ["2", 0]


@pytest.mark.parametrize(
    "entries",
    [
        None,
        [],
        {},
        [None],
        ["x"],
        [{}],
        [{"new_node_id": 7}],
        [{"new_node_id": ""}],
    ],
)
def test_an_entry_that_says_nothing_is_left_out(entries: Any) -> None:
    assert read_replacements({"Old": entries}) == {}
    assert catalog({"Old": entries}).replacements == {}


def test_what_cannot_be_used_of_an_entry_is_left_out_and_the_rest_stays() -> None:
    mapping = [None, 7, {}, {"new_id": 7, "old_id": "a"}, {"new_id": "b"}, {"new_id": "c", "old_id": "a"}]
    entry = {"new_node_id": "New", "input_mapping": mapping, "output_mapping": [None, {"old_idx": "0", "new_idx": 1}]}
    (found,) = read_replacements({"Old": [entry, {"new_node_id": "Later"}]}).values()
    assert (found.node_class, found.inputs, dict(found.outputs)) == ("New", (NewInput("c", "a"),), {})


def test_how_much_is_kept_of_replacements_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = [{"new_node_id": "New"}]
    monkeypatch.setattr(offers, "MOST_REPLACED", 10)
    assert len(catalog({f"Old{number}": entry for number in range(100)}).replacements) == 10
    monkeypatch.setattr(offers, "MOST_REPLACING_BYTES", 100)
    assert len(catalog({f"Old{number}": entry for number in range(100)}).replacements) < 10
    many = [{"new_node_id": "New", "input_mapping": [{"new_id": str(each), "set_value": 0} for each in range(5_000)]}]
    assert catalog({"Old": many, "x" * 301: entry, "a\0": entry}).replacements == {}


def test_others_read_the_same_replacements_from_what_is_kept() -> None:
    offer = read_offer(json.dumps(INFO).encode(), REPLACING)
    assert read_kept(offer.described) == offer
    assert len(offer.catalog.replacements) == 8
    plain = read_offer(json.dumps(INFO).encode())
    assert read_kept(plain.described) == plain
    assert b"\n" not in plain.described


def test_what_was_read_one_by_one_changes_what_was_read_whole() -> None:
    loader = {"ControlNetLoader": {"input": {"required": {"control_net_name": [["new.pth"]]}}, "output": ["X"]}}
    later = [
        read_offer(json.dumps(loader | {"Other": {}}).encode(), only="ControlNetLoader"),
        read_offer(b"{}", REPLACING),
        read_offer(b'{"Fresh": {"output": []}}', only="Fresh"),
    ]
    found = changed_by(catalog({}), read_kept(joined(later)).catalog)
    assert found.choices("ControlNetLoader", "control_net_name") == ("new.pth",)
    assert found.nodes.keys() == {*INFO, "Fresh"}
    assert len(found.replacements) == 8


def test_a_node_of_an_unknown_class_gets_a_title_where_it_has_none() -> None:
    graph = {"1": node("New", a=1), "2": node("New") | {"_meta": None}, "3": node("New") | {"_meta": {}}, "4": IMAGE}
    titled = with_titles(graph, catalog())
    assert [titled[key].get("_meta") for key in graph] == [{"title": "New"}, {"title": "New"}, {}, None]
    assert with_titles(LONGER | {"4": IMAGE}, catalog())["4"] is IMAGE


@pytest.mark.parametrize("lacks", [True, False])
def test_in_doubt_is_what_a_new_file_can_mend_and_nothing_else(lacks: bool) -> None:
    graph = {
        "1": node("EmptyImage"),
        "2": node("SaveImage", images=["1", 0]),
        "3": node("Show", it=["4", 0] if lacks else ["1", 0]),
        "4": node("ControlNetLoader", control_net_name="none.pth"),
    }
    offered = catalog()
    faults = check_as_executed(graph, offered).faults
    assert "required_input_missing" in [fault.code for fault in faults]
    # An output that can be made is reason enough to send the others with it.
    assert classes_in_doubt(graph, offered, faults) == ({"ControlNetLoader"} if lacks else frozenset())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["new_node_id", "input_mapping", "new_id", "old_id", "set_value"]), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
def test_any_answer_can_be_read_and_read_again(answer: dict[str, Any]) -> None:
    offer = read_offer(b'{"A": {}}', answer)
    assert read_kept(offer.described) == offer
    assert replaced(LONGER, offer.catalog) is LONGER
    assert read_catalog({"A": {}}).nodes == offer.catalog.nodes
