"""Node types that write files other than pictures and videos: latents, sounds, meshes, drawings, models."""

import json
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from worker.standin import media
from worker.standin.image_nodes import SAVE_HIDDEN, prefix_input
from worker.standin.node_run import NodeRun
from worker.standin.nodes import Input, NodeType, Result, Run, choice

if TYPE_CHECKING:
    from worker.standin.values import Latent, Sound

_MP3_FRAME: Final = b"\xff\xfb\x90\x00" + bytes(413)
"""26 ms of silence: MPEG 1, layer III, 128 kbit/s, 44.1 kHz."""
_MP3_FRAME_S: Final = 1152 / 44_100

_GLTF: Final = {"asset": {"version": "2.0", "generator": "stand-in"}, "scenes": [{"nodes": []}], "scene": 0}


async def _save(run: NodeRun, prefix: str, suffix: str, key: str, data: bytes, kind: str = "output") -> Result:
    """Write one file and name it."""
    target = await run.in_thread(run.folders.target, prefix, kind, (0, 0))
    path = target.path(0, suffix)
    await run.in_thread(path.write_bytes, data)
    run.saved(target.subfolder, path.name)
    return Result(ui={key: [{"filename": path.name, "subfolder": target.subfolder, "type": kind}]})


async def _save_latent(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    latent: Latent = inputs["samples"]
    shape = [latent.batch_size, 4, latent.height // 8, latent.width // 8]
    return await _save(run, inputs["filename_prefix"], ".latent", "latents", _safetensors("latent_tensor", shape))


async def _save_clip(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Write a model and say nothing of it."""
    await _save(run, inputs["filename_prefix"], ".safetensors", "", _safetensors("weight", [4]))
    return Result()


def _safetensors(name: str, shape: list[int]) -> bytes:
    """Return a file of one tensor that is zero throughout."""
    count = 4
    for side in shape:
        count *= side
    header = json.dumps({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, count]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(count)


async def _save_mp3(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Write a silence of the sound's length, for want of an encoder."""
    sound: Sound = inputs["audio"]
    frames = max(1, round(len(sound.samples) / sound.rate / _MP3_FRAME_S))
    return await _save(run, inputs["filename_prefix"], ".mp3", "audio", _MP3_FRAME * frames)


async def _preview_sound(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    target = await run.in_thread(run.folders.target, run.folders.temporary_prefix(), "temp", (0, 0))
    path = target.path(0, ".flac")
    await run.in_thread(media.write_flac, path, inputs["audio"])
    run.saved(target.subfolder, path.name)
    return Result(ui={"audio": [{"filename": path.name, "subfolder": target.subfolder, "type": "temp"}]})


async def _save_mesh(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    body = json.dumps(_GLTF).encode()
    body += b" " * (-len(body) % 4)
    data = struct.pack("<4sII", b"glTF", 2, 20 + len(body)) + struct.pack("<I4s", len(body), b"JSON") + body
    return await _save(run, inputs["filename_prefix"], ".glb", "3d", data)


async def _save_svg(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return await _save(run, inputs["filename_prefix"], ".svg", "images", inputs["svg"])


def file_node_types() -> list[NodeType]:
    """Return the node types of this module."""
    return [
        _saver(
            "SaveLatent", _save_latent, {"samples": Input("LATENT"), "filename_prefix": prefix_input("latents/ComfyUI")}
        ),
        _saver("CLIPSave", _save_clip, _saved("clip", "CLIP", "clip/ComfyUI")),
        _saver(
            "SaveAudioMP3",
            _save_mp3,
            {**_saved("audio", "AUDIO", "audio/ComfyUI"), "quality": choice(["V0", "128k", "320k"])},
        ),
        _saver("PreviewAudio", _preview_sound, {"audio": Input("AUDIO")}),
        _saver("SaveGLB", _save_mesh, _saved("mesh", "MESH", "mesh/ComfyUI")),
        _saver("SaveSVGNode", _save_svg, _saved("svg", "SVG", "svg/ComfyUI")),
    ]


def _saved(name: str, kind: str, prefix: str) -> dict[str, Input]:
    """Return the inputs of a saver: what it saves, and under which name."""
    return {name: Input(kind), "filename_prefix": prefix_input(prefix)}


def _saver(name: str, run: Run, required: Mapping[str, Input]) -> NodeType:
    """Return an output node."""
    return NodeType(name=name, run=run, required=required, hidden=SAVE_HIDDEN, output_node=True, category="savers")
