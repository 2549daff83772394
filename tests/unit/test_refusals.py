"""What ComfyUI refuses is told in its own words, with the node; and what another backend may have is known."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.errors import BackendLacksModel, ErrorClass, WorkflowRefused, WorkflowUnread
from worker.comfyui.refusals import read_refusal

LISTED = {
    "type": "value_not_in_list",
    "message": "Value not in list",
    "details": "ckpt_name: 'mine.safetensors' not in ['other.safetensors']",
    "extra_info": {"input_name": "ckpt_name", "received_value": "mine.safetensors"},
}
SMALL = {
    "type": "value_smaller_than_min",
    "message": "Value -5 smaller than min of 1",
    "details": "width",
    "extra_info": {"input_name": "width", "received_value": -5},
}
DOTTED = {
    "type": "required_input_missing",
    "message": "Required input is missing",
    "details": "multiplier",
    "extra_info": {"input_name": "resize_type.multiplier"},
}
CYCLE = {
    "type": "dependency_cycle",
    "message": "Dependency cycle detected",
    "details": "2 (ImageInvert) -> 1 (ImageInvert) -> 2 (ImageInvert)",
    "extra_info": {"node_id": "2", "cycle_nodes": ["2", "1"]},
}
INVALID_FILE = {
    "type": "custom_validation_failed",
    "message": "Custom validation failed for node",
    "details": "image - Invalid image file: a.png",
}
RAISED = {"type": "exception_during_validation", "message": "Exception when validating node", "details": "'/srv/x'"}


def of_nodes(**errors: list[dict[str, Any]]) -> dict[str, Any]:
    """Return ComfyUI's answer: node, with an x before it, → what is wrong with it."""
    error = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation", "details": ""}
    nodes = {key[1:]: {"errors": found, "dependent_outputs": ["9"], "class_type": "A"} for key, found in errors.items()}
    return {"error": error, "node_errors": nodes}


def whole(kind: str, message: str, **extra: Any) -> dict[str, Any]:
    error = {"type": kind, "message": message, "details": "Node ID '#1'", "extra_info": extra}
    return {"error": error, "node_errors": {}}


MISSING = whole("missing_node_type", "Node 'My title' not found.", node_id="1", class_type="Own", node_title="My title")
UNNAMED = whole("missing_node_type", "Node 'ID #1' has no class_type.", node_id="1", class_type=None, node_title=None)
OLD_MISSING = whole("invalid_prompt", "Cannot execute because node Own does not exist.")
NO_OUTPUTS = whole("prompt_no_outputs", "Prompt has no outputs")


@pytest.mark.parametrize(
    ("answer", "lacks", "node", "said"),
    [
        (
            of_nodes(x4=[LISTED]),
            True,
            ("4", "A"),
            "A (node 4): Value not in list: ckpt_name: 'mine.safetensors' not in",
        ),
        (of_nodes(x4=[INVALID_FILE]), True, ("4", "A"), "Invalid image file: a.png"),
        (of_nodes(x4=[LISTED], x5=[INVALID_FILE]), True, ("4", "A"), "A (node 5): Custom validation failed"),
        (of_nodes(x4=[LISTED, SMALL]), False, ("4", "A"), "Value -5 smaller than min of 1: width"),
        (of_nodes(x4=[LISTED], x5=[SMALL]), False, ("4", "A"), "A (node 5): Value -5"),
        (of_nodes(x4=[DOTTED]), False, ("4", "A"), "Required input is missing: resize_type.multiplier"),
        (of_nodes(x2=[CYCLE]), False, ("2", "A"), "2 (ImageInvert) -> 1 (ImageInvert) -> 2"),
        (of_nodes(x2=[RAISED]), False, ("2", "A"), "A (node 2): Exception when validating node"),
        (MISSING, True, ("1", "Own"), "Node 'My title' not found. Node ID '#1'"),
        (UNNAMED, False, ("1", None), "has no class_type"),
        (OLD_MISSING, True, (None, None), "node Own does not exist"),
        (NO_OUTPUTS, False, (None, None), "Prompt has no outputs"),
        ({"error": "Invalid prompt", "node_errors": {}}, False, (None, None), "Invalid prompt"),
    ],
)
def test_a_refusal_is_told_in_comfyuis_words(
    answer: dict[str, Any], lacks: bool, node: tuple[str | None, str | None], said: str
) -> None:
    refused = read_refusal(answer)
    assert said in str(refused)
    assert (refused.node_id, refused.node_type) == node
    assert type(refused) is (BackendLacksModel if lacks else WorkflowRefused)
    assert refused.code == ("not_offered_by_backend" if lacks else "invalid_workflow")


def test_what_a_node_raised_when_it_was_looked_at_is_not_shown() -> None:
    assert "/srv" not in str(read_refusal(of_nodes(x2=[RAISED])))


def test_of_many_reasons_a_few_are_told_and_the_rest_counted() -> None:
    refused = str(read_refusal(of_nodes(**{f"x{number}": [SMALL] for number in range(12)})))
    assert refused.count("(node ") == 5
    assert refused.endswith("; and 7 more")


@pytest.mark.parametrize("answer", [{}, {"error": None}, {"message": "Forbidden"}, {"node_errors": {}}])
def test_a_refusal_that_is_not_comfyuis_own_says_nothing_of_the_graph(answer: dict[str, Any]) -> None:
    refused = read_refusal(answer, 403)
    assert isinstance(refused, WorkflowUnread)
    assert refused.error_class is ErrorClass.LACKING
    assert "403" in str(refused)
