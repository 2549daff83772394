"""What a file really is, whatever its name says, and a thumbnail of it. Blocking: run in threads."""

from __future__ import annotations

import codecs
import io
import os
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import filetype
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from app.domain.errors import OutputInvalid
from app.domain.text import clean

if TYPE_CHECKING:
    from typing import BinaryIO

PREVIEW_PX: Final = 320
"""The longer side of a picture that is coming into being."""
MOST_PREVIEW_BYTES: Final = 16 * 2**20
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
_FORMATS: Final = tuple(_IMAGE_TYPES)
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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(image), formats=_FORMATS) as opened:
                # Of a JPEG only as much is decoded as is needed.
                opened.draft("RGB", (PREVIEW_PX, PREVIEW_PX))
                small = opened.convert("RGB")
        small.thumbnail((PREVIEW_PX, PREVIEW_PX), Image.Resampling.BILINEAR)
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=70, method=0)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    return buffer.getvalue()


def _picture(file: BinaryIO, shown: str) -> Media | None:
    file.seek(0)
    try:
        with warnings.catch_warnings():
            # Pillow warns at half the size that it refuses.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError:
        return None
    except Image.DecompressionBombError as error:
        # Decoding it would take more memory than a worker should need; the limit is Pillow's, 179 million pixels.
        raise OutputInvalid(f"The output {shown} has too many pixels.") from error
    except Exception as error:
        # Decoders of broken files raise whatever they stumble over.
        raise OutputInvalid(f"The output {shown} cannot be read as a picture.") from error
    with image:
        if image.format not in _IMAGE_TYPES:
            return None
        try:
            image.load()
        except Exception as error:
            raise OutputInvalid(f"The output {shown} is a damaged picture.") from error
        content_type, extension = _IMAGE_TYPES[image.format]
        width, height = image.size
        thumbnail, warning = _thumbnail(image)
        return Media("image", content_type, extension, width, height, thumbnail, warning)


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


def _thumbnail(small: Image.Image) -> tuple[bytes | None, str | None]:
    """Return a thumbnail, or why there is none. The picture itself becomes it: a copy took as long as all else."""
    try:
        ImageOps.exif_transpose(small, in_place=True)
        # Blocks of pixels are averaged as far as that goes. 40 dB from LANCZOS alone, in a fifth of the time.
        small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS, reducing_gap=1.0)
        if small.mode.startswith("I;16"):
            # Converted as they are, all but the darkest of its greys would be white.
            small = small.convert("I").point(lambda value: value / 257).convert("L")
        if small.mode not in ("RGB", "RGBA"):
            small = small.convert("RGBA" if "transparency" in small.info or small.mode in ("LA", "PA") else "RGB")
        file = io.BytesIO()
        # The methods above 2 take more than twice as long for a twentieth less.
        small.save(file, "WEBP", quality=80, method=2)
    except Exception as error:  # noqa: BLE001 - the picture itself is sound, whatever its metadata do to Pillow
        return None, f"A thumbnail could not be made: {clean(error, 100)}."
    return file.getvalue(), None


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
