"""Node types whose outputs are no still pictures: animations, videos, sounds and text."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from worker.standin import media
from worker.standin.growing_inputs import Groups, choosing
from worker.standin.image_nodes import SAVE_HIDDEN, prefix_input
from worker.standin.node_run import NodeRun
from worker.standin.nodes import Input, NodeType, Result, choice, decimal, integer, modern_choice
from worker.standin.values import Video
from worker.standin.versions import GROWING_INPUTS

if TYPE_CHECKING:
    from worker.standin.values import Images, Sound


async def _save_animated_webp(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    images: Images = inputs["images"]
    target = await run.in_thread(run.folders.target, inputs["filename_prefix"], "output", images[0].size)
    path = target.path(0, ".webp")
    await run.in_thread(media.write_animated_webp, path, images, inputs["fps"], inputs["lossless"], inputs["quality"])
    return _one_file(run, path, target.subfolder, "images", {"animated": [len(images) != 1]})


async def _save_webm(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    images: Images = inputs["images"]
    target = await run.in_thread(run.folders.target, inputs["filename_prefix"], "output", images[0].size)
    path = target.path(0, ".webm")
    await run.in_thread(media.write_webm, path, images, inputs["fps"])
    return _one_file(run, path, target.subfolder, "images", {"animated": [True]})


async def _save_sound(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    sound: Sound = inputs["audio"]
    target = await run.in_thread(run.folders.target, inputs["filename_prefix"], "output", (0, 0))
    path = target.path(0, ".flac")
    await run.in_thread(media.write_flac, path, sound)
    return _one_file(run, path, target.subfolder, "audio", {})


async def _create_video(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((Video(inputs["images"], inputs["fps"], inputs.get("audio")),))


async def _save_video(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Write WebM, for want of an H.264 encoder; ComfyUI writes MP4."""
    if (codec := inputs.get("codec", "auto")) not in _OLD_CODECS:
        raise ValueError(f"'{codec}' is not a valid VideoCodec")
    video: Video = inputs["video"]
    target = await run.in_thread(run.folders.target, inputs["filename_prefix"], "output", video.frames[0].size)
    path = target.path(0, ".webm")
    await run.in_thread(media.write_webm, path, video.frames, video.fps)
    return _one_file(run, path, target.subfolder, "images", {"animated": [True]})


_OLD_CODECS: Final = ("auto", "h264")


def _formats() -> Input:
    """Return the input of newer video savers for container, codec and quality; each choice adds the next input."""
    color_space = modern_choice(["auto", "sRGB", "HDR", "HDR PQ"], default="auto")
    again: Groups = {"required": {"crf": decimal(23.0, 0.0, 51.0, step=1.0), "color_space": color_space}}
    encoding: Groups = {"optional": {"encoding": choosing({"auto": {}, "re-encode": again})}}
    codecs: Groups = {"required": {"codec": choosing({"auto": {}, "h264": encoding, "av1": encoding})}}
    return choosing({"auto": codecs, "mp4": codecs, "mkv": codecs, "webm": codecs})


def _video_saver(how: Mapping[str, Input], **ages: Any) -> NodeType:
    """Return a saver of videos that is told so how to write them."""
    return NodeType(
        name="SaveVideo",
        display_name="Save Video",
        category="image/video",
        python_module="comfy_extras.nodes_video",
        modern=True,
        function="execute",
        run=_save_video,
        required={"video": Input("VIDEO"), "filename_prefix": prefix_input("video/ComfyUI"), **how},
        hidden=SAVE_HIDDEN,
        output_node=True,
        **ages,
    )


def _one_file(run: NodeRun, path: Path, subfolder: str, key: str, more: Mapping[str, Any]) -> Result:
    """Return the result of a node that wrote one file."""
    run.saved(subfolder, path.name)
    return Result(ui={key: [{"filename": path.name, "subfolder": subfolder, "type": "output"}], **more})


async def _preview_any(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    source = inputs["source"]
    text = source if isinstance(source, str) else _printed(source)
    return Result(ui={"text": [text]})


def _printed(value: Any) -> str:
    """Return a value as text."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        return repr(value)


def media_node_types() -> list[NodeType]:
    """Return the node types of this module."""
    images = Input("IMAGE")
    return [
        NodeType(
            name="SaveAnimatedWEBP",
            python_module="comfy_extras.nodes_images",
            category="image/animation",
            run=_save_animated_webp,
            required={
                "images": images,
                "filename_prefix": prefix_input(),
                "fps": decimal(6.0, 0.01, 1000.0, step=0.01),
                "lossless": Input("BOOLEAN", {"default": True}),
                "quality": integer(80, 0, 100),
                "method": choice(["default", "fastest", "slowest"]),
            },
            hidden=SAVE_HIDDEN,
            output_node=True,
        ),
        NodeType(
            name="SaveWEBM",
            category="image/video",
            python_module="comfy_extras.nodes_video",
            modern=True,
            run=_save_webm,
            required={
                "images": images,
                "filename_prefix": prefix_input(),
                "codec": modern_choice(["vp9", "av1"]),
                "fps": decimal(24.0, 0.01, 1000.0, step=0.01),
                "crf": decimal(32.0, 0.0, 63.0, step=1),
            },
            hidden=SAVE_HIDDEN,
            output_node=True,
        ),
        NodeType(
            name="CreateVideo",
            display_name="Create Video",
            category="image/video",
            python_module="comfy_extras.nodes_video",
            modern=True,
            run=_create_video,
            required={"images": images, "fps": decimal(30.0, 1.0, 120.0, step=1.0)},
            optional={"audio": Input("AUDIO")},
            outputs=("VIDEO",),
        ),
        _video_saver(
            {
                "format": modern_choice(["auto", "mp4"], default="auto"),
                "codec": modern_choice(list(_OLD_CODECS), default="auto"),
            },
            gone=GROWING_INPUTS,
        ),
        _video_saver({"format": _formats()}, since=GROWING_INPUTS),
        NodeType(
            name="SaveAudio",
            python_module="comfy_extras.nodes_audio",
            display_name="Save Audio (FLAC)",
            category="audio",
            run=_save_sound,
            required={"audio": Input("AUDIO"), "filename_prefix": prefix_input("audio/ComfyUI")},
            hidden=SAVE_HIDDEN,
            output_node=True,
        ),
        NodeType(
            name="PreviewAny",
            python_module="comfy_extras.nodes_preview_any",
            display_name="Preview Any",
            category="utils",
            run=_preview_any,
            required={"source": Input("*", {})},
            output_node=True,
        ),
    ]
