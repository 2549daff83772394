"""Handlers of uploads: a file, or a mask that becomes the transparency of a picture that is there."""

import asyncio
import errno
import functools
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from aiohttp import web
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from worker.standin.faults import Fault, FaultKind, UploadFault
from worker.standin.files import FOLDERS, Folders, OutsideFolderError, annotated
from worker.standin.server import STANDIN, Standin
from worker.standin.sockets import MAX_UPLOAD_BYTES

_CHUNK: Final = 1024 * 1024

Write = Callable[[Mapping[str, Any], BinaryIO, Path], None]
"""Stores what was uploaded with this form under a path."""


async def upload_image(request: web.Request) -> web.StreamResponse:
    """Store a file of any kind."""
    return await _upload(request, _copy)


async def upload_mask(request: web.Request) -> web.StreamResponse:
    """Store the picture that `original_ref` names, with the transparency of the uploaded one."""
    return await _upload(request, functools.partial(_give_transparency, request.app[STANDIN].folders))


async def _upload(request: web.Request, write: Write) -> web.StreamResponse:
    """Store what stands in the form under `image`, unless a fault waits.

    Raises
    ------
    LookupError, TypeError, AttributeError, ValueError, OSError
        If a field is not what ComfyUI takes for granted, which it answers with 500 too.
    """
    standin = request.app[STANDIN]
    fault = standin.faults.take(FaultKind.UPLOAD)
    how = UploadFault(fault.how or UploadFault.ERROR) if fault is not None else None
    if how is UploadFault.TOO_LARGE:
        raise web.HTTPRequestEntityTooLarge(max_size=MAX_UPLOAD_BYTES, actual_size=MAX_UPLOAD_BYTES)
    if how is UploadFault.CUT:
        await request.content.readany()
        return _cut(request)
    form = await request.post()
    try:
        if how is UploadFault.ERROR:
            raise OSError("as asked for")
        response = await _store(standin, form, _run_full if how is UploadFault.DISK_FULL else write)
    finally:
        for value in form.values():
            if isinstance(value, web.FileField):
                value.file.close()
    if how is UploadFault.LOST:
        return _cut(request)
    if fault is not None and how is UploadFault.SLOW:
        await _wait(fault)
    return response


async def _wait(fault: Fault) -> None:
    """Let the seconds of a fault pass, or fewer if it is cleared."""
    try:
        async with asyncio.timeout(fault.seconds):
            await fault.released.wait()
    except TimeoutError:
        pass


async def _store(standin: Standin, form: Mapping[str, Any], write: Write) -> web.StreamResponse:
    """Store a file and answer under which name."""
    kind, subfolder, image = form.get("type", "input"), form.get("subfolder", ""), form.get("image")
    if kind not in FOLDERS:
        raise KeyError(kind)
    if not image:
        return web.Response(status=400)
    file: BinaryIO = image.file
    try:
        folder = standin.folders.upload_folder(kind, subfolder, image.filename)
    except OutsideFolderError:
        return web.Response(status=400)
    overwrite = form.get("overwrite") in ("true", "1")
    async with standin.storing:
        name, there = await asyncio.to_thread(_free_name, folder, image.filename, file, overwrite)
        if not there:
            file.seek(0)
            await asyncio.to_thread(write, form, file, folder / name)
        told: dict[str, Any] = {"name": name, "subfolder": subfolder, "type": kind}
        if standin.options.assets:
            assets = standin.executor.assets
            told["asset"] = await asyncio.to_thread(assets.uploaded, name, subfolder, kind, folder / name)
    return web.json_response(told)


def _free_name(folder: Path, name: str, file: BinaryIO, overwrite: bool) -> tuple[str, bool]:
    """Return the name for a file and whether it is there already; names of other bytes are passed by with a number."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - Path takes "e." for a name without a suffix
    free, number = name, 1
    while not overwrite and (folder / free).exists():
        if _same(folder / free, file):
            return free, True
        free = f"{stem} ({number}){suffix}"
        number += 1
    return free, False


def _same(path: Path, file: BinaryIO) -> bool:
    """Tell whether a file on disk has the uploaded bytes."""
    file.seek(0)
    with path.open("rb") as there:
        while (chunk := there.read(_CHUNK)) == file.read(_CHUNK):
            if not chunk:
                return True
    return False


def _copy(form: Mapping[str, Any], file: BinaryIO, path: Path) -> None:
    """Store the uploaded bytes."""
    with path.open("wb") as target:
        shutil.copyfileobj(file, target, _CHUNK)


def _run_full(form: Mapping[str, Any], file: BinaryIO, path: Path) -> None:
    """Store the first half of the uploaded bytes and fail."""
    half = file.seek(0, os.SEEK_END) // 2
    file.seek(0)
    path.write_bytes(file.read(half))
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _original(folders: Folders, reference: Mapping[str, Any]) -> Path | None:
    """Return the path of the picture that a mask is for; None if it may not be read: then nothing is stored, unsaid."""
    name, kind = annotated(reference["filename"])
    kind = kind or reference.get("type", "output")
    if not name or name[0] == "/" or ".." in name or kind not in FOLDERS:
        return None
    try:
        return folders.inside(kind, reference.get("subfolder", "")) / name
    except OutsideFolderError:
        return None


def _give_transparency(folders: Folders, form: Mapping[str, Any], mask: BinaryIO, path: Path) -> None:
    """Store the picture that the form refers to with the transparency of another one, and with its own text.

    Raises
    ------
    LookupError, TypeError, ValueError
        If nothing is referred to, or the sizes differ.
    OSError
        If one of them is no picture, or the name stands for a format without transparency.
    """
    original = _original(folders, json.loads(form["original_ref"]))
    if original is None or not original.is_file():
        return
    texts = PngInfo()
    with Image.open(original) as opened, Image.open(mask) as opened_mask:
        for key, value in getattr(opened, "text", {}).items():
            texts.add_text(key, value)
        picture = opened.convert("RGBA")
        picture.putalpha(opened_mask.convert("RGBA").getchannel("A"))
    picture.save(path, compress_level=4, pnginfo=texts)


def _cut(request: web.Request) -> web.Response:
    """Close the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
