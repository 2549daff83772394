"""Files of animations, videos and sounds, written without any codec but Pillow's."""

import io
import struct
import zlib
from pathlib import Path
from typing import Final

from PIL import Image

from worker.standin.flac import encode_flac
from worker.standin.values import Images, Sound

_VIDEO_QUALITY: Final = 80


def write_animated_webp(path: Path, images: Images, fps: float, lossless: bool, quality: int) -> None:
    """Write the pictures as one animation."""
    images[0].save(
        path,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=max(1, round(1000 / fps)),
        loop=0,
        lossless=lossless,
        quality=quality,
    )


def write_gif(path: Path, images: Images, fps: float) -> None:
    """Write the pictures as one animation."""
    images[0].save(path, "GIF", save_all=True, append_images=images[1:], duration=max(20, round(1000 / fps)), loop=0)


def write_deep_png(path: Path, picture: Image.Image) -> None:
    """Write a PNG of 16 bits a channel."""
    wide, high = picture.size
    data = picture.convert("RGB").tobytes()
    rows = (data[start : start + 3 * wide] for start in range(0, 3 * wide * high, 3 * wide))
    deep = b"".join(b"\0" + bytes(value for byte in row for value in (byte, byte)) for row in rows)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", wide, high, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(deep)),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def write_exr(path: Path, picture: Image.Image) -> None:
    """Write an OpenEXR of floats, a scan line a block, without compression.

    https://openexr.com/en/latest/OpenEXRFileLayout.html
    """
    wide, high = picture.size
    window = struct.pack("<4i", 0, 0, wide - 1, high - 1)
    channels = b"".join(name + struct.pack("<BiB3xii", 0, 2, 0, 1, 1) for name in (b"B", b"G", b"R")) + b"\0"
    attributes = (
        (b"channels", b"chlist", channels),
        (b"compression", b"compression", b"\0"),
        (b"dataWindow", b"box2i", window),
        (b"displayWindow", b"box2i", window),
        (b"lineOrder", b"lineOrder", b"\0"),
        (b"pixelAspectRatio", b"float", struct.pack("<f", 1)),
        (b"screenWindowCenter", b"v2f", struct.pack("<2f", 0, 0)),
        (b"screenWindowWidth", b"float", struct.pack("<f", 1)),
    )
    header = struct.pack("<II", 20000630, 2)
    header += b"".join(
        b"%s\0%s\0%s%s" % (name, kind, struct.pack("<i", len(body)), body) for name, kind, body in attributes
    )
    header += b"\0"
    planes = [channel.tobytes() for channel in reversed(picture.convert("RGB").split())]
    lines = []
    for row in range(high):
        values = [byte / 255 for plane in planes for byte in plane[row * wide : (row + 1) * wide]]
        lines.append(struct.pack("<ii", row, 12 * wide) + struct.pack(f"<{len(values)}f", *values))
    first = len(header) + 8 * high
    offsets = (first + row * len(lines[0]) for row in range(high))
    path.write_bytes(header + struct.pack(f"<{high}Q", *offsets) + b"".join(lines))


def write_webm(path: Path, images: Images, fps: float) -> None:
    """Write the pictures as a VP8 video.

    A lossy WebP file holds one VP8 key frame, so Pillow is encoder enough: each picture becomes a key frame of the
    video. https://developers.google.com/speed/webp/docs/riff_container
    """
    frames = [_vp8_frame(picture) for picture in images]
    width, height = images[0].size
    milliseconds = 1000 / fps
    info = _element(0x2AD7B1, _unsigned(1_000_000))
    info += _element(0x4489, struct.pack(">d", len(frames) * milliseconds))
    info += _element(0x4D80, b"stand-in") + _element(0x5741, b"stand-in")
    video = _element(0xB0, _unsigned(width)) + _element(0xBA, _unsigned(height))
    track = _element(0xD7, _unsigned(1)) + _element(0x73C5, _unsigned(1)) + _element(0x83, _unsigned(1))
    track += _element(0x9C, _unsigned(0)) + _element(0x86, b"V_VP8")
    track += _element(0x23E383, _unsigned(round(milliseconds * 1_000_000))) + _element(0xE0, video)
    segment = _element(0x1549A966, info) + _element(0x1654AE6B, _element(0xAE, track))
    for index, frame in enumerate(frames):
        cluster = _element(0xE7, _unsigned(round(index * milliseconds)))
        cluster += _element(0xA3, b"\x81" + struct.pack(">hB", 0, 0x80) + frame)
        segment += _element(0x1F43B675, cluster)
    path.write_bytes(_header() + _element(0x18538067, segment))


def write_flac(path: Path, sound: Sound) -> None:
    """Write a sound."""
    path.write_bytes(encode_flac(sound))


def _vp8_frame(picture: Image.Image) -> bytes:
    """Return the picture as a VP8 key frame."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "WEBP", lossless=False, quality=_VIDEO_QUALITY, method=0)
    data = buffer.getvalue()
    position = 12
    while position + 8 <= len(data):
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        if data[position : position + 4] == b"VP8 ":
            return data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
    raise ValueError("Pillow wrote no VP8 frame")


def _header() -> bytes:
    """Return the EBML header of a WebM file."""
    fields = ((0x4286, 1), (0x42F7, 1), (0x42F2, 4), (0x42F3, 8))
    body = b"".join(_element(identifier, _unsigned(value)) for identifier, value in fields)
    body += _element(0x4282, b"webm") + _element(0x4287, _unsigned(2)) + _element(0x4285, _unsigned(2))
    return _element(0x1A45DFA3, body)


def _element(identifier: int, body: bytes) -> bytes:
    """Return one EBML element with a length of eight bytes."""
    return _unsigned(identifier) + struct.pack(">Q", len(body) | 1 << 56) + body


def _unsigned(value: int) -> bytes:
    """Return a number in as few bytes as it needs."""
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")
