"""Transitions in PostgreSQL: one guarded statement each, with its event row in the same transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import ColumnElement, func, insert, select, update

from app.domain.errors import JobNotFound
from app.domain.job import STATUS_OF, TRANSITIONS, JobEvent, Phase, Repair
from app.storage.columns import STANDING_COLUMNS, standing_of
from app.storage.schema import EventRow, JobRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from app.domain.job import Standing

RELEASED: dict[str, Any] = {"worker_id": None, "lease_expires_at": None}


async def move(
    session: AsyncSession,
    event: JobEvent,
    where: Sequence[ColumnElement[bool]],
    actor: str,
    *,
    values: Mapping[str, Any],
    data: Mapping[str, Any],
) -> Standing | None:
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
        .returning(*STANDING_COLUMNS)
    )
    done = await session.execute(statement, execution_options={"synchronize_session": False})
    row = done.mappings().one_or_none()
    if row is None:
        return None
    moved = standing_of(row)
    await log_event(session, moved, event, actor, data)
    return moved


def claimed_step(event: JobEvent, *, job: str, attempt: str = "", data: str = "'{}'") -> str:
    """Return the SQL of a transition that a worker makes, whole in one statement: fence, guard, event row, attempt row.

    `job` and `attempt` are what is set beyond phase and seq in the rows of the two tables, `data` the event's. The
    parameters `$1` to `$9` are the claim's job id, attempt and worker id, and those of `NOTED`. What is to be known of
    the job's row, by the name `moved`, is selected behind it: a column that is not has not been read.
    """
    move = TRANSITIONS[event]
    return f"""
        WITH moved AS (
            UPDATE generation_jobs AS job
            SET {stepped(move.target)}, {job}
            WHERE {FENCE} AND job.phase IN ({listed(move.sources)})
            RETURNING job.*
        ), logged AS (
            INSERT INTO job_events (job_id, seq, event, phase, attempt, actor, data)
            SELECT id, seq, '{event}', phase, attempt, $3, {data} FROM moved
        ), noted AS (
            UPDATE job_attempts AS tried SET {", ".join(filter(None, (NOTED, attempt)))} FROM moved
            WHERE tried.job_id = moved.id AND tried.number = $2
        )"""  # noqa: S608  # of our own words only


FENCE: Final = "job.id = $1 AND job.attempt = $2 AND job.worker_id = $3::text"
"""The claim's parameters: whoever was given up on finds no row."""

NOTED: Final = """graph = COALESCE(tried.graph, $4::jsonb),
    workflow_key = COALESCE(tried.workflow_key, $5::text),
    submitted_at = COALESCE(tried.submitted_at, now() - make_interval(secs => $6::float8)),
    executing_at = COALESCE(tried.executing_at, now() - make_interval(secs => $7::float8)),
    executed_at = COALESCE(tried.executed_at, now() - make_interval(secs => $8::float8)),
    spans = COALESCE($9::jsonb, tried.spans)"""
"""What nobody has noted yet of an attempt: it costs no statement of its own."""


def stepped(target: Phase, steps: str = "1") -> str:
    """Return the SQL that brings a job's row to a phase, so many events later."""
    return f"status = '{STATUS_OF[target]}', phase = '{target}', seq = job.seq + {steps}, updated_at = now()"


def listed(phases: Iterable[Phase]) -> str:
    """Return the phases as SQL lists them."""
    return ", ".join(f"'{phase}'" for phase in sorted(phases))


async def log_event(
    session: AsyncSession, job: Standing, event: JobEvent | Repair, actor: str, data: Mapping[str, Any]
) -> None:
    values = {"job_id": job.job_id, "seq": job.seq, "event": event, "phase": job.phase, "attempt": job.attempt}
    await session.execute(insert(EventRow).values(**values, actor=actor, data=dict(data)))


async def require(session: AsyncSession, job_id: int) -> Standing:
    """Return where the job stands, or raise `JobNotFound`."""
    found = await session.execute(select(*STANDING_COLUMNS).where(JobRow.id == job_id))
    row = found.mappings().one_or_none()
    if row is None:
        raise JobNotFound([job_id])
    return standing_of(row)
