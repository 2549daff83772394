"""Downloads the files of one attempt; begins during the run, as soon as ComfyUI names them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final, TypeVar

from app.domain.errors import AttemptFailed, BackendLost, OutputInvalid, OutputNotOwn
from app.domain.text import clean
from app.runtime.end_tasks import end_tasks
from app.storage.files import Received
from worker.comfyui.client import Unreadable
from worker.comfyui.node_outputs import SENT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from app.storage.files import FileStore
    from worker.comfyui.client import ComfyUI
    from worker.comfyui.file_ownership import Run, Stamp
    from worker.comfyui.node_outputs import OutputFile

log = logging.getLogger(__name__)
_T = TypeVar("_T")

AHEAD: Final = 4
"""Maximum number of files downloaded in advance; small ones are held in memory."""
TIMES_AS_MUCH: Final = 4
"""Maximum bytes of all outputs of an attempt together, as a multiple of the maximum for one output."""
MOST_UNWRITTEN_BYTES: Final = 256 * 2**20
"""Maximum bytes of pictures from the event socket that are in memory and not written yet."""
_PIECE_BYTES: Final = 2**18
TRIES: Final = 4
"""Maximum number of requests for a file before the attempt fails: the file exists, so a retry is worthwhile."""


class Downloads:
    """Downloads files from one backend. Call `drop` at the end, to delete those that were not taken."""

    def __init__(
        self, comfyui: ComfyUI, files: FileStore, max_output_bytes: int, looking: asyncio.Semaphore | None = None
    ) -> None:
        self.looking = looking or asyncio.Semaphore()
        """Held while a file of this backend is inspected, so that one backend does not use all threads."""
        self._size = 0
        """Bytes received so far."""
        self._comfyui = comfyui
        self._files = files
        self._max_output_bytes = max_output_bytes
        self._unwritten = 0
        self._sent: dict[tuple[str | None, ...], asyncio.Task[Received]] = {}
        self._coming: dict[tuple[str | None, ...], asyncio.Task[Received]] = {}

    def sent(self, file: OutputFile, image: memoryview) -> None:
        """Store a picture that came through the event socket; does not wait."""
        receiving = self._files.receive(self._written(image), self._max_output_bytes)
        self._sent[file.content] = asyncio.create_task(receiving, name="sent-picture")

    def expect(self, files: Iterable[OutputFile]) -> None:
        """Start downloading the first of these files, which will probably be taken; does not wait."""
        for file in files:
            if len(self._coming) >= AHEAD:
                return
            if file.content not in self._coming and file.folder != SENT:
                receiving = self._receive(file)
                self._coming[file.content] = asyncio.create_task(receiving, name="download")

    async def take(self, file: OutputFile) -> Received:
        """Return the received file; the caller must keep or discard it.

        Raises
        ------
        OutputInvalid, StorageFailed, BackendLost
        """
        if file.folder == SENT:
            return await self._take_sent(file)
        if (coming := self._coming.pop(file.content, None)) is not None:
            # A failed download in advance is tried again below.
            with contextlib.suppress(AttemptFailed):
                # Not shielded: cancelling the caller cancels the download.
                return await coming
        return await _tried(lambda: self._receive(file), file)

    async def _take_sent(self, file: OutputFile) -> Received:
        sent = self._sent.pop(file.content, None)
        if sent is None:
            raise OutputInvalid(f"The backend named the picture {clean(file.filename, 100)} but did not send it.")
        return await sent

    async def take_shared(self, file: OutputFile, run: Run, number: int) -> Received:
        """Return a received file that other runs may write to, if it is proven to be from this run.

        `number` counts the tries from 0; later ones wait first, because the file may still be being written. The caller
        must keep or discard it.

        Raises
        ------
        OutputNotOwn
            The file is from another run, or may be.
        OutputInvalid, StorageFailed, BackendLost
        """
        run.require_alone(file)
        if number:
            await asyncio.sleep(0.1 * 2**number)
        before = await _tried(lambda: self._comfyui.stamp(file), file)
        run.require_made(file, before)
        received = await self.take(file)
        try:
            await self._require_unchanged(file, run, before)
        except BaseException:
            await self._files.discard(received)
            raise
        return received

    async def _require_unchanged(self, file: OutputFile, run: Run, before: Stamp) -> None:
        name = clean(file.filename, 100)
        if await _tried(lambda: self._comfyui.stamp(file), file) != before:
            raise OutputInvalid(f"The file {name} changed while it was fetched.")
        # The run itself may change a file after its end, in a thread of its own; but so may any later run.
        if not run.outlasted_by(before) and run.watched:
            return
        if not await _tried(lambda: self._comfyui.ran_last(run.prompt_id), file):
            raise OutputNotOwn(f"The file {name} may have been changed by another run after this one had ended.")

    async def drop(self) -> None:
        """Cancel or delete all downloads that were not taken."""
        dropped = [*self._coming.values(), *self._sent.values()]
        self._coming, self._sent = {}, {}
        for received in await end_tasks(dropped) if dropped else ():
            if isinstance(received, Received):
                await self._files.discard(received)

    async def _receive(self, file: OutputFile) -> Received:
        return await self._files.receive(self._counted(file), self._max_output_bytes)

    async def _counted(self, file: OutputFile) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a file, and check the total size of all files."""
        size = 0
        try:
            async with contextlib.aclosing(self._comfyui.download(file, self._max_output_bytes)) as chunks:
                async for chunk in chunks:
                    size += len(chunk)
                    self._size += len(chunk)
                    self._require_room()
                    yield chunk
        except BaseException:
            # The file is downloaded again, or not kept.
            self._size -= size
            raise

    async def _written(self, image: memoryview) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a picture from the event socket, unless too many bytes are unwritten."""
        size = len(image)
        self._unwritten += size
        try:
            if self._unwritten > MOST_UNWRITTEN_BYTES:
                raise OutputInvalid("The backend sent pictures faster than they can be stored.")
            self._size += size
            self._require_room()
            for start in range(0, size, _PIECE_BYTES):
                yield bytes(image[start : start + _PIECE_BYTES])
        finally:
            self._unwritten -= size

    def _require_room(self) -> None:
        most = TIMES_AS_MUCH * self._max_output_bytes
        if self._size > most:
            raise OutputInvalid(f"The outputs are larger than {most} bytes together.")


async def _tried(ask: Callable[[], Awaitable[_T]], file: OutputFile) -> _T:
    """Return what a request about a file is answered, asked for several times if need be."""
    for number in range(1, TRIES):
        try:
            return await ask()
        except (BackendLost, Unreadable) as error:
            log.warning("request %s for %s failed, trying again: %s", number, clean(file.filename, 100), error)
            await asyncio.sleep(0.2 * 2**number)
    return await ask()
