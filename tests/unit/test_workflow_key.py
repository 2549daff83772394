"""Graphs that cost about the same have the same key, and others do not."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from app.domain.workflow_key import workflow_key

GRAPH: dict[str, Any] = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["1", 1]}},
    "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
    "4": {
        "class_type": "KSampler",
        "inputs": {"seed": 1, "steps": 20, "cfg": 5.5, "sampler_name": "euler", "denoise": 1.0, "model": ["1", 0]},
    },
    "5": {"class_type": "SaveImage", "inputs": {"filename_prefix": "job-1/x", "images": ["4", 0]}},
}


def changed(node: str, name: str, value: Any) -> str:
    graph = deepcopy(GRAPH)
    graph[node]["inputs"][name] = value
    return workflow_key(graph)


@pytest.mark.parametrize(
    ("node", "name", "value"),
    [
        ("4", "seed", 2),
        ("2", "text", "a bear"),
        ("5", "filename_prefix", "job-2/x"),
        ("4", "cfg", 7.0),
        ("4", "denoise", 0.5),
    ],
)
def test_what_makes_no_other_work_leaves_the_key(node, name, value):
    assert changed(node, name, value) == workflow_key(GRAPH)


@pytest.mark.parametrize(
    ("node", "name", "value"),
    [
        ("4", "steps", 21), ("3", "width", 1024), ("3", "batch_size", 2), ("1", "ckpt_name", "b.safetensors"),
        ("4", "sampler_name", "dpmpp_2m"), ("4", "cfg", 1.0), ("4", "model", ["3", 0]),
    ],
)  # fmt: skip
def test_what_makes_other_work_makes_another_key(node, name, value):
    assert changed(node, name, value) != workflow_key(GRAPH)


def test_a_key_is_32_digits_whatever_the_order():
    key = workflow_key(GRAPH)
    assert len(key) == 32
    assert int(key, 16) >= 0
    assert workflow_key(dict(reversed(GRAPH.items()))) == key
