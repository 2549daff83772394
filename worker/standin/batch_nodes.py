"""Node types that work through a long video piece by piece: the prompt queues itself again until all is done."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image

from worker.standin import media
from worker.standin.image_nodes import prefix_input, refuse_too_large
from worker.standin.node_run import NodeRun
from worker.standin.nodes import Input, NodeType, Result, choice, decimal, integer
from worker.standin.values import Images

_MANAGER: Final = "VHS_BatchManager"
_COMBINER: Final = "VHS_VideoCombine"


@dataclass(slots=True)
class MetaBatch:
    """The progress of a batch, kept between prompts; a prompt that the batch did not queue itself resets it."""

    frames_per_batch: int
    given: dict[str, int] = field(default_factory=dict)
    """Frames that each source has given."""
    written: dict[str, Images] = field(default_factory=dict)
    """Frames that each saver holds open."""
    closed: bool = False
    """Whether a source has given its last frame."""
    saved: int = 0
    """Savers that have run in this prompt."""


async def _manage(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Return the state of the batch: the previous prompt's state if that prompt queued this one, else a new state."""
    batch = run.objects.get(run.node_id)
    if not isinstance(batch, MetaBatch) or not run.graph[run.node_id]["inputs"].get("requeue"):
        batch = run.objects[run.node_id] = MetaBatch(inputs["frames_per_batch"])
    batch.saved = 0
    return Result((batch,))


async def _make_frames(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Return the frames that are next, each of another colour."""
    total, batch = inputs["frames"], inputs.get("meta_batch")
    refuse_too_large(inputs["width"], inputs["height"], total)
    first, last = 0, total
    if batch is not None:
        first = batch.given.get(run.node_id, 0)
        last = min(total, first + batch.frames_per_batch)
        batch.given[run.node_id] = last
        batch.closed = batch.closed or last == total
    for frame in range(first, last):
        await run.take_time(inputs.get("seconds_per_frame", 0.0))
        await run.progress(frame + 1 - first, last - first)
    size = (inputs["width"], inputs["height"])
    colors = [(inputs["color"] + frame * 0x010305) % 0x1000000 for frame in range(first, last)]
    pixels = [(color >> 16 & 255, color >> 8 & 255, color & 255) for color in colors]
    return Result((tuple(Image.new("RGB", size, pixel) for pixel in pixels),))


async def _combine(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Write all frames at once, or, of a batch, once the last ones have come."""
    images, batch = inputs["images"], inputs.get("meta_batch")
    if batch is not None:
        images = batch.written[run.node_id] = (*batch.written.get(run.node_id, ()), *images)
        batch.saved += 1
        if not batch.closed:
            if batch.saved == _savers(run.graph):
                _queue_again(run)
            return Result(ui={"unfinished_batch": [True]})
        del batch.written[run.node_id]
    return await _write(run, images, inputs)


def _savers(graph: Mapping[str, Any]) -> int:
    """Return the number of savers that are linked to a manager. The last one to run queues the prompt again."""
    managers = [node_id for node_id, node in graph.items() if node["class_type"] == _MANAGER]
    savers = [node for node in graph.values() if node["class_type"] == _COMBINER]
    return sum([node_id, 0] in node["inputs"].values() for node in savers for node_id in managers)


def _queue_again(run: NodeRun) -> None:
    """Queue the running prompt again for the same client, in front of all others and without validation.

    The managers' `requeue` input is increased in place. The running prompt shares these inputs, so its history entry
    shows the new value too.
    """
    if run.queue.running is None:
        return
    _, _, graph, extra, targets = run.queue.running
    for node in graph.values():
        if node["class_type"] == _MANAGER:
            node["inputs"]["requeue"] = node["inputs"].get("requeue", 0) + 1
    run.queue.put((-run.queue.next_number(), str(uuid.uuid4()), dict(graph), extra, targets))


async def _write(run: NodeRun, images: Images, inputs: Mapping[str, Any]) -> Result:
    """Write the video and name it."""
    target = await run.in_thread(run.folders.target, inputs["filename_prefix"], "output", images[0].size)
    container = str(inputs["format"]).rpartition("/")[2]
    path = target.path(0, f".{container}")
    write = media.write_webm if container == "webm" else media.write_gif
    await run.in_thread(write, path, images, inputs["frame_rate"])
    run.saved(target.subfolder, path.name)
    shown = {
        "filename": path.name,
        "subfolder": target.subfolder,
        "type": "output",
        "format": inputs["format"],
        "frame_rate": inputs["frame_rate"],
    }
    return Result(ui={"gifs": [shown]})


def batch_node_types() -> list[NodeType]:
    """Return the node types of this module."""
    batch = Input(_MANAGER)
    suite: dict[str, Any] = {"category": "Video Helper Suite", "python_module": "custom_nodes.comfyui-videohelpersuite"}
    return [
        NodeType(
            name=_MANAGER,
            display_name="Meta Batch Manager",
            function="update_batch",
            run=_manage,
            required={"frames_per_batch": integer(16, 1, 2**53 - 1, step=1)},
            hidden={"prompt": "PROMPT", "unique_id": "UNIQUE_ID"},
            outputs=(_MANAGER,),
            output_names=("meta_batch",),
            **suite,
        ),
        NodeType(
            name="BatchFrames",
            run=_make_frames,
            required={
                "frames": integer(16, 1, 4096),
                "width": integer(64, 1, 16384),
                "height": integer(64, 1, 16384),
                "color": integer(0, 0, 0xFFFFFF),
            },
            optional={"meta_batch": batch, "seconds_per_frame": decimal(0.0, 0.0, 600.0, step=0.01)},
            outputs=("IMAGE",),
            category="acceptance",
            python_module="custom_nodes.acceptance_nodes",
        ),
        NodeType(
            name=_COMBINER,
            display_name="Video Combine",
            function="combine_video",
            run=_combine,
            required={
                "images": Input("IMAGE"),
                "frame_rate": decimal(8.0, 1.0, 1000.0, step=1),
                "loop_count": integer(0, 0, 100),
                "filename_prefix": prefix_input("AnimateDiff"),
                "format": choice(["image/gif", "video/webm"]),
                "pingpong": Input("BOOLEAN", {"default": False}),
                "save_output": Input("BOOLEAN", {"default": True}),
            },
            optional={"meta_batch": batch},
            output_node=True,
            **suite,
        ),
    ]
