"""Periodic tasks: when each runs next, and its last run, which the page and `cron-status` show."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from app.storage.schema import PeriodicTaskRow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from app.storage.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """When a periodic task runs, whether or not it ever has."""

    name: str
    schedule: str
    """In words."""
    next_run: datetime


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
    """Plans and last runs. Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def note(self, run: PeriodicRun) -> None:
        """Keep a run as the last one of its task."""
        values = asdict(run)
        kept = insert(PeriodicTaskRow).values(values)
        kept = kept.on_conflict_do_update(index_elements=[PeriodicTaskRow.name], set_=values)
        async with self._database.transaction() as session:
            await session.execute(kept)

    async def announce(self, plans: Sequence[Plan]) -> None:
        """Keep when these tasks run; what is known of their last runs stays."""
        # In one order, so that of several workers that start none waits for one that waits for it.
        values = [asdict(plan) for plan in sorted(plans, key=lambda plan: plan.name)]
        kept = insert(PeriodicTaskRow).values(values)
        changed = {name: kept.excluded[name] for name in ("schedule", "next_run")}
        kept = kept.on_conflict_do_update(index_elements=[PeriodicTaskRow.name], set_=changed)
        async with self._database.transaction() as session:
            await session.execute(kept)

    async def plans(self) -> list[Plan]:
        """Return when each task runs that a worker has told of, by name."""
        async with self._database.transaction() as session:
            rows = await session.scalars(select(PeriodicTaskRow).order_by(PeriodicTaskRow.name))
            return [Plan(name=row.name, schedule=row.schedule, next_run=row.next_run) for row in rows]

    async def all(self) -> list[PeriodicRun]:
        """Return the last run of each task that has ever run, by name."""
        have_run = select(PeriodicTaskRow).where(PeriodicTaskRow.last_run.is_not(None))
        async with self._database.transaction() as session:
            rows = await session.scalars(have_run.order_by(PeriodicTaskRow.name))
            names = PeriodicRun.__dataclass_fields__
            return [PeriodicRun(**{name: getattr(row, name) for name in names}) for row in rows]
