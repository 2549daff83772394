"""What a file really is, whatever its name says, and a thumbnail of it. Blocking: run in threads."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import threading
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import filetype
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from app.domain.errors import OutputInvalid
from app.domain.text import clean
from worker.picture_heads import MOST_PIXELS_SCALED, Excerpt, read_head, read_orientation, require_sound_png

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any, BinaryIO

    from worker.picture_heads import Head

MOST_PREVIEW_BYTES: Final = 16 * 2**20
"""Of a picture that is shown while it comes into being."""
PREVIEW_PX: Final = 320
"""The longer side of a picture that is coming into being."""
MOST_PREVIEW_PIXELS: Final = 2**23
"""A larger picture is no preview; one of a film's size is a quarter of that."""
THUMBNAIL_PX: Final = 512
"""The longer side of a thumbnail."""
_IMAGE_TYPES: Final = {
    PngImagePlugin.PngImageFile.format: ("image/png", "png"),
    JpegImagePlugin.JpegImageFile.format: ("image/jpeg", "jpg"),
    WebPImagePlugin.WebPImageFile.format: ("image/webp", "webp"),
    GifImagePlugin.GifImageFile.format: ("image/gif", "gif"),
    TiffImagePlugin.TiffImageFile.format: ("image/tiff", "tiff"),
    BmpImagePlugin.BmpImageFile.format: ("image/bmp", "bmp"),
    AvifImagePlugin.AvifImageFile.format: ("image/avif", "avif"),
}
"""The formats that are read. Pillow would import all it knows for the first picture, which then came 0.2 s later."""
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation → what sets the picture upright."""
_ONE_AVIF: Final = threading.Lock()
_MEDIA_ENDINGS: Final = frozenset(
    ("png jpg jpeg webp gif tif tiff bmp avif apng mp4 webm mkv mov avi m4v wav flac mp3 ogg opus m4a aac").split()
)
"""A file of such a name that is nothing of the kind is broken."""
_TEXT_ENDINGS: Final = frozenset("txt json csv md srt vtt log yaml yml xml".split())


@dataclass(frozen=True, slots=True)
class Media:
    """What a file is."""

    kind: str
    content_type: str
    extension: str
    width: int | None = None
    height: int | None = None
    thumbnail: bytes | None = None
    """WebP; None where there is nothing to be seen."""
    warning: str | None = None


def inspect(file: BinaryIO, filename: str) -> Media:
    """Look into a file, open for reading, decode it if it is a picture, and make its thumbnail.

    Raises
    ------
    OutputInvalid
        It is empty, cut off, or not what its name claims.
    """
    shown = clean(filename, 100)
    if file.seek(0, os.SEEK_END) == 0:
        raise OutputInvalid(f"The output {shown} is empty.")
    picture = _picture(file, shown)
    if picture is not None:
        return picture
    ending = filename.rpartition(".")[2].lower()
    film_or_sound = _film_or_sound(file)
    if film_or_sound is not None:
        return film_or_sound
    if ending in _MEDIA_ENDINGS:
        raise OutputInvalid(f"The output {shown} is not the picture, video or sound that its name claims.")
    if ending in _TEXT_ENDINGS and _is_text(file):
        return Media("text", "text/plain", ending)
    safe = ending if ending.isascii() and ending.isalnum() and len(ending) <= 16 else "bin"
    return Media("file", "application/octet-stream", safe)


def small_picture(image: memoryview) -> bytes | None:
    """Return a picture that ComfyUI sends while it works as a small WebP; None for what is none, or too large."""
    if len(image) > MOST_PREVIEW_BYTES:
        return None
    file = io.BytesIO(image)
    try:
        head = read_head(file)
        if head is None or head.hindrance is not None or head.pixels > MOST_PREVIEW_PIXELS:
            return None
        with _opened(file, head) as opened:
            # Of a JPEG only as much is decoded as is needed.
            opened.draft("RGB", (PREVIEW_PX, PREVIEW_PX))
            opened.load()
            # Made small first: whatever else is done to it is then done to little.
            opened.thumbnail((PREVIEW_PX, PREVIEW_PX), Image.Resampling.BILINEAR)
            small = opened.convert("RGB")
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=70, method=0)
    except Exception:  # noqa: BLE001 - decoders of broken files raise whatever they stumble over
        return None
    return buffer.getvalue()


def _picture(file: BinaryIO, shown: str) -> Media | None:
    try:
        head = read_head(file)
        if head is None or head.pixels > MOST_PIXELS_SCALED:
            thumbnail = warning = None
        elif head.hindrance is not None:
            thumbnail, warning = None, f"The output {shown} has no thumbnail: {head.hindrance}."
            if head.form == PngImagePlugin.PngImageFile.format:
                require_sound_png(file, head)
        else:
            thumbnail, warning = _decoded(file, head)
    except Exception as error:
        # Decoders of broken files raise whatever they stumble over.
        raise OutputInvalid(f"The output {shown} is a damaged picture.") from error
    if head is None:
        return None
    if head.pixels > MOST_PIXELS_SCALED:
        raise OutputInvalid(f"The output {shown} has too many pixels.")
    content_type, extension = _IMAGE_TYPES[head.form]
    return Media("image", content_type, extension, head.width, head.height, thumbnail, warning)


def _decoded(file: BinaryIO, head: Head) -> tuple[bytes | None, str | None]:
    """Decode a picture, which raises what Pillow does if it is damaged; return its thumbnail, or why it has none."""
    with _decoding(head), _opened(file, head) as image:
        if head.scaled:
            image.draft(None, (THUMBNAIL_PX, THUMBNAIL_PX))
        image.load()
        return _thumbnail(image, head)


def _opened(file: BinaryIO, head: Head) -> Image.Image:
    """Open what the decoder of a picture may see of it."""
    file.seek(0)
    seen: Any = file if head.parts is None else Excerpt(file, head.parts)
    with warnings.catch_warnings() if head.scaled else contextlib.nullcontext():
        if head.scaled:
            # Pillow warns at half the size that it refuses.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(seen, formats=(head.form,))
    if image.size[0] * image.size[1] > head.pixels:
        raise ValueError("its head says one thing here and another there")
    return image


def _decoding(head: Head) -> AbstractContextManager[Any]:
    """Return what is held while a picture is decoded: how large an AVIF is nobody knows before, so one at a time."""
    return _ONE_AVIF if head.form == AvifImagePlugin.AvifImageFile.format else contextlib.nullcontext()


def _film_or_sound(file: BinaryIO) -> Media | None:
    file.seek(0)
    head = file.read(8192)
    # The library knows only one of the ways in which EBML may write the length of a document's type.
    if match := re.match(rb"\x1a\x45\xdf\xa3.{0,64}?\x42\x82.{1,8}?(webm|matroska)", head, re.DOTALL):
        is_webm = match[1] == b"webm"
        return Media("video", "video/webm" if is_webm else "video/x-matroska", "webm" if is_webm else "mkv")
    guessed = filetype.guess(head)
    kind = guessed.mime.partition("/")[0] if guessed is not None else ""
    return Media(kind, str(guessed.mime), str(guessed.extension)) if kind in ("video", "audio") else None


def _thumbnail(small: Image.Image, head: Head) -> tuple[bytes | None, str | None]:
    """Return a thumbnail, or why there is none. The picture itself becomes it: a copy took as long as all else."""
    try:
        # Blocks of pixels are averaged as far as that goes. 40 dB from LANCZOS alone, in a fifth of the time.
        small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS, reducing_gap=1.0)
        if small.mode.startswith("I;16"):
            # Converted as they are, all but the darkest of its greys would be white.
            small = small.convert("I").point(lambda value: value / 257).convert("L")
        if small.mode not in ("RGB", "RGBA"):
            small = small.convert("RGBA" if "transparency" in small.info or small.mode in ("LA", "PA") else "RGB")
        turn = _TURNS.get(head.orientation if head.orientation != 1 else _told_orientation(small))
        if turn is not None:
            small = small.transpose(turn)
        file = io.BytesIO()
        # The methods above 2 take more than twice as long for a twentieth less.
        small.save(file, "WEBP", quality=80, method=2)
    except Exception as error:  # noqa: BLE001 - the picture itself is sound, whatever its metadata do to Pillow
        return None, f"A thumbnail could not be made: {clean(error, 100)}."
    return file.getvalue(), None


def _told_orientation(image: Image.Image) -> int:
    """Return the orientation that a decoder has found in the file's metadata."""
    exif = image.info.get("exif")
    return read_orientation(exif.removeprefix(b"Exif\0\0")) if isinstance(exif, bytes) else 1


def _is_text(file: BinaryIO) -> bool:
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while chunk := file.read(1 << 20):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
