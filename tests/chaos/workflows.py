"""The graphs that jobs of a run ask for: slow, failing, poisonous, and saved over each other's files."""

from __future__ import annotations

from typing import Any, Final

POISONS: Final = ("system_exit", "base_exception", "keyboard_interrupt")
"""What a node raises so that its ComfyUI's execution thread ends; nothing tells of it before it is tried."""
CHECKPOINTS: Final = ("dreamshaper_8.safetensors", "sd_xl_base_1.0.safetensors")
"""Models between which backends change."""
SAVERS: Final[tuple[tuple[str, dict[str, str]], ...]] = (
    ("NoNameSaver", {}),
    ("FixedNameSaver", {"name": "chaos"}),
    ("PrefixIgnoringSaver", {"filename_prefix": "chaos"}),
    ("PathSaver", {"path": "chaos"}),
    ("OutputFileSaver", {"output_file": "chaos/picture.png"}),
)
"""Savers that write one file again and again, with their inputs besides the picture."""


def slow(color: int, seconds: float) -> dict[str, Any]:
    """Return a graph that takes so long, with progress, and saves one picture of this colour."""
    steps = max(2, round(seconds / 0.1))
    inputs = {"image": ["1", 0], "steps": steps, "seconds_per_step": seconds / steps, "seed": color}
    return _through(color, {"class_type": "SlowProgress", "inputs": inputs})


def from_picture(upload_id: str, seed: int, seconds: float) -> dict[str, Any]:
    """Return a slow graph that saves what it loads."""
    graph = slow(seed, seconds)
    graph["1"] = {"class_type": "LoadImage", "inputs": {"image": f"upload:{upload_id}"}}
    return graph


def failing(color: int) -> dict[str, Any]:
    """Return a graph of which one node fails."""
    return _through(color, _raising(message="as planned"))


def poisonous(color: int, variant: int) -> dict[str, Any]:
    """Return a graph that ends the execution thread of whatever runs it."""
    return _through(color, _raising(message="poison", kind=POISONS[variant % len(POISONS)]))


def saved_over(color: int, seconds: float, variant: int) -> dict[str, Any]:
    """Return a slow graph whose saver writes the same file as all others of this variant."""
    graph = slow(color, seconds)
    saver, inputs = SAVERS[variant % len(SAVERS)]
    graph["2"] = {"class_type": saver, "inputs": {"images": ["3", 0], **inputs}}
    return graph


def _raising(**inputs: Any) -> dict[str, Any]:
    return {"class_type": "RaiseError", "inputs": {"image": ["1", 0], **inputs}}


def _through(color: int, middle: dict[str, Any]) -> dict[str, Any]:
    """Return a graph with this node between the picture and the saver."""
    empty = {"width": 64, "height": 64, "batch_size": 1, "color": color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "3": middle,
        "2": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "chaos"}},
    }
