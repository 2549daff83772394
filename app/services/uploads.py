"""Taking files that clients hand over: received into the store, recognized by their content, kept once per owner."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from app.domain.envelopes import UI_FORMAT
from app.domain.errors import (
    BodyTooLarge,
    ContentNotFound,
    Fault,
    InvalidGraph,
    NoWorkflow,
    OutputInvalid,
    StorageFailed,
    UnreadableWorkflow,
    UploadLimit,
)
from app.domain.uploads import Upload, UploadKind
from app.media.stored_graphs import UnreadableGraph, stored_graph
from app.media.uploads import recognized
from app.storage.files import Received, upload_path

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from app.domain.job import Output
    from app.media.containers.source import Form
    from app.media.stored_graphs import StoredGraph
    from app.storage.files import FileStore
    from app.storage.uploads import UploadStore

AT_ONCE: Final = 1
"""Number of threads that look into files: one more would take the processor from the event loop."""
_DELETED_AT_ONCE: Final = 100
_MOST_DELETED: Final = 5_000
"""Maximum number of expired uploads that one sweep deletes; the next one goes on."""
_ROOM_S: Final = 60.0
"""When an upload goes is up to its owner; so soon it may be tried again."""
_FULL: Final = "Free space on the disk of the service, or delete uploads, and send it again."


class Uploads:
    """Files in the store with their rows. Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(self, store: UploadStore, files: FileStore, *, max_bytes: int, keep: timedelta) -> None:
        self.max_bytes: Final = max_bytes
        self._store = store
        self._files = files
        self._keep = keep
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="uploads")

    async def take(
        self,
        chunks: AsyncGenerator[bytes, None],
        user_id: str,
        filename: str = "",
        *,
        most_bytes: int | None = None,
    ) -> tuple[Upload, bool]:
        """Return the upload of a file that comes in pieces, and whether it is new; raises as `receive` and `keep`."""
        return await self.keep(await self.receive(chunks), user_id, filename, most_bytes=most_bytes)

    async def check_room(self, user_id: str, size_bytes: int, most_bytes: int | None) -> None:
        """Raise `UploadLimit` if so much more would be too much; of two that ask at once each is told of its own."""
        if most_bytes is None:
            return
        there_bytes = await self._store.size_bytes(user_id)
        if there_bytes + size_bytes > most_bytes:
            raise UploadLimit(
                f"All uploads of {user_id} together may have {most_bytes} bytes, and have {there_bytes}. Delete some, "
                "or wait until they expire.",
                _ROOM_S,
            )

    async def receive(self, chunks: AsyncGenerator[bytes, None]) -> Received:
        """Return what comes, to be kept or discarded.

        Raises
        ------
        BodyTooLarge
            It has more than `max_bytes`.
        StorageFailed
        """
        try:
            return await self._files.receive(chunks, self.max_bytes)
        except OutputInvalid as error:
            detail = f"The file is larger than the {self.max_bytes} bytes that are taken (MAX_UPLOAD_BYTES)."
            raise BodyTooLarge(detail) from error
        except StorageFailed as error:
            raise StorageFailed(f"{error} {_FULL}") from error

    async def discard(self, received: Received) -> None:
        """Delete what was received and is not to be kept."""
        await self._files.discard(received)

    async def keep(
        self, received: Received, user_id: str, filename: str = "", *, most_bytes: int | None = None
    ) -> tuple[Upload, bool]:
        """Return the upload of a received file, and whether it is new; one that is not kept is discarded.

        The same bytes of the same owner are the same upload. `filename` decides only where the content does not.
        `most_bytes` are all uploads of the user together to have.

        Raises
        ------
        InvalidUpload
            It is empty or damaged, or of no kind that is taken.
        StorageFailed, UploadLimit
        """
        try:
            found = await self._recognized(received, filename)
            known = await self._store.renewed(user_id, received.sha256(), self._until())
            if known is None:
                await self.check_room(user_id, received.size_bytes, most_bytes)
        except BaseException:
            await self._files.discard(received)
            raise
        if known is not None and self._files.absolute(known.path).is_file():
            await self._files.discard(received)
            return known, False
        return await self._kept(received, found, user_id, known)

    async def take_bytes(
        self, data: bytes, user_id: str, filename: str = "", *, most_bytes: int | None = None
    ) -> Upload:
        """Return the upload of a small file; raises as `take`."""

        async def whole() -> AsyncGenerator[bytes, None]:
            yield data

        return (await self.take(whole(), user_id, filename, most_bytes=most_bytes))[0]

    async def look_at(self, data: bytes, user_id: str) -> Upload:
        """Return what would be the upload of a small file, which is not kept; raises as `receive` and `keep`."""

        async def whole() -> AsyncGenerator[bytes, None]:
            yield data

        received = await self.receive(whole())
        try:
            return self._made(received, await self._recognized(received, ""), user_id)
        finally:
            await self._files.discard(received)

    async def take_output(
        self, output: Output, user_id: str, *, keep: bool = True, most_bytes: int | None = None
    ) -> Upload:
        """Return an upload of the same bytes as an output, which may be deleted with its job.

        Without `keep` there is none yet: what is returned only looks like it.

        Raises
        ------
        ContentNotFound
            The file is no longer in the store.
        InvalidUpload, BodyTooLarge, StorageFailed, UploadLimit
        """
        if not keep:
            path = self._files.absolute(output.path)
            if not path.is_file():
                raise ContentNotFound("The file of the output is no longer in the store.")
            received = Received(str(path))
            return self._made(received, await self._recognized(received, output.path), user_id)
        known = await self._store.renewed(user_id, output.sha256, self._until())
        if known is not None and self._files.absolute(known.path).is_file():
            return known
        try:
            chunks = self._files.read(output.path)
            return (await self.take(chunks, user_id, output.path, most_bytes=most_bytes))[0]
        except FileNotFoundError as error:
            raise ContentNotFound("The file of the output is no longer in the store.") from error

    async def workflow(self, upload: Upload) -> StoredGraph:
        """Return the graph in API format that an upload carries, and what else of it was written with it.

        Raises
        ------
        NoWorkflow
        InvalidGraph
            It is in UI format only.
        UnreadableWorkflow
        ContentNotFound
            The file is no longer in the store.
        """

        def look() -> StoredGraph | None:
            with self._files.absolute(upload.path).open("rb") as file:
                return stored_graph(file)

        try:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, look)
        except FileNotFoundError as error:
            raise ContentNotFound("The file is no longer in the store.") from error
        except UnreadableGraph as error:
            detail = f"The workflow in the upload cannot be read: {error}."
            raise UnreadableWorkflow(detail, [Fault("", "unreadable", detail)]) from error
        if found is None:
            raise NoWorkflow("The upload carries no workflow: ComfyUI did not write it, or what it wrote was removed.")
        if found.prompt is None:
            raise InvalidGraph(f"The upload carries a workflow. {UI_FORMAT}", [Fault("", "ui_format", UI_FORMAT)])
        return found

    async def delete(self, upload_id: str, user_id: str | None) -> None:
        """Delete an upload, its file first; raises `UploadNotFound`, `UploadInUse`."""
        async with self._store.deleting(upload_id, user_id) as path:
            await self._files.delete([path])

    async def delete_expired(self) -> int:
        """Delete uploads that have expired and that no job needs, and return how many."""
        deleted = 0
        while deleted < _MOST_DELETED:
            async with self._store.deleting_expired(_DELETED_AT_ONCE) as paths:
                await self._files.delete(paths)
            deleted += len(paths)
            if len(paths) < _DELETED_AT_ONCE:
                break
        return deleted

    def close(self) -> None:
        """Stop the thread."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _recognized(self, received: Received, filename: str) -> Form:
        def look() -> Form:
            with received.open() as file:
                return recognized(file, filename)

        return await asyncio.get_running_loop().run_in_executor(self._threads, look)

    async def _kept(self, received: Received, found: Form, user_id: str, known: Upload | None) -> tuple[Upload, bool]:
        """Store a file and its row: in this order, so that a crash between them leaves what the sweep deletes."""
        upload = known or self._made(received, found, user_id)
        try:
            await self._files.keep(received, upload.path)
        except StorageFailed as error:
            raise StorageFailed(f"{error} {_FULL}") from error
        if known is not None:
            # Its file was lost, and is back.
            return known, False
        kept = await self._store.keep(upload)
        if kept.upload_id != upload.upload_id:
            # Another request with the same bytes was quicker.
            await self._files.delete([upload.path])
        return kept, kept.upload_id == upload.upload_id

    def _made(self, received: Received, found: Form, user_id: str) -> Upload:
        now, upload_id = datetime.now(UTC), uuid4().hex
        return Upload(
            upload_id=upload_id,
            user_id=user_id,
            sha256=received.sha256(),
            kind=UploadKind(found.kind),
            content_type=found.content_type,
            extension=found.extension,
            size_bytes=received.size_bytes,
            width=found.width,
            height=found.height,
            duration_s=found.duration_s,
            path=upload_path(now, upload_id, found.extension),
            created_at=now,
            expires_at=now + self._keep,
        )

    def _until(self) -> datetime:
        return datetime.now(UTC) + self._keep
