"""The audit: who did what by hand, to what, and what became of it. Rows are appended, and deleted when they are old.

Jobs that were sent by REST are in the list too: of them the first event tells, app/storage/sent_jobs.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Select, delete, func, select, tuple_

from app.domain.access import Role
from app.storage.database import driver_of
from app.storage.job_lists import PLAN_FOR_THESE_VALUES
from app.storage.schema import AuditRow, EventRow
from app.storage.sent_jobs import ACCEPTED, FORGET_SENT, SEND, SENT, sent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime, timedelta

    from sqlalchemy.ext.asyncio import AsyncSession

    from app.domain.access import Caller
    from app.storage.database import Database

MOST_DELETED: Final = 20_000
"""Entries of each kind that one sweep deletes at most."""
_DELETED_AT_ONCE: Final = 1_000
MOST_TARGET: Final = 600
"""Characters of what was acted on that are kept: an index takes no more than 2,700 bytes."""
_MOST_ID: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where an entry stands in the list, which goes by time; of one moment those of jobs come last."""

    at: datetime
    of_job: bool
    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One action of a person."""

    id: int
    """Of the event where it is `of_job`."""
    of_job: bool = False
    """Whether it is the sending of a job, told by the job's first event."""
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

    @property
    def place(self) -> Place:
        """Where it stands in the list."""
        return Place(self.at, self.of_job, self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What the list is narrowed to; None is anything."""

    actor: str | None = None
    action: str | None = None
    target: str | None = None
    address: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    """Only what was done before that time."""
    sent_jobs: bool = True
    """Whether with the jobs that were sent by REST, which may be most of it."""


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
            target=target[:MOST_TARGET],
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
        chosen: Chosen | None = None,
        *,
        before: Place | None = None,
        after: Place | None = None,
        limit: int = 50,
    ) -> EntryPage:
        """Return up to `limit` entries before, or after, this place of the list, or the newest ones."""
        chosen, upward = chosen or Chosen(), after is not None
        of_jobs = sent(chosen)
        async with self._database.snapshot() as session:
            await session.execute(PLAN_FOR_THESE_VALUES)
            kept = _next(_kept(chosen), AuditRow, chosen, before, after).limit(limit + 1)
            found = [_entry(row) for row in await session.scalars(kept)]
            if of_jobs is not None:
                of_jobs = _next(of_jobs, EventRow, chosen, before, after).limit(limit + 1)
                found += [_entry_of_job(row) for row in await session.scalars(of_jobs)]
        found.sort(key=lambda entry: entry.place, reverse=not upward)
        more, found = len(found) > limit, found[:limit]
        if upward:
            found.reverse()
        return EntryPage(found, older=True if upward else more, newer=more if upward else before is not None)

    async def prune(self, keep: timedelta) -> int:
        """Delete entries that are older, in bounded steps, and return how many; what is left is for the next time."""
        old = select(AuditRow.id).where(AuditRow.at < func.now() - keep).order_by(AuditRow.at).limit(_DELETED_AT_ONCE)
        # Of two sweeps at once neither waits for the other. As a CTE: a subquery with a lock and a limit may be read
        # again for each row of the table, and finds others each time.
        locked = old.with_for_update(skip_locked=True).cte()
        gone = delete(AuditRow).where(AuditRow.id.in_(select(locked.c.id))).returning(AuditRow.id)

        async def delete_some(session: AsyncSession) -> int:
            return len((await session.scalars(gone)).all())

        async def forget_some(session: AsyncSession) -> int:
            return len(await FORGET_SENT.rows(await driver_of(session), keep=keep, most=_DELETED_AT_ONCE))

        return await self._in_steps(delete_some) + await self._in_steps(forget_some)

    async def _in_steps(self, step: Callable[[AsyncSession], Awaitable[int]]) -> int:
        done = 0
        while done < MOST_DELETED:
            async with self._database.transaction() as session:
                count = await step(session)
            done += count
            if count < _DELETED_AT_ONCE:
                break
        return done


def _kept(chosen: Chosen) -> Select[Any]:
    found = select(AuditRow)
    narrowed = {
        AuditRow.actor: chosen.actor,
        AuditRow.action: chosen.action,
        AuditRow.target: chosen.target,
        AuditRow.address: chosen.address,
    }
    for column, value in narrowed.items():
        if value is not None:
            found = found.where(column == value)
    return found


def _next(
    found: Select[Any], row: type[AuditRow | EventRow], chosen: Chosen, before: Place | None, after: Place | None
) -> Select[Any]:
    """Return the statement for what follows a place, in the order in which it follows."""
    if chosen.since is not None:
        found = found.where(row.at >= chosen.since)
    if chosen.until is not None:
        found = found.where(row.at < chosen.until)
    if (place := after or before) is not None:
        # Of the same moment, and the other kind, all or none follow.
        of_job = row is EventRow
        number = place.id if place.of_job is of_job else _MOST_ID if place.of_job else -1
        here = tuple_(row.at, row.id)
        found = found.where(here > (place.at, number) if after is not None else here < (place.at, number))
    return found.order_by(row.at, row.id) if after is not None else found.order_by(row.at.desc(), row.id.desc())


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


def _entry_of_job(row: EventRow) -> Entry:
    by = row.data[SENT]
    return Entry(
        id=row.id,
        of_job=True,
        at=row.at,
        actor=by["actor"],
        role=Role(by["role"]),
        action=SEND,
        target=f"job {row.job_id}",
        outcome=ACCEPTED,
        address=by["address"],
        request_id=by["request_id"],
        data={"user_id": row.actor},
    )
