"""From a prompt's outputs to durable files: received, checked, stored."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from app.domain.errors import BackendLost, OutputInvalid
from app.domain.job import Job, Output
from app.storage.files import output_path
from worker.downloads import Downloads
from worker.media import inspect

if TYPE_CHECKING:
    from app.storage.files import FileStore, Received
    from worker.comfyui import ComfyUI
    from worker.comfyui_answers import OutputFile
    from worker.ownership import Run

log = logging.getLogger(__name__)

SHARED_TRIES: Final = 5
"""A saver with a name of its own may also be one that goes on writing when its run has ended: 6 s at most."""
AT_ONCE: Final = 2
"""Looking through files and storing them takes a processor; more threads than this would take the loop's share."""


SAVING_LIMIT_S: Final = 3600.0
"""Within this time all outputs of a run must have come: a file may come slowly, and a run may leave many."""


class Collector:
    """Brings outputs into the store."""

    def __init__(self, files: FileStore, max_output_bytes: int, limit_s: float = SAVING_LIMIT_S) -> None:
        self._limit_s = limit_s
        self._looking: WeakKeyDictionary[ComfyUI, asyncio.Semaphore] = WeakKeyDictionary()
        self._files = files
        self._max_output_bytes = max_output_bytes
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="media")

    def downloads(self, comfyui: ComfyUI) -> Downloads:
        """Return what is to receive the files of one attempt."""
        looking = self._looking.setdefault(comfyui, asyncio.Semaphore(AT_ONCE))
        return Downloads(comfyui, self._files, self._max_output_bytes, looking)

    async def collect(
        self, job: Job, downloads: Downloads, found: list[OutputFile], run: Run
    ) -> tuple[list[Output], list[str]]:
        """Return the outputs, all durable, and warnings about what is less than perfect.

        Raises
        ------
        OutputInvalid, OutputNotOwn, StorageFailed, BackendLost
            Nothing of this attempt is left in the store then. A cancellation leaves what is there: another worker,
            which took the attempt over, may be writing the very same files.
        """
        kept: list[tuple[Output, str | None]] = []
        failures: list[Exception] = []
        turns = asyncio.Semaphore(AT_ONCE)
        limit = asyncio.get_running_loop().time() + self._limit_s

        async def keep(index: int, file: OutputFile) -> None:
            async with turns:
                if failures:
                    return
                downloads.expect(each for each in found[index:] if run.has_for_itself(each))
                try:
                    kept.append(await self._one(job, downloads, file, index, run, limit))
                except Exception as failure:  # noqa: BLE001 - raised when the others have ended too
                    failures.append(failure)

        await asyncio.gather(*(keep(index, file) for index, file in enumerate(found)))
        kept.sort(key=lambda each: each[0].index)
        if failures:
            # A thread cannot be stopped: only now is nothing more written.
            await self._files.delete([output.path for output, _ in kept])
            raise failures[0]
        return [output for output, _ in kept], [note for _, note in kept if note]

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _one(
        self, job: Job, downloads: Downloads, file: OutputFile, index: int, run: Run, limit: float
    ) -> tuple[Output, str | None]:
        try:
            async with asyncio.timeout_at(limit):
                if not run.has_for_itself(file):
                    return await self._shared(job, downloads, file, index, run)
                received = await downloads.take(file)
        except TimeoutError as error:
            raise BackendLost(f"The outputs did not come within {self._limit_s:.0f} s.") from error
        return await self._stored(job, downloads, file, index, received)

    async def _shared(
        self, job: Job, downloads: Downloads, file: OutputFile, index: int, run: Run
    ) -> tuple[Output, str | None]:
        """Keep a file that other runs may write to as well, when it is whole and shown to be of this one."""
        for number in range(SHARED_TRIES):
            try:
                received = await downloads.take_shared(file, run, number)
                return await self._stored(job, downloads, file, index, received)
            except OutputInvalid as error:
                log.info("job %s: output %s is not whole yet: %s", job.job_id, index, error)
        return await self._stored(job, downloads, file, index, await downloads.take_shared(file, run, SHARED_TRIES))

    async def _stored(
        self, job: Job, downloads: Downloads, file: OutputFile, index: int, received: Received
    ) -> tuple[Output, str | None]:
        loop = asyncio.get_running_loop()
        try:
            async with downloads.looking:
                return await loop.run_in_executor(self._threads, self._keep, job, file, index, received)
        except asyncio.CancelledError:
            # The step may not have begun, and now never will.
            await self._files.discard(received)
            raise

    def _keep(self, job: Job, file: OutputFile, index: int, received: Received) -> tuple[Output, str | None]:
        """Look into what was received and store it: all that blocks, in one step of a thread."""
        try:
            with received.open() as opened:
                media = inspect(opened, file.filename)
        except BaseException:
            received.discard()
            raise
        path = output_path(job.created_at, job.job_id, job.attempt, index, media.extension)
        stored = self._files.keep_now(received, path)
        output = Output(
            index=index,
            node_id=file.node_id,
            kind=media.kind,
            content_type=media.content_type,
            size_bytes=stored.size_bytes,
            width=media.width,
            height=media.height,
            sha256=stored.sha256,
            path=path,
            thumbnail_path=None,
            thumbnail_due=media.thumbnail_due,
        )
        return output, media.warning
