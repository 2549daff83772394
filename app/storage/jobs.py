"""The job store: what clients do with jobs. Each method is one transaction."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Text, bindparam, cast, delete, func, select
from sqlalchemy.dialects import postgresql

from app.domain.errors import InvalidTransition, JobAlreadyFinished, JobNotFinished, JobNotRetryable
from app.domain.job import FINISHED, STATUS_OF, TRANSITIONS, Job, JobEvent, NewJob, Phase, Standing
from app.runtime.json_text import Written, dump_kept, dumps, load_kept
from app.storage import idempotency
from app.storage.database import driver_of
from app.storage.files import thumbnail_path
from app.storage.schema import ContentRow, JobRow, OutputRow
from app.storage.transitions import RELEASED, move, require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from app.domain.seeds import Drawing
    from app.storage.database import Database
    from app.storage.idempotency import Once


class JobStore:
    """Jobs in PostgreSQL. Methods raise `DatabaseUnavailable` while it is away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Of a thousand that are retried at once each would bring its graph.
        self._reseeding = asyncio.Semaphore(1)

    async def replay(self, once: Once) -> str | None:
        """Return the answer that this request got before, if it came before; raises `IdempotencyKeyReused`."""
        async with self._database.transaction() as session:
            return await idempotency.replay(session, once)

    async def create(self, job: NewJob, once: Once | None = None) -> Job | None:
        """Accept a job: one row and its first event. None: another request of the same key was first; `replay` it."""
        if once is None:
            return (await self.create_all([job]))[0]
        async with self._database.transaction() as session:
            if not await idempotency.reserve(session, once):
                return None
            (accepted,) = await _insert(await driver_of(session), [job])
            await idempotency.keep(session, once, accepted)
            return accepted

    async def create_all(self, jobs: Sequence[NewJob]) -> list[Job]:
        """Accept several jobs in one statement: all of them, or none."""
        async with self._database.driver() as connection:
            return await _insert(connection, jobs)

    async def withdraw_unaccepted(self, job_ids: Sequence[int]) -> set[int]:
        """Take back rows that could not be enqueued; without those that a worker or a client has touched since."""
        async with self._database.transaction() as session:
            statement = delete(JobRow).where(JobRow.id.in_(job_ids), JobRow.phase == Phase.QUEUED, JobRow.seq == 1)
            withdrawn = set((await session.scalars(statement.returning(JobRow.id))).all())
            await idempotency.forget(session, withdrawn)
            return withdrawn

    async def get(self, job_id: int) -> Standing:
        """Return where the job stands, or raise `JobNotFound`."""
        async with self._database.transaction() as session:
            return await require(session, job_id)

    async def cancel(self, job_id: int, reason: str | None, actor: str) -> tuple[Standing, bool]:
        """Cancel a waiting job at once, or note that a running one is to be cancelled.

        Returns the job, and whether this has changed it: asked again, it changes nothing. A job that is being saved is
        past cancelling, and returned as it is.

        Raises
        ------
        JobNotFound, JobAlreadyFinished
        """
        async with self._database.transaction() as session:
            asked = {"cancel_reason": reason}
            # A job may slip from waiting to running, or back, between two statements; hence more than one round.
            for _ in range(3):
                for event in (JobEvent.WITHDRAWN, JobEvent.CANCEL_REQUESTED):
                    ended = {"completed_at": func.now()} if event is JobEvent.WITHDRAWN else {}
                    moved = await move(
                        session, event, [JobRow.id == job_id], actor, values=asked | ended, data={"reason": reason}
                    )
                    if moved is not None:
                        return moved, True
                job = await require(session, job_id)
                if job.phase in (Phase.CANCELLED, Phase.CANCELLING, Phase.SAVING):
                    return job, False
                if job.status in FINISHED:
                    raise JobAlreadyFinished(f"Job {job_id} is already {job.status}.")
            raise InvalidTransition(job.phase, JobEvent.CANCEL_REQUESTED)

    async def retry(self, job_id: int, drawing: Drawing | None, actor: str) -> Standing:
        """Queue another attempt of a failed or cancelled job, with its own seed or a new one that is drawn.

        Raises
        ------
        JobNotFound, JobNotRetryable, NoSeedToChange
        """
        async with self._reseeding if drawing is not None else nullcontext(), self._database.transaction() as session:
            job = await require(session, job_id)
            if job.phase not in TRANSITIONS[JobEvent.RETRIED].sources:
                raise _not_retryable(job)
            values: dict[str, Any] = {
                "attempt": JobRow.attempt + 1,
                "attempt_limit": JobRow.attempt + JobRow.max_attempts,
                "available_at": func.now(),
                "queued_at": func.now(),
                "refused_by": [],
                "suspicions": 0,
                "progress": 0,
                "started_at": None,
                "completed_at": None,
                "error_code": None,
                "error_message": None,
                "cancel_reason": None,
            } | RELEASED
            if drawing is not None:
                values |= await _reseeded(session, job_id, drawing)
            same = [JobRow.id == job_id, JobRow.attempt == job.attempt]
            data = {"seed": "new"} if drawing is not None else {}
            moved = await move(session, JobEvent.RETRIED, same, actor, values=values, data=data)
            if moved is None:
                raise _not_retryable(await require(session, job_id))
            return moved

    async def delete(self, job_id: int) -> list[str]:
        """Delete a finished job's rows and return the paths of its files, now nobody's.

        Raises
        ------
        JobNotFound, JobNotFinished
        """
        async with self._database.transaction() as session:
            # The job first, as everywhere; then its outputs, in the order in which thumbnails are noted.
            await session.execute(select(JobRow.id).where(JobRow.id == job_id).with_for_update())
            outputs = await session.execute(
                select(OutputRow.path, OutputRow.thumbnail_path, OutputRow.thumbnail_due)
                .join(ContentRow, ContentRow.id == OutputRow.content_id)
                .where(ContentRow.job_id == job_id)
                .order_by(OutputRow.content_id, OutputRow.index)
                .with_for_update(of=OutputRow)
            )
            files: list[str] = []
            for path, thumbnail, is_due in outputs:
                # One that is due may be there, of a worker that died before it could say so.
                files += filter(None, (path, thumbnail_path(path) if is_due else thumbnail))
            statement = delete(JobRow).where(JobRow.id == job_id, JobRow.status.in_(FINISHED)).returning(JobRow.id)
            if (await session.scalars(statement)).one_or_none() is None:
                job = await require(session, job_id)
                raise JobNotFinished(f"Job {job_id} is {job.status}; cancel it first.")
            return files

    async def prune_keys(self) -> int:
        """Delete idempotency keys that have had their day."""
        async with self._database.transaction() as session:
            return await idempotency.prune(session)


def _not_retryable(job: Standing) -> JobNotRetryable:
    return JobNotRetryable(f"Job {job.job_id} is {job.status}; only a failed or cancelled job can be retried.")


async def _reseeded(session: AsyncSession, job_id: int, drawing: Drawing) -> dict[str, Any]:
    """Return what is to be set for another seed; raises `NoSeedToChange`."""
    asked = select(JobRow.sampler_params, cast(JobRow.workflow, Text)).where(JobRow.id == job_id)
    sampler_params, graph = (await session.execute(asked)).one()
    # In a thread: a graph of thousands of nodes is read, searched and written.
    changed, seed = await asyncio.to_thread(_drawn_anew, drawing, graph, sampler_params["seed"])
    values: dict[str, Any] = {"sampler_params": sampler_params | {"seed": seed}}
    if changed is not None:
        values["workflow"] = cast(bindparam(None, changed, type_=Text()), JobRow.__table__.c.workflow.type)
    return values


def _drawn_anew(drawing: Drawing, graph: str | None, seed: int) -> tuple[str | None, int]:
    changed, drawn = drawing.anew(load_kept(graph) if graph is not None else None, seed)
    return dump_kept(changed) if changed is not None else None, drawn


_GIVEN: Final = [column for column in JobRow.__table__.columns if column.key in NewJob.__dataclass_fields__]
_NAMES: Final = ", ".join(column.name for column in _GIVEN)
_TYPED: Final = ", ".join(f"{column.name} {column.type.compile(postgresql.dialect())}" for column in _GIVEN)  # type: ignore[no-untyped-call]
_INSERT: Final = f"""
    WITH asked AS (
        SELECT * FROM ROWS FROM (json_to_recordset($1::json) AS ({_TYPED})) WITH ORDINALITY
    ), accepted AS (
        INSERT INTO generation_jobs
            ({_NAMES}, status, phase, seq, attempt, attempt_limit, progress, refused_by, available_at,
            queued_at)
        SELECT {_NAMES}, '{STATUS_OF[Phase.QUEUED]}', '{Phase.QUEUED}', 1, 1, max_attempts, 0, '{{}}',
            GREATEST(now(), not_before), GREATEST(now(), not_before)
        FROM asked ORDER BY ordinality
        RETURNING id, attempt, user_id, available_at, created_at, updated_at
    ), logged AS (
        INSERT INTO job_events (job_id, seq, event, phase, attempt, actor, data)
        SELECT id, 1, '{JobEvent.SUBMITTED}', '{Phase.QUEUED}', attempt, user_id, '{{}}' FROM accepted
    )
    SELECT id, available_at, created_at, updated_at FROM accepted ORDER BY id"""  # noqa: S608  # names of our own
"""One statement and one round trip, however many jobs. Ids are given in the order of the rows: the sort comes first."""


def _written(job: NewJob) -> dict[str, Any]:
    given = {name: getattr(job, name) for name in NewJob.__dataclass_fields__}
    if job.workflow is not None:
        given["workflow"] = Written(dump_kept(job.workflow))
    if job.extra_pnginfo is not None:
        given["extra_pnginfo"] = Written(job.extra_pnginfo)
    return given


async def _insert(connection: Any, jobs: Sequence[NewJob]) -> list[Job]:
    asked = dumps([_written(job) for job in jobs])
    rows = await connection.fetch(_INSERT, asked)
    return [
        Job(
            **{name: getattr(job, name) for name in NewJob.__dataclass_fields__},
            has_workflow=job.workflow is not None,
            has_extra_pnginfo=job.extra_pnginfo is not None,
            job_id=row["id"],
            phase=Phase.QUEUED,
            seq=1,
            attempt=1,
            attempt_limit=job.max_attempts,
            progress=0,
            backend_name=None,
            worker_id=None,
            prompt_id=None,
            refused_by=[],
            suspicions=0,
            error_code=None,
            error_message=None,
            cancel_reason=None,
            content_id=None,
            available_at=row["available_at"],
            queued_at=row["available_at"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
            started_at=None,
            completed_at=None,
        )
        for job, row in zip(jobs, rows, strict=True)
    ]
