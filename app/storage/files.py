"""The store of files: written under a temporary name and renamed, so that a path that exists is a whole file."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final
from uuid import uuid4

from app.domain.errors import StorageFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from datetime import datetime
    from pathlib import Path

_TEMPORARY: Final = ".tmp"


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that is durable. `path` is relative to the store."""

    path: str
    size_bytes: int
    sha256: str


class FileStore:
    """Files below one folder. Blocking calls run in threads, so that sockets are served meanwhile."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def absolute(self, path: str) -> Path:
        """Return where a relative path of the store is; raises `ValueError` for one that leads outside."""
        found = (self.root / path).resolve()
        if not found.is_relative_to(self.root.resolve()):
            raise ValueError(f"{path} leads outside the store")
        return found

    async def receive(self, chunks: AsyncIterator[bytes], max_bytes: int) -> Path:
        """Write what comes to a temporary file and return it; the caller inspects it and calls `keep` or `discard`.

        Raises
        ------
        StorageFailed
            The disk is full or cannot be written, or there are more than `max_bytes`.
        """
        temporary = self.root / _TEMPORARY / uuid4().hex
        size = 0
        try:
            await asyncio.to_thread(temporary.parent.mkdir, parents=True, exist_ok=True)
            file = await asyncio.to_thread(temporary.open, "xb")
            try:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > max_bytes:
                        raise StorageFailed(f"An output is larger than {max_bytes} bytes (MAX_OUTPUT_BYTES).")
                    await asyncio.to_thread(file.write, chunk)
                await asyncio.to_thread(_sync, file)
            finally:
                await asyncio.to_thread(file.close)
        except OSError as error:
            await self.discard(temporary)
            raise StorageFailed(f"An output could not be stored: {error.strerror or error}.") from error
        except BaseException:
            await self.discard(temporary)
            raise
        return temporary

    async def keep(self, temporary: Path, path: str) -> Stored:
        """Move a temporary file to its place, replacing what a broken-off attempt of the same number left there."""
        try:
            return await asyncio.to_thread(self._keep, temporary, path)
        except OSError as error:
            await self.discard(temporary)
            raise StorageFailed(f"An output could not be stored: {error.strerror or error}.") from error
        except BaseException:
            await self.discard(temporary)
            raise

    async def write(self, path: str, data: bytes) -> Stored:
        """Store a small file."""

        async def once() -> AsyncIterator[bytes]:
            yield data

        return await self.keep(await self.receive(once(), len(data)), path)

    async def discard(self, temporary: Path) -> None:
        """Delete a temporary file, if it is still there."""
        with contextlib.suppress(OSError):
            await asyncio.to_thread(temporary.unlink, missing_ok=True)

    async def old_files(self, older_s: float, newer_s: float) -> list[str]:
        """Return the paths of files that were written between so many seconds ago; broken-off ones are deleted.

        Only folders of jobs that changed in that time are looked into: an orphan is found soon or never.
        """
        return await asyncio.to_thread(self._old_files, older_s, newer_s)

    async def delete(self, paths: Iterable[str]) -> None:
        """Delete files, and the folders that they leave empty. Those that are gone already do not matter."""
        await asyncio.to_thread(self._delete, list(paths))

    def _keep(self, temporary: Path, path: str) -> Stored:
        target = self.absolute(path)
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = temporary.stat().st_size
        _move(temporary, target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            # The name is durable only when the folder is.
            os.fsync(folder)
        finally:
            os.close(folder)
        return Stored(path, size, digest)

    def _old_files(self, older_s: float, newer_s: float) -> list[str]:
        now = time.time()
        found = []
        for folder in (self.root / _TEMPORARY, *self.root.glob("[0-9]*/*/*/*")):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if now - folder.stat().st_mtime > newer_s:
                    continue
                for file in folder.iterdir():
                    if now - file.stat().st_mtime <= older_s:
                        continue
                    if folder.name == _TEMPORARY:
                        file.unlink(missing_ok=True)
                    else:
                        found.append(file.relative_to(self.root).as_posix())
        return found

    def _delete(self, paths: list[str]) -> None:
        for path in paths:
            target = self.absolute(path)
            target.unlink(missing_ok=True)
            folder = target.parent
            while folder != self.root.resolve():
                try:
                    folder.rmdir()
                except OSError:
                    break
                folder = folder.parent


def output_path(created_at: datetime, job_id: int, attempt: int, index: int, extension: str) -> str:
    """Return where an output is kept: `{yyyy}/{mm}/{dd}/{job_id}/{attempt}_{index}.{ext}`, by the job's own day."""
    return f"{created_at:%Y/%m/%d}/{job_id}/{attempt}_{index}.{extension}"


def _move(temporary: Path, target: Path) -> None:
    for tries_left in range(9, -1, -1):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(target)
        except (FileNotFoundError, FileExistsError):
            # A deletion next door may have taken the folder, empty for a moment, away again.
            if not tries_left or not temporary.exists():
                raise
        else:
            return


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
