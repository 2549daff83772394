"""How a failed node is described, in the frame and in the history."""

import logging
from collections.abc import Mapping
from typing import Any, Final

from PIL import Image

from worker.standin.nodes import NodeError, NodeOutOfMemoryError

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


class InterruptedPromptError(Exception):
    """The prompt was interrupted."""


def describe_failure(error: Exception, inputs: Mapping[str, Any], nodes: list[str]) -> dict[str, Any]:
    """Return the fields of `execution_error` that tell what went wrong."""
    out_of_memory = isinstance(error, NodeOutOfMemoryError)
    return {
        "exception_message": str(error) + (_MEMORY_HINT if out_of_memory else "\n"),
        "exception_type": error.exception_type if isinstance(error, NodeError) else type(error).__name__,
        "traceback": [*_TRACEBACK, '  File "/comfyui/nodes.py", line 80, in run\n'],
        "current_inputs": describe_inputs(inputs),
        "current_outputs": nodes,
    }


def describe_inputs(inputs: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the inputs as a failure shows them: plain values as they are, the rest printed."""
    return {name: [_described(value)] for name, value in inputs.items()}


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
