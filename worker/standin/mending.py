"""Pictures that were cut off, made whole: ComfyUI loads what is there of a PNG or JPEG and does not complain.

The format of PNG: https://www.w3.org/TR/png-3/
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8"
_END_OF_JPEG: Final = b"\xff\xd9"
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type of a PNG → values of a pixel."""


def mended(data: bytes) -> bytes | None:
    """Return a file that can be read to its end; None if it is of another kind, or cut off before its first pixel.

    What is missing is black in a PNG, and what the decoder makes of it in a JPEG. Pillow has a switch for it, but that
    counts for the whole process, and a test's process holds the service too.
    """
    if data.startswith(_JPEG):
        return data + _END_OF_JPEG
    return _mended_png(data) if data.startswith(_PNG) else None


def _mended_png(data: bytes) -> bytes | None:
    """Return a PNG with all its rows, if it is not interlaced."""
    head, packed = b"", b""
    for name, body in _chunks(data):
        if name == b"IDAT":
            packed += body
        elif not packed:
            head += _chunk(name, body)
    if not packed:
        return None
    width, height, bits, kind, *_, interlaced = struct.unpack_from(">IIBBBBB", head, 8)
    whole = height * (1 + (width * bits * _CHANNELS[kind] + 7) // 8)
    rows = zlib.decompressobj().decompress(packed)
    if interlaced or not rows:
        return None
    return _PNG + head + _chunk(b"IDAT", zlib.compress(rows.ljust(whole, b"\0"))) + _chunk(b"IEND", b"")


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and body of each chunk; the last one may be short."""
    position = len(_PNG)
    while position + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        yield data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        position += 12 + length


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
