"""Which form a file has: told by how it begins, and then looked through."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from worker.outputs.containers import boxes, ebml, pictures, riff, sounds, texts, tiff
from worker.outputs.containers.source import Damaged, Form, Source

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
"""What a file begins with, and who looks through it."""
MEDIA_ENDINGS: Final = frozenset(
    (
        "png apng jpg jpeg webp gif tif tiff bmp avif heic heif jxl exr svg "
        "mp4 m4v mov webm mkv avi ogv wav flac mp3 ogg oga opus m4a aac aiff aif glb"
    ).split()
)
"""A file of such a name claims to be of a form that is known here."""
_TENSORS: Final = ("safetensors", "latent")
_BARE_JXL: Final = b"\xff\x0a"
_SHORT_BYTES: Final = 12
"""Of a file that is shorter nobody can tell more than that it begins like one of a form."""


def read_form(file: BinaryIO, ending: str) -> Form | None:
    """Return what a file is, by its content; None for what is of no form that is known here.

    `ending`, in small letters, counts only where a content could be anything. Raises `Damaged` for one that is not all
    there.
    """
    source = Source(file)
    try:
        return _read(source, ending)
    except (struct.error, IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise Damaged("it is not built as it should be") from error


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
