"""What people send where a workflow is wanted, and the words that help them: requests of other services, UI format."""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

from app.domain.errors import Fault
from app.domain.hints import shown, token

_LAYERS: Final = (
    "prompt",
    "output",
    "workflow",
    "graph",
    "input",
    "inputs",
    "body",
    "data",
    "request",
    "payload",
    "api",
)
"""Names under which requests of ComfyUI's own and of services in front of it hold the graph, or another layer."""
_OF_COMFYUI: Final = frozenset({"prompt", "client_id", "prompt_id", "extra_data", "number", "front"})
"""What stands in a `POST /prompt`."""
_MAX_LAYERS: Final = 4
_LOOKED_AT: Final = 50
"""A graph shows by its first nodes that it is one."""
UI_FORMAT: Final = "This is ComfyUI's UI format. Export the workflow in API format (File → Export (API)) and send that."
IS_TEXT: Final = "This is a text. Send the graph itself, a JSON object: node id → node, not a text of it."
IS_LIST: Final = "This is a list. A workflow is an object: node id → node, as File → Export (API) of ComfyUI writes it."


def is_ui_format(value: Any) -> bool:
    """Whether the value is a workflow as ComfyUI's page saves it, which its server cannot run."""
    return isinstance(value, dict) and isinstance(value.get("nodes"), list)


def is_graph(value: Any) -> bool:
    """Whether the value looks like a graph in API format, sound or not."""
    if not isinstance(value, dict):
        return False
    return any(isinstance(node, dict) and "class_type" in node for node in islice(value.values(), _LOOKED_AT))


def layers_of(value: Any) -> tuple[str, ...]:
    """Return the names below which a graph stands in a request that was made for something else; () when none does."""
    if not isinstance(value, dict) or is_graph(value):
        return ()
    if value.keys() <= _OF_COMFYUI and isinstance(value.get("prompt"), dict):
        return ("prompt",)
    return _search(value, _MAX_LAYERS)


def workflow_fault(value: Any, pointer: str) -> Fault | None:
    """Return what is wrong with a workflow that is no graph at all; None when it may be one."""
    if isinstance(value, str):
        return Fault(pointer, "invalid_type", IS_TEXT)
    if isinstance(value, list):
        return Fault(pointer, "invalid_type", IS_LIST)
    if not isinstance(value, dict):
        return Fault(pointer, "invalid_type", "A workflow is an object: node id → node.")
    if is_graph(value):
        return None
    if layers := layers_of(value):
        detail = f"This is a whole request; send only what stands below {_path(layers)}."
        if isinstance(_below(value, layers), str):
            detail += " There it is a text: send the JSON object that the text holds."
        return Fault(pointer, "wrapped_graph", detail)
    if is_ui_format(value) or any(is_ui_format(value.get(name)) for name in _LAYERS):
        return Fault(pointer, "ui_format", UI_FORMAT)
    return None


def body_fault(body: dict[str, Any]) -> Fault | None:
    """Return what is wrong with a body that is a graph, or a request of another service; None when it may be ours."""
    if "job_type" in body or "user_id" in body:
        return None
    how = 'Send {"user_id": "…", "job_type": "workflow", "workflow": {…}} with '
    if is_graph(body):
        return Fault("", "wrapped_graph", f'This is a bare workflow. {how}it as "workflow".')
    if layers := layers_of(body):
        return Fault(
            "", "wrapped_graph", f"This is a request of another service. {how}what stands below {_path(layers)}."
        )
    if is_ui_format(body):
        return Fault("", "ui_format", UI_FORMAT)
    return None


def node_fault(key: str, node: Any, pointer: str) -> Fault:
    """Return the fault of what stands among the nodes of a graph and is none."""
    detail = "A node is an object with class_type and inputs."
    if not isinstance(node, dict):
        detail += f" If {shown(key, 60)!r} is none, but tells something of the whole, leave it out."
    return Fault(f"{pointer}/{token(key)}", "invalid_type", detail)


def _search(value: dict[str, Any], left: int) -> tuple[str, ...]:
    inside = [(name, value[name]) for name in _LAYERS if name in value]
    for name, each in inside:
        if is_graph(each) or _is_text_of_graph(each):
            return (name,)
    for name, each in inside:
        if isinstance(each, dict) and left > 1 and (found := _search(each, left - 1)):
            return (name, *found)
    return ()


def _is_text_of_graph(value: Any) -> bool:
    return isinstance(value, str) and value[:1000].lstrip().startswith("{") and '"class_type"' in value


def _below(value: Any, layers: tuple[str, ...]) -> Any:
    for name in layers:
        value = value[name]
    return value


def _path(layers: tuple[str, ...]) -> str:
    return " → ".join(f'"{name}"' for name in layers)
