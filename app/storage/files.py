"""The store of files: written under a temporary name and renamed, so that a path that exists is a whole file."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from app.domain.errors import StorageFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from datetime import datetime
    from pathlib import Path

_TEMPORARY: Final = ".tmp"
HELD_BYTES: Final = 4 * 2**20
"""So much of what is received is held in memory until a thread writes it: a small file costs one such step."""


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
        size, held, held_bytes = 0, list[bytes](), 0
        try:
            async for chunk in chunks:
                size += len(chunk)
                _require_room(size, max_bytes)
                held.append(chunk)
                held_bytes += len(chunk)
                if held_bytes >= HELD_BYTES:
                    await asyncio.to_thread(_append, temporary, held, last=False)
                    held, held_bytes = [], 0
            await asyncio.to_thread(_append, temporary, held, last=True)
        except OSError as error:
            await self.discard(temporary)
            raise _failed(error) from error
        except BaseException:
            await self.discard(temporary)
            raise
        return temporary

    async def keep(self, temporary: Path, path: str) -> Stored:
        """Move a temporary file to its place, replacing what a broken-off attempt of the same number left there."""

        def kept() -> Stored:
            stored = self.keep_now(temporary, path)
            self.sync_now(path)
            return stored

        return await asyncio.to_thread(kept)

    async def write(self, path: str, data: bytes) -> Stored:
        """Store a small file."""

        def written() -> Stored:
            stored = self.write_now(path, data)
            self.sync_now(path)
            return stored

        return await asyncio.to_thread(written)

    def keep_now(self, temporary: Path, path: str) -> Stored:
        """Do what `keep` does, in a thread of the caller's; the name is durable after `sync_now`."""
        try:
            target = self.absolute(path)
            with temporary.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = temporary.stat().st_size
            _move(temporary, target)
        except OSError as error:
            _discard(temporary)
            raise _failed(error) from error
        except BaseException:
            _discard(temporary)
            raise
        return Stored(path, size, digest)

    def write_now(self, path: str, data: bytes) -> Stored:
        """Do what `write` does, in a thread of the caller's; the name is durable after `sync_now`."""
        temporary = self.root / _TEMPORARY / uuid4().hex
        try:
            _append(temporary, [data], last=True)
        except OSError as error:
            _discard(temporary)
            raise _failed(error) from error
        return self.keep_now(temporary, path)

    def sync_now(self, path: str) -> None:
        """Make the names in a file's folder durable: a name is, only when its folder is. Blocks."""
        try:
            folder = os.open(self.absolute(path).parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise _failed(error) from error

    async def discard(self, temporary: Path) -> None:
        """Delete a temporary file, if it is still there."""
        await asyncio.to_thread(_discard, temporary)

    async def old_files(self, older_s: float, newer_s: float) -> list[str]:
        """Return the paths of files that were written between so many seconds ago; broken-off ones are deleted.

        Only folders of jobs that changed in that time are looked into: an orphan is found soon or never.
        """
        return await asyncio.to_thread(self._old_files, older_s, newer_s)

    async def delete(self, paths: Iterable[str]) -> None:
        """Delete files, and the folders that they leave empty. Those that are gone already do not matter."""
        await asyncio.to_thread(self.delete_now, list(paths))

    def delete_now(self, paths: Iterable[str]) -> None:
        """Do what `delete` does, in a thread of the caller's."""
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


def _append(temporary: Path, chunks: Sequence[bytes], *, last: bool) -> None:
    """Write on at the end of a temporary file, made if need be; after the last chunks it is durable."""
    try:
        file = temporary.open("ab")
    except FileNotFoundError:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        file = temporary.open("ab")
    with file:
        file.writelines(chunks)
        if last:
            file.flush()
            os.fsync(file.fileno())


def _require_room(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise StorageFailed(f"An output is larger than {max_bytes} bytes (MAX_OUTPUT_BYTES).")


def _discard(temporary: Path) -> None:
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def _failed(error: OSError) -> StorageFailed:
    return StorageFailed(f"An output could not be stored: {error.strerror or error}.")
