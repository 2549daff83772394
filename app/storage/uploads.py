"""Uploads in PostgreSQL: rows of files, and which jobs need them. Their bytes are in `app.storage.files`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import delete, exists, func, select

from app.domain.errors import UploadInUse, UploadNotFound
from app.domain.job import FINISHED
from app.domain.uploads import Upload, UploadKind
from app.storage.schema import JobRow, JobUploadRow, UploadRow
from app.storage.statements import Statement

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence
    from datetime import datetime

    from sqlalchemy import Select

    from app.storage.database import Database

_FIELDS: Final = tuple(name for name in Upload.__dataclass_fields__ if name != "upload_id")
_COLUMNS: Final = ", ".join(("id", *_FIELDS))
_KEEP: Final = Statement(f"""
    INSERT INTO uploads ({_COLUMNS})
    VALUES (:upload_id, :user_id, :sha256, :kind, :content_type, :extension, :size_bytes, :width, :height, :duration_s,
        :path, :created_at, :expires_at)
    ON CONFLICT (user_id, sha256) DO UPDATE SET expires_at = GREATEST(uploads.expires_at, EXCLUDED.expires_at)
    RETURNING {_COLUMNS}""")  # noqa: S608  # names of our own
_RENEW: Final = Statement(f"""
    UPDATE uploads SET expires_at = GREATEST(expires_at, :expires_at::timestamptz)
    WHERE user_id = :user_id AND sha256 = :sha256 RETURNING {_COLUMNS}""")  # noqa: S608


def uploaded_by(owner: str) -> str:
    """Return the SQL that tells the size of all uploads of an owner, in bytes; `owner` is SQL too."""
    return f"(SELECT COALESCE(sum(size_bytes), 0)::bigint FROM uploads WHERE user_id = {owner})"  # noqa: S608


_SIZE: Final = Statement(f"SELECT {uploaded_by(':user_id::text')}")
_READ: Final = Statement(f"""
    SELECT {_COLUMNS} FROM uploads
    WHERE id = ANY(:upload_ids::text[]) AND (user_id = :owner OR :owner::text IS NULL)""")  # noqa: S608


class UploadStore:
    """Rows of uploads. Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, upload: Upload) -> Upload:
        """Store an upload; return the one that the owner already has of these bytes, to be kept as long, if any."""
        values = {name: getattr(upload, name) for name in Upload.__dataclass_fields__}
        async with self._database.driver() as connection:
            row = await _KEEP.row(connection, **values)
        assert row is not None  # noqa: S101 - the statement returns the row in either case
        return _upload(row)

    async def renewed(self, user_id: str, sha256: str, expires_at: datetime) -> Upload | None:
        """Return the owner's upload of these bytes, which is kept until then now; None if there is none."""
        async with self._database.driver() as connection:
            row = await _RENEW.row(connection, user_id=user_id, sha256=sha256, expires_at=expires_at)
        return _upload(row) if row is not None else None

    async def size_bytes(self, user_id: str) -> int:
        """Return the size of all uploads of a user."""
        async with self._database.driver() as connection:
            size_bytes: int = await _SIZE.value(connection, user_id=user_id)
        return size_bytes

    async def read(self, upload_ids: Collection[str], owner: str | None = None) -> dict[str, Upload]:
        """Return those of these uploads that there are, by their ids: of one owner, or of all."""
        if not upload_ids:
            return {}
        async with self._database.driver() as connection:
            rows = await _READ.rows(connection, upload_ids=list(upload_ids), owner=owner)
        return {row["id"]: _upload(row) for row in rows}

    async def page(
        self, user_id: str | None, limit: int, before: tuple[datetime, str] | None, *, owner: str | None = None
    ) -> list[Upload]:
        """Return uploads, the newest first: of one user or of all, those that come after `before` in this order.

        Others than `owner`'s are left out, unless that is None.
        """
        statement = select(UploadRow).order_by(UploadRow.created_at.desc(), UploadRow.id.desc()).limit(limit)
        for one in (user_id, owner):
            if one is not None:
                statement = statement.where(UploadRow.user_id == one)
        if before is not None:
            at, upload_id = before
            older = (UploadRow.created_at < at) | ((UploadRow.created_at == at) & (UploadRow.id < upload_id))
            statement = statement.where(UploadRow.created_at <= at, older)
        async with self._database.transaction() as session:
            return [_of_row(row) for row in await session.scalars(statement)]

    @asynccontextmanager
    async def deleting(self, upload_id: str, user_id: str | None) -> AsyncIterator[str]:
        """Yield the path of an upload whose file is to be deleted now; its row is deleted after that.

        In this order a crash leaves a row without its file, which is deleted again when it expires. `user_id` is the
        owner, or None where everybody may.

        Raises
        ------
        UploadNotFound, UploadInUse
        """
        async with self._database.transaction() as session:
            # Locked first: a job that is being accepted has locked it too, and is seen by the next statement.
            found = await session.scalar(select(UploadRow).where(UploadRow.id == upload_id).with_for_update())
            if found is None or user_id not in (None, found.user_id):
                raise UploadNotFound(f"There is no upload {upload_id}.")
            if (await session.scalars(_needed().where(JobUploadRow.upload_id == upload_id))).first() is not None:
                raise UploadInUse(f"A job that waits or runs needs upload {upload_id}.")
            yield found.path
            await session.execute(delete(UploadRow).where(UploadRow.id == upload_id))

    @asynccontextmanager
    async def deleting_expired(self, limit: int) -> AsyncIterator[Sequence[str]]:
        """Yield the paths of uploads that have expired and that no job needs, to be deleted as by `deleting`."""
        needed = exists(_needed().where(JobUploadRow.upload_id == UploadRow.id))
        old = select(UploadRow).where(UploadRow.expires_at < func.now(), ~needed)
        async with self._database.transaction() as session:
            locked = old.order_by(UploadRow.expires_at).limit(limit).with_for_update(skip_locked=True)
            found = {row.id: row.path for row in await session.scalars(locked)}
            for upload_id in await session.scalars(_needed().where(JobUploadRow.upload_id.in_(found))):
                found.pop(upload_id, None)
            yield list(found.values())
            await session.execute(delete(UploadRow).where(UploadRow.id.in_(found)))

    async def known_paths(self, paths: Sequence[str]) -> set[str]:
        """Return those of the store's paths that belong to an upload."""
        async with self._database.transaction() as session:
            return set(await session.scalars(select(UploadRow.path).where(UploadRow.path.in_(paths))))


def _needed() -> Select[str]:
    """Return the statement that finds the uploads that a waiting or running job needs."""
    return (
        select(JobUploadRow.upload_id)
        .join(JobRow, JobRow.id == JobUploadRow.job_id)
        .where(JobRow.status.not_in(FINISHED))
    )


def _upload(record: Any) -> Upload:
    values = {name: record[name] for name in _FIELDS} | {"kind": UploadKind(record["kind"])}
    return Upload(upload_id=record["id"], **values)


def _of_row(row: UploadRow) -> Upload:
    values = {name: getattr(row, name) for name in _FIELDS} | {"kind": UploadKind(row.kind)}
    return Upload(upload_id=row.id, **values)
