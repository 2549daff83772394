"""The store of attempts: what workers do with jobs, fenced so that one who was given up on can change nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from sqlalchemy import ColumnElement, and_, any_, func, insert, literal, or_, select, text, update

from app.domain.errors import AttemptFailed, InvalidTransition, LostClaim
from app.domain.job import TRANSITIONS, Job, JobEvent, Output, Phase, Repair
from app.storage.jobs import JobStore
from app.storage.schema import IS_RUNNING, IS_WAITING, AttemptRow, ContentRow, JobRow, OutputRow
from app.storage.transitions import RELEASED, log_event, move, require, to_domain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

AVOID_FOR = timedelta(minutes=5)
"""So long a job waits for another backend than one that failed it; after that any may try again."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Who works on which attempt: the fence of every write that a worker makes."""

    job_id: int
    attempt: int
    worker_id: str


class AttemptStore(JobStore):
    """Jobs as workers see them. Methods raise `DatabaseUnavailable` while it is away."""

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
            row = await move(
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
            values |= RELEASED
            row = await _move_fenced(session, JobEvent.COMPLETED, claim, values, {"content_id": content})
            await _end_attempt(session, claim, "completed")
            return to_domain(row)

    async def fail(self, claim: Claim, error: AttemptFailed) -> Job:
        """End the job as failed."""
        values = {"error_code": error.code, "error_message": str(error), "completed_at": func.now()} | RELEASED
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
        } | RELEASED
        return await self._end_claimed(claim, JobEvent.REQUEUED, "retried", values, error)

    async def cancelled(self, claim: Claim) -> Job:
        """ComfyUI confirmed that the prompt no longer runs."""
        return await self._end_claimed(
            claim, JobEvent.CANCELLED, "cancelled", {"completed_at": func.now()} | RELEASED, None
        )

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
                await log_event(session, row, Repair.TAKEN_OVER, worker_id, {"from": before[row.id]})
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
                await log_event(session, row, Repair.TURN_RENEWED, actor, {})

    async def stale_prompts(self, prompt_ids: Sequence[str]) -> list[str]:
        """Return those of the prompts that are of an attempt of ours which has ended, or was given up."""
        live = select(JobRow.prompt_id).where(JobRow.prompt_id.in_(prompt_ids), IS_RUNNING)
        ours = select(AttemptRow.prompt_id).where(AttemptRow.prompt_id.in_(prompt_ids))
        async with self._database.transaction() as session:
            running = set(await session.scalars(live))
            return [prompt_id for prompt_id in await session.scalars(ours) if prompt_id not in running]

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


def _fence(claim: Claim) -> list[ColumnElement[bool]]:
    return [JobRow.id == claim.job_id, JobRow.attempt == claim.attempt, JobRow.worker_id == claim.worker_id]


def _attempt_of(claim: Claim) -> list[ColumnElement[bool]]:
    return [AttemptRow.job_id == claim.job_id, AttemptRow.number == claim.attempt]


async def _move_fenced(
    session: AsyncSession, event: JobEvent, claim: Claim, values: dict[str, Any], data: dict[str, Any]
) -> JobRow:
    row = await move(session, event, _fence(claim), claim.worker_id, values=values, data=data)
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
    found = await require(session, claim.job_id)
    if (found.attempt, found.worker_id) != (claim.attempt, claim.worker_id):
        raise LostClaim(f"Attempt {claim.attempt} of job {claim.job_id} is no longer this worker's.")
    raise InvalidTransition(found.phase, event)


async def _end_attempt(session: AsyncSession, claim: Claim, outcome: str, error: AttemptFailed | None = None) -> None:
    values: dict[str, Any] = {"ended_at": func.now(), "outcome": outcome}
    if error is not None:
        values |= {"error_code": error.code, "error_message": str(error)}
        values |= {"node_id": error.node_id, "node_type": error.node_type}
    await session.execute(update(AttemptRow).where(*_attempt_of(claim)).values(values))


def _output_columns(output: Output) -> dict[str, Any]:
    return {name: getattr(output, name) for name in Output.__dataclass_fields__}
