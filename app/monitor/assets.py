"""Static files of the page: read once at start. Their version is in their address, so that browsers may keep them.

The version is a folder in the path and not a part of each name, so that script modules import one another by relative
addresses of the same version.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import ETag, web

from app.domain.errors import NotFound

if TYPE_CHECKING:
    from pathlib import Path

_KEEP: Final = "public, max-age=31536000, immutable"

_BLOCKING_SCRIPT: Final = "theme.js"
"""The only script that is no module: it must run before the page is drawn."""

_COMMENT: Final = re.compile(rb"/\*(?:(?!\*/).)*\*/")
_SCRIPT_TYPE: Final = "text/javascript"
"""Browsers refuse a module of another type, so it does not depend on the machine's table of types."""


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
        contents = "".join(f"{name} {asset.digest}\n" for name, asset in self._assets.items())
        self.version: Final = _digest(contents.encode())
        """Changes whenever a file changes."""

    def get(self, name: str) -> Asset:
        """Return a file, or raise `NotFound`."""
        if name not in self._assets:
            raise NotFound("There is no such file.")
        return self._assets[name]

    def address(self, name: str) -> str:
        """Return a file's address, with the version in the path."""
        return f"/monitor/static/{self.version}/{name}"

    def modules(self) -> list[str]:
        """Return the names of all script modules, for a page to load them at once and not import by import."""
        return [name for name in self._assets if name.endswith(".js") and name != _BLOCKING_SCRIPT]


ASSETS: Final = web.AppKey("ASSETS", Assets)


async def send_asset(request: web.Request) -> web.Response:
    """Send a static file.

    A page that was made before an update asks for another version, or for none. It gets the present file, which
    browsers must not keep under that address.
    """
    assets = request.config_dict[ASSETS]
    asset = assets.get(request.match_info["name"])
    present = request.match_info.get("version") == assets.version
    headers = {"Cache-Control": _KEEP if present else "no-cache", "Vary": "Accept-Encoding"}
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


def without_comments(source: bytes) -> bytes:
    """Return styles or a script without leading blanks, and without comments that have lines of their own.

    A source in which that could change a text, because one goes over several lines, stays as it is.
    """
    lines = [line.strip() for line in source.split(b"\n")]
    if any(line.count(b"`") % 2 or line.endswith(b"\\") or line.count(b"/*") != line.count(b"*/") for line in lines):
        return source
    kept = (line for line in lines if line and not line.startswith(b"//") and not _COMMENT.fullmatch(line))
    return b"\n".join(kept) + b"\n"


def _read(path: Path) -> Asset:
    plain = path.read_bytes()
    if path.suffix in (".css", ".js"):
        plain = without_comments(plain)
    guessed = _SCRIPT_TYPE if path.suffix == ".js" else mimetypes.guess_type(path.name)[0]
    zipped = gzip.compress(plain, 9, mtime=0)
    return Asset(guessed or "application/octet-stream", plain, zipped, _digest(plain))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
