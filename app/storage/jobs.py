"""The job store: what clients do with jobs. Each method is one transaction."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import Text, cast, delete, select

from app.domain.errors import (
    InvalidTransition,
    JobAlreadyFinished,
    JobNotFinished,
    JobNotFound,
    JobNotRetryable,
    TooMany,
)
from app.domain.job import FINISHED, TRANSITIONS, Job, JobEvent, NewJob, Phase, Standing
from app.domain.limits import UNLIMITED
from app.runtime.json_text import dump_kept, dumps, load_kept
from app.storage import idempotency, moves
from app.storage.columns import STANDING, standing_of
from app.storage.database import driver_of
from app.storage.fair_tags import Places, TagsUnderWay, tag_of
from app.storage.files import thumbnail_path
from app.storage.job_inserts import insert, insert_limited
from app.storage.quotas import admit_again, prune_days
from app.storage.schema import ContentRow, JobRow, OutputRow
from app.storage.sent_jobs import KEEP_SENT
from app.storage.statements import Statement
from app.storage.transitions import RELEASED, require, transition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from app.domain.access import Caller
    from app.domain.limits import Limits
    from app.domain.seeds import Drawing
    from app.storage.database import Database
    from app.storage.idempotency import Once
    from app.storage.moves import Moved


class JobStore:
    """Jobs in PostgreSQL. Methods raise `DatabaseUnavailable` while it is away."""

    def __init__(self, database: Database, keep_uploads: timedelta = timedelta(days=7), *, shares: bool = True) -> None:
        """`shares` is whether users share the backends, or all jobs wait in the order in which they came."""
        self._database = database
        self._keep_uploads = keep_uploads
        self._shares = shares
        self._tags = TagsUnderWay(shares=shares)
        # One at a time: a bulk retry of a thousand jobs would otherwise hold a thousand graphs in memory.
        self._reseeding = asyncio.Semaphore(1)

    async def replay(self, once: Once) -> str | None:
        """Return the answer that this request got before, if it came before; raises `IdempotencyKeyReused`."""
        async with self._database.transaction() as session:
            return await idempotency.replay(session, once)

    async def create(self, job: NewJob, once: Once | None = None, limits: Limits = UNLIMITED) -> Job | None:
        """Accept a job: one row and its first event. None: another request of the same key was first; `replay` it.

        Raises
        ------
        TooManyWaiting, TooManyToday
        """
        if once is None:
            (accepted,) = await self.create_limited([(job, limits)])
            if isinstance(accepted, TooMany):
                raise accepted
            return accepted
        async with self._tags.places([job]) as places:
            return await self._create_once(job, once, limits, places)

    async def _create_once(self, job: NewJob, once: Once, limits: Limits, places: Places) -> Job | None:
        async with self._database.transaction() as session:
            if not await idempotency.reserve(session, once):
                return None
            connection = await driver_of(session)
            (accepted,) = await insert_limited(connection, [(job, limits)], self._keep_uploads, places)
            if isinstance(accepted, TooMany):
                raise accepted
            await idempotency.keep(session, once, accepted)
            return accepted

    async def create_all(self, jobs: Sequence[NewJob]) -> list[Job]:
        """Accept several jobs in one statement: all of them, or none."""
        async with self._tags.places(jobs) as places, self._database.driver() as connection:
            return await insert(connection, jobs, self._keep_uploads, places)

    async def create_limited(self, asked: Sequence[tuple[NewJob, Limits]]) -> list[Job | TooMany]:
        """Accept in one statement as many of the jobs as the limits of their senders let; of others return why not."""
        async with self._tags.places([job for job, _ in asked]) as places, self._database.driver() as connection:
            return await insert_limited(connection, asked, self._keep_uploads, places)

    async def withdraw_unaccepted(self, job_ids: Sequence[int]) -> set[int]:
        """Take back rows that could not be enqueued; without those that a worker or a client has touched since."""
        async with self._database.transaction() as session:
            statement = delete(JobRow).where(JobRow.id.in_(job_ids), JobRow.phase == Phase.QUEUED, JobRow.seq == 1)
            withdrawn = set((await session.scalars(statement.returning(JobRow.id))).all())
            await idempotency.forget(session, withdrawn)
            return withdrawn

    async def get(self, job_id: int, owner: str | None = None) -> Standing:
        """Return where the job stands, or raise `JobNotFound`.

        Another's than `owner`'s is not found, unless that is None; nor does one of the methods below find it.
        """
        async with self._database.transaction() as session:
            return await require(session, job_id, owner)

    async def user_of(self, job_id: int, owner: str | None = None) -> str:
        """Return whose the job is, or raise `JobNotFound`."""
        own = () if owner is None else (JobRow.user_id == owner,)
        async with self._database.transaction() as session:
            user_id = await session.scalar(select(JobRow.user_id).where(JobRow.id == job_id, *own))
        if user_id is None:
            raise JobNotFound([job_id])
        return user_id

    async def cancel(
        self, job_id: int, reason: str | None, actor: str, owner: str | None = None
    ) -> tuple[Standing, bool]:
        """Cancel a waiting job at once, or note that a running one is to be cancelled.

        Returns the job, and whether this has changed it: asked again, it changes nothing. A job that is being saved is
        past cancelling, and returned as it is.

        Raises
        ------
        JobNotFound, JobAlreadyFinished
        """
        # A job may change between waiting and running from one statement to the next; hence more than one round.
        for _ in range(3):
            for statement in (_WITHDRAW, _REQUEST_CANCEL):
                async with self._database.driver() as connection:
                    row = await statement.row(connection, job_id=job_id, reason=reason, actor=actor, owner=owner)
                if row is not None:
                    return standing_of(row), True
            job = await self.get(job_id, owner)
            if job.phase in (Phase.CANCELLED, Phase.CANCELLING, Phase.SAVING):
                return job, False
            if job.status in FINISHED:
                raise JobAlreadyFinished(f"Job {job_id} is already {job.status}.")
        raise InvalidTransition(job.phase, JobEvent.CANCEL_REQUESTED)

    async def retry(
        self,
        job_id: int,
        drawing: Drawing | None,
        actor: str,
        owner: str | None = None,
        *,
        sender: Caller | None = None,
    ) -> Standing:
        """Queue another attempt of a failed or cancelled job, with its own seed or a new one that is drawn.

        Raises
        ------
        JobNotFound, JobNotRetryable, NoSeedToChange
        TooManyWaiting, TooManyToday
            By the limits of the sender, of a job of its own.
        """
        async with self._reseeding if drawing is not None else nullcontext(), self._database.transaction() as session:
            job = await require(session, job_id, owner)
            if job.phase not in TRANSITIONS[JobEvent.RETRIED].sources:
                raise _not_retryable(job)
            if sender is not None:
                await admit_again(await driver_of(session), job_id, sender.owner, sender.limits)
            sampler_params, workflow = (
                await _reseeded(session, job_id, drawing) if drawing is not None else (None, None)
            )
            row = await _RETRY.row(
                await driver_of(session),
                job_id=job_id,
                attempt=job.attempt,
                sampler_params=sampler_params,
                workflow=workflow,
                actor=actor,
                data=dumps({"seed": "new"} if drawing is not None else {}),
                owner=owner,
                shares=self._shares,
            )
            if row is None:
                raise _not_retryable(await require(session, job_id))
            return standing_of(row)

    async def to_front(self, job_id: int, actor: str, owner: str | None = None) -> Moved:
        """Let a waiting job come before the others of its user and priority; raises as `moves.to_front`."""
        async with self._database.transaction() as session:
            return await moves.to_front(session, job_id, owner, actor)

    async def set_priority(self, job_id: int, priority: int, actor: str, owner: str | None = None) -> Moved:
        """Give a waiting job another priority; raises as `moves.set_priority`."""
        async with self._database.transaction() as session:
            return await moves.set_priority(session, job_id, priority, owner, actor, shares=self._shares)

    async def delete(self, job_id: int, owner: str | None = None) -> list[str]:
        """Delete a finished job's rows and return the paths of its files, which belong to no job then.

        Raises
        ------
        JobNotFound, JobNotFinished
        """
        own = () if owner is None else (JobRow.user_id == owner,)
        async with self._database.transaction() as session:
            # The job first, as everywhere; then its outputs, in the order in which thumbnails are noted.
            locked = select(JobRow.id).where(JobRow.id == job_id, *own).with_for_update()
            if await session.scalar(locked) is None:
                raise JobNotFound([job_id])
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
            # The job's events go with it; that it was sent stays in the audit.
            await KEEP_SENT.rows(await driver_of(session), job_id=job_id)
            statement = delete(JobRow).where(JobRow.id == job_id, JobRow.status.in_(FINISHED)).returning(JobRow.id)
            if (await session.scalars(statement)).one_or_none() is None:
                job = await require(session, job_id)
                raise JobNotFinished(f"Job {job_id} is {job.status}; cancel it first.")
            return files

    async def prune_keys(self) -> int:
        """Delete idempotency keys that have had their day, and return how many; and counts of jobs of other days."""
        async with self._database.transaction() as session:
            await prune_days(await driver_of(session))
            return await idempotency.prune(session)


def _not_retryable(job: Standing) -> JobNotRetryable:
    return JobNotRetryable(f"Job {job.job_id} is {job.status}; only a failed or cancelled job can be retried.")


async def _reseeded(session: AsyncSession, job_id: int, drawing: Drawing) -> tuple[str, str | None]:
    """Return as JSON `sampler_params` and the graph, if there is one, with another seed; raises `NoSeedToChange`."""
    asked = select(JobRow.sampler_params, cast(JobRow.workflow, Text)).where(JobRow.id == job_id)
    sampler_params, graph = (await session.execute(asked)).one()
    # In a thread: a graph of thousands of nodes is read, searched and written.
    changed, seed = await asyncio.to_thread(_drawn_anew, drawing, graph, sampler_params["seed"])
    return dumps(sampler_params | {"seed": seed}), changed


def _drawn_anew(drawing: Drawing, graph: str | None, seed: int) -> tuple[str | None, int]:
    changed, drawn = drawing.anew(load_kept(graph) if graph is not None else None, seed)
    return dump_kept(changed) if changed is not None else None, drawn


def _asked_of(event: JobEvent, *, where: str, job: str, data: str) -> Statement:
    """Return the statement of a transition that a client asks for: it returns where the job stands."""
    own = "job.id = :job_id AND (job.user_id = :owner OR :owner::text IS NULL)"
    moved = transition(event, where=f"{own} {where}", job=job, actor=":actor::text", data=data)
    return Statement(f"WITH {moved} SELECT {STANDING} FROM moved")  # noqa: S608  # of our own words only


_REASON: Final = "jsonb_build_object('reason', :reason::text)"
_WITHDRAW: Final = _asked_of(
    JobEvent.WITHDRAWN, where="", job="cancel_reason = :reason, completed_at = now()", data=_REASON
)
_REQUEST_CANCEL: Final = _asked_of(JobEvent.CANCEL_REQUESTED, where="", job="cancel_reason = :reason", data=_REASON)
_RETRY: Final = _asked_of(
    JobEvent.RETRIED,
    where="AND job.attempt = :attempt",
    job=f"""attempt = job.attempt + 1, attempt_limit = job.attempt + job.max_attempts, available_at = now(),
        fair_tag = {tag_of("job", ":shares::bool")},
        queued_at = now(), refused_by = '{{}}', suspicions = 0, progress = 0, started_at = NULL, completed_at = NULL,
        error_code = NULL, error_message = NULL, cancel_reason = NULL, {RELEASED},
        sampler_params = COALESCE(:sampler_params::jsonb, job.sampler_params),
        workflow = COALESCE(:workflow::json, job.workflow)""",
    data=":data::jsonb",
)
