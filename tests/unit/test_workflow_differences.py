"""The check of a graph agrees with the two ComfyUIs on graphs made at random, or is milder and says so: recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from app.domain.graph_check import Checked, check_against
from app.domain.offers import read_offer
from app.domain.structure import check_structure

if TYPE_CHECKING:
    from app.domain.catalog import Catalog

DATA: Final = Path(__file__).parent.parent / "data/graph-checks"
CASES: Final = [
    pytest.param(case, id=f"{path.stem}-{number}")
    for path in sorted(DATA.glob("*.json"))
    for number, case in enumerate(json.loads(path.read_text()))
]
OF_COMFYUI: Final = [
    each
    for each in CASES
    if all("has_intermediate_output" in raw for raw in each.values[0]["object_info"].values())
    and not any("custom_nodes" in raw["python_module"] for raw in each.values[0]["object_info"].values())
]
"""Of 0.33.0's own classes only: nothing of them is unknown."""
CODES: Final = {
    "missing_node_type": "unknown_node_class",
    "prompt_no_outputs": "no_output",
    "dependency_cycle": "cycle",
}
"""What ComfyUI calls what we call otherwise."""


def checked(case: dict[str, Any]) -> tuple[Catalog, Checked]:
    catalog = read_offer(json.dumps(case["object_info"]).encode()).catalog
    assert check_structure(case["graph"]) == []
    return catalog, check_against(case["graph"], catalog)


@pytest.mark.parametrize("case", CASES)
def test_comfyui_and_the_check_agree(case: dict[str, Any]) -> None:
    told, (catalog, found) = case["told"], checked(case)
    ours = told.get("ours")
    if ours == "deadly" or ("ends" in told and ours is None):
        assert {fault.code for fault in found.faults} == {"bad_link"}
    elif told["accepted"]:
        assert found.faults == []
    elif not found.faults:
        assert found.warnings or ours == "unseen"
        assert not (catalog.newer and all(node.is_core for node in catalog.nodes.values()))


@pytest.mark.parametrize("case", OF_COMFYUI)
def test_what_is_left_out_and_why_is_what_comfyui_says_of_its_own_classes(case: dict[str, Any]) -> None:
    told, (catalog, found) = case["told"], checked(case)
    if not found.faults:
        ends = [key for key, node in case["graph"].items() if catalog.nodes[node["class_type"]].is_output]
        assert sum("is left out" in each for each in found.warnings) == len(ends) - len(told["good"])
    elif not told["accepted"] and not any("exception" in code for code in told["codes"]):
        codes = {CODES.get(code, code) for code in told["codes"]}
        assert {fault.code for fault in found.faults} - {"bad_link"} == codes
