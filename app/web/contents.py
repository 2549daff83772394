"""Handlers of `/api/v1/contents`: what jobs left, with bytes and thumbnails."""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from aiohttp import web

from app.domain.errors import ContentNotFound, ThumbnailDue
from app.domain.job import SHOWN_BY_BROWSERS
from app.keys import FILES, LINKS
from app.web.answers import content_answer
from app.web.bodies import number_of
from app.web.callers import views_of
from app.web.proxies import root_path
from app.web.responses import answered
from app.web.signed_links import LEFT_S

if TYPE_CHECKING:
    from app.domain.job import Output

routes: Final = web.RouteTableDef()

ONE: Final = r"/api/v1/contents/{content_id:\d+}"
LOOK_S: Final = 0.1
LOOKS: Final = 10
"""For so long, a second, a thumbnail that is due is waited for."""
_IMMUTABLE: Final = "private, max-age=31536000, immutable"
"""An output never changes, and its id is never given again."""
_HARMLESS: Final = re.compile(r"(?:image|video|audio)/(?!svg|.*xml)[\w.+-]+|text/plain|application/json", re.ASCII)
"""What browsers show without running anything in it; all else is saved, and never shown under our own address."""
_NAMELESS: Final = re.compile(r"[\x00-\x1f\x7f/\\]")
_MOST_NAME_CHARS: Final = 200


@routes.get(ONE)
async def get_content(request: web.Request) -> web.Response:
    """Show what a job left."""
    content_id = number_of(request, "content_id")
    found = await views_of(request).content(content_id)
    if found is None:
        raise ContentNotFound(f"There is no content {content_id}.")
    signing = await request.app[LINKS].signing()
    return answered(content_answer(content_id, *found, signing.signed, root_path(request)))


@routes.get(ONE + r"/outputs/{index:\d+}")
async def get_output(request: web.Request) -> web.StreamResponse:
    """Send an output's bytes, or the range asked for."""
    output = await _output(request, number_of(request, "index"))
    return file_response(request, output.path, output.content_type, name=_called(output))


@routes.get(ONE + r"/outputs/{index:\d+}/thumbnail")
async def get_thumbnail(request: web.Request) -> web.StreamResponse:
    """Send an output's thumbnail; when it is not made within a second, the picture itself for now."""
    return await _thumbnail(request, number_of(request, "index"))


@routes.get(ONE + "/thumbnail")
async def get_first_thumbnail(request: web.Request) -> web.StreamResponse:
    """Send the thumbnail of the first output that has one: of a preview only where nothing was saved that has."""
    found = await views_of(request).content(number_of(request, "content_id"))
    outputs = found[-1] if found is not None else []
    seen = sorted(
        (each for each in outputs if each.thumbnail_path or each.thumbnail_due),
        key=lambda each: (each.preview, each.index),
    )
    return await _thumbnail(request, seen[0].index if seen else 0)


async def _thumbnail(request: web.Request, index: int) -> web.StreamResponse:
    output = await _output(request, index)
    for _ in range(LOOKS):
        if not output.thumbnail_due:
            break
        # It is made in a moment, mostly, and far smaller than what stands in for it.
        await asyncio.sleep(LOOK_S)
        output = await _output(request, index)
    if output.thumbnail_due:
        if output.content_type not in SHOWN_BY_BROWSERS:
            raise ThumbnailDue(f"The thumbnail of output {index} is being made.")
        return _file(request, output.path, output.content_type, inline=True, for_now=True)
    if output.thumbnail_path is None:
        raise ContentNotFound(f"Output {index} has no thumbnail.")
    return _file(request, output.thumbnail_path, "image/webp", inline=True)


async def _output(request: web.Request, index: int) -> Output:
    content_id = number_of(request, "content_id")
    output = await views_of(request).output(content_id, index) if index < 2**31 else None
    if output is None:
        raise ContentNotFound(f"There is no output {index} of content {content_id}.")
    return output


def _called(output: Output) -> str | None:
    """Return the name that ComfyUI gave the file, as one by which it can be saved; None where there is none."""
    name = (output.source or {}).get("filename") or ""
    plain = _NAMELESS.sub("_", name.replace("\\", "/").rpartition("/")[2]).strip(" .")
    return plain[-_MOST_NAME_CHARS:] or None


def _disposition(name: str, *, inline: bool) -> str:
    """Return a header that tells a name in both ways of RFC 6266: for old readers in ASCII, then as it is."""
    how = "inline" if inline else "attachment"
    ascii_name = re.sub(r'[^ -~]|["\\%]', "_", name)
    told = f'{how}; filename="{ascii_name}"'
    return told if ascii_name == name else f"{told}; filename*=UTF-8''{quote(name, safe='')}"


def file_response(request: web.Request, path: str, content_type: str, *, name: str | None = None) -> web.StreamResponse:
    """Send a file of the store: shown by browsers only if its type is harmless, and never under our own rights."""
    shown = _HARMLESS.fullmatch(content_type) is not None
    return _file(request, path, content_type, inline=shown, name=name)


def _file(
    request: web.Request,
    path: str,
    content_type: str,
    *,
    inline: bool,
    name: str | None = None,
    for_now: bool = False,
) -> web.StreamResponse:
    """Send a file of the store; `for_now` what stands in for another one, which is asked for again."""
    absolute = request.app[FILES].absolute(path)
    if not absolute.is_file():
        raise ContentNotFound("The file is no longer in the store.")
    _check_range(request, absolute.stat().st_size)
    name = name or "-".join(PurePosixPath(path).parts[-2:])
    headers = {
        "Content-Type": f"{content_type}; charset=utf-8" if content_type == "text/plain" else content_type,
        "Cache-Control": "no-cache" if for_now else _kept(request),
        "Content-Security-Policy": "default-src 'none'; sandbox; frame-ancestors 'none'",
        "Content-Disposition": _disposition(name, inline=inline),
    }
    if LEFT_S in request:
        # For pages of other sites, also those that embed only what agrees to that.
        headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    answer = _StandIn if for_now else web.FileResponse
    return answer(absolute, status=HTTPStatus.OK, headers=headers)


def _kept(request: web.Request) -> str:
    """Return for how long what is sent may be kept: by a link no longer than that lives."""
    left_s = request.get(LEFT_S)
    return _IMMUTABLE if left_s is None else f"private, max-age={left_s}, immutable"


class _StandIn(web.FileResponse):
    """A file sent without `Last-Modified`.

    The thumbnail that replaces it may have been made in the same second; only the ETag distinguishes the two.
    """

    @property
    def last_modified(self) -> None:
        """Never told."""

    @last_modified.setter
    def last_modified(self, value: object) -> None:
        del value


def _check_range(request: web.Request, size_bytes: int) -> None:
    """Refuse a range that cannot be had; aiohttp would answer 416 without a body."""
    if "If-Range" in request.headers or "If-None-Match" in request.headers:
        # Then it is not certain that the range counts.
        return
    try:
        start = request.http_range.start
    except ValueError:
        start = size_bytes
    if start is not None and start >= size_bytes:
        detail = f"The file has {size_bytes} bytes; the range is not among them."
        raise web.HTTPRequestRangeNotSatisfiable(text=detail, headers={"Content-Range": f"bytes */{size_bytes}"})
