"""What a ComfyUI's log says of its execution thread; the pieces are as 0.3.64 wrote them, paths shortened."""

from __future__ import annotations

from typing import Any

import pytest

from worker.comfyui.server_log import LogSays, read_log

HEAD = ["Exception in thread ", "Thread-1 (prompt_worker)", ":\n", "Traceback (most recent call last):\n"]
THREADING = [
    '  File "',
    "/python/threading.py",
    '"',
    ", line ",
    "1045",
    ", in ",
    "_bootstrap_inner",
    "\n",
    "    self.run()\n",
]
WORKER = [
    '  File "',
    "/comfyui/main.py",
    '"',
    ", line ",
    "195",
    ", in ",
    "prompt_worker",
    "\n",
    "    e.execute(item[2])\n",
]
EXECUTE = ['  File "', "/comfyui/execution.py", '"', ", line ", "649", ", in ", "execute", "\n", "    asyncio.run(\n"]
GRAPH = [
    '  File "',
    "/comfyui/comfy_execution/graph.py",
    '"',
    ", line ",
    "36",
    ", in ",
    "get_node",
    "\n",
    "    raise\n",
]
END = ["comfy_execution.graph", ".", "NodeNotFoundError", ": ", "Node 99 not found", "\n"]
NODE_ERROR = [
    "!!! Exception during processing !!! boom\n",
    'Traceback (most recent call last):\n  File "/comfyui/execution.py", line 4, in execute\n\nRuntimeError: boom\n\n',
    "Prompt executed in 0.02 seconds\n",
]
OTHER_THREAD = [
    "Exception in thread ", "Thread-12 (download)", ":\n", "Traceback (most recent call last):\n", *THREADING,
    '  File "', "/comfyui/custom_nodes/pack/execution_helper.py", '"', ", line ", "7", ", in ", "download", "\n",
    "OSError", "\n",
]  # fmt: skip


def entries(*pieces: str) -> list[dict[str, Any]]:
    return [{"t": "2026-11-28T21:27:01.924685", "m": piece} for piece in pieces]


@pytest.mark.parametrize(
    "pieces",
    [
        [*HEAD, *THREADING, *WORKER, *EXECUTE, *GRAPH, *END],
        # A long one, of which the head is no longer there, and after it others were still posting.
        [*THREADING, *WORKER, *EXECUTE, *GRAPH, *END, "got prompt\n"],
        # As newer versions of Python print it: a line at a time.
        ["Exception in thread Thread-1 (prompt_worker):\n", "Traceback (most recent call last):\n", "OSError: boom\n"],
        ["Prompt executed in 0.02 seconds\n", *HEAD, *END],
    ],
)
def test_the_end_of_the_thread_stands_in_the_log(pieces: list[str]) -> None:
    assert read_log(entries(*pieces)) is LogSays.DEAD


def test_the_end_of_a_long_traceback_through_the_executor_makes_it_probable() -> None:
    assert read_log(entries(*EXECUTE, *GRAPH, *END, "got prompt\n")) is LogSays.PROBABLY_DEAD


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        ["Starting server\n", "got prompt\n", "Prompt executed in 0.02 seconds\n"],
        NODE_ERROR,
        ["got prompt\n", *NODE_ERROR[:2]],
        [
            *EXECUTE,
            *GRAPH,
            *END,
            "Prompt executed in 0.02 seconds\n",
            "got prompt\n",
        ],  # printed by a node, which went on
        OTHER_THREAD,
    ],
)
def test_a_node_that_failed_and_other_threads_are_no_death(pieces: list[str]) -> None:
    assert read_log(entries(*pieces)) is LogSays.NOTHING


def test_a_log_may_hold_anything() -> None:
    assert read_log([None, 7, {}, {"m": 3}, {"m": None}, ["m"], {"t": "x", "m": "x" * 10**6}]) is LogSays.NOTHING
