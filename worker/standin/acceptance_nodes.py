"""Node types for tests only: slow ones, failing ones, ones that block their output, ones that send messages."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from worker.standin.gpu_faults import GpuFault, broken
from worker.standin.node_run import NodeRun, preview_of
from worker.standin.nodes import (
    Blocked,
    Input,
    NodeError,
    NodeOutOfMemoryError,
    NodeType,
    Result,
    Run,
    ThreadDiedError,
    choice,
    decimal,
    integer,
)
from worker.standin.tracebacks import Place

KINDS: Final = (
    "RuntimeError", "ValueError", "out_of_memory", "nul_in_message", "surrogate_in_message", "huge_message",
    "cuda_error", "system_exit", "base_exception", "keyboard_interrupt", "none",
)  # fmt: skip

_HUGE: Final = 6 * 1024 * 1024
"""Characters of a huge message: more than the 4 MiB that a WebSocket client takes by default."""


async def slow_progress(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    steps, seconds = inputs["steps"], inputs["seconds_per_step"] / run.options.speed
    if not inputs.get("interruptible", True):
        await asyncio.sleep(steps * seconds)
        return Result((inputs["image"],))
    preview = await run.in_thread(preview_of, inputs["image"][0]) if inputs.get("preview", False) else None
    loop = asyncio.get_running_loop()
    due = loop.time()
    for step in range(1, steps + 1):
        due += seconds
        await asyncio.sleep(max(0.0, due - loop.time()))
        await run.progress(step, steps, preview)
    return Result((inputs["image"],))


async def raise_error(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    await run.take_time(inputs.get("after_seconds", 0.0))
    message = inputs["message"]
    match inputs.get("kind", "RuntimeError"):
        case "none":
            return Result((inputs["image"],))
        case "out_of_memory":
            raise NodeOutOfMemoryError(message)
        case "system_exit":
            raise ThreadDiedError("a node raised SystemExit")
        case "surrogate_in_message":
            error = f"RuntimeError: {message}\ud800 after the surrogate"
            raise ThreadDiedError("the log cannot hold a lone surrogate", Place.MESSAGE, error)
        case "base_exception":
            error = f"/comfyui/custom_nodes/acceptance_nodes.Quiet: {message}"
            raise ThreadDiedError("a node raised a BaseException", Place.NODE, error)
        case "keyboard_interrupt":
            raise ThreadDiedError("a node raised KeyboardInterrupt", Place.NODE, f"KeyboardInterrupt: {message}")
        case "cuda_error":
            raise broken(GpuFault.CUDA)
        case "nul_in_message":
            raise NodeError(f"{message}\0 after the NUL")
        case "huge_message":
            raise NodeError(message + "x" * _HUGE)
        case kind:
            raise NodeError(message, kind)


async def _block_output(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((Blocked(inputs["message"] or None),))


async def _silent(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    await run.take_time(inputs["seconds"])
    return Result((inputs["image"],))


async def pass_on(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Return the picture and nothing else, whatever outputs were promised."""
    return Result((inputs["image"],))


async def _progress_text(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    run.text(inputs["text"])
    return Result((inputs["image"],))


def acceptance_node_types() -> list[NodeType]:
    """Return the node types of this module."""
    seed = integer(0, 0, 2**64 - 1)
    seconds = decimal(5.0, 0.0, 86_400.0, step=0.01)
    return [
        _node_type(
            "SlowProgress",
            slow_progress,
            {"steps": integer(5, 0, 10_000), "seconds_per_step": decimal(0.2, 0.0, 600.0, step=0.01)},
            {
                "preview": Input("BOOLEAN", {"default": False}),
                "interruptible": Input("BOOLEAN", {"default": True}),
                "seed": seed,
            },
        ),
        _node_type(
            "RaiseError",
            raise_error,
            {"message": Input("STRING", {"default": "boom"})},
            {
                "kind": choice(list(KINDS), default="RuntimeError"),
                "after_seconds": decimal(0.0, 0.0, 600.0),
                "number": decimal(0.0, -1e308, 1e308),
                "seed": seed,
            },
        ),
        _node_type("BlockOutput", _block_output, {"message": Input("STRING", {"default": ""})}),
        _node_type("ProgressText", _progress_text, {"text": Input("STRING", {"default": ""})}),
        _node_type("SilentNode", _silent, {"seconds": seconds}),
        _node_type("SilentSleep", _silent, {"seconds": seconds}),
        replace(
            _node_type("SlowChanged", pass_on, {"seconds": seconds}),
            fingerprint_seconds=lambda inputs: float(inputs["seconds"]),
        ),
        replace(_node_type("ShortOutput", pass_on, {}), outputs=("IMAGE", "MASK")),
        _node_type("OptionalMask", pass_on, {}, {"mask": Input("MASK")}),
        replace(_node_type("AnyInputs", pass_on, {}), takes_any=True),
    ]


def _node_type(
    name: str, run: Run, required: Mapping[str, Input], optional: Mapping[str, Input] | None = None
) -> NodeType:
    """Return a node type that passes a picture on."""
    return NodeType(
        name=name,
        run=run,
        required={"image": Input("IMAGE"), **required},
        optional=optional or {},
        outputs=("IMAGE",),
        category="acceptance",
        python_module="custom_nodes.acceptance_nodes",
    )
