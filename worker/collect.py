"""From a prompt's outputs to durable files: downloaded by `/view`, checked, stored, with thumbnails."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from app.domain.errors import BackendLost, StorageFailed
from app.domain.job import Job, Output
from app.storage.files import output_path
from worker.media import Media, inspect

if TYPE_CHECKING:
    from pathlib import Path

    from app.storage.files import FileStore
    from worker.comfyui import ComfyUI, OutputFile

log = logging.getLogger(__name__)

TRIES: Final = 4
"""Downloads of a file before the attempt is given up: the picture is there, only the way to it is disturbed."""


class Collector:
    """Brings outputs into the store."""

    def __init__(self, files: FileStore, max_output_bytes: int) -> None:
        self._files = files
        self._max_output_bytes = max_output_bytes
        # Decoding pictures is processor work; more threads than this would take the loop's share.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="media")

    async def collect(self, job: Job, comfyui: ComfyUI, found: list[OutputFile]) -> tuple[list[Output], list[str]]:
        """Return the outputs, all durable, and warnings about what is less than perfect.

        Raises
        ------
        OutputInvalid, StorageFailed, BackendLost
            Nothing of this attempt is left in the store then. A cancellation leaves what is there: another worker,
            which took the attempt over, may be writing the very same files.
        """
        outputs: list[Output] = []
        notes: list[str] = []
        try:
            for index, file in enumerate(found):
                output, note = await self._one(job, comfyui, file, index)
                outputs.append(output)
                notes += [note] if note else []
        except Exception:
            await self._files.delete(
                path for output in outputs for path in (output.path, output.thumbnail_path) if path
            )
            raise
        return outputs, notes

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _one(self, job: Job, comfyui: ComfyUI, file: OutputFile, index: int) -> tuple[Output, str | None]:
        temporary = await self._download(comfyui, file)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._keep, job, file, index, temporary)

    def _keep(self, job: Job, file: OutputFile, index: int, temporary: Path) -> tuple[Output, str | None]:
        """Look into a downloaded file and store it with its thumbnail: all that blocks, in one step of a thread."""
        try:
            media = inspect(temporary, file.filename)
            path = output_path(job.created_at, job.job_id, job.attempt, index, media.extension)
            stored = self._files.keep_now(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        thumbnail_path, note = self._thumbnail(job, index, media)
        try:
            self._files.sync_now(path)
        except StorageFailed:
            self._files.delete_now([path, *([thumbnail_path] if thumbnail_path else [])])
            raise
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
            thumbnail_path=thumbnail_path,
        )
        return output, note

    def _thumbnail(self, job: Job, index: int, media: Media) -> tuple[str | None, str | None]:
        """Store the thumbnail; one that cannot be had costs a note, and not the picture."""
        if media.thumbnail is None:
            return None, media.warning
        path = output_path(job.created_at, job.job_id, job.attempt, index, "thumb.webp")
        try:
            self._files.write_now(path, media.thumbnail)
        except StorageFailed as error:
            return None, f"The thumbnail of output {index} could not be stored: {error}"
        return path, media.warning

    async def _download(self, comfyui: ComfyUI, file: OutputFile) -> Path:
        for number in range(1, TRIES + 1):
            try:
                return await self._files.receive(comfyui.download(file), self._max_output_bytes)
            except BackendLost as error:
                if number == TRIES:
                    raise
                log.warning("download %s of %s failed, trying again: %s", number, file.filename, error)
                await asyncio.sleep(0.2 * 2**number)
        raise AssertionError("unreachable")
