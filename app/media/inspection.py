"""Determines a file's real type and size by its content. Blocking: run in threads."""

from __future__ import annotations

import codecs
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import filetype

from app.domain.errors import OutputInvalid
from app.domain.text import clean
from app.media.containers.forms import MEDIA_ENDINGS, read_form
from app.media.containers.source import Damaged, Form, Source
from app.media.containers.texts import require_json
from app.media.image_headers import read_head

if TYPE_CHECKING:
    from typing import BinaryIO

FORMS: Final = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/tiff": "TIFF",
    "image/bmp": "BMP",
    "image/avif": "AVIF",
}
"""Pictures that can be decoded, by Pillow's names of their formats."""
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
    duration_s: float | None = None
    """Seconds of a video or sound; None where the file does not say."""


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
    if form is not None and form.content_type in FORMS:
        return _picture(file, form, shown)
    form = form or guessed_form(file)
    if form is not None:
        return Media(form.kind, form.content_type, form.extension, form.width, form.height, duration_s=form.duration_s)
    safe = ending if ending.isascii() and ending.isalnum() and len(ending) <= 16 else "bin"
    warning = None
    if ending in MEDIA_ENDINGS:
        if ending not in _WRITTEN and _says_nothing(file):
            raise OutputInvalid(f"The output {shown} is not the picture, video or sound that its name claims.")
        warning = f"The output {shown} has an unknown format and is kept as it is."
    return Media("file", "application/octet-stream", safe, warning=warning)


def _picture(file: BinaryIO, form: Form, shown: str) -> Media:
    """Return the type and size of a picture, and whether it may be decoded for a thumbnail."""
    hindrance = None
    try:
        head = read_head(file)
        due = head is not None and head.form == FORMS[form.content_type] and head.hindrance is None
        hindrance = head.hindrance if head is not None else None
    except (ValueError, struct.error):
        # The head cannot be read for decoding, but the file's structure is valid.
        due = False
    warning = f"The output {shown} has no thumbnail: {hindrance}." if hindrance is not None else None
    return Media("image", form.content_type, form.extension, form.width, form.height, due, warning)


def guessed_form(file: BinaryIO) -> Form | None:
    """Return the type of a video or audio file in `_GUESSED`, by its first bytes; None for others."""
    file.seek(0)
    guessed = filetype.guess(file.read(_HEAD_BYTES))
    if guessed is None or guessed.extension not in _GUESSED:
        return None
    return Form(guessed.mime.partition("/")[0], str(guessed.mime), str(guessed.extension))


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
