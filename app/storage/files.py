"""The store of files: written under a temporary name and renamed, so that a path that exists is a whole file."""

# Paths are plain text where files are written: pathlib took longer than the system calls that it made.
# ruff: noqa: PTH105, PTH106, PTH108, PTH118, PTH120, PTH123

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Final, TypeVar
from uuid import uuid4

from app.domain.errors import OutputInvalid, StorageFailed
from app.storage.folders import make_folder, make_folders, sync_folder

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
    from datetime import datetime

_T = TypeVar("_T")

_TEMPORARY: Final = ".tmp"
HELD_BYTES: Final = 2**20
"""A smaller file is held in memory until the thread that looks into it writes it: it costs one such step."""
THUMBNAIL: Final = ".thumb.webp"
"""Ends the name of a thumbnail, in place of its picture's own ending."""
FILE_MODE: Final = 0o640
"""Access for our user and group, such as a proxy's, only, whatever the umask."""
_WRITERS: Final = ThreadPoolExecutor(2, thread_name_prefix="files")
"""Threads that write what is received. With more of them the event loop waits for the interpreter's lock behind each:
44 ms instead of 33 for one of twenty requests, while 32 files of megabytes came in on two cores."""
_TRIES: Final = 10
"""Maximum number of times that a folder is made: a deletion may remove it again while it is empty."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that is durable. `path` is relative to the store."""

    path: str
    size_bytes: int
    sha256: str


class Received:
    """A file that has no place in the store yet: in memory, or, if it is large, under a temporary name.

    Its methods block, and exclude each other: a thread may still write a file that a cancelled receiver discards.
    """

    def __init__(self, temporary: str) -> None:
        self.size_bytes = 0
        self.data: bytes | None = None
        """All of it; None while it is on the disk."""
        self.draft: _Draft | None = None
        self._temporary = temporary
        self._discarded = False
        self._digest = hashlib.sha256()
        self._lock = threading.Lock()

    def hold(self, data: bytes) -> None:
        """Take all of it, small as it is, into memory."""
        self.data = data
        self.size_bytes = len(data)
        self._digest.update(data)

    def append(self, chunks: Sequence[bytes]) -> None:
        """Write on in the temporary file, made if need be. Raises `OSError`."""
        with self._lock:
            if self._discarded:
                return
            if self.draft is None:
                make_folders(os.path.dirname(self._temporary))
                self.draft = _Draft(self._temporary)
            for chunk in chunks:
                self.draft.write(chunk)
                self._digest.update(chunk)
                self.size_bytes += len(chunk)

    def open(self) -> BinaryIO:
        """Return it to be read; the caller closes it."""
        return io.BytesIO(self.data) if self.data is not None else open(self._temporary, "rb")

    def sha256(self) -> str:
        """Return the digest of all of it, in hexadecimal."""
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Delete the temporary file, if it has one that is still there."""
        with self._lock:
            self._discarded = True
            if self.draft is not None:
                self.draft.discard()


class FileStore:
    """Files below one folder. Blocking calls run in threads, so that sockets are served meanwhile."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._root = os.path.realpath(root)
        self._durable = ""
        """The folder of job folders that was last made durable together with all those above it."""

    def absolute(self, path: str) -> Path:
        """Return where a relative path of the store is; raises `ValueError` for one that leads outside."""
        return Path(self._inside(path))

    async def receive(self, chunks: AsyncGenerator[bytes, None], max_bytes: int) -> Received:
        """Return what comes; the caller looks into it, and keeps or discards it.

        Raises
        ------
        StorageFailed
            The disk is full or cannot be written.
        OutputInvalid
            There are more than `max_bytes`.
        """
        received = Received(os.path.join(self.root, _TEMPORARY, uuid4().hex))
        size, held, held_bytes = 0, list[bytes](), 0
        writing: asyncio.Future[None] | None = None
        try:
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    size += len(chunk)
                    _require_room(size, max_bytes)
                    held.append(chunk)
                    held_bytes += len(chunk)
                    if held_bytes >= HELD_BYTES:
                        if writing is not None:
                            await writing
                        # The next bytes come while these are written.
                        writing = _in_thread(received.append, held)
                        held, held_bytes = [], 0
            if writing is None:
                received.hold(b"".join(held))
            else:
                await writing
                await _in_thread(received.append, held)
        except OSError as error:
            await self.discard(received)
            raise _failed(error) from error
        except BaseException:
            if writing is not None:
                await self.discard(received)
            raise
        return received

    async def keep(self, received: Received, path: str) -> Stored:
        """Bring what was received to its place, replacing what a broken-off attempt of the same number left there."""
        return await asyncio.to_thread(self.keep_now, received, path)

    async def write(self, path: str, data: bytes) -> Stored:
        """Store a small file."""
        received = Received(os.path.join(self.root, _TEMPORARY, uuid4().hex))
        received.hold(data)
        return await self.keep(received, path)

    def keep_now(self, received: Received, path: str) -> Stored:
        """Do what `keep` does, in a thread of the caller's. Raises `StorageFailed`."""
        try:
            return self._kept(received, path)
        except BaseException as error:
            received.discard()
            if isinstance(error, OSError):
                raise _failed(error) from error
            raise

    async def read(self, path: str) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a file; raises `FileNotFoundError`."""
        file = await asyncio.to_thread(open, self._inside(path), "rb")
        try:
            while chunk := await asyncio.to_thread(file.read, HELD_BYTES):
                yield chunk
        finally:
            file.close()

    def write_now(self, files: Mapping[str, bytes]) -> None:
        """Store small files of one folder, in a thread of the caller's: all of them or none. Raises `StorageFailed`."""
        targets = {self._inside(path): data for path, data in files.items()}
        drafts: list[_Draft] = []
        try:
            for target, data in targets.items():
                drafts.append(self._drafted(os.path.dirname(target), data))
                self._place(drafts[-1], target)
            for draft in drafts:
                draft.settle()
            for folder in {os.path.dirname(target) for target in targets}:
                self._sync(folder)
        except BaseException as error:
            for draft in drafts:
                draft.discard()
                draft.displace()
            for folder in {os.path.dirname(target) for target in targets}:
                self._prune(folder)
            if isinstance(error, OSError):
                raise _failed(error) from error
            raise

    async def discard(self, received: Received) -> None:
        """Delete what was received, if it is on the disk and did not get its place."""
        # Shielded: a second cancellation must not leave it lying.
        await asyncio.shield(asyncio.to_thread(received.discard))

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
            target = self._inside(path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target)
            self._prune(os.path.dirname(target))

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

    def _kept(self, received: Received, path: str) -> Stored:
        target = self._inside(path)
        folder = os.path.dirname(target)
        draft = received.draft if received.data is None else self._drafted(folder, received.data)
        assert draft is not None  # noqa: S101 - it is in memory or on the disk
        try:
            # Named before the first fsync: a file system with a journal commits both at once. Nobody looks at a name
            # before its row is committed, which is after the last fsync.
            self._place(draft, target)
            draft.settle()
            # A name is durable only when its folder is.
            self._sync(folder)
        except BaseException:
            draft.discard()
            draft.displace()
            self._prune(folder)
            raise
        return Stored(path, received.size_bytes, received.sha256())

    def _inside(self, path: str) -> str:
        found = os.path.realpath(os.path.join(self._root, path))
        if found != self._root and not found.startswith(self._root.rstrip(os.sep) + os.sep):
            raise ValueError(f"{path} leads outside the store")
        return found

    def _drafted(self, folder: str, data: bytes) -> _Draft:
        """Write data under a temporary name in the folder where it is to stay: a rename within it costs least."""
        draft = self._in_folder(folder, lambda: _Draft(os.path.join(folder, f".{uuid4().hex}")))
        try:
            draft.write(data)
        except BaseException:
            draft.discard()
            self._prune(folder)
            raise
        return draft

    def _place(self, draft: _Draft, target: str) -> None:
        self._in_folder(os.path.dirname(target), lambda: draft.place(target))

    def _in_folder(self, folder: str, step: Callable[[], _T]) -> _T:
        """Make the folder, then take the step; repeat both if a concurrent deletion removed the empty folder."""
        for _ in range(_TRIES - 1):
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                self._make(folder)
                return step()
        self._make(folder)
        return step()

    def _make(self, folder: str) -> None:
        try:
            make_folder(folder)
        except FileNotFoundError:
            self._durable = ""
            make_folders(folder)

    def _sync(self, folder: str) -> None:
        """Make the names in a folder durable, and its own, and, when that was not done before, those above it."""
        sync_folder(folder)
        if folder == self._root:
            return
        above = os.path.dirname(folder)
        sync_folder(above)
        if above == self._durable:
            return
        higher = above
        while higher != self._root:
            higher = os.path.dirname(higher)
            sync_folder(higher)
        self._durable = above

    def _prune(self, folder: str) -> None:
        """Delete the folder if it is empty, and those above it that are empty then."""
        while folder != self._root:
            try:
                os.rmdir(folder)
            except OSError:
                return
            folder = os.path.dirname(folder)


class _Draft:
    """A file under a temporary name, open to be written until it is settled."""

    __slots__ = ("_fd", "_path", "_target")

    def __init__(self, path: str) -> None:
        self._path = path
        self._target = ""
        self._fd: int | None = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE)
        os.fchmod(self._fd, FILE_MODE)

    def write(self, data: bytes) -> None:
        assert self._fd is not None  # noqa: S101 - nothing is written to what is settled
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def settle(self) -> None:
        """Make its content durable."""
        if self._fd is not None:
            os.fsync(self._fd)
            self._close()

    def place(self, target: str) -> None:
        """Give it its name, which is durable only when the folder is."""
        os.replace(self._path, target)
        self._target = target

    def discard(self) -> None:
        """Delete it, unless it has got its name."""
        self._close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def displace(self) -> None:
        """Delete it under the name that it got."""
        if self._target:
            with contextlib.suppress(OSError):
                os.unlink(self._target)

    def _close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def output_path(created_at: datetime, job_id: int, attempt: int, index: int, extension: str) -> str:
    """Return where an output is kept: `{yyyy}/{mm}/{dd}/{job_id}/{attempt}_{index}.{ext}`, by the job's own day."""
    return f"{created_at:%Y/%m/%d}/{job_id}/{attempt}_{index}.{extension}"


def upload_path(created_at: datetime, upload_id: str, extension: str) -> str:
    """Return where an upload is kept: `{yyyy}/{mm}/{dd}/uploads/{upload_id}.{ext}`."""
    return f"{created_at:%Y/%m/%d}/uploads/{upload_id}.{extension}"


def thumbnail_path(path: str) -> str:
    """Return where the thumbnail of an output is kept: beside it."""
    return f"{path.removesuffix(PurePosixPath(path).suffix)}{THUMBNAIL}"


def _in_thread(step: Callable[[list[bytes]], None], chunks: list[bytes]) -> asyncio.Future[None]:
    """Begin a step in a thread. A caller that ends earlier does not wait for it."""
    future = asyncio.get_running_loop().run_in_executor(_WRITERS, step, chunks)
    future.add_done_callback(lambda done: None if done.cancelled() else done.exception() and None)
    return future


def _require_room(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise OutputInvalid(f"An output is larger than {max_bytes} bytes (MAX_OUTPUT_BYTES).")


def _failed(error: OSError) -> StorageFailed:
    return StorageFailed(f"The file could not be stored: {error.strerror or error}.")
