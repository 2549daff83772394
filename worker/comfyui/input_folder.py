"""The folder of input files of one ComfyUI: files are sent there once, and asked for before they are sent again."""

from __future__ import annotations

import asyncio
import logging
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import ClientTimeout, FormData

from app.domain.errors import BackendLacksModel, BackendLost
from app.domain.text import word
from worker.comfyui.answers import read_object
from worker.comfyui.bounded_http import ON_THE_WIRE, SLOWEST_BYTES_S, away, is_redirect, read_whole, redirected

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from aiohttp import ClientSession

    from app.domain.uploads import Upload

log = logging.getLogger(__name__)

SUBFOLDER: Final = "genonaut"
"""Our folder in ComfyUI's folder of input files."""
AT_ONCE: Final = 3
"""Maximum number of files that are sent to a backend at once: it writes each in its event loop."""
_TRIES: Final = 2
_MOST_KNOWN: Final = 100_000
_TAKEN: Final = (HTTPStatus.OK, HTTPStatus.CREATED)


class Had(StrEnum):
    """How a backend came to have a file."""

    KNOWN = "known"
    """It was given before."""
    FOUND = "found"
    """The backend said that it is there."""
    SENT = "sent"


class InputFolder:
    """What one backend has in the folder. Methods raise `BackendLost` when it is unreachable or its answer is invalid.

    Files are named after their content, so that one that is there is the right one; whether it is all there is told by
    its size.
    """

    def __init__(self, session: ClientSession, url: str, timeout: ClientTimeout) -> None:
        self._session = session
        self._url = url
        self._timeout = timeout
        self._known: dict[str, str] = {}
        """Name → the text that stands for the file in a graph."""
        self._giving: dict[str, asyncio.Lock] = {}
        self._sending = asyncio.Semaphore(AT_ONCE)

    def forget(self) -> None:
        """Ask for each file again: the server may have been restarted with another disk."""
        self._known.clear()

    async def give(self, upload: Upload, path: Path) -> tuple[str, Had]:
        """Return the text that stands for a file in a graph, when the backend has it; `path` is where we have it.

        Raises
        ------
        BackendLacksModel
            The backend does not take the file.
        FileNotFoundError
            We have it no more.
        BackendLost
        """
        name = upload.filename
        if (known := self._known.get(name)) is not None:
            return known, Had.KNOWN
        lock = self._giving.setdefault(name, asyncio.Lock())
        try:
            async with lock, self._sending:
                if (known := self._known.get(name)) is not None:
                    return known, Had.KNOWN
                had, called = Had.FOUND, f"{SUBFOLDER}/{name}"
                if not await self._has(name, upload.size_bytes):
                    had, called = Had.SENT, await self._send(upload, path)
                while len(self._known) >= _MOST_KNOWN:
                    del self._known[next(iter(self._known))]
                self._known[name] = called
                return called, had
        finally:
            if not lock.locked():
                self._giving.pop(name, None)

    async def _has(self, name: str, size_bytes: int) -> bool:
        query = {"filename": name, "subfolder": SUBFOLDER, "type": "input"}
        try:
            async with (
                asyncio.timeout(self._timeout.total),
                self._session.head(
                    f"{self._url}/view",
                    params=query,
                    headers={"Accept-Encoding": "identity"},
                    allow_redirects=False,
                    timeout=self._timeout,
                ) as answer,
            ):
                if is_redirect(answer.status):
                    raise BackendLost(redirected("/view", answer.status))
                return answer.status == HTTPStatus.OK and answer.content_length == size_bytes
        except ON_THE_WIRE as error:
            raise away(error) from error

    async def _send(self, upload: Upload, path: Path) -> str:
        for number in range(1, _TRIES + 1):
            file = await asyncio.to_thread(path.open, "rb")
            try:
                return await self._sent(upload, file)
            except BackendLost as error:
                if number == _TRIES:
                    raise
                log.warning("a file of %s bytes could not be sent, trying again: %s", upload.size_bytes, error)
            finally:
                file.close()
        raise AssertionError("unreachable")

    async def _sent(self, upload: Upload, file: BinaryIO) -> str:
        form = FormData()
        form.add_field("image", file, filename=upload.filename, content_type=upload.content_type)
        # What is there under this name is ours, and was broken off if it has another size.
        for name, value in (("type", "input"), ("subfolder", SUBFOLDER), ("overwrite", "true")):
            form.add_field(name, value)
        limit_s = (self._timeout.total or 0) + upload.size_bytes / SLOWEST_BYTES_S
        try:
            async with (
                asyncio.timeout(limit_s),
                self._session.post(
                    f"{self._url}/upload/image",
                    data=form,
                    allow_redirects=False,
                    timeout=ClientTimeout(total=None, sock_connect=self._timeout.sock_connect),
                ) as answer,
            ):
                if is_redirect(answer.status):
                    raise BackendLost(redirected("/upload/image", answer.status))
                raw = await read_whole(answer, "/upload/image")
        except ON_THE_WIRE as error:
            raise away(error) from error
        if answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            raise BackendLacksModel(
                f"The backend takes no file of {upload.size_bytes} bytes (its option --max-upload-size)."
            )
        told = read_object(raw)
        name = word(told.get("name"))
        if answer.status not in _TAKEN or not name:
            raise BackendLost(f"The backend did not take an input file: it answered with status {answer.status}.")
        folder = word(told.get("subfolder"))
        return f"{folder}/{name}" if folder else name
