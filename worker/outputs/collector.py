"""Downloads a run's outputs, checks them, and stores them as durable files."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from app.domain.errors import AttemptFailed, BackendLost, OutputInvalid, OutputNotOwn
from app.domain.job import Job, Output
from app.domain.text import clean
from app.media.inspection import Media, inspect
from app.storage.files import output_path
from worker.outputs.downloads import Downloads

if TYPE_CHECKING:
    from app.storage.files import FileStore, Received
    from worker.comfyui.client import ComfyUI
    from worker.comfyui.file_ownership import Run
    from worker.comfyui.node_outputs import OutputFile

log = logging.getLogger(__name__)

SHARED_TRIES: Final = 5
"""Tries for a file outside the run's own folder, up to 6 s: some nodes go on writing after their run has ended."""
AT_ONCE: Final = 2
"""Maximum number of threads that check and store files; more would slow down the event loop."""


SAVING_LIMIT_S: Final = 3600.0
"""Maximum seconds for downloading all outputs of a run: files may be slow and many."""
_MOST_WARNINGS: Final = 20
"""Maximum number of lost outputs with a warning each; further ones are only counted."""
_RETRY_HINT: Final = " If you submit this workflow again, it runs alone on its backend, and all its files are kept."
_DATA: Final = Media("data", "application/json", "json")
_TEXT: Final = Media("text", "text/plain", "txt")


@dataclass(frozen=True, slots=True)
class Lost:
    """An output that cannot be kept."""

    index: int
    file: OutputFile
    failure: AttemptFailed

    @property
    def saver(self) -> str | None:
        """The node class that saved outside the folder it was given; None if the output was lost for another reason."""
        return self.failure.node_type if isinstance(self.failure, OutputNotOwn) else None


@dataclass(frozen=True, slots=True)
class Collected:
    """The outputs kept of a run, all durable."""

    outputs: list[Output]
    notes: list[str]
    """Warnings for the client."""
    lost: list[Lost]


class Collector:
    """Stores outputs; holds the threads and limits that all attempts of a worker share."""

    def __init__(self, files: FileStore, max_output_bytes: int, limit_s: float = SAVING_LIMIT_S) -> None:
        self._limit_s = limit_s
        self._looking: WeakKeyDictionary[ComfyUI, asyncio.Semaphore] = WeakKeyDictionary()
        self._files = files
        self._max_output_bytes = max_output_bytes
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="media")

    def collection(self, comfyui: ComfyUI) -> Collection:
        """Return the object that downloads and stores the outputs of one attempt on this backend."""
        looking = self._looking.setdefault(comfyui, asyncio.Semaphore(AT_ONCE))
        downloads = Downloads(comfyui, self._files, self._max_output_bytes, looking)
        return Collection(downloads, self._files, self._threads, self._limit_s)

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Collection:
    """Downloads and stores the outputs of one attempt."""

    def __init__(self, downloads: Downloads, files: FileStore, threads: ThreadPoolExecutor, limit_s: float) -> None:
        self.downloads = downloads
        self._files = files
        self._threads = threads
        self._limit_s = limit_s

    async def keep(self, job: Job, found: list[OutputFile], run: Run) -> Collected:
        """Store the outputs of a run, except those that cannot be kept.

        A cancellation leaves stored files in place: another worker, which took the attempt over, may be writing them.

        Raises
        ------
        OutputInvalid, OutputNotOwn
            None of the outputs can be kept.
        StorageFailed, BackendLost
            Storing or downloading failed; all stored files of this attempt are deleted.
        """
        kept: list[tuple[Output, str | None]] = []
        lost: list[Lost] = []
        failures: list[Exception] = []
        turns = asyncio.Semaphore(AT_ONCE)
        limit = asyncio.get_running_loop().time() + self._limit_s

        async def keep(index: int, file: OutputFile) -> None:
            try:
                kept.append(await self._one(job, file, index, run, limit))
            except (OutputInvalid, OutputNotOwn) as failure:
                log.warning("job %s: output %s cannot be kept: %s", job.job_id, index, failure)
                lost.append(Lost(index, file, run.seen(file, failure)))
                if file.instead is not None:
                    await keep(index, file.instead)
            except Exception as failure:  # noqa: BLE001 - raised below, once the others have ended
                failures.append(failure)

        async def in_turn(index: int, file: OutputFile) -> None:
            async with turns:
                if not failures:
                    self.downloads.expect(each for each in found[index:] if run.has_for_itself(each))
                    await keep(index, file)

        await asyncio.gather(*(in_turn(index, file) for index, file in enumerate(found)))
        if failures:
            # Threads cannot be cancelled, so files are deleted only now, when none is being written.
            await self._files.delete([output.path for output, _ in kept])
            raise failures[0]
        lost.sort(key=lambda each: each.index)
        if lost and not kept:
            raise _worst(lost)
        kept.sort(key=lambda each: each[0].index)
        outputs = [replace(output, index=number) for number, (output, _) in enumerate(kept)]
        return Collected(outputs, [note for _, note in kept if note] + _warnings_of(lost), lost)

    async def _one(self, job: Job, file: OutputFile, index: int, run: Run, limit: float) -> tuple[Output, str | None]:
        try:
            async with asyncio.timeout_at(limit):
                if not run.has_for_itself(file):
                    return await self._shared(job, file, index, run)
                received = await self.downloads.take(file)
        except TimeoutError as error:
            raise BackendLost(f"The outputs were not downloaded within {self._limit_s:.0f} s.") from error
        return await self._stored(job, file, index, received)

    async def _shared(self, job: Job, file: OutputFile, index: int, run: Run) -> tuple[Output, str | None]:
        """Store a file that other runs may write to, once it is complete and proven to be from this run."""
        for number in range(SHARED_TRIES):
            try:
                received = await self.downloads.take_shared(file, run, number)
                return await self._stored(job, file, index, received)
            except OutputInvalid as error:
                log.info("job %s: output %s is not complete yet: %s", job.job_id, index, error)
        return await self._stored(job, file, index, await self.downloads.take_shared(file, run, SHARED_TRIES))

    async def _stored(self, job: Job, file: OutputFile, index: int, received: Received) -> tuple[Output, str | None]:
        loop = asyncio.get_running_loop()
        try:
            async with self.downloads.looking:
                return await loop.run_in_executor(self._threads, self._keep, job, file, index, received)
        except asyncio.CancelledError:
            # The thread may not have begun, and now never does.
            await self._files.discard(received)
            raise

    def _keep(self, job: Job, file: OutputFile, index: int, received: Received) -> tuple[Output, str | None]:
        """Inspect and store a received file; blocks, so it runs in a thread."""
        try:
            media = _inspected(received, file)
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
            source=file.source,
            preview=file.preview,
        )
        return output, media.warning


def _inspected(received: Received, file: OutputFile) -> Media:
    """Return the type of the received file; raises `OutputInvalid` if the content does not match its name."""
    if file.text is not None:
        return _DATA if file.is_data else _TEXT
    with received.open() as opened:
        return inspect(opened, file.filename)


def _worst(lost: list[Lost]) -> AttemptFailed:
    """Return the failure of a run without a kept output, preferably `OutputNotOwn`, which another attempt can avoid."""
    return next((each.failure for each in lost if isinstance(each.failure, OutputNotOwn)), lost[0].failure)


def _warnings_of(lost: list[Lost]) -> list[str]:
    """Return the warnings about lost outputs."""
    warnings = [
        f"An output of node {clean(each.file.node_id, 100)} could not be kept, {clean(each.file.filename, 100)}: "
        f"{each.failure}{_RETRY_HINT if each.saver is not None else ''}"
        for each in lost[:_MOST_WARNINGS]
    ]
    more = len(lost) - len(warnings)
    return [*warnings, f"And {more:,} more outputs could not be kept."] if more else warnings
