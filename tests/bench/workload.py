"""The jobs of a run: graphs of a known length, no two alike, so that nothing is cached that should run."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any, Final

from tests.bench.service import PICTURE

Graph = dict[str, Any]

JOBS: Final = "/api/v1/generation-jobs/"
USER: Final = "bench"
PICTURES: Final = 5
"""Of about 4 MB each in a heavy job."""
HEAVY_BYTES: Final = 20_000_000
_STEP_S: Final = 0.1
_numbers = itertools.count(1)


def instant() -> Graph:
    """Return the cheapest graph that leaves a picture."""
    number = next(_numbers)
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": number}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": f"bench-{number}"}},
    }


def lasting(seconds: float, step_s: float = _STEP_S) -> Graph:
    """Return a graph that keeps the backend busy for so long, and tells its progress after each step."""
    return _slowed(instant(), ["1", 0], seconds, step_s)


def with_checkpoint(checkpoint: str, seconds: float) -> Graph:
    """Return a graph that needs this checkpoint in memory, and then lasts so long."""
    graph = _slowed(instant(), ["8", 0], seconds)
    sampling = {"seed": next(_numbers), "steps": 1, "cfg": 7.0, "denoise": 1.0}
    sampling |= {"sampler_name": "euler", "scheduler": "normal"}
    linked = {"model": ["4", 0], "positive": ["5", 0], "negative": ["5", 0], "latent_image": ["6", 0]}
    del graph["1"]
    return graph | {
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "5": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse", "clip": ["4", 1]}},
        "6": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "7": {"class_type": "KSampler", "inputs": sampling | linked},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["7", 0], "vae": ["4", 2]}},
    }


def heavy(seconds: float) -> Graph:
    """Return a graph that lasts so long and leaves 20 MB."""
    graph = _slowed(instant(), ["1", 0], seconds)
    graph["2"] = {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}}
    return graph | pictures(PICTURES)


def pictures(count: int) -> Graph:
    """Return a graph that leaves so many pictures of about 4 MB, and takes no time.

    They are previews of an input: ComfyUI has them at hand, and spends no time on drawing or packing them.
    """
    graph: Graph = {"4": {"class_type": "LoadImage", "inputs": {"image": PICTURE}}}
    for number in range(5, 5 + count):
        graph[str(number)] = {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}}
    return graph


def lengths(count: int, between: tuple[float, float]) -> list[float]:
    """Return so many lengths in seconds, evenly spread and shuffled, the same ones in each run."""
    low, high = between
    found = [low + (high - low) * (number + 0.5) / count for number in range(count)]
    random.Random(count).shuffle(found)
    return found


def job_body(graph: Graph, **more: str) -> bytes:
    """Return the body of a POST that submits the graph, with these fields besides."""
    return json.dumps({"user_id": USER, "job_type": "workflow", "workflow": graph} | more).encode()


def _slowed(graph: Graph, picture: list[Any], seconds: float, step_s: float = _STEP_S) -> Graph:
    """Let node 2 wait for a node that takes so long, and tells its progress."""
    steps = max(1, round(seconds / step_s))
    timing = {"steps": steps, "seconds_per_step": seconds / steps, "seed": next(_numbers)}
    graph["3"] = {"class_type": "SlowProgress", "inputs": {"image": picture} | timing}
    graph["2"]["inputs"]["images"] = ["3", 0]
    return graph
