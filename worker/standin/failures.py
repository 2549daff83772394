"""How a failed node is described, in the frame and in the history."""

import logging
from collections.abc import Mapping
from typing import Any, Final

from PIL import Image

from worker.standin.console import Console
from worker.standin.nodes import NodeError, NodeOutOfMemoryError, NodeType, Several
from worker.standin.versions import LINKS_NOTED, Version

log = logging.getLogger(__name__)

_MEMORY_HINT: Final = (
    "\nThis error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before you might have "
    "accidentally set the batch_size to a large number."
)

_STEPS: Final = ("execute", "get_output_data", "_async_map_node_over_list", "process_inputs")
_OLD_LINES: Final = (496, 315, 289, 277)
_NEW_LINES: Final = (545, 344, 318, 306)
_LAST_STEP: Final = '  File "/comfyui/nodes.py", line 80, in run\n'


class InterruptedPromptError(Exception):
    """The prompt was interrupted."""


def describe_failure(error: Exception, inputs: Mapping[str, Any], nodes: list[str], version: Version) -> dict[str, Any]:
    """Return the fields of `execution_error` that tell what went wrong."""
    out_of_memory = isinstance(error, NodeOutOfMemoryError)
    return {
        "exception_message": str(error) + (_MEMORY_HINT if out_of_memory else "\n"),
        "exception_type": _type_of(error),
        "traceback": _traceback(newer=version >= LINKS_NOTED),
        "current_inputs": describe_inputs(inputs),
        "current_outputs": nodes,
    }


def cycle_failure(nodes: list[str]) -> dict[str, Any]:
    """Return the same fields for nodes in a cycle that the validation of the prompt did not find."""
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
    steps = "".join(_traceback(newer=console.newer))
    console.say(f"Traceback (most recent call last):\n{steps}{_type_of(error)}: {error}\n", "ERROR")
    if isinstance(error, NodeOutOfMemoryError):
        if console.newer:
            console.say("Memory summary:\n")
        console.say("Got an OOM, unloading all loaded models.", "ERROR")


def complain_of_inputs(node_type: NodeType, inputs: Mapping[str, Any]) -> None:
    """Check that the node's function takes all of these inputs, and that no required one is missing.

    Raises
    ------
    NodeError
        With the type `TypeError` and Python's message.
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
    values = {name: value.values if isinstance(value, Several) else (value,) for name, value in inputs.items()}
    return {name: [_described(member) for member in members] for name, members in values.items()}


def _traceback(*, newer: bool) -> list[str]:
    """Return the steps that lead to a node's function."""
    lines = _NEW_LINES if newer else _OLD_LINES
    steps = zip(lines, _STEPS, strict=True)
    return [*(f'  File "/comfyui/execution.py", line {line}, in {step}\n' for line, step in steps), _LAST_STEP]


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
