"""Rows of outputs whose thumbnails are still to be made, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import func, select, update

from app.storage.schema import ContentRow, OutputRow

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from app.storage.database import Database


@dataclass(frozen=True, slots=True)
class Due:
    """An output, stored at `path`, of which a thumbnail is to be made."""

    content_id: int
    index: int
    path: str


_MADE: Final = """
    WITH made AS (
        SELECT * FROM unnest($1::bigint[], $2::int[], $3::text[]) AS made (content_id, index, thumbnail)
    ), held AS (
        SELECT outputs.content_id, outputs.index, thumbnail
        FROM outputs JOIN made ON outputs.content_id = made.content_id AND outputs.index = made.index
        ORDER BY outputs.content_id, outputs.index FOR UPDATE OF outputs
    ), told AS (
        UPDATE outputs SET thumbnail_path = held.thumbnail, thumbnail_due = false FROM held
        WHERE outputs.content_id = held.content_id AND outputs.index = held.index AND outputs.thumbnail_due
    )
    SELECT content_id, index FROM held"""
"""Locked in the order in which a deletion locks them: two that lock in different orders wait for each other."""


class ThumbnailStore:
    """Thumbnails as PostgreSQL has them. Methods raise `DatabaseUnavailable` while it is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(self, older_s: float, limit: int) -> list[Due]:
        """Return some of those that have been due for so many seconds."""
        statement = (
            select(OutputRow.content_id, OutputRow.index, OutputRow.path)
            .join(ContentRow, ContentRow.id == OutputRow.content_id)
            .where(OutputRow.thumbnail_due, ContentRow.created_at < func.now() - timedelta(seconds=older_s))
            .order_by(OutputRow.content_id, OutputRow.index)
            .limit(limit)
        )
        async with self._database.transaction() as session:
            return [Due(*row) for row in await session.execute(statement)]

    async def give_up(self, older_s: float) -> None:
        """Let those that have been due for so many seconds be due no more."""
        old = select(ContentRow.id).where(ContentRow.created_at < func.now() - timedelta(seconds=older_s))
        statement = update(OutputRow).where(OutputRow.thumbnail_due, OutputRow.content_id.in_(old))
        async with self._database.transaction() as session:
            await session.execute(
                statement.values(thumbnail_due=False), execution_options={"synchronize_session": False}
            )

    async def made(self, thumbnails: Mapping[Due, str | None]) -> list[Due]:
        """Note where thumbnails are, None for what none can be made of; return those whose outputs were deleted.

        A path that another worker has stored meanwhile stays: it is the same file.
        """
        keys = [each.content_id for each in thumbnails], [each.index for each in thumbnails]
        async with self._database.driver() as connection:
            rows = await connection.fetch(_MADE, *keys, list(thumbnails.values()))
        there = {(row["content_id"], row["index"]) for row in rows}
        return _without(thumbnails, there)


def _without(due: Collection[Due], there: set[tuple[int, int]]) -> list[Due]:
    return [each for each in due if (each.content_id, each.index) not in there]
