"""Transitions in PostgreSQL: each is one statement that checks the phase, moves the job and writes the event row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from app.domain.errors import JobNotFound
from app.domain.job import STATUS_OF, TRANSITIONS, JobEvent, Phase, Repair, Steering
from app.storage.columns import STANDING, STANDING_COLUMNS, standing_of
from app.storage.schema import JobRow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncSession

    from app.domain.job import Standing

FENCE: Final = "job.id = :job_id AND job.attempt = :attempt AND job.worker_id = :worker_id::text"
"""The claim. A worker whose job was given to another one finds no row."""

NO_DATA: Final = "'{}'::jsonb"
RELEASED: Final = "worker_id = NULL, lease_expires_at = NULL"

NOTED: Final = """graph = COALESCE(tried.graph, :graph::jsonb),
    workflow_key = COALESCE(tried.workflow_key, :workflow_key::text),
    submitted_at = COALESCE(tried.submitted_at, now() - make_interval(secs => :sent_s::float8)),
    executing_at = COALESCE(tried.executing_at, now() - make_interval(secs => :began_s::float8)),
    executed_at = COALESCE(tried.executed_at, now() - make_interval(secs => :ended_s::float8)),
    spans = COALESCE(:spans::jsonb, tried.spans),
    load_s = COALESCE(:load_s::real, tried.load_s)"""
"""Stores of an attempt what is not stored yet, without a statement of its own. Parameters: fields of `Noted`."""


def transition(event: JobEvent, *, where: str, actor: str, job: str = "", data: str = NO_DATA, source: str = "") -> str:
    """Return the CTEs `moved` and `logged` of a transition: the guarded UPDATE of the job's row, and the event row.

    The job's phase must be one of the event's sources, and `where` must hold; `source` is a FROM of the UPDATE. `job`
    is what is set beyond status, phase and `seq`. `actor` and `data` are the event's, as SQL. `moved` has the columns
    of the job's row after the change; a column that is not selected from it is not read.
    """
    move = TRANSITIONS[event]
    return f"""moved AS (
            UPDATE generation_jobs AS job
            SET {", ".join(filter(None, (stepped(move.target), job)))} {source and f"FROM {source}"}
            WHERE {where} AND job.phase IN ({listed(move.sources)})
            RETURNING job.*
        ), logged AS (
            {event_rows(event_row(event, actor, data))}
        )"""  # noqa: S608  # of our own words only


def claimed_transition(event: JobEvent, *, job: str = "", attempt: str = "", data: str = NO_DATA) -> str:
    """Return the statement of a transition that a worker makes. It returns where the job stands.

    `job` is what is set in the job's row beyond status, phase and `seq`, `attempt` what is set in the attempt's row
    beyond `NOTED`, and `data` the event's.
    """
    return f"""
        WITH {transition(event, where=FENCE, actor=":worker_id", job=job, data=data)},
        noted AS ({noted_attempt(attempt)})
        SELECT {STANDING} FROM moved"""  # noqa: S608  # of our own words only


def stepped(target: Phase, steps: str = "1") -> str:
    """Return the SQL that brings a job's row to a phase, `steps` events later."""
    return f"status = '{STATUS_OF[target]}', phase = '{target}', seq = job.seq + {steps}, updated_at = now()"


def noted_attempt(attempt: str = "") -> str:
    """Return the SQL that sets `NOTED`, and what `attempt` sets, in the row of the attempt of `moved`."""
    return f"""UPDATE job_attempts AS tried SET {", ".join(filter(None, (NOTED, attempt)))} FROM moved
            WHERE tried.job_id = moved.id AND tried.number = :attempt"""  # noqa: S608  # of our own words only


def event_rows(*rows: str) -> str:
    """Return the SQL that writes event rows, each of them selected by `event_row`."""
    return f"INSERT INTO job_events (job_id, seq, event, phase, attempt, actor, data) {' UNION ALL '.join(rows)}"


def event_row(
    event: JobEvent | Repair | Steering,
    actor: str,
    data: str = NO_DATA,
    *,
    seq: str = "seq",
    phase: str = "phase",
    source: str = "moved",
) -> str:
    """Return the SELECT of one event row. `actor`, `data`, `seq` and `phase` are SQL over the columns of `source`."""
    return f"SELECT id, {seq}, '{event}', {phase}, attempt, {actor}, {data} FROM {source}"  # noqa: S608


def listed(phases: Iterable[Phase]) -> str:
    """Return the phases as SQL lists them."""
    return ", ".join(f"'{phase}'" for phase in sorted(phases))


async def require(session: AsyncSession, job_id: int, owner: str | None = None) -> Standing:
    """Return where the job stands, or raise `JobNotFound`; another's than `owner`'s is not found, unless None."""
    own = () if owner is None else (JobRow.user_id == owner,)
    found = await session.execute(select(*STANDING_COLUMNS).where(JobRow.id == job_id, *own))
    row = found.mappings().one_or_none()
    if row is None:
        raise JobNotFound([job_id])
    return standing_of(row)
