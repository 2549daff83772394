"""Reads the headers of picture files before decoding: their size, and the parts that a decoder may read.

The memory and time that a decoder uses depend on what the file claims. Some decoders load all metadata into memory
several times, and a decoding thread cannot be stopped. So data that was not checked here does not reach a decoder: of
PNG and JPEG only the parts that make up the picture are passed on. Functions raise `ValueError` or `struct.error` for
damaged files.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

MOST_PIXELS: Final = 2**25
"""Maximum pixels of a picture that is decoded, at four bytes of memory each; 7680 x 4320 is a little smaller."""
MOST_PIXELS_SCALED: Final = 178_956_970
"""The limit of Pillow; a JPEG of this size can be decoded to an eighth of it at once."""
_MOST_PIXELS_IN_MEMORY: Final = 2**24
"""The same for decoders that hold the file and several copies of the picture."""
_MOST_PIXELS_SLOWLY: Final = 2**20
"""The same for what Pillow decodes in Python."""
_MOST_FILE_BYTES: Final = 64 * 2**20
"""Of a file that is read into memory whole."""
_MOST_PARTS: Final = 200_000
_MOST_SCANS: Final = 100
"""Of a JPEG that comes in scans: each goes over the whole picture, and ten are usual."""
_MOST_EXTENSION_BYTES: Final = 2**18
_MOST_EXIF_BYTES: Final = 2**16
_MOST_TAGS: Final = 200
_MOST_TAG_BYTES: Final = 2**20
_STEP_BYTES: Final = 2**20
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT: Final = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_TAG_BYTES: Final = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4)
_NESTED_TAGS: Final = frozenset((330, 34665, 34853, 40965))
_ORIENTATION: Final = 0x0112


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of a picture file says. `form` is Pillow's name of the format."""

    form: str
    width: int
    height: int
    parts: tuple[tuple[int, int], ...] | None = None
    """Offset and length of what the decoder is to see; None: the file as it is."""
    orientation: int = 1
    """As EXIF has it."""
    hindrance: str | None = None
    """Why it is not to be decoded; None when it may be."""
    scaled: bool = False
    """It is to be decoded to a fraction of its size."""

    @property
    def pixels(self) -> int:
        """How many it has."""
        return self.width * self.height


class Excerpt:
    """Parts of a file, to be read as if they were all of it."""

    def __init__(self, file: BinaryIO, parts: tuple[tuple[int, int], ...]) -> None:
        self._file = file
        self._parts = parts
        self._size = sum(length for _, length in parts)
        self._at = 0

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes, at most so many."""
        left = self._size - self._at if count < 0 else count
        found, begin = [], 0
        for offset, length in self._parts:
            inside = self._at - begin
            if 0 <= inside < length and left > 0:
                self._file.seek(offset + inside)
                found.append(self._file.read(min(left, length - inside)))
                if not found[-1]:
                    break
                self._at += len(found[-1])
                left -= len(found[-1])
            begin += length
        return b"".join(found)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at


def read_head(file: BinaryIO) -> Head | None:
    """Return what the head of a picture file says; None for a file that is no picture of a kind that is known here."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(32)
    for begins, read in _KINDS:
        if begins(start):
            return read(file, size, start)
    return None


def _png(file: BinaryIO, size: int, start: bytes) -> Head:
    del start
    kept: list[tuple[int, int]] = [(0, len(_PNG))]
    width = height = count = 0
    orientation = 1
    for kind, offset, length in _png_chunks(file, size):
        count += 1
        if kind == b"IHDR" and not width:
            file.seek(offset)
            width, height = struct.unpack(">II", file.read(8))
        elif kind == b"eXIf" and length <= _MOST_EXIF_BYTES:
            file.seek(offset)
            orientation = read_orientation(file.read(length))
        if kind in _PNG_KEPT:
            _add(kept, offset - 8, length + 12)
    return _bounded("PNG", width, height, MOST_PIXELS, _clipped(kept, size), orientation, count <= _MOST_PARTS)


def _png_chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk with the place and length of its content, at most a few more than are allowed."""
    at = len(_PNG)
    for _ in range(_MOST_PARTS + 1):
        file.seek(at)
        lead = file.read(8)
        if len(lead) < 8:
            return
        (length,), kind = struct.unpack(">I", lead[:4]), lead[4:]
        if not kind.isalpha():
            return
        yield kind, at + 8, length
        at += 12 + length
        if kind == b"IEND" or at > size:
            return


def _jpeg(file: BinaryIO, size: int, start: bytes) -> Head:
    del start
    kept: list[tuple[int, int]] = [(0, 2)]
    width = height = 0
    orientation, in_scans, at = 1, False, 2
    for _ in range(_MOST_PARTS):
        file.seek(at)
        lead = file.read(4)
        if len(lead) < 4 or lead[0] != 0xFF:
            raise ValueError("it has no picture")
        marker = lead[1]
        if marker == 0xFF or marker in (0x01, *range(0xD0, 0xD9)):
            # A byte to fill up, or a marker of nothing but itself.
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(lead[2:], "big")
        if marker in (0xC0, 0xC1, 0xC2):
            height, width, components = struct.unpack(">HHB", file.read(6)[1:])
            in_scans = marker == 0xC2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            raise ValueError("it is of an unknown kind")
        elif marker == 0xDA:
            in_scans = in_scans or not width or file.read(1)[0] < components
            _add(kept, at, size - at)
            break
        elif marker == 0xE1 and orientation == 1 and file.read(6) == b"Exif\0\0":
            orientation = read_orientation(file.read(length - 8))
        if marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            _add(kept, at, 2 + length)
        at += 2 + length
    scans = _count(file, at, b"\xff\xda")
    most = MOST_PIXELS if in_scans or scans > 1 else MOST_PIXELS_SCALED
    return _bounded("JPEG", width, height, most, _clipped(kept, size), orientation, scans <= _MOST_SCANS)


def _webp(file: BinaryIO, size: int, start: bytes) -> Head:
    kind = start[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(start[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (each & 0x3FFF for each in struct.unpack("<HH", start[26:30]))
    else:
        raise ValueError("it has no picture")
    del file
    return _bounded("WEBP", width, height, _MOST_PIXELS_IN_MEMORY, None, 1, size <= _MOST_FILE_BYTES)


def _gif(file: BinaryIO, size: int, start: bytes) -> Head:
    del size
    width, height, flags = struct.unpack("<HHB", start[6:11])
    at, extensions = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0), 0
    while extensions <= _MOST_EXTENSION_BYTES:
        file.seek(at)
        lead = file.read(9)
        if lead[:1] == b",":
            left, top, across, down = struct.unpack("<HHHH", lead[1:])
            return _bounded("GIF", max(width, left + across), max(height, top + down), MOST_PIXELS, None, 1, True)
        if lead[:1] != b"!":
            raise ValueError("it has no picture")
        at += 2
        while length := _byte(file, at):
            at += 1 + length
            extensions += 1 + length
        at += 1
        extensions += 3
    return _bounded("GIF", width, height, MOST_PIXELS, None, 1, False)


def _bmp(file: BinaryIO, size: int, start: bytes) -> Head:
    del size
    (head_bytes,) = struct.unpack("<I", start[14:18])
    if head_bytes == 12:
        width, height = struct.unpack("<HH", start[18:22])
        return _bounded("BMP", width, height, MOST_PIXELS, None, 1, True)
    width, height, _, _ = struct.unpack("<iiHH", start[18:30])
    file.seek(30)
    (compression,) = struct.unpack("<I", file.read(4))
    most = _MOST_PIXELS_SLOWLY if compression in (1, 2) else MOST_PIXELS
    return _bounded("BMP", abs(width), abs(height), most, None, 1, True)


def _tiff(file: BinaryIO, size: int, start: bytes) -> Head:
    order = "<" if start[:2] == b"II" else ">"
    tags = _tags(file, order, int.from_bytes(start[4:8], "little" if order == "<" else "big"))
    total = sum(length for _, length in tags.values())
    width, height, across, down, samples = (tags.get(tag, (0, 0))[0] for tag in (256, 257, 322, 323, 277))
    # Bits of a sample stand elsewhere when there are several; four bytes are the most that is decoded.
    fits = len(tags) <= _MOST_TAGS and total <= _MOST_TAG_BYTES and not _NESTED_TAGS & tags.keys()
    fits = fits and max(samples, 1) <= 8 and across * down <= MOST_PIXELS and size <= 2**31
    return _bounded("TIFF", width, height, MOST_PIXELS // 2, None, tags.get(274, (1, 0))[0], fits)


def _tags(file: BinaryIO, order: str, at: int) -> dict[int, tuple[int, int]]:
    """Return tag → its value, if the entry holds a single number, and the number of bytes that it refers to."""
    file.seek(at)
    (count,) = struct.unpack(f"{order}H", file.read(2))
    found = {}
    for _ in range(min(count, _MOST_TAGS + 1)):
        entry = file.read(12)
        tag, kind, number = struct.unpack(f"{order}HHI", entry[:8])
        (value,) = struct.unpack(f"{order}H", entry[8:10]) if kind == 3 else struct.unpack(f"{order}I", entry[8:])
        found[tag] = value, number * (_TAG_BYTES[kind] if kind < len(_TAG_BYTES) else 8)
    return found


def _avif(file: BinaryIO, size: int, start: bytes) -> Head:
    del start
    # Its head is a tree of boxes; of the picture's size nothing is certain before it is decoded.
    file.seek(0)
    lead = file.read(_MOST_EXIF_BYTES)
    sizes = [struct.unpack(">II", lead[at + 8 : at + 16]) for at in _places(lead, b"ispe")]
    width, height = max(sizes, key=lambda each: each[0] * each[1], default=(0, 0))
    # Pillow reads its EXIF with all that is in there.
    fits = size <= _MOST_FILE_BYTES and not _places(lead, b"Exif") and len(sizes) <= _MOST_TAGS
    return _bounded("AVIF", width, height, _MOST_PIXELS_IN_MEMORY, None, 1, fits)


def _bounded(
    form: str,
    width: int,
    height: int,
    most: int,
    parts: tuple[tuple[int, int], ...] | None,
    orientation: int,
    fits: bool,
) -> Head:
    if width <= 0 or height <= 0:
        raise ValueError("it has no size")
    hindrance = None
    if width * height > most:
        hindrance = f"{width} x {height} pixels are too many to be decoded"
    elif not fits:
        hindrance = "it is built in a way that decoders are spared"
    scaled = most == MOST_PIXELS_SCALED and width * height > MOST_PIXELS
    return Head(form, width, height, parts, orientation, hindrance, scaled)


def read_orientation(exif: bytes) -> int:
    """Return the orientation that EXIF data tell, 1 when they tell none: without reading all that they refer to."""
    exif = exif[:_MOST_EXIF_BYTES]
    try:
        order = {b"II": "<", b"MM": ">"}[exif[:2]]
        (at,) = struct.unpack(f"{order}I", exif[4:8])
        (count,) = struct.unpack(f"{order}H", exif[at : at + 2])
        for entry in range(at + 2, at + 2 + 12 * min(count, _MOST_TAGS), 12):
            tag, kind = struct.unpack(f"{order}HH", exif[entry : entry + 4])
            if (tag, kind) == (_ORIENTATION, 3):
                return int(struct.unpack(f"{order}H", exif[entry + 8 : entry + 10])[0])
    except (KeyError, struct.error):
        pass
    return 1


def _add(parts: list[tuple[int, int]], offset: int, length: int) -> None:
    """Add a part, to the last one if it follows it: a PNG may have thousands of chunks in a row."""
    last, held = parts[-1]
    if last + held == offset:
        parts[-1] = last, held + length
    else:
        parts.append((offset, length))


def _clipped(parts: list[tuple[int, int]], size: int) -> tuple[tuple[int, int], ...]:
    """Return the parts as far as the file goes."""
    return tuple((offset, min(length, size - offset)) for offset, length in parts if offset < size)


def _count(file: BinaryIO, at: int, mark: bytes) -> int:
    """Return how often two bytes stand in the rest of a file."""
    file.seek(at)
    found, before = 0, b""
    while step := file.read(_STEP_BYTES):
        found += step.count(mark) + (before + step[:1] == mark)
        before = step[-1:]
    return found


def _places(data: bytes, mark: bytes) -> list[int]:
    found: list[int] = []
    at = data.find(mark)
    while at >= 0 and len(found) <= _MOST_TAGS:
        found.append(at)
        at = data.find(mark, at + 1)
    return found


def _byte(file: BinaryIO, at: int) -> int:
    file.seek(at)
    found = file.read(1)
    if not found:
        raise ValueError("it is cut off")
    return found[0]


_KINDS: Final[tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, int, bytes], Head]], ...]] = (
    (lambda start: start.startswith(_PNG), _png),
    (lambda start: start.startswith(b"\xff\xd8\xff"), _jpeg),
    (lambda start: start[:4] == b"RIFF" and start[8:12] == b"WEBP", _webp),
    (lambda start: start[:6] in (b"GIF87a", b"GIF89a"), _gif),
    (lambda start: start[:2] == b"BM", _bmp),
    (lambda start: start[:4] in (b"II*\0", b"MM\0*"), _tiff),
    (lambda start: start[4:12] in (b"ftypavif", b"ftypavis"), _avif),
)
