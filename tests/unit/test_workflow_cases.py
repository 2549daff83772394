"""The check of a graph says what a real ComfyUI of either age said, or is milder and tells so: recorded cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from app.domain.catalog import Catalog, read_catalog
from app.domain.graph_check import Checked, check_against
from app.domain.structure import check_structure

if TYPE_CHECKING:
    from app.domain.workflow import Graph

CASES: Final = Path(__file__).parent.parent / "data/cases"
CATALOGS: Final[dict[str, Catalog]] = {
    version: read_catalog(info) for version, info in json.loads((CASES / "object_info.json").read_text()).items()
}
AGES: Final = {"graphs": ("0.3.64", "comfyui_0_3_64"), "graphs-0.33": ("0.33.0", "comfyui_0_33_0")}
DEADLY: Final = {"extra_input_link_bad_slot", "v33_kill_stale_subinput_dangling", "v33_kill_stale_subinput_slot"}
"""ComfyUI takes them, and its execution thread ends."""
ELSEWHERE: Final = {"v33_node_replaced"}
"""Not for the check to say: whoever asks it has replaced the classes."""
NOT_TOLD: Final = {
    "bool_combo_string": "a class that is not ComfyUI's own may check its choices itself",
    "combo_out_to_other_combo": "a type of a class that is not ComfyUI's own may be equal to any",
    "number_combo_as_string": "a class that is not ComfyUI's own may check its choices itself",
    "string_out_to_combo": "a type of a class that is not ComfyUI's own may be equal to any",
}
"""ComfyUI refuses them, and `/object_info` does not tell that it will."""


def checked(graph: Graph, catalog: Catalog) -> Checked:
    faults = check_structure(graph)
    return Checked(faults) if faults else check_against(graph, catalog)


def cases(folder: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((CASES / folder).glob("*.json"))]


@pytest.mark.parametrize(
    ("case", "folder"), [pytest.param(case, folder, id=case["name"]) for folder in AGES for case in cases(folder)]
)
def test_a_graph_is_taken_when_comfyui_takes_it(case: dict[str, Any], folder: str) -> None:
    version, told = AGES[folder][0], case[AGES[folder][1]]
    found = checked(case["graph"], CATALOGS[version])
    if case["name"] in ELSEWHERE:
        assert [fault.code for fault in found.faults] == ["unknown_node_class"]
    elif case["name"] in NOT_TOLD:
        assert not told["accepted"]
        assert not found.faults
        assert found.warnings
    else:
        assert bool(found.faults) == (not told["accepted"] or case["name"] in DEADLY)


REPORTS: Final = [
    pytest.param(json.loads(path.read_text()), id=path.stem)
    for path in sorted((CASES / "reports").glob("*.json"))
    if json.loads(path.read_text())["what"] == "check"
]


@pytest.mark.parametrize("report", REPORTS)
def test_a_graph_of_a_report_is_taken_when_comfyui_takes_it(report: dict[str, Any]) -> None:
    found = checked(report["workflow"], read_catalog(report["object_info"]))
    refused = str(report["comfyui_0_3_64"]).startswith("refuses")
    assert [fault.code for fault in found.faults] == (["bad_linked_input"] if refused else [])
