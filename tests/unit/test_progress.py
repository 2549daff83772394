"""ComfyUI's frames folded into one percentage: that it never falls, and that it tells the truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import text_to_image

from app.domain.progress import ProgressFold

CAPTURES = Path(__file__).parents[1] / "data" / "comfyui-captures"


def graph(**steps: int | None) -> dict[str, Any]:
    """Return a graph of these nodes, with so many steps each; None: a node without steps."""
    return {
        key: {"class_type": "X", "inputs": {} if count is None else {"steps": count}} for key, count in steps.items()
    }


def feed(fold: ProgressFold, kind: str, data: dict[str, Any]) -> bool | None:
    """Hand a frame to the fold, as an attempt does; None for a frame that has nothing to do with progress."""
    match kind:
        case "execution_cached":
            return fold.cached(data["nodes"])
        case "executing" if data["node"] is not None:
            return fold.began(data.get("display_node") or data["node"])
        case "progress":
            return fold.stepped(data["node"], data["value"], data["max"])
        case "progress_state":
            return fold.state(data["nodes"])
    return None


def test_a_sampler_weighs_its_steps_a_loader_three_and_any_other_node_one() -> None:
    nodes = graph(sampler=6, save=None)
    nodes["load"] = {"class_type": "CheckpointLoaderSimple", "inputs": {}}
    fold = ProgressFold(nodes)
    fold.cached(["load"])
    assert fold.percent == 30
    fold.stepped("sampler", 3, 6)
    assert fold.percent == 60
    fold.cached(["save"])
    assert fold.percent == 70


def test_half_the_steps_of_the_only_sampler_is_about_half() -> None:
    fold = ProgressFold(text_to_image())
    fold.cached([key for key in text_to_image() if key not in ("sampler", "decode", "save")])
    before = fold.percent
    fold.stepped("sampler", 14, 28)
    assert before < 25
    assert 45 <= fold.percent <= 60


def test_a_node_that_begins_ends_the_one_before() -> None:
    fold = ProgressFold(graph(a=None, b=None, c=None, d=None))
    assert [(fold.began(key), fold.percent) for key in "abcd"] == [(False, 0), (True, 25), (True, 50), (True, 75)]
    assert fold.node_id == "d"


def test_it_says_whether_it_rose() -> None:
    fold = ProgressFold(graph(a=4))
    assert [fold.stepped("a", value, 4) for value in (1, 1, 0, 2)] == [True, False, False, True]
    assert fold.percent == 50


def test_100_is_never_said_here() -> None:
    fold = ProgressFold(graph(a=4, b=None))
    fold.cached("ab")
    assert fold.percent == 99


def test_nodes_that_work_at_the_same_time_add_up() -> None:
    fold = ProgressFold(graph(a=10, b=10))
    fold.state({key: {"state": "running", "value": value, "max": 10} for key, value in (("a", 4), ("b", 2))})
    assert fold.percent == 30
    fold.state({key: {"state": "running", "value": value, "max": 10} for key, value in (("a", 5), ("b", 9))})
    assert fold.percent == 70


def test_a_node_at_its_maximum_is_not_finished_until_it_says_so() -> None:
    fold = ProgressFold(graph(a=1000))
    fold.state({"a": {"state": "running", "value": 1, "max": 1}})
    assert fold.percent == 99
    whole = ProgressFold(graph(a=None, b=None))
    whole.state({"a": {"state": "finished", "value": 0, "max": 1}})
    assert whole.percent == 50


def test_a_node_inside_an_expanded_one_counts_for_it_and_does_not_end_it() -> None:
    fold = ProgressFold(graph(a=None, b=None))
    inside = {"state": "finished", "value": 1, "max": 1, "display_node_id": "a", "real_node_id": "a"}
    fold.state({"a.0.0.1": inside})
    assert fold.percent == 0
    fold.state({"a.0.0.1": inside | {"state": "running", "value": 5, "max": 10}})
    assert fold.percent == 25


def test_unknown_nodes_do_not_count() -> None:
    fold = ProgressFold(graph(a=2))
    assert not fold.cached(["x"])
    assert not fold.stepped("x", 1, 1)
    assert not fold.state({"x": {"state": "finished"}})
    assert not fold.began("x")
    assert fold.percent == 0


@pytest.mark.parametrize("steps", [0, -5, 10**9, True, "20", ["other", 0], None])
def test_steps_that_are_no_number_of_steps_weigh_like_any_node(steps: Any) -> None:
    fold = ProgressFold({"a": {"class_type": "X", "inputs": {"steps": steps}}, "b": {"class_type": "X", "inputs": {}}})
    fold.cached(["a"])
    assert fold.percent == 50


@pytest.mark.parametrize("fold", [ProgressFold({})])
def test_an_empty_graph_stays_at_0(fold: ProgressFold) -> None:
    assert not fold.cached(["a"])
    assert fold.percent == 0


NUMBERS = st.integers() | st.floats() | st.just(10**400)
NODE = st.fixed_dictionaries(
    {},
    optional={
        "value": NUMBERS | st.none() | st.text(),
        "max": NUMBERS | st.none(),
        "state": st.sampled_from(["running", "finished", "error", None, 7]),
        "display_node_id": st.sampled_from(["a", "b", "x", None, 5]),
        "real_node_id": st.sampled_from(["a", "x", None]),
    },
)
IDS = st.sampled_from(["a", "b", "c", "x"])
FRAMES = st.one_of(
    st.tuples(st.just("cached"), st.lists(IDS)),
    st.tuples(st.just("began"), IDS),
    st.tuples(st.just("stepped"), IDS, NUMBERS, NUMBERS),
    st.tuples(st.just("state"), st.dictionaries(IDS, NODE)),
)


@given(st.lists(FRAMES))
def test_it_never_falls_and_never_raises_whatever_comes(frames: list[Any]) -> None:
    fold = ProgressFold(graph(a=5, b=None, c=100))
    before = 0
    for name, *arguments in frames:
        rose = getattr(fold, name)(*arguments)
        assert 0 <= before <= fold.percent <= 99
        assert rose == (fold.percent > before)
        before = fold.percent


@pytest.mark.parametrize("path", sorted(CAPTURES.glob("success-text-to-image-*.json")), ids=lambda path: path.stem)
def test_a_recorded_run_rises_to_its_end(path: Path) -> None:
    rows = json.loads(path.read_text())
    (submitted,) = (row["data"]["body"] for row in rows if row["data"].get("path") == "/prompt")
    fold, told = ProgressFold(submitted["prompt"]), []
    for row in rows:
        if row["kind"] == "ws_text" and row["direction"] == "in":
            if row["data"]["type"] == "executing" and row["data"]["data"]["node"] is None:
                break
            if feed(fold, row["data"]["type"], row["data"]["data"]):
                told.append(fold.percent)
    assert told == sorted(set(told))
    assert len(told) >= 5
    assert told[-1] >= 90


@pytest.mark.parametrize("path", sorted(CAPTURES.glob("*.json")), ids=lambda path: path.stem)
def test_no_recorded_frame_is_too_much(path: Path) -> None:
    fold = ProgressFold(graph(**{str(key): None for key in range(1, 12)}))
    for row in json.loads(path.read_text()):
        if row["kind"] == "ws_text" and row["direction"] == "in":
            before = fold.percent
            feed(fold, row["data"]["type"], row["data"]["data"])
            assert before <= fold.percent <= 99
