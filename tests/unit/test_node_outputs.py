"""What nodes show becomes outputs: all of it, in the same order everywhere, and told once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from worker.comfyui.answers import read_ending
from worker.comfyui.node_outputs import OutputFile

ID = "0b1e7f6e-5a6b-4d0e-9a51-2f5d6f0f3c11"
CASES = sorted((Path(__file__).parent.parent / "data" / "cases" / "endings").glob("*.json"))


def read(outputs: Any, graph: Any = None, wanted: Any = (), messages: Any = ()) -> Any:
    """Read the ending of a successful run."""
    status = {"status_str": "success", "messages": [*messages, ["execution_success", {"timestamp": 1}]]}
    return read_ending({"prompt": [0, ID, graph or {}, {}, list(wanted)], "outputs": outputs, "status": status}, ID)


def told(file: OutputFile) -> list[Any]:
    if file.text is None:
        return [file.node_id, file.key, "preview" if file.preview else "file", file.filename]
    said = json.loads(file.text) if file.is_data else file.text
    return [file.node_id, file.key, "data" if file.is_data else "text", said]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_whatever_a_node_shows_is_an_output(case: Path) -> None:
    recorded = json.loads(case.read_text())
    ending = read(recorded["history_outputs"])
    assert ending.failure is None
    assert [told(file) for file in ending.outputs] == recorded["wanted"]


def test_the_order_is_the_same_whatever_the_servers_is() -> None:
    nodes = {str(number): {"text": [f"of {number}"]} for number in (3, 11, 2, 10)}
    backwards = dict(reversed(nodes.items()))
    assert read(nodes).outputs == read(backwards).outputs
    assert [file.node_id for file in read(nodes).outputs] == ["2", "3", "10", "11"]


def test_the_order_is_that_of_the_graph() -> None:
    """Nodes that others have put in stand behind those; what the graph has not comes last."""
    graph = {key: {"class_type": "A", "inputs": {}} for key in ("12", "3", "3.1", "2:1", "b.c")}
    nodes = {
        key: {"text": ["x"]} for key in ("a", "2:1", "3", "10", "3.1.0.4", "12", "b.c.0", "3.1", "3.0.0.2", "3.0.0.10")
    }
    shown = [file.node_id for file in read(nodes, graph).outputs]
    assert shown == ["12", "3", "3.0.0.2", "3.0.0.10", "3.1", "3.1.0.4", "2:1", "b.c.0", "10", "a"]
    assert shown == [file.node_id for file in read(dict(reversed(nodes.items())), graph).outputs]


def test_a_node_that_shows_its_texts_whole_never_spells_them() -> None:
    letters = {"1": {"text": ["1", "2", "3"]}}
    graph = {"1": {"class_type": "PreviewAny", "inputs": {}}}
    assert [file.text for file in read(letters, graph).outputs] == ["1", "2", "3"]
    graph["1"]["class_type"] = "SomebodysText"
    assert [file.text for file in read(letters, graph).outputs] == ["123"]


def test_what_comfyui_called_a_file_is_kept_as_it_is() -> None:
    record = {"filename": "a.png", "subfolder": "genonaut/7", "type": "temp", "id": "x", "fullpath": "/srv/a.png"}
    (file,) = read({"1": {"gifs": [record]}}).outputs
    assert file.source == {"filename": "a.png", "subfolder": "genonaut/7", "type": "temp", "key": "gifs"}
    (text,) = read({"1": {"tags": ["1girl"]}}).outputs
    assert text.source == {"key": "tags"}


def test_a_file_that_tells_a_text_again_has_it_at_hand() -> None:
    files = [{"filename": "a.md", "subfolder": "s", "type": "output"}]
    (file,) = read({"1": {"text": ["hello"], "files": files}}).outputs
    assert (file.text, file.instead) == (None, OutputFile("1", "text.txt", text="hello", key="text"))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), None),
        (10**30, 10**30),
        ([float("inf"), 10**30], [None, 10**30]),
        ({"half": "\ud800"}, {"half": "\ud800"}),
    ],
)
def test_data_is_json_whatever_python_takes_for_it(value: Any, said: Any) -> None:
    (data,) = read({"1": {"x": [value]}}).outputs
    assert json.loads(data.text, parse_constant=pytest.fail) == said
    data.text.encode()


def test_data_without_end_has_one() -> None:
    value: Any = 1
    for _ in range(900):
        value = [value]
    (data,) = read({"1": {"x": [value]}}).outputs
    assert json.loads(data.text)


def test_a_run_in_which_nothing_was_said_ends_well_and_says_whose_word_is_missing() -> None:
    graph = {"1": {"class_type": "EmptyImage"}, "2": {"class_type": "VAESave"}, "3": {"class_type": "QuietSaver"}}
    for outputs in ({}, None, {"2": {"images": []}}, {"2": "x"}):
        ending = read(outputs, graph, ["2", "3"])
        assert (ending.failure, ending.outputs) == (None, [])
        assert "nodes 2 (VAESave), 3 (QuietSaver)" in ending.silence
    for prompt in (None, [], "x", [0, 5, 7, None, 3]):
        ending = read_ending({"prompt": prompt, "outputs": {}, "status": {"status_str": "success"}})
        assert ending.silence.startswith("The run succeeded")


def test_nodes_that_did_not_run_are_known() -> None:
    ending = read({}, messages=[["execution_cached", {"nodes": ["2", 7]}], ["execution_cached", {"nodes": 3}]])
    assert ending.cached == {"2", "7"}


def test_many_values_under_a_key_are_one_output() -> None:
    points = [[number / 10, number] for number in range(17)]
    assert [told(file) for file in read({"1": {"curve": [*points, "a text"]}}).outputs] == [
        ["1", "curve", "data", points],
        ["1", "curve", "text", "a text"],
    ]
    assert len(read({"1": {"curve": points[:16]}}).outputs) == 16
