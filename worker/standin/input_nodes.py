"""Node types that read a file of the input folder: pictures, masks, sounds and latents."""

import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from worker.standin.files import Folders
from worker.standin.input_files import input_checks, read_sound
from worker.standin.mending import mended
from worker.standin.node_run import NodeRun
from worker.standin.nodes import Input, NodeError, NodeType, Result, choice, in_both_ages, modern_choice
from worker.standin.values import Images, Latent

_NO_MASK: Final = (64, 64)
"""The size of the mask of a picture that has no transparent part."""

_FROM_OUTPUT: Final = {
    "image_upload": True,
    "image_folder": "output",
    "remote": {"route": "/internal/files/output", "refresh_button": True, "control_after_refresh": "first"},
}
"""How the editor finds the choices of an input that names a file of the output folder."""


async def _load_image(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result(await run.in_thread(_read_pictures, run.folders.input_path(inputs["image"]), run.newer))


async def _load_mask(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Return one channel: of every frame from 0.33 on, before of the first, and never of another size than it."""
    newer, channel = run.newer, inputs["channel"]
    pictures, masks = await run.in_thread(_read_pictures, run.folders.input_path(inputs["image"]), newer)
    if channel != "alpha":
        masks = tuple(picture.getchannel(channel[0].upper()) for picture in pictures)
    if newer:
        return Result((masks,))
    first, size = masks[0], pictures[0].size
    return Result(((first if first.size == size else Image.new("L", size),),))


def _read_pictures(path: Path, newer: bool) -> tuple[Images, Images]:
    """Return the frames of a picture, turned upright, and the masks of their transparent parts.

    Raises
    ------
    NodeError, OSError
        If it is no picture, in ComfyUI's words.
    """
    try:
        with Image.open(path) as opened:
            return _frames(opened)
    except UnidentifiedImageError as error:
        raise _unreadable(path, str(error), newer=newer) from error
    except IsADirectoryError as error:
        raise NodeError(str(error), "av.error.IsADirectoryError" if newer else "IsADirectoryError") from error
    except OSError:
        if (whole := mended(path.read_bytes())) is None:
            raise
    with Image.open(io.BytesIO(whole)) as opened:
        return _frames(opened)


def _frames(opened: Image.Image) -> tuple[Images, Images]:
    """Return the frames of an open picture and their masks."""
    pictures: list[Image.Image] = []
    masks: list[Image.Image] = []
    for frame in ImageSequence.Iterator(opened):
        upright = ImageOps.exif_transpose(frame)
        picture = upright.convert("RGB")
        if not pictures or picture.size == pictures[0].size:
            pictures.append(picture)
            masks.append(_mask_of(upright))
    return tuple(pictures), tuple(masks)


def _mask_of(picture: Image.Image) -> Image.Image:
    """Return the mask of what is transparent in a picture: white there."""
    if "A" in picture.getbands() or "transparency" in picture.info:
        return ImageOps.invert(picture.convert("RGBA").getchannel("A"))
    return Image.new("L", _NO_MASK)


def _unreadable(path: Path, message: str, *, newer: bool) -> NodeError:
    """Return the error of a file that is no picture: from 0.33 on another library looks first."""
    if newer and (path.suffix.lower() != ".png" or not path.stat().st_size):
        text = f"[Errno 1094995529] Invalid data found when processing input: '{path}'"
        return NodeError(text, "av.error.InvalidDataError")
    return NodeError(message, "PIL.UnidentifiedImageError")


async def _load_latent(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    data = await run.in_thread(run.folders.input_path(inputs["latent"]).read_bytes)
    (length,) = struct.unpack_from("<Q", data)
    batch, _, height, width = json.loads(data[8 : 8 + length])["latent_tensor"]["shape"]
    return Result((Latent(width * 8, height * 8, batch),))


async def _load_sound(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((await run.in_thread(read_sound, run.folders.input_path(inputs["audio"])),))


def input_node_types(folders: Folders) -> list[NodeType]:
    """Return the node types of this module."""
    pictures = choice(lambda: folders.input_files("image"), image_upload=True)
    channel = choice(["alpha", "red", "green", "blue"])
    sounds, uploaded = lambda: folders.input_files("audio", "video"), {"audio_upload": True}
    return [
        *in_both_ages(
            NodeType(
                name="LoadImage",
                display_name="Load Image",
                function="load_image",
                run=_load_image,
                required={"image": pictures},
                outputs=("IMAGE", "MASK"),
                **input_checks(folders, "LoadImage.VALIDATE_INPUTS", "image", "image"),
            ),
            aliases=(
                "load image",
                "open image",
                "import image",
                "image input",
                "upload image",
                "read image",
                "image loader",
            ),
            essentials="Basics",
        ),
        *in_both_ages(
            NodeType(
                name="LoadImageMask",
                display_name="Load Image (as Mask)",
                category="mask",
                function="load_image",
                run=_load_mask,
                required={"image": choice(folders.input_files, image_upload=True), "channel": channel},
                outputs=("MASK",),
                **input_checks(folders, "LoadImageMask.VALIDATE_INPUTS", "image", "image"),
            ),
            category="image",
            function="load_image_mask",
            required={"image": pictures, "channel": channel},
            aliases=("import mask", "alpha mask", "channel mask"),
            essentials="Image Tools",
        ),
        *in_both_ages(
            NodeType(
                name="LoadImageOutput",
                display_name="Load Image (from Outputs)",
                description="Loads a picture that an earlier job saved.",
                experimental=True,
                function="load_image",
                run=_load_image,
                required={"image": Input("COMBO", _FROM_OUTPUT)},
                outputs=("IMAGE", "MASK"),
                **input_checks(folders, "LoadImageOutput.VALIDATE_INPUTS", "image", "image"),
            ),
            aliases=("output image", "previous generation"),
            essentials="Basics",
        ),
        *in_both_ages(
            NodeType(
                name="LoadAudio",
                display_name="Load Audio",
                category="audio",
                python_module="comfy_extras.nodes_audio",
                function="load",
                run=_load_sound,
                required={"audio": choice(sounds, **uploaded)},
                outputs=("AUDIO",),
                **input_checks(folders, "LoadAudio.VALIDATE_INPUTS", "audio", "audio"),
            ),
            modern=True,
            function="execute",
            required={"audio": modern_choice(sounds, **uploaded)},
            aliases=("import audio", "open audio", "audio file"),
            essentials="Audio",
            **input_checks(folders, "LoadAudio.validate_inputs", "audio", "audio"),
        ),
        *in_both_ages(
            NodeType(
                name="LoadLatent",
                category="_for_testing",
                function="load",
                run=_load_latent,
                required={"latent": choice(lambda: folders.input_files(suffix=".latent"))},
                outputs=("LATENT",),
                **input_checks(folders, "LoadLatent.VALIDATE_INPUTS", "latent", "latent"),
            ),
            display_name="Load Latent",
            category="model/latent",
            aliases=("import latent", "open latent"),
        ),
    ]
