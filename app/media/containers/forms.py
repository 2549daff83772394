"""Recognizes a file's format by its first bytes, and checks its structure."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from app.media.containers import boxes, ebml, pictures, riff, sounds, texts, tiff
from app.media.containers.source import Damaged, Form, Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

_STARTS: Final[tuple[tuple[tuple[bytes, ...], Callable[[Source], Form | None]], ...]] = (
    ((pictures.PNG, pictures.PNG[:4]), pictures.png),
    ((b"\xff\xd8\xff",), pictures.jpeg),
    ((b"GIF87a", b"GIF89a"), pictures.gif),
    (tiff.STARTS, tiff.tiff),
    ((pictures.EXR,), pictures.exr),
    ((boxes.JXL,), boxes.jxl),
    (riff.STARTS, riff.riff),
    ((b"FORM",), riff.aiff),
    ((b"glTF",), riff.glb),
    ((ebml.START,), ebml.ebml),
    ((b"fLaC",), sounds.flac),
    ((b"OggS\0",), sounds.ogg),
    ((b"ID3\2", b"ID3\3", b"ID3\4", b"\xff"), sounds.mpeg),
)
"""First bytes of a format → the function that checks it."""
MEDIA_ENDINGS: Final = frozenset(
    (
        "png apng jpg jpeg webp gif tif tiff bmp avif heic heif jxl exr svg "
        "mp4 m4v mov webm mkv avi ogv wav flac mp3 ogg oga opus m4a aac aiff aif glb"
    ).split()
)
"""File name endings of the known formats."""
_TENSORS: Final = ("safetensors", "latent")
_BARE_JXL: Final = b"\xff\x0a"
_SHORT_BYTES: Final = 12
"""Minimum bytes for recognizing a format; a shorter file with a known ending counts as truncated."""


def read_form(file: BinaryIO, ending: str) -> Form | None:
    """Return a file's format by its content; None for an unknown format.

    `ending`, in lower case, is used only where the content is ambiguous. Raises `Damaged` for a truncated or
    inconsistent file.
    """
    source = Source(file)
    try:
        return _read(source, ending)
    except (struct.error, IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise Damaged("its structure is invalid") from error


def _read(source: Source, ending: str) -> Form | None:
    start, is_short = source.start, source.size < _SHORT_BYTES and ending in MEDIA_ENDINGS
    for starts, look in _STARTS:
        if start.startswith(starts):
            form = look(source)
            if form is not None:
                return form
        elif is_short and any(each.startswith(start) for each in starts if len(each) > 1):
            raise Damaged("it is cut off")
    if is_short and start[4:8] and b"ftyp".startswith(start[4:8]):
        raise Damaged("it is cut off")
    if start[4:8] == b"ftyp" or (ending in ("mov", "qt") and start[4:8] in boxes.OLD_MOVIES):
        return boxes.media(source)
    if ending == "bmp" and start[:2] == b"BM" and len(start) < pictures.LEAST_BMP_BYTES:
        raise Damaged("it is cut off")
    if pictures.is_bmp(start):
        return pictures.bmp(source)
    if start.startswith(_BARE_JXL) and ending == "jxl":
        return Form("image", "image/jxl", "jxl")
    if ending in ("mp3", "aac") and sounds.begins_a_frame(source):
        raise Damaged("it is cut off")
    if texts.is_svg(source.most(0, 2**14)):
        return texts.svg(source)
    if ending in _TENSORS and start[8:10] == b'{"':
        texts.tensors(source)
    return None
