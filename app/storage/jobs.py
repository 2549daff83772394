"""The job store: each method one transaction, each transition one guarded statement with its event row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from sqlalchemy import ColumnElement, and_, any_, delete, func, insert, literal, or_, select, text, update

from app.domain.errors import (
    AttemptFailed,
    InvalidTransition,
    JobAlreadyFinished,
    JobNotFinished,
    JobNotFound,
    JobNotRetryable,
    LostClaim,
)
from app.domain.job import FINISHED, STATUS_OF, TRANSITIONS, Job, JobEvent, NewJob, Output, Phase, Repair
from app.domain.workflow import with_seed
from app.storage import idempotency
from app.storage.schema import IS_RUNNING, IS_WAITING, AttemptRow, ContentRow, EventRow, JobRow, OutputRow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from app.storage.database import Database
    from app.storage.idempotency import Once

AVOID_FOR = timedelta(minutes=5)
"""So long a job waits for another backend than one that failed it; after that any may try again."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Who works on which attempt: the fence of every write that a worker makes."""

    job_id: int
    attempt: int
    worker_id: str


class JobStore:
    """Jobs in PostgreSQL. Methods raise `DatabaseUnavailable` while it is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def replay(self, once: Once) -> str | None:
        """Return the answer that this request got before, if it came before; raises `IdempotencyKeyReused`."""
        async with self._database.transaction() as session:
            return await idempotency.replay(session, once)

    async def create(self, job: NewJob, once: Once | None = None) -> Job | None:
        """Accept a job: one row and its first event. None: another request of the same key was first; `replay` it."""
        async with self._database.transaction() as session:
            if once is not None and not await idempotency.reserve(session, once):
                return None
            row = JobRow(
                **_columns(job),
                status=STATUS_OF[Phase.QUEUED],
                phase=Phase.QUEUED,
                seq=1,
                attempt=1,
                attempt_limit=job.max_attempts,
                progress=0,
                refused_by=[],
                available_at=func.greatest(func.now(), literal(job.not_before)) if job.not_before else func.now(),
            )
            session.add(row)
            await session.flush()
            await session.refresh(row)
            await _log(session, row, JobEvent.SUBMITTED, job.user_id, {})
            accepted = to_domain(row)
            if once is not None:
                await idempotency.keep(session, once, accepted)
            return accepted

    async def withdraw_unaccepted(self, job_id: int) -> bool:
        """Take back a row that could not be enqueued; False when a worker or a client has touched it since."""
        async with self._database.transaction() as session:
            statement = delete(JobRow).where(JobRow.id == job_id, JobRow.phase == Phase.QUEUED, JobRow.seq == 1)
            withdrawn = bool((await session.scalars(statement.returning(JobRow.id))).all())
            if withdrawn:
                await idempotency.forget(session, job_id)
            return withdrawn

    async def get(self, job_id: int) -> Job:
        """Return the job, or raise `JobNotFound`."""
        async with self._database.transaction() as session:
            return to_domain(await _require(session, job_id))

    async def claim(self, worker_id: str, backend: str, prompt_id: str, lease_s: float) -> Job | None:
        """Take the waiting job whose turn it is on this backend; None when there is none.

        Largest priority first, then first come, first served. Of several workers that ask at once each gets another
        job (`SKIP LOCKED`). The prompt id is committed with the claim, so that whoever takes over can look it up.
        """
        fits = or_(JobRow.backend.is_(None), JobRow.backend == backend)
        avoided = and_(literal(backend) == any_(JobRow.refused_by), JobRow.available_at > func.now() - AVOID_FOR)
        turn = (
            select(JobRow.id)
            .where(IS_WAITING, JobRow.available_at <= func.now(), fits, ~avoided)
            .order_by(JobRow.priority.desc(), JobRow.available_at, JobRow.id)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        async with self._database.transaction() as session:
            row = await _move(
                session,
                JobEvent.CLAIMED,
                [JobRow.id == turn],
                worker_id,
                values={
                    "worker_id": worker_id,
                    "backend_name": backend,
                    "prompt_id": prompt_id,
                    "lease_expires_at": func.now() + timedelta(seconds=lease_s),
                    "started_at": func.coalesce(JobRow.started_at, func.now()),
                    "progress": 0,
                    "error_code": None,
                    "error_message": None,
                },
                data={"backend": backend, "prompt_id": prompt_id},
            )
            if row is None:
                return None
            session.add(
                AttemptRow(
                    job_id=row.id,
                    number=row.attempt,
                    worker_id=worker_id,
                    backend_name=backend,
                    prompt_id=prompt_id,
                    claimed_at=func.now(),
                )
            )
            return to_domain(row)

    async def submitting(self, claim: Claim, prompt_id: str, graph: Mapping[str, Any]) -> None:
        """Keep the graph as it is sent, before it is sent. Raises `LostClaim`."""
        async with self._database.transaction() as session:
            # The job's row first, as everywhere: two transactions that lock in different orders wait for each other.
            held = update(JobRow).where(*_fence(claim), IS_RUNNING).values(prompt_id=prompt_id).returning(JobRow.id)
            if await session.scalar(held) is None:
                raise LostClaim(f"Attempt {claim.attempt} of job {claim.job_id} is no longer this worker's.")
            values = {"graph": dict(graph), "prompt_id": prompt_id, "submitted_at": func.now()}
            await session.execute(update(AttemptRow).where(*_attempt_of(claim)).values(values))

    async def executing(self, claim: Claim) -> Job:
        """ComfyUI began to execute the prompt."""
        return await self._move_claimed(claim, JobEvent.EXECUTING, attempt_values={"executing_at": func.now()})

    async def saving(self, claim: Claim) -> Job:
        """ComfyUI is done with the prompt."""
        values = {"executed_at": func.now()}
        return await self._move_claimed(claim, JobEvent.SAVING, values={"progress": 100}, attempt_values=values)

    async def complete(self, claim: Claim, outputs: Sequence[Output], warnings: Sequence[str] = ()) -> Job:
        """All files are in the store: commit content, outputs and `completed` together."""
        if not outputs:
            raise ValueError("a job is completed by an output at least")
        async with self._database.transaction() as session:
            # The fence comes first: whoever is late finds out by it, and not by a constraint of `contents`.
            await _hold(session, claim, JobEvent.COMPLETED)
            content = await session.scalar(insert(ContentRow).values(job_id=claim.job_id).returning(ContentRow.id))
            rows = [_output_columns(output) | {"content_id": content} for output in outputs]
            await session.execute(insert(OutputRow), rows)
            values: dict[str, Any] = {"content_id": content, "progress": 100, "completed_at": func.now()}
            if warnings:
                values["warnings"] = func.array_cat(JobRow.warnings, list(warnings))
            values |= _RELEASED
            row = await _move_fenced(session, JobEvent.COMPLETED, claim, values, {"content_id": content})
            await _end_attempt(session, claim, "completed")
            return to_domain(row)

    async def fail(self, claim: Claim, error: AttemptFailed) -> Job:
        """End the job as failed."""
        values = {"error_code": error.code, "error_message": str(error), "completed_at": func.now()} | _RELEASED
        return await self._end_claimed(claim, JobEvent.FAILED, "failed", values, error)

    async def requeue(self, claim: Claim, error: AttemptFailed, delay_s: float, avoid: Sequence[str] = ()) -> Job:
        """Let the job wait for another attempt, for `delay_s` seconds at least, and away from the backends `avoid`."""
        values = {
            "attempt": JobRow.attempt + 1,
            "available_at": func.now() + timedelta(seconds=delay_s),
            "refused_by": list(avoid),
            "error_code": error.code,
            "error_message": str(error),
            "progress": 0,
        } | _RELEASED
        return await self._end_claimed(claim, JobEvent.REQUEUED, "retried", values, error)

    async def cancelled(self, claim: Claim) -> Job:
        """ComfyUI confirmed that the prompt no longer runs."""
        return await self._end_claimed(
            claim, JobEvent.CANCELLED, "cancelled", {"completed_at": func.now()} | _RELEASED, None
        )

    async def cancel(self, job_id: int, reason: str | None, actor: str) -> Job:
        """Cancel a waiting job at once, or note that a running one is to be cancelled.

        Asked again, it changes nothing. A job that is being saved is past cancelling, and returned as it is.

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
                    row = await _move(
                        session, event, [JobRow.id == job_id], actor, values=asked | ended, data={"reason": reason}
                    )
                    if row is not None:
                        return to_domain(row)
                job = to_domain(await _require(session, job_id))
                if job.phase in (Phase.CANCELLED, Phase.CANCELLING, Phase.SAVING):
                    return job
                if job.status in FINISHED:
                    raise JobAlreadyFinished(f"Job {job_id} is already {job.status}.")
            raise InvalidTransition(job.phase, JobEvent.CANCEL_REQUESTED)

    async def retry(self, job_id: int, seed: int | None, actor: str) -> Job:
        """Queue another attempt of a failed or cancelled job, with its own seed or a new one.

        Raises
        ------
        JobNotFound, JobNotRetryable
        """
        async with self._database.transaction() as session:
            row = await _require(session, job_id)
            values: dict[str, Any] = {
                "attempt": JobRow.attempt + 1,
                "attempt_limit": JobRow.attempt + JobRow.max_attempts,
                "available_at": func.now(),
                "refused_by": [],
                "progress": 0,
                "started_at": None,
                "completed_at": None,
                "error_code": None,
                "error_message": None,
                "cancel_reason": None,
            } | _RELEASED
            if seed is not None:
                values["sampler_params"] = row.sampler_params | {"seed": seed}
                if row.workflow is not None:
                    values["workflow"] = with_seed(row.workflow, seed)[0]
            same = [JobRow.id == job_id, JobRow.attempt == row.attempt]
            data = {"seed": "new"} if seed is not None else {}
            moved = await _move(session, JobEvent.RETRIED, same, actor, values=values, data=data)
            if moved is None:
                now = await _require(session, job_id)
                raise JobNotRetryable(f"Job {job_id} is {now.status}; only a failed or cancelled job can be retried.")
            return to_domain(moved)

    async def delete(self, job_id: int) -> list[str]:
        """Delete a finished job's rows and return the paths of its files, now nobody's.

        Raises
        ------
        JobNotFound, JobNotFinished
        """
        async with self._database.transaction() as session:
            paths = await session.execute(
                select(OutputRow.path, OutputRow.thumbnail_path)
                .join(ContentRow, ContentRow.id == OutputRow.content_id)
                .where(ContentRow.job_id == job_id)
            )
            files = [path for row in paths for path in row if path]
            statement = delete(JobRow).where(JobRow.id == job_id, JobRow.status.in_(FINISHED)).returning(JobRow.id)
            if (await session.scalars(statement)).one_or_none() is None:
                row = await _require(session, job_id)
                raise JobNotFinished(f"Job {job_id} is {row.status}; cancel it first.")
            return files

    async def renew_leases(self, worker_id: str, held: Mapping[Claim, int], lease_s: float) -> dict[int, Phase]:
        """Renew in one statement the leases of what this worker runs, and keep its progress (claim → percent).

        Returns job id → phase of those that are still its own; whatever is missing was given to somebody else, and
        what is `cancelling` is to be cancelled.
        """
        claims = list(held)
        statement = text("""
            UPDATE generation_jobs AS job
            SET lease_expires_at = now() + make_interval(secs => :lease_s),
                progress = GREATEST(job.progress, held.percent)
            FROM unnest(CAST(:ids AS bigint[]), CAST(:attempts AS int[]), CAST(:percents AS smallint[]))
                AS held (id, attempt, percent)
            WHERE job.id = held.id AND job.attempt = held.attempt AND job.worker_id = :worker_id
                AND job.status = 'running'
            RETURNING job.id, job.phase""")
        async with self._database.transaction() as session:
            found = await session.execute(
                statement,
                {
                    "lease_s": lease_s,
                    "ids": [claim.job_id for claim in claims],
                    "attempts": [claim.attempt for claim in claims],
                    "percents": [held[claim] for claim in claims],
                    "worker_id": worker_id,
                },
            )
            return {job_id: Phase(phase) for job_id, phase in found}

    async def take_over(
        self,
        worker_id: str,
        backends: Sequence[str],
        lease_s: float,
        limit: int,
        *,
        held: Sequence[int] = (),
        over_for_s: float = 0.0,
    ) -> list[Job]:
        """Take running attempts whose worker's lease ran out, on backends that this worker drives.

        The attempt stays the same one, and so does its prompt id: the prompt may be running in ComfyUI. `held` are
        jobs that this worker itself runs: when it was too slow to renew their leases, it still has them. The leases
        ran out at least `over_for_s` seconds ago.
        """
        abandoned = (
            select(JobRow)
            .where(
                IS_RUNNING,
                JobRow.lease_expires_at < func.now() - timedelta(seconds=over_for_s),
                JobRow.backend_name.in_(backends),
                JobRow.id.not_in(held),
            )
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        lease = func.now() + timedelta(seconds=lease_s)
        async with self._database.transaction() as session:
            before = {row.id: row.worker_id for row in await session.scalars(abandoned)}
            values = {"worker_id": worker_id, "lease_expires_at": lease, "seq": JobRow.seq + 1}
            statement = update(JobRow).where(JobRow.id.in_(before)).values(values).returning(JobRow)
            options = {"synchronize_session": False, "populate_existing": True}
            rows = list(await session.scalars(statement, execution_options=options))
            for row in rows:
                await _log(session, row, Repair.TAKEN_OVER, worker_id, {"from": before[row.id]})
                this = and_(AttemptRow.job_id == row.id, AttemptRow.number == row.attempt)
                await session.execute(update(AttemptRow).where(this).values(worker_id=worker_id))
            return [to_domain(row) for row in rows]

    async def abandoned(self, for_s: float, limit: int) -> list[Job]:
        """Return running jobs whose lease ran out so long ago, and that nobody has taken over."""
        ago = func.now() - timedelta(seconds=for_s)
        statement = select(JobRow).where(IS_RUNNING, JobRow.lease_expires_at < ago).order_by(JobRow.id).limit(limit)
        async with self._database.transaction() as session:
            return [to_domain(row) for row in await session.scalars(statement)]

    async def any_due(self) -> bool:
        """Whether any job waits that could run now."""
        due = select(JobRow.id).where(IS_WAITING, JobRow.available_at <= func.now()).limit(1)
        async with self._database.transaction() as session:
            return await session.scalar(due) is not None

    async def note_turn_renewed(self, job_id: int, actor: str) -> None:
        """Note in a waiting job's history that its turn had been lost."""
        async with self._database.transaction() as session:
            statement = update(JobRow).where(JobRow.id == job_id, IS_WAITING).values(seq=JobRow.seq + 1)
            options = {"synchronize_session": False, "populate_existing": True}
            row = (await session.scalars(statement.returning(JobRow), execution_options=options)).one_or_none()
            if row is not None:
                await _log(session, row, Repair.TURN_RENEWED, actor, {})

    async def stale_prompts(self, prompt_ids: Sequence[str]) -> list[str]:
        """Return those of the prompts that are of an attempt of ours which has ended, or was given up."""
        live = select(JobRow.prompt_id).where(JobRow.prompt_id.in_(prompt_ids), IS_RUNNING)
        ours = select(AttemptRow.prompt_id).where(AttemptRow.prompt_id.in_(prompt_ids))
        async with self._database.transaction() as session:
            running = set(await session.scalars(live))
            return [prompt_id for prompt_id in await session.scalars(ours) if prompt_id not in running]

    async def prune_keys(self) -> int:
        """Delete idempotency keys that have had their day."""
        async with self._database.transaction() as session:
            return await idempotency.prune(session)

    async def release(self, claim: Claim) -> None:
        """Let a running attempt go, so that another worker takes it over at once; the prompt runs on in ComfyUI."""
        async with self._database.transaction() as session:
            statement = update(JobRow).where(*_fence(claim), JobRow.status == "running")
            await session.execute(statement.values(lease_expires_at=func.now() - timedelta(seconds=1)))

    async def _move_claimed(
        self,
        claim: Claim,
        event: JobEvent,
        *,
        values: Mapping[str, Any] | None = None,
        attempt_values: Mapping[str, Any] | None = None,
    ) -> Job:
        async with self._database.transaction() as session:
            row = await _move_fenced(session, event, claim, dict(values or {}), {})
            if attempt_values:
                await session.execute(update(AttemptRow).where(*_attempt_of(claim)).values(attempt_values))
            return to_domain(row)

    async def _end_claimed(
        self, claim: Claim, event: JobEvent, outcome: str, values: dict[str, Any], error: AttemptFailed | None
    ) -> Job:
        async with self._database.transaction() as session:
            data = {"error_code": error.code, "error": str(error)} if error else {}
            row = await _move_fenced(session, event, claim, values, data)
            await _end_attempt(session, claim, outcome, error)
            return to_domain(row)


_RELEASED: dict[str, Any] = {"worker_id": None, "lease_expires_at": None}


def _fence(claim: Claim) -> list[ColumnElement[bool]]:
    return [JobRow.id == claim.job_id, JobRow.attempt == claim.attempt, JobRow.worker_id == claim.worker_id]


def _attempt_of(claim: Claim) -> list[ColumnElement[bool]]:
    return [AttemptRow.job_id == claim.job_id, AttemptRow.number == claim.attempt]


async def _move(
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
        await _log(session, row, event, actor, data)
    return row


async def _move_fenced(
    session: AsyncSession, event: JobEvent, claim: Claim, values: dict[str, Any], data: dict[str, Any]
) -> JobRow:
    row = await _move(session, event, _fence(claim), claim.worker_id, values=values, data=data)
    if row is None:
        await _refuse(session, event, claim)
    return row


async def _hold(session: AsyncSession, claim: Claim, event: JobEvent) -> None:
    """Lock the job's row until the end of the transaction; raises like `_move_fenced`."""
    sources = sorted(TRANSITIONS[event].sources)
    held = select(JobRow.id).where(*_fence(claim), JobRow.phase.in_(sources)).with_for_update(key_share=True)
    if await session.scalar(held) is None:
        await _refuse(session, event, claim)


async def _refuse(session: AsyncSession, event: JobEvent, claim: Claim) -> NoReturn:
    found = await _require(session, claim.job_id)
    if (found.attempt, found.worker_id) != (claim.attempt, claim.worker_id):
        raise LostClaim(f"Attempt {claim.attempt} of job {claim.job_id} is no longer this worker's.")
    raise InvalidTransition(found.phase, event)


async def _log(
    session: AsyncSession, row: JobRow, event: JobEvent | Repair, actor: str, data: Mapping[str, Any]
) -> None:
    values = {"job_id": row.id, "seq": row.seq, "event": event, "phase": row.phase, "attempt": row.attempt}
    await session.execute(insert(EventRow).values(**values, actor=actor, data=dict(data)))


async def _require(session: AsyncSession, job_id: int) -> JobRow:
    row = await session.get(JobRow, job_id, populate_existing=True)
    if row is None:
        raise JobNotFound([job_id])
    return row


async def _end_attempt(session: AsyncSession, claim: Claim, outcome: str, error: AttemptFailed | None = None) -> None:
    values: dict[str, Any] = {"ended_at": func.now(), "outcome": outcome}
    if error is not None:
        values |= {"error_code": error.code, "error_message": str(error)}
        values |= {"node_id": error.node_id, "node_type": error.node_type}
    await session.execute(update(AttemptRow).where(*_attempt_of(claim)).values(values))


def _columns(job: NewJob) -> dict[str, Any]:
    names = NewJob.__dataclass_fields__
    return {("job_metadata" if name == "metadata" else name): getattr(job, name) for name in names}


def _output_columns(output: Output) -> dict[str, Any]:
    return {name: getattr(output, name) for name in Output.__dataclass_fields__}


def to_domain(row: JobRow) -> Job:
    """Return the row as the domain knows it."""
    names = {name for name in Job.__dataclass_fields__ if name not in ("job_id", "phase", "metadata")}
    values = {name: getattr(row, name) for name in names}
    return Job(job_id=row.id, phase=Phase(row.phase), metadata=row.job_metadata, **values)
