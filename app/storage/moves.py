"""Moves of a waiting job in the queue that somebody asks for: to the front of its user's jobs, to another priority."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, select

from app.domain.errors import JobNotFound, JobNotMovable, JobNotWaiting
from app.domain.job import WAITING, Standing, Steering
from app.storage.columns import STANDING, standing_of
from app.storage.database import driver_of
from app.storage.fair_tags import QUEUED, base_of, charged, weight_of
from app.storage.schema import JobRow
from app.storage.statements import Statement
from app.storage.transitions import event_row, event_rows, listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncSession

MOST_SHIFTED: Final = 500
"""Maximum number of jobs that make room for one: of more, the last of so many goes to where the one was."""
_WAITS: Final = f"job.phase IN ({listed(WAITING)})"
_OWN: Final = "job.id = :job_id::bigint AND (job.user_id = :owner OR :owner::text IS NULL)"
_LOCK: Final = func.pg_advisory_xact_lock(func.hashtextextended(JobRow.user_id, 7265837418))
"""One move of a user's jobs after the other: each is to see the places that the one before has left."""
_STEPPED: Final = "seq = job.seq + 1, updated_at = now()"

_HERE: Final = Statement(f"""
    SELECT {STANDING}, user_id, priority, fair_tag FROM generation_jobs AS job WHERE {_OWN}""")  # noqa: S608
_BEFORE: Final = f"""FROM generation_jobs WHERE {QUEUED} AND user_id >= :user_id::text AND user_id <= :user_id
            AND priority = :priority::smallint AND (fair_tag, id) < (:fair_tag::bigint, :job_id::bigint)"""
"""What comes before the job among its user's jobs of its priority. As a range: see `claims`."""
# The tags are exchanged, and stay the user's: nobody else's job comes later by it. Jobs that have the first one's tag
# would still come before: these come a µs of virtual time behind it.
_TO_FRONT: Final = Statement(f"""
    WITH before AS MATERIALIZED (
        SELECT id, fair_tag {_BEFORE}
        ORDER BY user_id, priority DESC, fair_tag, id LIMIT :most::int FOR UPDATE SKIP LOCKED
    ), first AS (
        SELECT min(fair_tag) AS tag FROM before
    ), held AS MATERIALIZED (
        SELECT id FROM generation_jobs AS job
        WHERE {_OWN} AND {_WAITS} AND fair_tag = :fair_tag AND priority = :priority
            AND (SELECT tag FROM first) < :fair_tag FOR UPDATE
    ), shifted AS (
        UPDATE generation_jobs AS job SET fair_tag = GREATEST(place.tag, first.tag + 1)
        FROM (
            SELECT id, lead(fair_tag, 1, :fair_tag) OVER (ORDER BY fair_tag, id) AS tag FROM before
        ) AS place, first WHERE job.id = place.id AND EXISTS (SELECT FROM held)
    ), moved AS (
        UPDATE generation_jobs AS job SET fair_tag = first.tag, {_STEPPED}
        FROM held, first WHERE job.id = held.id
        RETURNING job.*
    ), logged AS (
        {event_rows(event_row(Steering.MOVED_TO_FRONT, ":actor::text"))}
    )
    SELECT {STANDING} FROM moved""")  # noqa: S608  # of our own words only

_AHEAD: Final = Statement(f"SELECT EXISTS (SELECT {_BEFORE})")
_IN_NEW_LANE: Final = base_of("job.user_id", ":priority::smallint", ":shares::bool")
_FROM_AND_TO: Final = "jsonb_build_object('from', old_priority, 'to', priority)"
# Placed as a job that is sent now; what is not to begin yet gets its place when it is due.
_SET_PRIORITY: Final = Statement(f"""
    WITH old AS (
        SELECT id AS old_id, priority AS old_priority FROM generation_jobs AS job
        WHERE {_OWN} AND {_WAITS} FOR UPDATE
    ), moved AS (
        UPDATE generation_jobs AS job
        SET priority = :priority, {_STEPPED}, fair_tag = CASE WHEN job.fair_tag IS NOT NULL THEN {_IN_NEW_LANE}
            + CASE WHEN :shares THEN {charged("job", weight_of("job.user_id"))} ELSE 0 END::bigint END
        FROM old WHERE job.id = old_id AND job.priority <> :priority
        RETURNING job.*, old_priority
    ), logged AS (
        {event_rows(event_row(Steering.PRIORITY_SET, ":actor::text", _FROM_AND_TO))}
    )
    SELECT {STANDING}, old_priority FROM moved""")  # noqa: S608  # of our own words only


@dataclass(frozen=True, slots=True)
class Moved:
    """Where a job stands that was to be moved."""

    job: Standing
    changed: bool
    """Whether it was: asked again, nothing changes."""
    priority_before: int


async def to_front(session: AsyncSession, job_id: int, owner: str | None, actor: str) -> Moved:
    """Let a waiting job come before the others of its user and priority, in the caller's transaction.

    Raises
    ------
    JobNotFound, JobNotWaiting
    JobNotMovable
        It is not to begin yet, or has the same tag as the first one, which no exchange brings behind it.
    """
    connection = await _begun(session, job_id)
    here = _waiting(await _HERE.row(connection, job_id=job_id, owner=owner), job_id)
    if here["fair_tag"] is None:
        raise JobNotMovable(f"Job {job_id} is not to begin before {here['available_at']:%Y-%m-%d %H:%M:%S} UTC.")
    lane = {name: here[name] for name in ("user_id", "priority", "fair_tag")}
    row = await _TO_FRONT.row(connection, job_id=job_id, owner=owner, actor=actor, most=MOST_SHIFTED, **lane)
    if row is not None:
        return Moved(standing_of(row), True, here["priority"])
    return await _not_moved(connection, job_id, owner, lane)


async def set_priority(
    session: AsyncSession, job_id: int, priority: int, owner: str | None, actor: str, *, shares: bool
) -> Moved:
    """Give a waiting job another priority, where it comes last of its user's jobs; `shares` is as `JobStore`'s.

    Raises
    ------
    JobNotFound, JobNotWaiting
    """
    connection = await _begun(session, job_id)
    row = await _SET_PRIORITY.row(connection, job_id=job_id, priority=priority, owner=owner, actor=actor, shares=shares)
    if row is not None:
        return Moved(standing_of(row), True, row["old_priority"])
    here = _waiting(await _HERE.row(connection, job_id=job_id, owner=owner), job_id)
    return Moved(standing_of(here), False, here["priority"])


async def _begun(session: AsyncSession, job_id: int) -> Any:
    """Wait until no other job of the user is moved, and return the driver's connection."""
    await session.execute(select(_LOCK).where(JobRow.id == job_id))
    return await driver_of(session)


async def _not_moved(connection: Any, job_id: int, owner: str | None, lane: Mapping[str, Any]) -> Moved:
    """Return a job that is the first of its user already, or raise why it could not be moved."""
    here = _waiting(await _HERE.row(connection, job_id=job_id, owner=owner), job_id)
    if await _AHEAD.value(connection, job_id=job_id, **lane):
        raise JobNotMovable(
            f"Job {job_id} has the same tag as jobs before it, as all have that came with FAIRNESS=off."
        )
    return Moved(standing_of(here), False, here["priority"])


def _waiting(row: Any, job_id: int) -> Any:
    if row is None:
        raise JobNotFound([job_id])
    job = standing_of(row)
    if job.phase not in WAITING:
        raise JobNotWaiting(f"Job {job_id} is {job.status}: only a job that waits has a place in the queue.")
    return row
