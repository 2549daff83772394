"""Pictures made for tests of media."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

from PIL import Image

from app.media.inspection import Media, inspect
from worker.outputs.shrinking import thumbnail_of

if TYPE_CHECKING:
    from pathlib import Path


RAMP = Image.linear_gradient("L").resize((64, 48))

RGB = Image.merge("RGB", (RAMP, RAMP.transpose(Image.Transpose.ROTATE_180), RAMP))


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def look(folder: Path, name: str, data: bytes) -> Media:
    path = folder / "file"
    path.write_bytes(data)
    with path.open("rb") as file:
        from_disk = inspect(file, name)
    assert inspect(io.BytesIO(data), name) == from_disk
    return from_disk


def thumbnail(data: bytes) -> Image.Image:
    small = thumbnail_of(io.BytesIO(data))
    assert small is not None
    image = Image.open(io.BytesIO(small))
    assert image.format == "WEBP"
    return image


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
