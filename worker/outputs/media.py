"""Determines a file's real type, and makes thumbnails and previews. Blocking: run in threads."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import struct
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
from worker.outputs.containers.forms import MEDIA_ENDINGS, read_form
from worker.outputs.containers.source import Damaged, Form, Source
from worker.outputs.containers.texts import require_json
from worker.outputs.image_headers import Excerpt, read_head, read_orientation

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any, BinaryIO

    from worker.outputs.image_headers import Head

MOST_PREVIEW_BYTES: Final = 16 * 2**20
"""Maximum bytes of a preview."""
PREVIEW_PX: Final = 320
"""Maximum pixels of a published preview's longer side."""
MOST_PREVIEW_PIXELS: Final = 2**23
"""Maximum pixels of a preview that ComfyUI sends; full HD has a quarter of that."""
THUMBNAIL_PX: Final = 512
"""Maximum pixels of a thumbnail's longer side."""
_FORMS: Final = {
    "image/png": PngImagePlugin.PngImageFile.format,
    "image/jpeg": JpegImagePlugin.JpegImageFile.format,
    "image/webp": WebPImagePlugin.WebPImageFile.format,
    "image/gif": GifImagePlugin.GifImageFile.format,
    "image/tiff": TiffImagePlugin.TiffImageFile.format,
    "image/bmp": BmpImagePlugin.BmpImageFile.format,
    "image/avif": AvifImagePlugin.AvifImageFile.format,
}
"""The formats that are decoded. Naming them keeps Pillow from importing all its plugins, which takes 0.2 s."""
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → the operation that turns the picture upright."""
_ONE_AVIF: Final = threading.Lock()
_TEXT_ENDINGS: Final = frozenset("txt json csv md srt vtt log yaml yml xml".split())
_GUESSED: Final = frozenset("midi amr wmv mpg flv 3gp".split())
"""Video and audio types that are recognized by their first bytes only."""
_WRITTEN: Final = ("svg", "glb")
"""Types whose files, or those of related types, can be texts."""
_HEAD_BYTES: Final = 8192


@dataclass(frozen=True, slots=True)
class Media:
    """The type and size of a file."""

    kind: str
    content_type: str
    extension: str
    width: int | None = None
    height: int | None = None
    thumbnail_due: bool = False
    """Whether a thumbnail can probably be made, judged by the file's head."""
    warning: str | None = None


def inspect(file: BinaryIO, filename: str) -> Media:
    """Return the type of an open file, and check its structure without decoding it.

    Raises
    ------
    OutputInvalid
        The file is empty or damaged, or it has a media file's name but contains text or zeros.
    """
    shown = clean(filename, 100)
    ending = filename.rpartition(".")[2].lower()
    if file.seek(0, os.SEEK_END) == 0:
        if ending in _TEXT_ENDINGS:
            return Media("text", "text/plain", ending)
        raise OutputInvalid(f"The output {shown} is empty.")
    try:
        if ending in _TEXT_ENDINGS and _is_text(file, ending):
            return Media("text", "text/plain", ending)
        form = read_form(file, ending)
    except Damaged as error:
        raise OutputInvalid(f"The output {shown} is damaged: {error}.") from error
    if form is not None and form.content_type in _FORMS:
        return _picture(file, form, shown)
    form = form or _guessed(file)
    if form is not None:
        return Media(form.kind, form.content_type, form.extension, form.width, form.height)
    safe = ending if ending.isascii() and ending.isalnum() and len(ending) <= 16 else "bin"
    warning = None
    if ending in MEDIA_ENDINGS:
        if ending not in _WRITTEN and _says_nothing(file):
            raise OutputInvalid(f"The output {shown} is not the picture, video or sound that its name claims.")
        warning = f"The output {shown} has an unknown format and is kept as it is."
    return Media("file", "application/octet-stream", safe, warning=warning)


def thumbnail_of(file: BinaryIO) -> bytes | None:
    """Return the thumbnail of an open picture file as WebP; None if none can be made."""
    try:
        head = read_head(file)
        if head is None or head.hindrance is not None:
            return None
        with _decoding(head), _opened(file, head) as image:
            if head.scaled:
                image.draft(None, (THUMBNAIL_PX, THUMBNAIL_PX))
            image.load()
            return _thumbnail(image, head)
    except Exception:  # noqa: BLE001 - decoders of broken files raise whatever they stumble over
        return None


def small_picture(image: memoryview) -> bytes | None:
    """Return a preview from ComfyUI as a small WebP; None if it is not a picture or is too large."""
    if len(image) > MOST_PREVIEW_BYTES:
        return None
    file = io.BytesIO(image)
    try:
        head = read_head(file)
        if head is None or head.hindrance is not None or head.pixels > MOST_PREVIEW_PIXELS:
            return None
        with _opened(file, head) as opened:
            # Lets the JPEG decoder decode at a reduced size.
            opened.draft("RGB", (PREVIEW_PX, PREVIEW_PX))
            opened.load()
            # Scaled first, so that the conversion has fewer pixels.
            opened.thumbnail((PREVIEW_PX, PREVIEW_PX), Image.Resampling.BILINEAR)
            small = opened.convert("RGB")
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=70, method=0)
    except Exception:  # noqa: BLE001 - decoders of broken files raise whatever they stumble over
        return None
    return buffer.getvalue()


def _picture(file: BinaryIO, form: Form, shown: str) -> Media:
    """Return the type and size of a picture, and whether it may be decoded for a thumbnail."""
    hindrance = None
    try:
        head = read_head(file)
        due = head is not None and head.form == _FORMS[form.content_type] and head.hindrance is None
        hindrance = head.hindrance if head is not None else None
    except (ValueError, struct.error):
        # The head cannot be read for decoding, but the file's structure is valid.
        due = False
    warning = f"The output {shown} has no thumbnail: {hindrance}." if hindrance is not None else None
    return Media("image", form.content_type, form.extension, form.width, form.height, due, warning)


def _opened(file: BinaryIO, head: Head) -> Image.Image:
    """Open a picture with Pillow, limited to the parts that the decoder may read."""
    file.seek(0)
    seen: Any = file if head.parts is None else Excerpt(file, head.parts)
    with warnings.catch_warnings() if head.scaled else contextlib.nullcontext():
        if head.scaled:
            # Pillow warns from half its size limit on.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(seen, formats=(head.form,))
    if image.size[0] * image.size[1] > head.pixels:
        raise ValueError("the size in the head differs from the decoder's")
    return image


def _decoding(head: Head) -> AbstractContextManager[Any]:
    """Return the lock for decoding: AVIFs one at a time, because their size is unknown before decoding."""
    return _ONE_AVIF if head.form == AvifImagePlugin.AvifImageFile.format else contextlib.nullcontext()


def _guessed(file: BinaryIO) -> Form | None:
    """Return the type of a video or audio file in `_GUESSED`, by its first bytes; None for others."""
    file.seek(0)
    guessed = filetype.guess(file.read(_HEAD_BYTES))
    if guessed is None or guessed.extension not in _GUESSED:
        return None
    return Form(guessed.mime.partition("/")[0], str(guessed.mime), str(guessed.extension))


def _thumbnail(small: Image.Image, head: Head) -> bytes:
    """Return the thumbnail as WebP. Changes the picture in place: a copy would take as long as all other steps."""
    # `reducing_gap` averages blocks of pixels first: 40 dB from LANCZOS alone, in a fifth of the time.
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS, reducing_gap=1.0)
    if small.mode.startswith("I;16"):
        # A direct conversion would clip 16-bit greys to white.
        small = small.convert("I").point(lambda value: value / 257).convert("L")
    if small.mode not in ("RGB", "RGBA"):
        small = small.convert("RGBA" if "transparency" in small.info or small.mode in ("LA", "PA") else "RGB")
    turn = _TURNS.get(head.orientation if head.orientation != 1 else _orientation_of(small))
    if turn is not None:
        small = small.transpose(turn)
    file = io.BytesIO()
    # Methods above 2 take more than twice as long and save only 5 % of the size.
    small.save(file, "WEBP", quality=80, method=2)
    return file.getvalue()


def _orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation that the decoder found; 1 if none."""
    exif = image.info.get("exif")
    return read_orientation(exif.removeprefix(b"Exif\0\0")) if isinstance(exif, bytes) else 1


def _says_nothing(file: BinaryIO) -> bool:
    """Whether a media file starts with text, such as an error message, or zeros, because it was never written."""
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return not head.strip(b"\0") or all(char >= " " or char.isspace() for char in text)


def _is_text(file: BinaryIO, ending: str) -> bool:
    """Whether a file is UTF-8; raises `Damaged` for JSON that is cut off."""
    if ending == "json":
        require_json(Source(file))
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while chunk := file.read(1 << 20):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
