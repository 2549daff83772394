"""Static files of the page: read once at start, addressed by their content, so that browsers may keep them for ever."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import ETag, web

from app.domain.errors import NotFound

if TYPE_CHECKING:
    from pathlib import Path

_FOR_EVER: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file."""

    content_type: str
    plain: bytes
    zipped: bytes
    digest: str


class Assets:
    """The files of one folder; raises `OSError` when it cannot be read."""

    def __init__(self, folder: Path) -> None:
        self._assets = {path.name: _read(path) for path in sorted(folder.iterdir()) if path.is_file()}

    def get(self, name: str) -> Asset:
        """Return a file, or raise `NotFound`."""
        if name not in self._assets:
            raise NotFound("There is no such file.")
        return self._assets[name]

    def address(self, name: str) -> str:
        """Return a file's address, another one whenever the file is another one."""
        return f"/monitor/static/{name}?v={self._assets[name].digest}"


ASSETS: Final = web.AppKey("ASSETS", Assets)


async def send_asset(request: web.Request) -> web.Response:
    """Send a static file."""
    asset = request.config_dict[ASSETS].get(request.match_info["name"])
    kept = request.query.get("v") == asset.digest
    headers = {"Cache-Control": _FOR_EVER if kept else "no-cache", "Vary": "Accept-Encoding"}
    known = request.if_none_match or ()
    if any(tag.value in (asset.digest, "*") for tag in known):
        unchanged = web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        unchanged.etag = ETag(asset.digest, is_weak=True)
        return unchanged
    zipped = "gzip" in request.headers.get("Accept-Encoding", "")
    if zipped:
        headers["Content-Encoding"] = "gzip"
    body = asset.zipped if zipped else asset.plain
    response = web.Response(body=body, content_type=asset.content_type, charset="utf-8", headers=headers)
    # Weak: the plain and the zipped bytes are two forms of one thing.
    response.etag = ETag(asset.digest, is_weak=True)
    return response


def _read(path: Path) -> Asset:
    plain = path.read_bytes()
    content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return Asset(content_type, plain, gzip.compress(plain, 9, mtime=0), hashlib.sha256(plain).hexdigest()[:16])
