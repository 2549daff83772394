"""Outputs that are no still pictures."""

import hashlib
import struct
from io import BytesIO
from typing import Any

from PIL import Image
from unit.standin.standin_client import Client, image_graph

from worker.standin.tones import compose
from worker.standin.values import Recipe


async def output_of(client: Client, graph: dict[str, Any], node: str, key: str) -> tuple[dict[str, Any], bytes]:
    """Run a graph and return what a node shows and its file."""
    entry = await client.run(graph)
    assert entry["status"]["completed"] is True, entry["status"]
    shown = entry["outputs"][node]
    named = {name: shown[key][0][name] for name in ("filename", "subfolder", "type")}
    status, data = await client.get("/view", **named)
    assert status == 200
    return shown, data


def animation(class_type: str, **inputs: Any) -> dict[str, Any]:
    """Return a graph that ends in an animation of three pictures."""
    graph = image_graph(width=48, height=32, batch_size=3)
    graph["2"] = {"class_type": class_type, "inputs": {"images": ["1", 0], "filename_prefix": "film", **inputs}}
    return graph


async def test_an_animated_webp_has_all_frames(client: Client) -> None:
    graph = animation("SaveAnimatedWEBP", fps=10.0, lossless=False, quality=70, method="default")
    graph["1"] = {"class_type": "EmptyLatentImage", "inputs": {"width": 48, "height": 32, "batch_size": 3}}
    graph |= sampled("1")
    graph["2"]["inputs"]["images"] = ["13", 0]
    shown, data = await output_of(client, graph, "2", "images")
    assert shown["animated"] == [True]
    with Image.open(BytesIO(data)) as picture:
        assert (picture.format, picture.size, getattr(picture, "n_frames", 1)) == ("WEBP", (48, 32), 3)


def sampled(latent: str) -> dict[str, Any]:
    """Return the nodes that sample and decode a latent, the last one being 13."""
    settings = {"seed": 5, "steps": 2, "cfg": 7, "sampler_name": "euler", "scheduler": "karras", "denoise": 1}
    links = {"model": ["10", 0], "positive": ["11", 0], "negative": ["11", 0], "latent_image": [latent, 0]}
    return {
        "10": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "dreamshaper_8.safetensors"}},
        "11": {"class_type": "CLIPTextEncode", "inputs": {"text": "calm ocean", "clip": ["10", 1]}},
        "12": {"class_type": "KSampler", "inputs": {**settings, **links}},
        "13": {"class_type": "VAEDecode", "inputs": {"samples": ["12", 0], "vae": ["10", 2]}},
    }


async def test_a_video_is_webm_of_vp8_key_frames(client: Client) -> None:
    graph = animation("SaveWEBM", codec="vp9", fps=24.0, crf=32.0)
    _, data = await output_of(client, graph, "2", "images")
    assert data.startswith(b"\x1a\x45\xdf\xa3")
    assert b"webm" in data[:96]
    assert data.count(b"\x9d\x01\x2a" + struct.pack("<HH", 48, 32)) == 3, "the start code of each VP8 key frame"


async def test_a_custom_node_shows_its_file_under_another_key(client: Client) -> None:
    settings = {"frame_rate": 8, "loop_count": 0, "format": "image/gif", "pingpong": False, "save_output": True}
    shown, data = await output_of(client, animation("VHS_VideoCombine", **settings), "2", "gifs")
    assert data[:6] == b"GIF89a"
    assert shown["gifs"][0]["format"] == "image/gif"


async def test_a_created_video_is_saved(client: Client) -> None:
    graph = image_graph(batch_size=2)
    graph["3"] = {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 12}}
    inputs = {"video": ["3", 0], "filename_prefix": "video/x", "format": "auto", "codec": "auto"}
    graph["2"] = {"class_type": "SaveVideo", "inputs": inputs}
    shown, data = await output_of(client, graph, "2", "images")
    assert shown["images"][0]["subfolder"] == "video"
    assert data.startswith(b"\x1a\x45\xdf\xa3")


async def test_a_sound_is_flac_under_the_key_audio(client: Client) -> None:
    graph = sampled("1")
    graph["1"] = {"class_type": "EmptyLatentAudio", "inputs": {"seconds": 1.0, "batch_size": 1}}
    graph["13"]["class_type"] = "VAEDecodeAudio"
    graph["2"] = {"class_type": "SaveAudio", "inputs": {"audio": ["13", 0], "filename_prefix": "audio/song"}}
    shown, data = await output_of(client, graph, "2", "audio")
    assert shown == {"audio": [{"filename": "song_00001_.flac", "subfolder": "audio", "type": "output"}]}
    assert data[:4] == b"fLaC"
    packed = int.from_bytes(data[18:26], "big")
    rate, count = packed >> 44, packed & (1 << 36) - 1
    assert (rate, count) == (22_050, 22_050)
    samples = b""
    position = 42
    while position < len(data):
        block = min(4096, count - len(samples) // 2)
        header = 5 + 2 + 1 + 1  # sync to frame number, block size, checksum, subframe
        body = data[position + header : position + header + 2 * block]
        samples += struct.pack(f"<{block}h", *struct.unpack(f">{block}h", body))
        position += header + 2 * block + 2
    assert hashlib.md5(samples, usedforsecurity=False).digest() == data[26:42]
    assert any(samples)


def test_other_words_make_another_melody() -> None:
    assert compose(Recipe("calm"), 1.0).samples != compose(Recipe("wild"), 1.0).samples


async def test_text_is_an_output_too(client: Client) -> None:
    graph: dict[str, Any] = {
        "1": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "two\nlines"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    assert (await client.run(graph))["outputs"] == {"2": {"text": ["two\nlines"]}}
