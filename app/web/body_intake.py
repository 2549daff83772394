"""Bodies on their way in: how much of them is held at once, and for how long they are waited for."""

from __future__ import annotations

import asyncio
import zlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from aiohttp import web

from app.domain.errors import BodyTooLarge, BodyTooSlow, Busy, MalformedJson, UnsupportedBody
from app.keys import SETTINGS, UPLOADS
from app.runtime.side_thread import SMALL_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

_T = TypeVar("_T")

HELD: Final = 4
"""Maximum number of bodies of the largest size that are held at once. Smaller ones count by their size, small ones
not at all."""
BYTES_A_SECOND: Final = 32 * 1024
"""Minimum rate of a body."""
HURRIED_BYTES_A_SECOND: Final = 256 * 1024
"""The same of a large one while more than half of the room for such is taken: slow ones would take it from all."""
MAX_FORM_BYTES: Final = 64 * 1024
"""The largest form of the page names a thousand jobs."""
WITH_FILES: Final = frozenset({"/monitor/new"})
"""Where forms of the page bring files, and are read as they come (`app.web.file_forms`)."""
MOST_FILES: Final = 8
MAX_FIELDS_BYTES: Final = 8 * 2**20
"""The largest form with files, but for those: it holds a workflow."""
_PLAIN: Final = ("", "identity")
_ENCODINGS: Final = (*_PLAIN, "gzip", "deflate")
_INFLATED_AT_ONCE: Final = 256 * 1024
_MAX_MEMBERS: Final = 100
"""A gzip file may consist of several; of empty ones there could be hundred thousands."""
_BROKEN: Final = "The body broke off, or is not what its Content-Encoding says."


class Incoming:
    """The bodies that are being read and worked on, counted by bytes after inflation."""

    def __init__(self, max_body_bytes: int, *, patience_s: float) -> None:
        self._max = max_body_bytes
        self._patience_s = patience_s
        self._most = HELD * max_body_bytes
        self.held_bytes = 0
        """Of large bodies, at this moment."""

    @asynccontextmanager
    async def body(self, request: web.Request) -> AsyncIterator[bytes]:
        """Read a body; its bytes count as long as the context lasts.

        It is inflated piece by piece, and no further than to the limit.

        Raises
        ------
        UnsupportedBody, MalformedJson, BodyTooLarge, BodyTooSlow, Busy
        """
        if _encoding(request) not in _ENCODINGS:
            raise UnsupportedBody("The body's Content-Encoding is to be gzip or deflate, once, or none.")
        if (request.content_length or 0) > self._max:
            raise self._too_large()
        read, counted = bytearray(), 0
        try:
            async for piece in self._pieces(request):
                read += piece
                if len(read) > self._max:
                    raise self._too_large()
                if len(read) > SMALL_BYTES:
                    more = len(read) - counted
                    if self.held_bytes + more > self._most:
                        raise Busy("So many large bodies are being read that there is no room for one more.")
                    self.held_bytes += more
                    counted += more
            raw = bytes(read)
            read.clear()
            yield raw
        finally:
            self.held_bytes -= counted

    async def _pieces(self, request: web.Request) -> AsyncIterator[bytes]:
        """Yield the body as it comes, inflated."""
        patience = Patience(self._patience_s)
        inflater = _inflater(request)
        try:
            while True:
                if request.content.is_eof():
                    # It is all there, as small ones are from the beginning.
                    compressed = request.content.read_nowait()
                else:
                    compressed = await patience.wait_for(request.content.readany())
                if not compressed:
                    break
                patience.count(len(compressed), hurry=self.held_bytes * 2 > self._most)
                if inflater is None:
                    yield compressed
                    continue
                for piece in inflater.inflate(compressed):
                    yield piece
                    # What has arrived is read at once: without this, others would wait until all of it is inflated.
                    await asyncio.sleep(0)
            if inflater is not None and not inflater.complete:
                raise MalformedJson(_BROKEN)
        except (web.RequestPayloadError, ConnectionError, zlib.error) as error:
            raise MalformedJson(_BROKEN) from error

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"The body is larger than the {self._max} bytes that are taken (MAX_BODY_BYTES).")


INCOMING: Final = web.AppKey("INCOMING", Incoming)


@web.middleware
async def refuse_large_forms(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuse forms of the page that are larger than any of its own: aiohttp takes them apart where everybody waits."""
    if request.can_read_body and request.path.startswith("/monitor"):
        # Browsers say how long a form is.
        size, most = request.content_length, MAX_FORM_BYTES
        if comes_with_files(request):
            most = MOST_FILES * request.app[UPLOADS].max_bytes + MAX_FIELDS_BYTES
        if size is None or size > most:
            raise BodyTooLarge(f"A form of this page has at most {most} bytes, and says how many.")
    return await handler(request)


def comes_with_files(request: web.Request) -> bool:
    """Whether the body is a form that may bring files, sent to where such forms are taken."""
    return request.path.rstrip("/") in WITH_FILES and request.content_type == "multipart/form-data"


class Inflater:
    """Inflates a body piece by piece, or raises `zlib.error` for what is not what it was said to be."""

    def __init__(self, encoding: str) -> None:
        self._gzip = encoding == "gzip"
        self._stream: zlib._Decompress | None = None
        self._members = 0

    @property
    def complete(self) -> bool:
        """Whether the end has come of what has begun."""
        return self._stream is None or self._stream.eof

    def inflate(self, compressed: bytes) -> Iterator[bytes]:
        """Yield what comes of the next piece, at most a quarter of a megabyte at a time."""
        while compressed:
            if self._stream is None or self._stream.eof:
                self._stream = self._begin(compressed)
            piece = self._stream.decompress(compressed, _INFLATED_AT_ONCE)
            compressed = self._stream.unconsumed_tail or self._stream.unused_data
            yield piece

    def _begin(self, compressed: bytes) -> zlib._Decompress:
        self._members += 1
        if self._members > (_MAX_MEMBERS if self._gzip else 1):
            raise zlib.error("more than one body")
        if self._gzip:
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        # Many clients send "deflate" without the header that it should have.
        return zlib.decompressobj(zlib.MAX_WBITS if compressed[0] & 0xF == 8 else -zlib.MAX_WBITS)


class Patience:
    """For how long a body is waited for: `patience_s`, and what has come buys time at `BYTES_A_SECOND`.

    No more than `patience_s` can be saved up: who sends most of a body at once and then nothing is not waited for until
    all of it would have come slowly.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._until = asyncio.get_running_loop().time() + patience_s
        self._received = 0

    async def wait_for(self, coming: Awaitable[_T]) -> _T:
        """Return what comes; raises `BodyTooSlow`."""
        try:
            async with asyncio.timeout_at(self._until):
                return await coming
        except TimeoutError as error:
            raise BodyTooSlow(f"Of the body {self._received} bytes have come, too slowly.") from error

    def count(self, size: int, *, hurry: bool = False) -> None:
        """Note that so many bytes have come; in a hurry they buy less time."""
        self._received += size
        bought_s = size / (HURRIED_BYTES_A_SECOND if hurry else BYTES_A_SECOND)
        self._until = min(self._until + bought_s, asyncio.get_running_loop().time() + self._patience_s)


def patience_for(request: web.Request) -> Patience:
    """Return the patience that the settings have with the body of this request."""
    return Patience(request.config_dict[SETTINGS].body_seconds)


def _inflater(request: web.Request) -> Inflater | None:
    encoding = _encoding(request)
    # A server that was not started by us may inflate by itself.
    if encoding in _PLAIN or request.content.total_compressed_bytes is not None:
        return None
    return Inflater(encoding)


def _encoding(request: web.Request) -> str:
    return request.headers.get("Content-Encoding", "").strip().lower()
