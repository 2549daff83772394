"""When each node ran: folded from frames in any of the forms in which ComfyUI tells it."""

from __future__ import annotations

import math
from typing import Any

from app.domain.node_times import MOST, TITLE_CHARS, Spans

GRAPH: dict[str, Any] = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {}},
    "2": {"class_type": "KSampler", "inputs": {}, "_meta": {"title": "first pass"}},
    "3": {"class_type": "SaveImage", "inputs": {}, "_meta": {"title": "SaveImage"}},
}


def test_a_node_ends_when_the_next_begins_and_the_last_with_the_run():
    spans = Spans(GRAPH)
    for number, at in (("1", 10.0), ("2", 10.5), ("3", 12.0)):
        spans.began(number, number, at)
    spans.succeeded(12.25)
    assert spans.kept(10.0) == [
        {"node": "1", "type": "CheckpointLoaderSimple", "start_ms": 0, "end_ms": 500},
        {"node": "2", "type": "KSampler", "title": "first pass", "start_ms": 500, "end_ms": 2000},
        {"node": "3", "type": "SaveImage", "start_ms": 2000, "end_ms": 2250},
    ]


def test_cached_nodes_come_first_and_have_no_times():
    spans = Spans(GRAPH)
    spans.cached(["1", "unknown"])
    spans.began("2", "2", 5.0)
    assert spans.kept(5.0) == [
        {"node": "1", "type": "CheckpointLoaderSimple", "cached": True},
        {"node": "2", "type": "KSampler", "title": "first pass", "start_ms": 0},
    ]


def test_where_ends_are_told_they_count():
    spans = Spans(GRAPH)
    spans.state({"1": {"state": "running", "value": 0, "max": 1}}, 1.0)
    spans.state({"1": {"state": "finished"}, "2": {"state": "running", "value": 3, "max": 20}}, 2.0)
    assert spans.at_work() == {"id": "2", "type": "KSampler", "value": 3, "max": 20}
    spans.stepped("2", 4, 20)
    assert spans.at_work() == {"id": "2", "type": "KSampler", "value": 4, "max": 20}
    spans.state({"1": {"state": "finished"}, "2": {"state": "finished"}}, 4.0)
    assert spans.at_work() is None
    assert [span.get("end_ms") for span in spans.kept(1.0)] == [1000, 3000]


def test_nodes_that_are_added_while_it_runs_count_for_the_one_they_came_from():
    spans = Spans(GRAPH)
    spans.began("2.0.1", "2", 1.0)
    spans.began("2.0.2", "2", 2.0)
    spans.began("3", "3", 4.0)
    first, second = spans.kept(1.0)
    assert (first["node"], first["start_ms"], first["end_ms"]) == ("2", 0, 3000)
    assert second["node"] == "3"


def test_nonsense_is_no_step_and_no_negative_time():
    spans = Spans(GRAPH)
    spans.began("2", "2", 1.0)
    for value in (math.inf, math.nan, "3", None, 10**30):
        spans.stepped("2", value, 5)
    assert spans.at_work() == {"id": "2", "type": "KSampler", "value": 0, "max": 1}
    assert spans.kept(3.0)[0]["start_ms"] == 0


def test_a_title_is_kept_without_what_postgresql_refuses():
    spans = Spans({"1": {"class_type": "X", "inputs": {}, "_meta": {"title": "a\0b \ud800"}}})
    spans.began("1", "1", 1.0)
    assert [span["title"] for span in spans.kept(1.0)] == ["ab ?"]


def test_so_many_are_kept_and_titles_are_cut():
    graph = {str(n): {"class_type": "X", "inputs": {}, "_meta": {"title": "t" * 500}} for n in range(2 * MOST)}
    spans = Spans(graph)
    spans.cached([str(n) for n in range(MOST)])
    for n in range(MOST, 2 * MOST):
        spans.began(str(n), str(n), float(n))
    kept = spans.kept(0.0)
    assert len(kept) == MOST
    assert not any("cached" in span for span in kept)
    assert {len(span["title"]) for span in kept} == {TITLE_CHARS}


def test_what_no_column_holds_stands_in_no_span():
    nodes = {"1": {"class_type": "X\0", "inputs": {}, "_meta": {"title": "a\0\ud800b"}}}
    spans = Spans({**nodes, "2\0": {"class_type": "Y", "inputs": {}, "_meta": {"title": "\0"}}})
    spans.cached(["1", "2\0"])
    assert spans.kept(0) == [
        {"node": "1", "type": "X", "title": "a?b", "cached": True},
        {"node": "2", "type": "Y", "cached": True},
    ]
