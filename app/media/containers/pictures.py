"""PNG, JPEG, GIF, BMP, OpenEXR and JPEG XL: their chunks, segments, blocks and offsets."""

from __future__ import annotations

import re
import struct
import zlib
from typing import TYPE_CHECKING, Final

from app.media.containers.source import MOST_PARTS, MOST_TEXT_BYTES, STEP_BYTES, Damaged, Form

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.media.containers.source import Source

PNG: Final = b"\x89PNG\r\n\x1a\n"
EXR: Final = b"\x76\x2f\x31\x01"
LEAST_BMP_BYTES: Final = 26
_HEADER_BYTES: Final = (12, 16, 40, 52, 56, 64, 108, 124)
"""Of a bitmap, by its version."""
_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""The marker that ends the coded data of a JPEG's scan; other byte pairs that begin with FF belong to the data."""
_NO_FRAME: Final = (0xC4, 0xC8, 0xCC)
_LINES: Final = {0: 1, 1: 1, 2: 1, 3: 16, 4: 32, 5: 16, 6: 32, 7: 32, 8: 32, 9: 256}
"""OpenEXR's compression → lines of a block."""
_MOST_ATTRIBUTE_BYTES: Final = 2**20
_TEXTS: Final = (b"tEXt", b"zTXt", b"iTXt", b"comf")
"""Chunks of a PNG that hold a name and a text; ComfyUI writes `comf`, built like the first, into animated ones."""
_MOST_LEAD_BYTES: Final = 1024
"""Of what comes before the text in such a chunk: names and the code of a language."""
_COMMENT: Final = 0xFE
_SCAN: Final = 0xDA
_APPLICATION: Final = 0xE1


def png(source: Source) -> Form:
    """Look through all chunks of a PNG, animated or not, and their checksums."""
    if not source.start.startswith(PNG):
        raise Damaged("it is cut off")
    width, height, has_pixels = 0, 0, False
    for kind, at, length in _chunks(source):
        if (kind == b"IHDR") != (at == len(PNG) + 8):
            raise Damaged("its header is not where it belongs")
        found = zlib.crc32(kind)
        if length < STEP_BYTES:
            data = source.at(at, length + 4)
            found, told = zlib.crc32(memoryview(data)[:-4], found), data[-4:]
        else:
            for piece in source.pieces(at, length):
                found = zlib.crc32(piece, found)
            told = source.at(at + length, 4)
        if told != found.to_bytes(4, "big"):
            raise Damaged("a checksum is wrong")
        if kind == b"IHDR":
            width, height = struct.unpack(">II", data[:8])
        has_pixels = has_pixels or (kind == b"IDAT" and length > 0)
    return _sized("image/png", "png", width, height, there=has_pixels)


def png_texts(source: Source) -> Iterator[tuple[str, bytes]]:
    """Yield name and text, in UTF-8, of each text that a PNG carries, packed or not. Checksums are not looked at."""
    for kind, at, length in _chunks(source):
        if kind not in _TEXTS:
            continue
        data = source.at(at, min(length, MOST_TEXT_BYTES + _MOST_LEAD_BYTES))
        name, _, text = data.partition(b"\0")
        if kind == b"zTXt":
            text = _unpacked(text[1:])
        elif kind == b"iTXt":
            is_packed = text[:1] == b"\1"
            text = text[2:].partition(b"\0")[2].partition(b"\0")[2]
            text = _unpacked(text) if is_packed else text
        yield name.decode("latin-1"), text if kind == b"iTXt" else as_utf8(text)


def as_utf8(text: bytes) -> bytes:
    """Return a text that should be Latin-1 in UTF-8: many programs write it so at once."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1").encode()
    return text


def _unpacked(data: bytes) -> bytes:
    """Return a text that is packed, cut off behind `MOST_TEXT_BYTES` and one byte more."""
    try:
        return zlib.decompressobj().decompress(data, MOST_TEXT_BYTES + 1)
    except zlib.error as error:
        raise Damaged("a packed text is damaged") from error


def _chunks(source: Source) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk of a PNG, where its content begins, and how long that is."""
    at = len(PNG)
    for _ in range(MOST_PARTS):
        length, kind = struct.unpack(">I4s", source.at(at, 8))
        yield kind, at + 8, length
        if kind == b"IEND":
            return
        at += 12 + length


def jpeg(source: Source) -> Form:
    """Look through the segments and scans of a JPEG to its end mark. A height of 0 comes behind the first scan."""
    width, height, has_scan = 0, 0, False
    for marker, at, _ in _segments(source):
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            height, width = struct.unpack(">HH", source.at(at + 3, 4))
        elif marker == 0xDC and not height:
            height = source.number(at + 2, 2)
        has_scan = has_scan or marker == _SCAN
    return _sized("image/jpeg", "jpg", width, height, there=has_scan)


def jpeg_texts(source: Source) -> Iterator[tuple[bool, bytes]]:
    """Yield the comments of a JPEG, and its EXIF data, a file of their own, after True."""
    has_exif = False
    for marker, at, end in _segments(source):
        if marker == _SCAN:
            return
        if marker == _COMMENT:
            yield False, source.at(at + 2, end - at - 2)
        elif marker == _APPLICATION and not has_exif and source.most(at + 2, 6) == b"Exif\0\0":
            has_exif = True
            yield True, source.at(at + 8, end - at - 8)


def _segments(source: Source) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each segment of a JPEG, and where what follows it begins and ends, its length at first."""
    at = 2
    for _ in range(MOST_PARTS):
        lead, marker = source.at(at, 2)
        if lead != 0xFF:
            raise Damaged("there is no segment where one belongs")
        if marker == 0xFF:
            at += 1
            continue
        at += 2
        if marker == 0xD9:
            return
        if marker in (0x01, *range(0xD0, 0xD9)):
            continue
        length = source.number(at, 2)
        source.require(at + max(length, 2))
        yield marker, at, at + max(length, 2)
        at += max(length, 2)
        if marker == _SCAN:
            at = _marker(source, at)


def _marker(source: Source, at: int) -> int:
    """Return where the next marker is behind coded data."""
    while piece := source.most(at, STEP_BYTES):
        if found := _MARKER.search(piece):
            return at + found.start()
        # The last byte may be the first one of a marker.
        at += max(len(piece) - 1, 1)
    raise Damaged("it is cut off")


def gif(source: Source) -> Form:
    """Look through the blocks of a GIF to its trailer."""
    width, height, flags = struct.unpack("<HHB", source.at(6, 5))
    at, has_picture = 13 + _colours(flags), False
    for _ in range(MOST_PARTS):
        block = source.at(at, 1)
        if block == b";":
            break
        if block == b",":
            left, top, across, down, flags = struct.unpack("<HHHHB", source.at(at + 1, 9))
            width, height = max(width, left + across), max(height, top + down)
            has_picture = True
            at += 11 + _colours(flags)
        elif block == b"!":
            at += 2
        else:
            raise Damaged("there is no block where one belongs")
        while length := source.at(at, 1)[0]:
            at += 1 + length
        at += 1
    return _sized("image/gif", "gif", width, height, there=has_picture)


def _colours(flags: int) -> int:
    """Return how many bytes the table of colours takes that flags tell of."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def is_bmp(start: bytes) -> bool:
    """Whether a file begins as a bitmap does: two letters alone may begin any text."""
    if len(start) < LEAST_BMP_BYTES or start[:2] != b"BM":
        return False
    offset, head_bytes = struct.unpack("<II", start[10:18])
    return head_bytes in _HEADER_BYTES and offset >= 14 + head_bytes


def bmp(source: Source) -> Form:
    """Look whether the rows of a bitmap are all there."""
    (offset, head_bytes) = struct.unpack("<II", source.at(10, 8))
    compression = image_bytes = 0
    if head_bytes == 12:
        width, height, _, bits = struct.unpack("<HHHH", source.at(18, 8))
    else:
        width, height, _, bits = struct.unpack("<iiHH", source.at(18, 12))
        if head_bytes >= 40:
            compression, image_bytes = struct.unpack("<II", source.at(30, 8))
    width, height = abs(width), abs(height)
    needed = image_bytes if compression in (1, 2, 4, 5) else (width * bits + 31) // 32 * 4 * height
    source.require(offset + needed)
    return _sized("image/bmp", "bmp", width, height, there=True)


def exr(source: Source) -> Form:
    """Look whether the blocks of an OpenEXR file are all there, as far as its table of them tells."""
    flags = source.number(4, 4, "little")
    at, parts = 8, []
    for _ in range(MOST_PARTS):
        at, part = _exr_header(source, at)
        parts.append(part)
        if not flags & 0x1000:
            break
        if source.at(at, 1) == b"\0":
            at += 1
            break
    for part in parts:
        kind = part.get("type", b"tiledimage" if flags & 0x200 else b"scanlineimage").rstrip(b"\0")
        count = _exr_blocks(part, kind)
        if not count:
            break
        # A number of the part, then the line or the tile, then how long it is. Deep ones have more, and are not read.
        lead = (4 if flags & 0x1000 else 0) + (16 if kind == b"tiledimage" else 4)
        for offset in _exr_offsets(source, at, count):
            length = source.number(offset + lead, 4, "little") if kind in (b"tiledimage", b"scanlineimage") else 0
            source.require(offset + lead + 4 + length)
        at += 8 * count
    window = parts[0].get("displayWindow") or parts[0].get("dataWindow") or b""
    left, top, right, bottom = struct.unpack("<iiii", window)
    return _sized("image/x-exr", "exr", right - left + 1, bottom - top + 1, there=True)


def exr_texts(source: Source) -> Iterator[tuple[str, bytes]]:
    """Yield name and value of each attribute of an OpenEXR file, of whatever type."""
    yield from _exr_header(source, 8, MOST_TEXT_BYTES)[1].items()


def _exr_header(source: Source, at: int, most: int = _MOST_ATTRIBUTE_BYTES) -> tuple[int, dict[str, bytes]]:
    """Return where a header ends, and its attributes of at most so many bytes."""
    found: dict[str, bytes] = {}
    for _ in range(MOST_PARTS):
        name, at = _word(source, at)
        if not name:
            return at, found
        _, at = _word(source, at)
        length = source.number(at, 4, "little")
        source.require(at + 4 + length)
        if length <= most:
            found[name.decode("latin-1")] = source.at(at + 4, length)
        at += 4 + length
    return at, found


def _word(source: Source, at: int) -> tuple[bytes, int]:
    """Return a text that ends with a zero, and where it does."""
    found, zero, _ = source.most(at, 256).partition(b"\0")
    if not zero:
        raise Damaged("it is cut off")
    return found, at + len(found) + 1


def _exr_blocks(part: dict[str, bytes], kind: bytes) -> int:
    """Return how many blocks a part has; 0 when that is not told in so many words."""
    if "chunkCount" in part:
        return int.from_bytes(part["chunkCount"], "little")
    if kind != b"scanlineimage":
        across, down, mode = struct.unpack("<IIB", part["tiles"]) if "tiles" in part else (0, 0, 1)
        if mode & 15 or not across or not down:
            return 0
    else:
        across, down = 2**32, _LINES.get(part["compression"][0], 1)
    left, top, right, bottom = struct.unpack("<iiii", part["dataWindow"])
    width, height = int(right - left + 1), int(bottom - top + 1)
    return -(-width // int(across)) * -(-height // int(down))


def _exr_offsets(source: Source, at: int, count: int) -> list[int]:
    source.require(at + 8 * count)
    if count > MOST_PARTS:
        return []
    found = list(struct.unpack(f"<{count}Q", source.at(at, 8 * count)))
    if 0 in found:
        raise Damaged("a block of it was never written")
    return found


def _sized(content_type: str, extension: str, width: int, height: int, *, there: bool) -> Form:
    if width <= 0 or height <= 0 or not there:
        raise Damaged("it has no picture")
    return Form("image", content_type, extension, width, height)
