"""Node types that read a video: what is in it is drawn from the digest of the file, for want of a decoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageChops

from worker.standin import drawing
from worker.standin.files import Folders
from worker.standin.input_files import digest_of, input_checks, read_sound
from worker.standin.node_run import NodeRun
from worker.standin.nodes import (
    Input,
    NodeError,
    NodeType,
    Result,
    choice,
    decimal,
    in_both_ages,
    integer,
    modern_choice,
)
from worker.standin.values import Images, Recipe, Video

FRAMES: Final = 16
FPS: Final = 8.0
SIZE: Final = (96, 64)
"""What every video has here."""

_SHIFT: Final = 6
"""Pixels that the picture moves from frame to frame."""

_MOST: Final = 2**53 - 1
_SUFFIXES: Final = (".webm", ".mp4", ".mkv", ".gif", ".mov")


async def _load_video(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((await run.in_thread(_read_video, run.folders.input_path(inputs["file"])),))


def _read_video(path: Path) -> Video:
    """Return what stands for a video file: the same for the same bytes, whatever they are."""
    first = drawing.draw(Recipe(digest_of(path)), SIZE)
    frames = tuple(ImageChops.offset(first, _SHIFT * index, 0) for index in range(FRAMES))
    return Video(frames, FPS, read_sound(path))


async def _take_apart(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    video: Video = inputs["video"]
    told: tuple[Any, ...] = (video.frames, video.sound, float(video.fps))
    return Result((*told, 8, "sRGB") if run.newer else told)


async def _load_chosen_frames(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Return the frames that are asked for, their number, the sound, and what is known of both."""
    video = await run.in_thread(_read_video, run.folders.input_path(inputs["video"]))
    rate = inputs["force_rate"] or video.fps
    count = int(len(video.frames) / video.fps * rate)
    frames = [video.frames[min(int(index * video.fps / rate), len(video.frames) - 1)] for index in range(count)]
    frames = frames[inputs["skip_first_frames"] :: inputs["select_every_nth"]]
    frames = frames[: inputs["frame_load_cap"] or None]
    if not frames:
        raise NodeError("No frames generated")
    size = _size(video.frames[0].size, inputs["custom_width"], inputs["custom_height"])
    images: Images = tuple(frame if frame.size == size else frame.resize(size) for frame in frames)
    loaded_fps = rate / inputs["select_every_nth"]
    info = {
        **_described("source", video.fps, len(video.frames), video.frames[0]),
        **_described("loaded", loaded_fps, len(images), images[0]),
    }
    return Result((images, len(images), video.sound, info))


def _size(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """Return the size of the frames: 0 keeps what the video has, or the ratio; both are multiples of 8."""
    if not width and not height:
        return size
    wide = width or size[0] * height / size[1]
    high = height or size[1] * width / size[0]
    return max(8, int(wide / 8 + 0.5) * 8), max(8, int(high / 8 + 0.5) * 8)


def _described(what: str, fps: float, count: int, frame: Image.Image) -> dict[str, float]:
    """Return what the suite tells of a video before or after loading."""
    return {
        f"{what}_fps": fps,
        f"{what}_frame_count": count,
        f"{what}_duration": count / fps,
        f"{what}_width": frame.width,
        f"{what}_height": frame.height,
    }


def _suite_checks(folders: Folders) -> dict[str, Any]:
    """Return the check of a function that takes all inputs: what it finds stands at each of them."""
    checks = input_checks(folders, "VHS_LoadVideo.VALIDATE_INPUTS", "video", "video")

    def check(inputs: Mapping[str, Any]) -> Mapping[str, str]:
        found = checks["check"](inputs)
        return dict.fromkeys([*inputs, "unique_id"], found["video"]) if found else {}

    return {"check": check, "fingerprint": checks["fingerprint"], "checks_all": True}


def video_node_types(folders: Folders) -> list[NodeType]:
    """Return the node types of this module."""
    core: dict[str, Any] = {"python_module": "comfy_extras.nodes_video", "modern": True, "function": "execute"}
    return [
        *in_both_ages(
            NodeType(
                name="LoadVideo",
                display_name="Load Video",
                category="image/video",
                run=_load_video,
                required={"file": modern_choice(lambda: folders.input_files("video"), video_upload=True)},
                outputs=("VIDEO",),
                **core,
                **input_checks(folders, "LoadVideo.validate_inputs", "file", "video", by_date=True),
            ),
            category="video",
            aliases=("import video", "open video", "video file"),
            essentials="Basics",
        ),
        *in_both_ages(
            NodeType(
                name="GetVideoComponents",
                display_name="Get Video Components",
                description="Takes a video apart.",
                category="image/video",
                run=_take_apart,
                required={"video": Input("VIDEO", {"tooltip": "The video to take apart."})},
                outputs=("IMAGE", "AUDIO", "FLOAT"),
                output_names=("images", "audio", "fps"),
                **core,
            ),
            category="video",
            outputs=("IMAGE", "AUDIO", "FLOAT", "INT", "COMBO"),
            output_names=("images", "audio", "fps", "bit_depth", "color_space"),
            aliases=("extract frames", "split video", "video to images", "demux"),
        ),
        NodeType(
            name="VHS_LoadVideo",
            display_name="Load Video (Upload)",
            category="Video Helper Suite",
            python_module="custom_nodes.comfyui-videohelpersuite",
            function="load_video",
            run=_load_chosen_frames,
            required={
                "video": choice(lambda: folders.input_files(suffix=_SUFFIXES), video_upload=True),
                "force_rate": decimal(0, 0, 60, step=1, disable=0),
                "custom_width": integer(0, 0, 8192, disable=0),
                "custom_height": integer(0, 0, 8192, disable=0),
                "frame_load_cap": integer(0, 0, _MOST, step=1, disable=0),
                "skip_first_frames": integer(0, 0, _MOST, step=1),
                "select_every_nth": integer(1, 1, _MOST, step=1),
            },
            hidden={"unique_id": "UNIQUE_ID"},
            outputs=("IMAGE", "INT", "AUDIO", "VHS_VIDEOINFO"),
            output_names=("IMAGE", "frame_count", "audio", "video_info"),
            **_suite_checks(folders),
        ),
    ]
