"""The files of one attempt on their way here: from when ComfyUI names them, while the run goes on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from app.domain.errors import AttemptFailed, BackendLost, OutputInvalid, OutputNotOwn
from app.domain.text import clean
from app.runtime.end_tasks import end_tasks
from app.storage.files import Received
from worker.comfyui.client import Unreadable
from worker.comfyui.node_outputs import SENT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from app.storage.files import FileStore
    from worker.comfyui.client import ComfyUI
    from worker.comfyui.file_ownership import Run, Stamp
    from worker.comfyui.node_outputs import OutputFile

log = logging.getLogger(__name__)

AHEAD: Final = 4
"""So many files are received before they are asked for; each is held in memory if it is small."""
TIMES_AS_MUCH: Final = 4
"""All outputs of an attempt may have together so many times the bytes that one of them may have."""
MOST_UNWRITTEN_BYTES: Final = 256 * 2**20
"""Of pictures that have come through the event socket and are still in memory."""
_PIECE_BYTES: Final = 2**18
TRIES: Final = 4
"""Downloads of a file before the attempt is given up: the picture is there, only the way to it is disturbed."""


class Downloads:
    """Receives files from one backend. Those that nobody took are to be dropped in the end."""

    def __init__(
        self, comfyui: ComfyUI, files: FileStore, max_output_bytes: int, looking: asyncio.Semaphore | None = None
    ) -> None:
        self.looking = looking or asyncio.Semaphore()
        """Held while a file of this backend is looked into, so that it leaves something of the threads to others."""
        self._size = 0
        """Of what has come, together."""
        self._comfyui = comfyui
        self._files = files
        self._max_output_bytes = max_output_bytes
        self._unwritten = 0
        self._sent: dict[tuple[str | None, ...], asyncio.Task[Received]] = {}
        self._coming: dict[tuple[str | None, ...], asyncio.Task[Received]] = {}

    def sent(self, file: OutputFile, image: memoryview) -> None:
        """Receive a file that has come by itself, through the event socket; waits for nothing."""
        receiving = self._files.receive(self._written(image), self._max_output_bytes)
        self._sent[file.content] = asyncio.create_task(receiving, name="sent-picture")

    def expect(self, files: Iterable[OutputFile]) -> None:
        """Begin with the first of these files, which are likely to be asked for; waits for nothing."""
        for file in files:
            if len(self._coming) >= AHEAD:
                return
            if file.content not in self._coming and file.folder != SENT:
                receiving = self._receive(file)
                self._coming[file.content] = asyncio.create_task(receiving, name="download")

    async def take(self, file: OutputFile) -> Received:
        """Return what the file holds, for the caller to keep or to discard.

        Raises
        ------
        OutputInvalid, StorageFailed, BackendLost
        """
        if file.folder == SENT:
            return await self._take_sent(file)
        if (coming := self._coming.pop(file.content, None)) is not None:
            # What failed before it was asked for is nobody's failure yet.
            with contextlib.suppress(AttemptFailed):
                # Not shielded: whoever stops waiting stops the download.
                return await coming
        for number in range(1, TRIES):
            try:
                return await self._receive(file)
            except (BackendLost, Unreadable) as error:
                log.warning("download %s of %s failed, trying again: %s", number, clean(file.filename, 100), error)
                await asyncio.sleep(0.2 * 2**number)
        return await self._receive(file)

    async def _take_sent(self, file: OutputFile) -> Received:
        sent = self._sent.pop(file.content, None)
        if sent is None:
            raise OutputInvalid(f"The backend named the picture {clean(file.filename, 100)} and has not sent it.")
        return await sent

    async def take_shared(self, file: OutputFile, run: Run, number: int) -> Received:
        """Return what a file holds that other runs may write to as well, if it can be shown to be of this run.

        `number` is which try it is, from 0: what is not whole yet may be written to the end a little later. The caller
        keeps or discards it.

        Raises
        ------
        OutputNotOwn
            It is of another run, or may be.
        OutputInvalid, StorageFailed, BackendLost
        """
        run.require_alone(file)
        if number:
            await asyncio.sleep(0.1 * 2**number)
        before = await self._comfyui.stamp(file)
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
        if await self._comfyui.stamp(file) != before:
            raise OutputInvalid(f"The file {name} changed while it was fetched.")
        # Changed after the end it may be by the run itself, in a thread of its own; unless somebody else ran since.
        if (run.outlasted_by(before) or not run.watched) and not await self._comfyui.ran_last(run.prompt_id):
            raise OutputNotOwn(f"The file {name} may have been changed by another run after this one had ended.")

    async def drop(self) -> None:
        """End what nobody took, and delete it."""
        dropped = [*self._coming.values(), *self._sent.values()]
        self._coming, self._sent = {}, {}
        for received in await end_tasks(dropped) if dropped else ():
            if isinstance(received, Received):
                await self._files.discard(received)

    async def _receive(self, file: OutputFile) -> Received:
        return await self._files.receive(self._counted(file), self._max_output_bytes)

    async def _counted(self, file: OutputFile) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a file, as long as there are not too many of all files together."""
        size = 0
        try:
            async with contextlib.aclosing(self._comfyui.download(file, self._max_output_bytes)) as chunks:
                async for chunk in chunks:
                    size += len(chunk)
                    self._size += len(chunk)
                    self._require_room()
                    yield chunk
        except BaseException:
            # It comes again, or is not kept.
            self._size -= size
            raise

    async def _written(self, image: memoryview) -> AsyncGenerator[bytes, None]:
        """Yield a picture that has come, while those that are not written yet leave room for it."""
        size = len(image)
        self._unwritten += size
        try:
            if self._unwritten > MOST_UNWRITTEN_BYTES:
                raise OutputInvalid("The backend sent more pictures at once than can be held.")
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
