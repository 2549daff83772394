"""Transitions in PostgreSQL: one guarded statement each, with its event row in the same transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, func, insert, update

from app.domain.errors import JobNotFound
from app.domain.job import STATUS_OF, TRANSITIONS, Job, JobEvent, Phase, Repair
from app.storage.schema import EventRow, JobRow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

RELEASED: dict[str, Any] = {"worker_id": None, "lease_expires_at": None}


async def move(
    session: AsyncSession,
    event: JobEvent,
    where: Sequence[ColumnElement[bool]],
    actor: str,
    *,
    values: Mapping[str, Any],
    data: Mapping[str, Any],
) -> JobRow | None:
    """Make one transition of the table: the guarded UPDATE and its event row. None: no row was in a source phase."""
    move = TRANSITIONS[event]
    statement = (
        update(JobRow)
        .where(*where, JobRow.phase.in_(sorted(move.sources)))
        .values(
            {
                "status": STATUS_OF[move.target],
                "phase": move.target,
                "seq": JobRow.seq + 1,
                "updated_at": func.now(),
                **values,
            }
        )
        .returning(JobRow)
    )
    options = {"synchronize_session": False, "populate_existing": True}
    row = (await session.scalars(statement, execution_options=options)).one_or_none()
    if row is not None:
        await log_event(session, row, event, actor, data)
    return row


async def log_event(
    session: AsyncSession, row: JobRow, event: JobEvent | Repair, actor: str, data: Mapping[str, Any]
) -> None:
    values = {"job_id": row.id, "seq": row.seq, "event": event, "phase": row.phase, "attempt": row.attempt}
    await session.execute(insert(EventRow).values(**values, actor=actor, data=dict(data)))


async def require(session: AsyncSession, job_id: int) -> JobRow:
    row = await session.get(JobRow, job_id, populate_existing=True)
    if row is None:
        raise JobNotFound([job_id])
    return row


def to_domain(row: JobRow) -> Job:
    """Return the row as the domain knows it."""
    names = {name for name in Job.__dataclass_fields__ if name not in ("job_id", "phase", "metadata")}
    values = {name: getattr(row, name) for name in names}
    return Job(job_id=row.id, phase=Phase(row.phase), metadata=row.job_metadata, **values)
