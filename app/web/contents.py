"""Handlers of `/api/v1/contents`: what jobs left, with bytes and thumbnails."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from aiohttp import web

from app.domain.errors import ContentNotFound, ThumbnailDue
from app.domain.job import SHOWN_BY_BROWSERS
from app.keys import FILES, VIEWS
from app.web.answers import content_answer
from app.web.bodies import number_of
from app.web.jobs import answered

if TYPE_CHECKING:
    from app.domain.job import Output

routes: Final = web.RouteTableDef()

ONE: Final = r"/api/v1/contents/{content_id:\d+}"
LOOK_S: Final = 0.1
LOOKS: Final = 10
"""For so long, a second, a thumbnail that is due is waited for."""
_IMMUTABLE: Final = "private, max-age=31536000, immutable"
"""An output never changes, and its id is never given again."""


@routes.get(ONE)
async def get_content(request: web.Request) -> web.Response:
    """Show what a job left."""
    content_id = number_of(request, "content_id")
    found = await request.app[VIEWS].content(content_id)
    if found is None:
        raise ContentNotFound(f"There is no content {content_id}.")
    return answered(content_answer(content_id, *found))


@routes.get(ONE + r"/outputs/{index:\d+}")
async def get_output(request: web.Request) -> web.StreamResponse:
    """Send an output's bytes, or the range asked for."""
    output = await _output(request, number_of(request, "index"))
    # Only what browsers show harmlessly is shown; anything else is saved.
    shown = output.kind in ("image", "video", "audio", "text")
    return _file(request, output.path, output.content_type, inline=shown)


@routes.get(ONE + r"/outputs/{index:\d+}/thumbnail")
async def get_thumbnail(request: web.Request) -> web.StreamResponse:
    """Send an output's thumbnail; when it is not made within a second, the picture itself for now."""
    return await _thumbnail(request, number_of(request, "index"))


@routes.get(ONE + "/thumbnail")
async def get_first_thumbnail(request: web.Request) -> web.StreamResponse:
    """Send the thumbnail of the first output; when it is not made within a second, the picture itself for now."""
    return await _thumbnail(request, 0)


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
    output = await request.app[VIEWS].output(content_id, index) if index < 2**31 else None
    if output is None:
        raise ContentNotFound(f"There is no output {index} of content {content_id}.")
    return output


def _file(
    request: web.Request, path: str, content_type: str, *, inline: bool, for_now: bool = False
) -> web.StreamResponse:
    """Send a file of the store; `for_now` what stands in for another one, which is asked for again."""
    absolute = request.app[FILES].absolute(path)
    if not absolute.is_file():
        raise ContentNotFound("The file is no longer in the store.")
    _check_range(request, absolute.stat().st_size)
    name = "-".join(PurePosixPath(path).parts[-2:])
    headers = {
        "Content-Type": f"{content_type}; charset=utf-8" if content_type == "text/plain" else content_type,
        "Cache-Control": "no-cache" if for_now else _IMMUTABLE,
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Content-Disposition": f'{"inline" if inline else "attachment"}; filename="{name}"',
    }
    answer = _StandIn if for_now else web.FileResponse
    return answer(absolute, status=HTTPStatus.OK, headers=headers)


class _StandIn(web.FileResponse):
    """A file without a time: the one that it stands in for may be of the same second, and is told by its ETag."""

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
