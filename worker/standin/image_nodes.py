"""Node types that make and save pictures."""

import io
import json
import struct
import threading
import uuid
import weakref
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from PIL import Image

from worker.standin.files import Folders
from worker.standin.node_run import NodeRun
from worker.standin.nodes import Input, NodeOutOfMemoryError, NodeType, Result, in_both_ages, integer
from worker.standin.options import StandinOptions
from worker.standin.values import Images
from worker.standin.versions import LINKS_NOTED, parse_version

MOST_PIXELS: Final = 256 * 1024 * 1024
"""Larger batches are answered with "out of memory", as on a real card."""

_HEAD_BYTES: Final = 33
"""Of a PNG: its mark and its header."""
_PACKED: Final[dict[int, bytes]] = {}
_PACKING: Final = threading.Lock()
SAVE_HIDDEN: Final = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}

_PREFIX_HELP: Final = (
    "The prefix for the file to save. This may include formatting information such as %date:yyyy-MM-dd% or "
    "%Empty Latent Image.width% to include values from nodes."
)


def refuse_too_large(width: int, height: int, batch_size: int) -> None:
    """Raise if a batch is more than a real card would hold."""
    if width * height * batch_size > MOST_PIXELS:
        gibibytes = width * height * batch_size * 12 / 2**30
        raise NodeOutOfMemoryError(f"CUDA out of memory. Tried to allocate {gibibytes:.2f} GiB")


def hands_on(options: StandinOptions) -> bool:
    """Tell whether a saver gives its pictures to the next node, as it does from 0.33 on."""
    return parse_version(options.version) >= LINKS_NOTED


def prefix_input(default: str = "ComfyUI") -> Input:
    """Return the input that names the files."""
    return Input("STRING", {"default": default, "tooltip": _PREFIX_HELP})


async def _empty_image(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    refuse_too_large(inputs["width"], inputs["height"], inputs["batch_size"])
    color = inputs["color"]
    pixel = (color >> 16 & 255, color >> 8 & 255, color & 255)
    picture = Image.new("RGB", (inputs["width"], inputs["height"]), pixel)
    return Result(((picture,) * inputs["batch_size"],))


async def _save_image(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return await _save(run, inputs["images"], inputs["filename_prefix"], "output")


async def _preview_image(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return await _save(run, inputs["images"], run.folders.temporary_prefix(), "temp")


async def _save(run: NodeRun, images: Images, prefix: str, kind: str) -> Result:
    """Write a batch as PNG files and name them."""
    named = await save_pictures(run, images, prefix, kind)
    return Result((images,) if hands_on(run.options) else (), {"images": named})


async def save_pictures(run: NodeRun, images: Images, prefix: str, kind: str) -> list[dict[str, str]]:
    """Write a batch as PNG files and return how they are named to clients."""
    subfolder, names = await run.in_thread(_write_batch, run.folders, images, prefix, kind, run.text_chunks())
    for name in names:
        run.saved(subfolder, name)
    return [{"filename": name, "subfolder": subfolder, "type": kind} for name in names]


def _write_batch(
    folders: Folders, images: Images, prefix: str, kind: str, chunks: Mapping[str, Any]
) -> tuple[str, list[str]]:
    """Write the files of a batch; return their subfolder and names."""
    target = folders.target(prefix, kind, images[0].size)
    paths = [target.path(index, ".png") for index in range(len(images))]
    for picture, path in zip(images, paths, strict=True):
        _write_png(picture, path, chunks)
    return target.subfolder, [path.name for path in paths]


def _write_png(picture: Image.Image, path: Path, chunks: Mapping[str, Any]) -> None:
    """Write a PNG with its text chunks, which come behind its header."""
    packed = _packed(picture)
    with path.open("wb") as file:
        file.write(packed[:_HEAD_BYTES])
        for key, value in chunks.items():
            _write_chunk(file, b"tEXt", key.encode() + b"\0" + json.dumps(value).encode())
        file.write(packed[_HEAD_BYTES:])


def _write_chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


def _packed(picture: Image.Image) -> bytes:
    """Return a PNG without text chunks, packed once however often a picture is saved, as long as a node has it."""
    number = id(picture)
    with _PACKING:
        if number not in _PACKED:
            buffer = io.BytesIO()
            picture.save(buffer, "PNG", compress_level=4)
            _PACKED[number] = buffer.getvalue()
            weakref.finalize(picture, _PACKED.pop, number, None).atexit = False
        return _PACKED[number]


async def _save_image_websocket(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    images: Images = inputs["images"]
    for index, picture in enumerate(images):
        await run.progress(index, len(images), await run.in_thread(png_bytes, picture), "PNG")
    run.count_as(len(images))
    return Result()


def png_bytes(picture: Image.Image) -> bytes:
    """Return a PNG without text chunks."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


async def _repeat(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    images: Images = inputs["image"]
    refuse_too_large(*images[0].size, len(images) * inputs["amount"])
    return Result((images * inputs["amount"],))


def image_node_types(options: StandinOptions) -> list[NodeType]:
    """Return the node types of this module."""
    handed_on: dict[str, Any] = {"outputs": ("IMAGE",), "output_names": ("images",)} if hands_on(options) else {}
    images = Input("IMAGE", {"tooltip": "The images to save."})
    return [
        NodeType(
            name="EmptyImage",
            function="generate",
            defaulted=frozenset({"batch_size", "color"}),
            run=_empty_image,
            required={
                "width": integer(512, 1, 16384, step=1),
                "height": integer(512, 1, 16384, step=1),
                "batch_size": integer(1, 1, 4096),
                "color": integer(0, 0, 0xFFFFFF, step=1, display="color"),
            },
            outputs=("IMAGE",),
        ),
        NodeType(
            name="SaveImage",
            function="save_images",
            defaulted=frozenset({"filename_prefix"}),
            display_name="Save Image",
            description="Saves the input images to your ComfyUI output directory.",
            run=_save_image,
            required={"images": images, "filename_prefix": prefix_input()},
            hidden=SAVE_HIDDEN,
            output_node=True,
            **handed_on,
        ),
        NodeType(
            name="PreviewImage",
            display_name="Preview Image",
            description="Saves the input images to your ComfyUI output directory.",
            run=_preview_image,
            required={"images": Input("IMAGE")},
            hidden=SAVE_HIDDEN,
            output_node=True,
            **handed_on,
        ),
        NodeType(
            name="SaveImageWebsocket",
            python_module="custom_nodes.websocket_image_save",
            category="api/image",
            run=_save_image_websocket,
            required={"images": Input("IMAGE")},
            output_node=True,
            fingerprint=lambda _: uuid.uuid4().hex,
        ),
        *in_both_ages(
            NodeType(
                name="RepeatImageBatch",
                category="image/batch",
                python_module="comfy_extras.nodes_images",
                function="repeat",
                run=_repeat,
                required={"image": Input("IMAGE"), "amount": integer(1, 1, 4096)},
                outputs=("IMAGE",),
            ),
            modern=True,
            function="execute",
            display_name="Repeat Image Batch",
            aliases=("duplicate image", "clone image"),
        ),
    ]
