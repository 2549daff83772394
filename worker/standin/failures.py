"""How a failed node is described, in the frame and in the history."""

import logging
from collections.abc import Mapping
from typing import Any, Final

from PIL import Image

from worker.standin.console import Console
from worker.standin.nodes import NodeError, NodeOutOfMemoryError, NodeType

log = logging.getLogger(__name__)

_MEMORY_HINT: Final = (
    "\nThis error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before you might have "
    "accidentally set the batch_size to a large number."
)

_TRACEBACK: Final = (
    '  File "/comfyui/execution.py", line 496, in execute\n',
    '  File "/comfyui/execution.py", line 315, in get_output_data\n',
    '  File "/comfyui/execution.py", line 289, in _async_map_node_over_list\n',
    '  File "/comfyui/execution.py", line 277, in process_inputs\n',
)
_LAST_STEP: Final = '  File "/comfyui/nodes.py", line 80, in run\n'


class InterruptedPromptError(Exception):
    """The prompt was interrupted."""


def describe_failure(error: Exception, inputs: Mapping[str, Any], nodes: list[str]) -> dict[str, Any]:
    """Return the fields of `execution_error` that tell what went wrong."""
    out_of_memory = isinstance(error, NodeOutOfMemoryError)
    return {
        "exception_message": str(error) + (_MEMORY_HINT if out_of_memory else "\n"),
        "exception_type": _type_of(error),
        "traceback": [*_TRACEBACK, _LAST_STEP],
        "current_inputs": describe_inputs(inputs),
        "current_outputs": nodes,
    }


def cycle_failure(nodes: list[str]) -> dict[str, Any]:
    """Return the same for nodes of which each waits for another, which the check of a prompt has not seen."""
    return {
        "exception_message": "Dependency cycle detected",
        "exception_type": "graph.DependencyCycleError",
        "traceback": [],
        "current_inputs": [],
        "current_outputs": nodes,
    }


def tell_failure(console: Console, error: Exception) -> None:
    """Write into the log what ComfyUI writes when a node fails: the whole traceback is one piece."""
    console.say(f"!!! Exception during processing !!! {error}", "ERROR")
    steps = "".join((*_TRACEBACK, _LAST_STEP))
    console.say(f"Traceback (most recent call last):\n{steps}{_type_of(error)}: {error}\n", "ERROR")
    if isinstance(error, NodeOutOfMemoryError):
        if console.newer:
            console.say("Memory summary:\n")
        console.say("Got an OOM, unloading all loaded models.", "ERROR")


def complain_of_inputs(node_type: NodeType, inputs: Mapping[str, Any]) -> None:
    """Refuse inputs that the node's function has not, and such as it needs and does not get.

    Raises
    ------
    NodeError
        A `TypeError` in Python's words.
    """
    function = f"{node_type.name}.{node_type.function}()"
    known = (*node_type.required, *node_type.optional)
    unknown = [] if node_type.takes_any else [name for name in inputs if name not in known]
    if unknown:
        raise NodeError(f"{function} got an unexpected keyword argument '{unknown[0]}'", "TypeError")
    needed = [name for name in node_type.required if name not in node_type.defaulted]
    if missing := [f"'{name}'" for name in needed if name not in inputs]:
        many = "s" if len(missing) > 1 else ""
        names = f"{', '.join(missing[:-1])} and {missing[-1]}" if many else missing[0]
        message = f"{function} missing {len(missing)} required positional argument{many}: {names}"
        raise NodeError(message, "TypeError")


def describe_inputs(inputs: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the inputs as a failure shows them: plain values as they are, the rest printed."""
    return {name: [_described(value)] for name, value in inputs.items()}


def _type_of(error: Exception) -> str:
    return error.exception_type if isinstance(error, NodeError) else type(error).__name__


def _described(value: Any) -> Any:
    """Return a value as text unless JSON has it."""
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, tuple) and value and isinstance(value[0], Image.Image):
        return _tensor(value[0])
    return repr(value)


def _tensor(picture: Image.Image) -> str:
    """Return a picture printed the way a tensor is: its corners, about 1 kB."""
    columns = (0, 0, 0, picture.width - 1, picture.width - 1, picture.width - 1)
    rows = []
    for y in (0, 0, 0, picture.height - 1, picture.height - 1, picture.height - 1):
        cells = []
        for x in columns:
            pixel = picture.convert("RGB").getpixel((x, y))
            channels = pixel if isinstance(pixel, tuple) else (0, 0, 0)
            cells.append("[" + ", ".join(f"{channel / 255:.4f}" for channel in channels[:3]) + "]")
        cells.insert(3, "...")
        rows.append("[" + ",\n          ".join(cells) + "]")
    rows.insert(3, "...")
    return "tensor([[" + ",\n\n         ".join(rows) + "]])"
