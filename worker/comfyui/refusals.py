"""Why ComfyUI refused a graph: the faults, the node, and whether another backend may run it."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import BackendLacksModel, WorkflowRefused, WorkflowUnread
from app.domain.text import clean, word

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MISSING: Final = ("value_not_in_list", "custom_validation_failed")
"""Error types for a missing file: of an input with choices, and of a node's own validation."""
_NO_CLASS: Final = ("missing_node_type", "invalid_prompt")
"""Types of the whole error for a missing node class: in 0.33 and later, and in older versions."""
_OF_NODES: Final = "prompt_outputs_failed_validation"
_MOST_REASONS: Final = 5


@dataclass(frozen=True, slots=True)
class _Reason:
    """One fault of the graph."""

    kind: str
    text: str
    node_id: str = ""
    node_type: str = ""


def read_refusal(answer: Mapping[str, Any], status: int = HTTPStatus.BAD_REQUEST) -> WorkflowRefused:
    """Return the error for a refusal; the reasons come from the nodes' errors, or else from the error as a whole."""
    error, node_errors = answer.get("error"), answer.get("node_errors")
    if not isinstance(error, dict | str) and not node_errors:
        # Not an answer of ComfyUI: a proxy in front of it has refused the request.
        return WorkflowUnread(f"The backend refused the workflow with status {status}: no reason was given.")
    reasons = [*_of_nodes(node_errors)]
    if not reasons:
        reasons = [_of_all(error)]
    listed = "; ".join(each.text for each in reasons[:_MOST_REASONS]) or "no reason was given"
    more = len(reasons) - _MOST_REASONS
    listed += f"; and {more:,} more" if more > 0 else ""
    refused = BackendLacksModel if _is_lack(error, reasons) else WorkflowRefused
    node_id, node_type = reasons[0].node_id, reasons[0].node_type
    return refused(f"ComfyUI refused the workflow: {listed}", node_id=node_id or None, node_type=node_type or None)


def _of_nodes(node_errors: Any) -> Iterator[_Reason]:
    for node_id, found in node_errors.items() if isinstance(node_errors, dict) else ():
        errors = found.get("errors") if isinstance(found, dict) else None
        for each in errors if isinstance(errors, list) else ():
            if isinstance(each, dict):
                yield _of_node(word(node_id), word(found.get("class_type")), each)


def _of_node(node_id: str, node_type: str, error: Mapping[str, Any]) -> _Reason:
    kind, message, details = word(error.get("type")), clean(error.get("message"), 300), error.get("details")
    extra = error.get("extra_info")
    name = word(extra.get("input_name")) if isinstance(extra, dict) else ""
    if kind.startswith("exception_during"):
        # The details are the exception that a node's validation raised, which does not help users.
        text = message
    elif kind == "required_input_missing" and name:
        # For a name with dots the details have only its last part.
        text = f"{message}: {name}"
    else:
        text = clean(f"{message}: {clean(details or '', 300)}", 300).removesuffix(":")
    return _Reason(kind, f"{node_type} (node {node_id}): {text}", node_id, node_type)


def _of_all(error: Any) -> _Reason:
    """Return the fault of the graph as a whole."""
    if not isinstance(error, dict):
        return _Reason("", clean(error or "", 500))
    text = clean(f"{clean(error.get('message'), 500)} {clean(error.get('details') or '', 500)}", 500)
    extra = error.get("extra_info")
    extra = extra if isinstance(extra, dict) else {}
    kind = word(error.get("type"))
    return _Reason(kind, text, word(extra.get("node_id")), word(extra.get("class_type")))


def _is_lack(error: Any, reasons: list[_Reason]) -> bool:
    """Whether the only faults are files or node classes that another backend may have."""
    kind = word(error.get("type")) if isinstance(error, dict) else ""
    if kind in _NO_CLASS:
        # A node that names no class cannot run on any backend.
        return bool(reasons[0].node_type) if kind == _NO_CLASS[0] else "does not exist" in reasons[0].text
    return kind in ("", _OF_NODES) and bool(reasons) and all(each.kind in _MISSING for each in reasons)
