"""Where ComfyUI's execution thread died when it was recorded, and the pieces in which Python wrote that down.

Python 3.11 writes a traceback in many small pieces, the marks below a line of code one by one. ComfyUI keeps the last
300 pieces, so of a deep traceback only the end is left, without the line that names the thread.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from worker.standin.versions import LINKS_NOTED, Version

THREAD: Final = "Thread-1 (prompt_worker)"


class Place(StrEnum):
    """What the thread was at when it died."""

    EXTRA_DATA = "extra_data"
    """Looking for the client's id."""
    SIGNATURES = "signatures"
    """Describing nodes, of which one had no inputs."""
    INPUTS = "inputs"
    """Describing nodes, of which one had inputs that are no object."""
    ADD_NODE = "add_node"
    """Following a link that leads nowhere."""
    CACHE_LINK = "cache_link"
    """Noting who reads a kept result."""
    CACHE_UPDATE = "cache_update"
    """Reusing the result of an identical node that has just run."""
    NODE = "node"
    """Running a node, which raised what is no `Exception`."""
    MESSAGE = "message"
    """Writing a node's error into the log."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One step of a traceback: where, and how many blanks, tildes and carets mark what failed in it."""

    file: str
    line: int
    function: str
    blanks: int = 0
    tildes: int = 0
    carets: int = 0


def pieces(place: Place, error: str, version: Version) -> Iterator[str]:
    """Return what is written when the thread dies, piece by piece; `error` is the type and text of the error."""
    frames = (_NEW if version >= LINKS_NOTED else _OLD)[place]
    if place is Place.MESSAGE:
        yield "--- Logging error ---\n"
        yield from _traceback(frames)
    yield from ("Exception in thread ", THREAD, ":\n")
    yield from _traceback(frames)
    kind, _, text = error.partition(": ")
    module, dot, name = kind.rpartition(".")
    yield from ("", module, dot, name) if module else ("", name)
    yield from (": ", text)
    if place is not Place.MESSAGE:
        yield "\n"


def _traceback(frames: tuple[Frame, ...]) -> Iterator[str]:
    """Return the steps, piece by piece; ComfyUI's code is not repeated."""
    yield from ("", "Traceback (most recent call last):\n")
    for frame in frames:
        yield from ("", f'  File "{frame.file}", line {frame.line}, in {frame.function}\n')
        yield from ("", "    ", "…", "\n")
        if frame.carets:
            yield ""
            yield from " " * frame.blanks + "~" * frame.tildes + "^" * frame.carets
            yield "\n"


_LIBRARY: Final = "/usr/lib/python3.11"
_EXECUTION: Final = "/comfyui/execution.py"
_CACHING: Final = "/comfyui/comfy_execution/caching.py"
_GRAPH: Final = "/comfyui/comfy_execution/graph.py"
_NODE: Final = "/comfyui/custom_nodes/acceptance_nodes/__init__.py"


def _thread(worker: int, execute: int) -> tuple[Frame, ...]:
    """Return the steps that every death has in common."""
    return (
        Frame(f"{_LIBRARY}/threading.py", 1045, "_bootstrap_inner"),
        Frame(f"{_LIBRARY}/threading.py", 982, "run"),
        Frame("/comfyui/main.py", worker, "prompt_worker"),
        Frame(_EXECUTION, execute, "execute"),
        Frame(f"{_LIBRARY}/asyncio/runners.py", 190, "run", 11, 0, 16),
        Frame(f"{_LIBRARY}/asyncio/runners.py", 118, "run", 11, 0, 35),
        Frame(f"{_LIBRARY}/asyncio/base_events.py", 653, "run_until_complete", 11, 0, 15),
    )


_OLD_THREAD: Final = _thread(195, 649)
_OLD_DESCRIBING: Final = (
    Frame(_EXECUTION, 668, "execute_async"),
    Frame(_CACHING, 156, "set_prompt"),
    Frame(_CACHING, 92, "add_keys", 25, 0, 54),
    Frame(_CACHING, 97, "get_node_signature", 31, 0, 45),
    Frame(_CACHING, 128, "get_ordered_ancestry"),
)
_OLD_NODE: Final = (
    Frame(_EXECUTION, 496, "execute", 62, 0, 163),
    Frame(_EXECUTION, 315, "get_output_data", 20, 0, 209),
    Frame(_EXECUTION, 289, "_async_map_node_over_list"),
    Frame(_EXECUTION, 277, "process_inputs", 13, 0, 11),
)
_OLD: Final[Mapping[Place, tuple[Frame, ...]]] = {
    Place.EXTRA_DATA: (*_OLD_THREAD, Frame(_EXECUTION, 654, "execute_async", 7, 0, 25)),
    Place.SIGNATURES: (
        *_OLD_THREAD,
        *_OLD_DESCRIBING,
        Frame(_CACHING, 134, "get_ordered_ancestry_internal", 13, 27, 10),
    ),
    Place.INPUTS: (*_OLD_THREAD, *_OLD_DESCRIBING, Frame(_CACHING, 135, "get_ordered_ancestry_internal", 24, 0, 11)),
    Place.ADD_NODE: (
        *_OLD_THREAD,
        Frame(_EXECUTION, 686, "execute_async"),
        Frame(_GRAPH, 147, "add_node", 13, 0, 34),
        Frame(_GRAPH, 36, "get_node"),
    ),
    Place.NODE: (
        *_OLD_THREAD,
        Frame(_EXECUTION, 695, "execute_async", 24, 0, 160),
        *_OLD_NODE,
        Frame(_NODE, 19, "run", 23, 0, 26),
    ),
    Place.MESSAGE: (*_OLD_NODE, Frame(_NODE, 23, "run")),
}
"""As recorded of 0.3.64."""

_NEW_THREAD: Final = _thread(421, 728)
_NEW_NODE: Final = (
    Frame(_EXECUTION, 545, "execute", 62, 0, 151),
    Frame(_EXECUTION, 344, "get_output_data", 20, 0, 197),
    Frame(_EXECUTION, 318, "_async_map_node_over_list"),
    Frame(_EXECUTION, 306, "process_inputs", 13, 0, 11),
)
_NEW: Final[Mapping[Place, tuple[Frame, ...]]] = {
    Place.SIGNATURES: (
        *_NEW_THREAD,
        Frame(_EXECUTION, 757, "execute_async"),
        Frame(_CACHING, 533, "set_prompt"),
        Frame(_CACHING, 449, "set_prompt"),
        Frame(_CACHING, 164, "set_prompt"),
        Frame(_CACHING, 98, "add_keys", 25, 0, 54),
        Frame(_CACHING, 103, "get_node_signature", 31, 0, 45),
        Frame(_CACHING, 134, "get_ordered_ancestry"),
        Frame(_CACHING, 140, "get_ordered_ancestry_internal", 13, 27, 10),
    ),
    Place.ADD_NODE: (
        *_NEW_THREAD,
        Frame(_EXECUTION, 780, "execute_async"),
        Frame(_GRAPH, 151, "add_node", 13, 0, 34),
        Frame(_GRAPH, 35, "get_node"),
    ),
    Place.CACHE_LINK: (
        *_NEW_THREAD,
        Frame(_EXECUTION, 780, "execute_async"),
        Frame(_GRAPH, 166, "add_node"),
        Frame(_GRAPH, 240, "add_strong_link"),
        Frame(_GRAPH, 218, "cache_link", 30, 13, 13),
    ),
    Place.CACHE_UPDATE: (
        *_NEW_THREAD,
        Frame(_EXECUTION, 789, "execute_async", 24, 0, 177),
        Frame(_EXECUTION, 450, "execute"),
        Frame(_GRAPH, 236, "cache_update", 30, 13, 13),
    ),
    Place.NODE: (
        *_NEW_THREAD,
        Frame(_EXECUTION, 789, "execute_async", 24, 0, 177),
        *_NEW_NODE,
        Frame(_NODE, 19, "run", 23, 0, 26),
    ),
    Place.MESSAGE: (*_NEW_NODE, Frame(_NODE, 23, "run")),
}
"""As recorded of 0.33.0, where `extra_data` and `inputs` that are no objects are refused before."""
