"""What files that clients hand over are: only what a graph can use is taken. Blocking: run in threads."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from app.domain.errors import InvalidUpload
from app.domain.text import clean
from app.domain.uploads import UploadKind
from app.media.containers.forms import read_form
from app.media.containers.source import Damaged, Form
from app.media.inspection import guessed_form

if TYPE_CHECKING:
    from typing import BinaryIO

MOST_PIXELS: Final = 178_956_970
"""Maximum pixels of a picture: Pillow's own limit, beyond which it suspects a decompression bomb. ComfyUI's loaders
would take twice as many, at 12 bytes of memory each and more."""
_KINDS: Final = frozenset(UploadKind)
_GLB: Final = "model/gltf-binary"
_MOST_HEAD_BYTES: Final = 4096
_STL_HEAD_BYTES: Final = 84
_STL_FACET_BYTES: Final = 50
_PLY: Final = re.compile(rb"ply\r?\n(?:comment[^\n]*\n|obj_info[^\n]*\n)*format (?:ascii|binary_\w+) 1\.0\r?\n")
_OLD_FORMS: Final = ("PPM", "JPEG2000", "ICO", "ICNS", "DDS", "PSD", "QOI", "SGI", "PCX", "XBM", "XPM", "SUN", "DIB")
"""Formats that Pillow reads besides those that `app.media.containers` checks, each of which begins with a mark."""
_BY_NAME: Final = {"tga": "TGA"}
"""Those that begin with no mark: the file's name has to say so too."""


def recognized(file: BinaryIO, filename: str = "") -> Form:
    """Return what an open file is, by its content; its name decides only where that leaves it open.

    Raises
    ------
    InvalidUpload
        It is empty or damaged, or of no kind that is taken, which is named.
    """
    shown = f"The upload {clean(filename, 100)}".rstrip()
    ending = filename.rpartition(".")[2].lower()
    if file.seek(0, os.SEEK_END) == 0:
        raise InvalidUpload(f"{shown} is empty.")
    try:
        form = read_form(file, ending) or guessed_form(file)
    except Damaged as error:
        raise InvalidUpload(f"{shown} is damaged: {error}.") from error
    if form is not None and form.content_type == _GLB:
        found = replace(form, kind=UploadKind.SCENE)
    elif form is not None and form.kind in _KINDS:
        found = form
    elif (other := _scene(file) or _of_pillow(file, ending)) is not None:
        found = other
    else:
        raise InvalidUpload(
            f"{shown} is {_described(file)}. Taken are pictures, videos, sounds and 3D models, recognized by their "
            "content."
        )
    if found.kind == UploadKind.IMAGE and (found.width or 0) * (found.height or 0) > MOST_PIXELS:
        raise InvalidUpload(f"{shown} has {found.width} × {found.height} pixels; at most {MOST_PIXELS:,} are taken.")
    return found


def _described(file: BinaryIO) -> str:
    """Return in words what a file that is not taken seems to be."""
    file.seek(0)
    head = file.read(_MOST_HEAD_BYTES)
    lead = head.lstrip()[:64].lower()
    if lead.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if head.startswith(b"PK\3\4"):
        return "a ZIP archive"
    if head.startswith(b"%PDF"):
        return "a PDF"
    try:
        head[:-4].decode()
    except UnicodeDecodeError:
        return "of an unknown format"
    return "a text" if head.strip(b"\0") else "nothing but zeros"


def _scene(file: BinaryIO) -> Form | None:
    """Return the format of a 3D model besides binary glTF: PLY, FBX, STL, or glTF as text."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(_MOST_HEAD_BYTES)
    if _PLY.match(head):
        return Form(UploadKind.SCENE, "model/ply", "ply")
    if head.startswith(b"Kaydara FBX Binary  \0"):
        return Form(UploadKind.SCENE, "application/octet-stream", "fbx")
    if re.match(rb"\s*\{", head) and re.search(rb'"asset"\s*:\s*\{', head):
        return Form(UploadKind.SCENE, "model/gltf+json", "gltf")
    if re.match(rb"solid\s[^\0]*\n\s*facet\s", head):
        return Form(UploadKind.SCENE, "model/stl", "stl")
    if len(head) >= _STL_HEAD_BYTES:
        (facets,) = struct.unpack("<I", head[80:84])
        if facets and size == _STL_HEAD_BYTES + facets * _STL_FACET_BYTES:
            return Form(UploadKind.SCENE, "model/stl", "stl")
    return None


def _of_pillow(file: BinaryIO, ending: str) -> Form | None:
    """Return the format of a picture that only Pillow knows, by its head; nothing is decoded."""
    # Imported here: all its plugins take 0.2 s and 15 MB, for pictures that are rare.
    from PIL import Image

    Image.init()
    formats = [name for name in (*_OLD_FORMS, *filter(None, (_BY_NAME.get(ending),))) if name in Image.OPEN]
    file.seek(0)
    try:
        image = Image.open(file, formats=formats)
        form, (width, height) = image.format or "", image.size
    except Exception:  # noqa: BLE001 - its parsers of broken files raise whatever they stumble over
        return None
    extension = next((name[1:] for name, each in Image.EXTENSION.items() if each == form), form.lower())
    return Form(UploadKind.IMAGE, Image.MIME.get(form, "application/octet-stream"), extension, width, height)
