"""The handler that shows files."""

import asyncio
import io
import mimetypes
from pathlib import Path, PurePosixPath
from typing import Final

from aiohttp import web
from PIL import Image

from worker.standin.faults import FaultKind, ViewFault
from worker.standin.files import FOLDERS, OutsideFolderError, annotated
from worker.standin.server import STANDIN
from worker.standin.versions import GROWING_INPUTS

_TYPES: Final = {
    ".png": "image/png",
    ".webp": "image/webp",
    ".webm": "video/webm",
    ".flac": "audio/x-flac",
    ".mp4": "video/mp4",
    ".svg": "image/svg+xml",
    ".md": "text/markdown",
}
"""Where the machine's own table of types may be poor."""

_UNSAFE_TYPES: Final = {"text/html", "text/html-sandboxed", "application/xhtml+xml", "text/javascript", "text/css"}
"""Never served as such: they would run in the browser."""

_UNSAFER_TYPES: Final = _UNSAFE_TYPES | {
    "application/javascript",
    "application/x-javascript",
    "application/ecmascript",
    "message/rfc822",
}
"""The same from 0.33 on, where XML of any kind is one too, and they are to be downloaded, not shown."""


async def view_file(request: web.Request) -> web.StreamResponse:
    """Answer a file of output, input or temp, as it is or recoded."""
    standin = request.app[STANDIN]
    if "filename" not in request.query:
        return web.Response(status=404)
    name, kind = annotated(request.query["filename"])
    if not name or name[0] == "/" or ".." in name:
        return web.Response(status=400)
    kind = kind or request.query.get("type", "output")
    if kind not in FOLDERS:
        return web.Response(status=400)
    try:
        folder = standin.folders.inside(kind, request.query.get("subfolder", ""))
    except OutsideFolderError:
        return web.Response(status=403)
    path = folder / PurePosixPath(name).name
    if not await asyncio.to_thread(path.is_file):
        return web.Response(status=404)
    if fault := standin.faults.take(FaultKind.VIEW):
        return await _failing_view(request, path, ViewFault(fault.how or ViewFault.MISSING))
    disposition = {"Content-Disposition": f'filename="{path.name}"'}
    if "preview" in request.query:
        format_name, body = await asyncio.to_thread(_preview, path, request.query["preview"])
        return web.Response(body=body, content_type=f"image/{format_name}", headers=disposition)
    if request.query.get("channel", "rgba") in ("rgb", "a"):
        body = await asyncio.to_thread(_channel, path, request.query["channel"])
        return web.Response(body=body, content_type="image/png", headers=disposition)
    if standin.version < GROWING_INPUTS:
        return web.FileResponse(path, headers=disposition | {"Content-Type": _content_type(path)})
    return web.FileResponse(path, headers=_newer_headers(path, request.headers.get("Sec-Fetch-Dest")))


def _newer_headers(path: Path, destination: str | None) -> dict[str, str]:
    """Return how a file is described from 0.33 on."""
    content_type = _guessed_type(path)
    headers = {"X-Content-Type-Options": "nosniff"}
    disposition = f'filename="{path.name}"'
    if content_type in _UNSAFER_TYPES or content_type.endswith(("+xml", "/xml")):
        headers |= {"Vary": "Sec-Fetch-Dest", "Cache-Control": "no-store"}
        if not (destination == "image" and content_type == "image/svg+xml"):
            content_type, disposition = "application/octet-stream", f"attachment; {disposition}"
    return headers | {"Content-Disposition": disposition, "Content-Type": content_type}


def _content_type(path: Path) -> str:
    """Return the type that a file's name stands for, if it is harmless."""
    guessed = _guessed_type(path)
    return "application/octet-stream" if guessed in _UNSAFE_TYPES else guessed


def _guessed_type(path: Path) -> str:
    """Return the type that a file's name stands for."""
    return _TYPES.get(path.suffix.lower()) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def _preview(path: Path, wanted: str) -> tuple[str, bytes]:
    """Return a picture recoded, smaller in bytes and without its text.

    Raises
    ------
    OSError, ValueError
        If the file is no picture or the quality is none.
    """
    format_name, _, quality_text = wanted.partition(";")
    if format_name not in ("webp", "jpeg"):
        format_name = "webp"
    quality = int(quality_text) if quality_text.isdecimal() else 90
    if quality > 100:
        raise ValueError("quality must be at most 100")
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        shown = picture.convert("RGB") if format_name == "jpeg" else picture
        shown.save(buffer, format_name, quality=quality)
    return format_name, buffer.getvalue()


def _channel(path: Path, channel: str) -> bytes:
    """Return the colours of a picture, or its transparency alone."""
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        if channel == "rgb":
            shown = picture.convert("RGB")
        else:
            alpha = picture.convert("RGBA").getchannel("A")
            shown = Image.new("RGBA", picture.size)
            shown.putalpha(alpha)
        shown.save(buffer, "PNG")
    return buffer.getvalue()


async def _failing_view(request: web.Request, path: Path, how: ViewFault) -> web.StreamResponse:
    """Answer a file that is there as if something were wrong with it."""
    if how is ViewFault.MISSING:
        return web.Response(status=404)
    if how is ViewFault.UNAVAILABLE:
        return web.Response(status=503)
    if how is ViewFault.ERROR:
        raise OSError("as asked for")
    content_type = _content_type(path)
    if how is ViewFault.EMPTY:
        return web.Response(body=b"", content_type=content_type)
    if how is ViewFault.NOT_AN_IMAGE:
        return web.Response(body=b"this is no image", content_type=content_type)
    body = await asyncio.to_thread(path.read_bytes)
    response = web.StreamResponse(headers={"Content-Type": content_type, "Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    await asyncio.sleep(0.02)  # lets the half go out before the connection is cut
    if request.transport is not None:
        request.transport.abort()
    return response
