"""The audit: who did what by hand, to what, and what became of it. Rows are appended, and deleted when they are old."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import delete, func, select

from app.domain.access import Role
from app.storage.schema import AuditRow

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from app.domain.access import Caller
    from app.storage.database import Database

MOST_DELETED: Final = 20_000
"""Entries that one sweep deletes at most."""
_DELETED_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One action of a person."""

    id: int
    at: datetime
    actor: str
    role: Role
    action: str
    target: str
    outcome: str
    address: str | None
    """From where; None in entries of older versions."""
    request_id: str | None
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class EntryPage:
    """Entries, the newest first, and whether there are older and newer ones."""

    entries: list[Entry]
    older: bool
    newer: bool


class Audit:
    """Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def note(
        self,
        caller: Caller,
        action: str,
        target: str,
        outcome: str,
        *,
        address: str | None = None,
        request_id: str | None = None,
        **data: Any,
    ) -> int:
        """Append an entry and return its number; `address` is from where it was asked for."""
        row = AuditRow(
            actor=caller.name,
            role=caller.role.value,
            action=action,
            target=target,
            outcome=outcome,
            address=address,
            request_id=request_id,
            data=data,
        )
        async with self._database.transaction() as session:
            session.add(row)
            await session.flush()
            return row.id

    async def entry(self, entry_id: int) -> Entry | None:
        """Return the entry of that number; None when there is none."""
        async with self._database.transaction() as session:
            row = await session.get(AuditRow, entry_id)
            return _entry(row) if row is not None else None

    async def page(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        target: str | None = None,
        address: str | None = None,
        until: datetime | None = None,
        before: int | None = None,
        after: int | None = None,
        limit: int = 50,
    ) -> EntryPage:
        """Return up to `limit` entries before, or after, the one of that number, or the newest ones.

        `until`: only what was done before that time.
        """
        chosen = select(AuditRow)
        narrowed = {
            AuditRow.actor: actor,
            AuditRow.action: action,
            AuditRow.target: target,
            AuditRow.address: address,
        }
        for column, value in narrowed.items():
            if value is not None:
                chosen = chosen.where(column == value)
        if until is not None:
            chosen = chosen.where(AuditRow.at < until)
        upward = after is not None
        if after is not None:
            chosen = chosen.where(AuditRow.id > after).order_by(AuditRow.id)
        else:
            chosen = chosen.order_by(AuditRow.id.desc())
            if before is not None:
                chosen = chosen.where(AuditRow.id < before)
        async with self._database.transaction() as session:
            rows = list((await session.scalars(chosen.limit(limit + 1))).all())
        more, rows = len(rows) > limit, rows[:limit]
        if upward:
            rows.reverse()
        entries = [_entry(row) for row in rows]
        return EntryPage(entries, older=True if upward else more, newer=more if upward else before is not None)

    async def prune(self, keep: timedelta) -> int:
        """Delete entries that are older, in bounded steps, and return how many; what is left is for the next time."""
        deleted = 0
        old = select(AuditRow.id).where(AuditRow.at < func.now() - keep).order_by(AuditRow.at).limit(_DELETED_AT_ONCE)
        while deleted < MOST_DELETED:
            async with self._database.transaction() as session:
                # Of two sweeps at once neither waits for the other.
                locked = old.with_for_update(skip_locked=True)
                gone = delete(AuditRow).where(AuditRow.id.in_(locked)).returning(AuditRow.id)
                count = len((await session.scalars(gone)).all())
            deleted += count
            if count < _DELETED_AT_ONCE:
                break
        return deleted


def _entry(row: AuditRow) -> Entry:
    return Entry(
        id=row.id,
        at=row.at,
        actor=row.actor,
        role=Role(row.role),
        action=row.action,
        target=row.target,
        outcome=row.outcome,
        address=row.address,
        request_id=row.request_id,
        data=row.data,
    )
