"""Periodic tasks: the last run of each, which the page and `cron-status` show."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from app.storage.schema import PeriodicTaskRow

if TYPE_CHECKING:
    from datetime import datetime

    from app.storage.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodicRun:
    """The last run of a periodic task."""

    name: str
    schedule: str
    """When it runs, in words."""
    last_run: datetime
    """When it began, by its worker's clock."""
    next_run: datetime
    duration_ms: int
    result: str
    """What it did, or why it failed, in words that anybody may read."""
    failed: bool
    worker_id: str


class PeriodicTasks:
    """The last runs. Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def note(self, run: PeriodicRun) -> None:
        """Keep a run as the last one of its task."""
        values = asdict(run)
        kept = insert(PeriodicTaskRow).values(values)
        kept = kept.on_conflict_do_update(index_elements=[PeriodicTaskRow.name], set_=values)
        async with self._database.transaction() as session:
            await session.execute(kept)

    async def all(self) -> list[PeriodicRun]:
        """Return the last run of each task that has ever run, by name."""
        async with self._database.transaction() as session:
            rows = await session.scalars(select(PeriodicTaskRow).order_by(PeriodicTaskRow.name))
            names = PeriodicRun.__dataclass_fields__
            return [PeriodicRun(**{name: getattr(row, name) for name in names}) for row in rows]
