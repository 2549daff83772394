"""The job store: what clients do with jobs. Each method is one transaction."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from sqlalchemy import Text, cast, delete, select
from sqlalchemy.dialects import postgresql

from app.domain.errors import (
    InvalidRequest,
    InvalidTransition,
    JobAlreadyFinished,
    JobNotFinished,
    JobNotFound,
    JobNotRetryable,
    TooMany,
)
from app.domain.job import ASKED_AGAIN, FINISHED, STATUS_OF, TRANSITIONS, Job, JobEvent, NewJob, Phase, Standing
from app.domain.limits import UNLIMITED
from app.runtime.json_text import Written, dump_kept, dumps, load_kept
from app.storage import idempotency
from app.storage.columns import STANDING, standing_of
from app.storage.database import driver_of
from app.storage.fair_tags import TAG_TYPED, Places, TagsUnderWay, base_of, tagged, weight_of
from app.storage.files import thumbnail_path
from app.storage.quotas import ADMITTED, LIMITS_TYPED, admit_again, prune_days, refusal
from app.storage.schema import ContentRow, JobRow, OutputRow
from app.storage.sent_jobs import KEEP_SENT, SENT
from app.storage.statements import Statement
from app.storage.transitions import RELEASED, event_row, event_rows, require, transition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from app.domain.access import Caller
    from app.domain.limits import Limits
    from app.domain.seeds import Drawing
    from app.storage.database import Database
    from app.storage.idempotency import Once


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
            (accepted,) = await _insert_limited(connection, [(job, limits)], self._keep_uploads, places)
            if isinstance(accepted, TooMany):
                raise accepted
            await idempotency.keep(session, once, accepted)
            return accepted

    async def create_all(self, jobs: Sequence[NewJob]) -> list[Job]:
        """Accept several jobs in one statement: all of them, or none."""
        async with self._tags.places(jobs) as places, self._database.driver() as connection:
            return await _insert(connection, jobs, self._keep_uploads, places)

    async def create_limited(self, asked: Sequence[tuple[NewJob, Limits]]) -> list[Job | TooMany]:
        """Accept in one statement as many of the jobs as the limits of their senders let; of others return why not."""
        async with self._tags.places([job for job, _ in asked]) as places, self._database.driver() as connection:
            return await _insert_limited(connection, asked, self._keep_uploads, places)

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


_GIVEN: Final = [column for column in JobRow.__table__.columns if column.key in NewJob.__dataclass_fields__]
_NAMES: Final = ", ".join(column.name for column in _GIVEN)
_TYPED: Final = ", ".join(f"{column.name} {column.type.compile(postgresql.dialect())}" for column in _GIVEN)  # type: ignore[no-untyped-call]
_ABOUT: Final = f"user_id varchar(255), priority smallint, not_before timestamptz, {TAG_TYPED}, first_data jsonb"
"""What is read of each job more than once, apart from its row, which may have megabytes.

`first_data` is what the job's first event keeps."""


def _submitted(*, limited: bool) -> str:
    """Return the SELECT of the first events: of jobs that are `limited` not each one that was asked for has one."""
    about = "about JOIN admitted USING (ordinality)" if limited else "about"
    in_order = f"(SELECT first_data, {'place' if limited else 'ordinality AS place'} FROM {about}) AS in_order"  # noqa: S608
    placed = "(SELECT *, row_number() OVER (ORDER BY id) AS place FROM accepted) AS placed"
    source = f"{placed} JOIN {in_order} USING (place)"
    return event_row(JobEvent.SUBMITTED, "user_id", "first_data", seq="1", phase=f"'{Phase.QUEUED}'", source=source)


def _insert_statement(typed: str, more: str = "", *, limited: bool = False) -> str:
    """Return the statement that inserts jobs: one round trip, however many. `more` are further CTEs.

    Ids are given in the order of the rows: the sort comes first. Of jobs that are `limited` there is a row for each
    that was asked for, without an id where it was not accepted.
    """
    admitted = f", {ADMITTED}" if limited else ""
    source = "asked JOIN admitted USING (ordinality, user_id)" if limited else "asked"
    about = "about JOIN admitted USING (ordinality, user_id)" if limited else "about"
    columns = "id, available_at, created_at, updated_at, fair_tag, weight"
    told = f"""
        SELECT {columns}, waiting + nth AS waiting, today + nth AS today
        FROM numbered LEFT JOIN admitted USING (ordinality)
            LEFT JOIN (SELECT *, row_number() OVER (ORDER BY id) AS place FROM accepted) AS placed USING (place)
            LEFT JOIN lane ON lane.user_id = placed.user_id AND lane.priority = placed.priority
        ORDER BY ordinality"""  # noqa: S608  # of our own words only
    return f"""
    WITH asked AS (
        SELECT * FROM ROWS FROM (json_to_recordset($1::json) AS ({typed})) WITH ORDINALITY
    ), about AS MATERIALIZED (
        SELECT * FROM ROWS FROM (json_to_recordset($2::json) AS ({_ABOUT})) WITH ORDINALITY
    ){admitted}, {tagged(about)}, accepted AS (
        INSERT INTO generation_jobs
            ({_NAMES}, status, phase, seq, attempt, attempt_limit, progress, refused_by, available_at,
            queued_at, fair_tag)
        SELECT {_NAMES}, '{STATUS_OF[Phase.QUEUED]}', '{Phase.QUEUED}', 1, 1, max_attempts, 0, '{{}}',
            GREATEST(now(), not_before), GREATEST(now(), not_before), fair_tag
        FROM {source} JOIN tagged USING (ordinality) ORDER BY ordinality
        RETURNING id, attempt, user_id, priority, available_at, created_at, updated_at, fair_tag
    ), logged AS (
        {event_rows(_submitted(limited=limited))}
    ){more}
    {told if limited else f"SELECT {columns} FROM accepted JOIN lane USING (user_id, priority) ORDER BY id"}"""  # noqa: S608  # names of our own


_INSERT: Final = _insert_statement(_TYPED)
_UPLOAD_IDS: Final = "upload_ids text[]"
_NEEDED: Final = """, needed AS (
        INSERT INTO job_uploads (job_id, upload_id)
        SELECT placed.id, needed FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM accepted) AS placed
            JOIN {places} USING (place), unnest({places}.upload_ids) AS needed
    ), renewed AS (
        UPDATE uploads SET expires_at = GREATEST(expires_at, now() + $3::interval)
        FROM (
            SELECT id FROM uploads WHERE id IN (SELECT unnest(upload_ids) FROM asked) ORDER BY id FOR NO KEY UPDATE
        ) AS locked WHERE uploads.id = locked.id
    )"""
_INSERT_WITH_UPLOADS: Final = _insert_statement(
    f"{_TYPED}, {_UPLOAD_IDS}",
    f""", asked_at AS (SELECT ordinality AS place, upload_ids FROM asked){_NEEDED.format(places="asked_at")}""",  # noqa: S608
)
"""Uploads are locked in the order of their ids, so that of two that share some one waits for the other."""
_INSERT_LIMITED: Final = _insert_statement(f"{_TYPED}, {LIMITS_TYPED}", limited=True)
_INSERT_LIMITED_WITH_UPLOADS: Final = _insert_statement(
    f"{_TYPED}, {LIMITS_TYPED}, {_UPLOAD_IDS}",
    f""", asked_at AS (SELECT place, upload_ids FROM asked JOIN admitted USING (ordinality))
    {_NEEDED.format(places="asked_at")}""",  # noqa: S608
    limited=True,
)


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
        fair_tag = {base_of("job.user_id", "job.priority", ":shares::bool")}
            + (1000000 * job.cost_s / {weight_of("job.user_id")})::bigint,
        queued_at = now(), refused_by = '{{}}', suspicions = 0, progress = 0, started_at = NULL, completed_at = NULL,
        error_code = NULL, error_message = NULL, cancel_reason = NULL, {RELEASED},
        sampler_params = COALESCE(:sampler_params::jsonb, job.sampler_params),
        workflow = COALESCE(:workflow::json, job.workflow)""",
    data=":data::jsonb",
)


def _written(job: NewJob) -> dict[str, Any]:
    given = {name: getattr(job, name) for name in NewJob.__dataclass_fields__ if name != "sent"}
    if job.workflow is not None:
        given["workflow"] = Written(dump_kept(job.workflow))
    if job.extra_pnginfo is not None:
        given["extra_pnginfo"] = Written(job.extra_pnginfo)
    return given


async def _insert(connection: Any, jobs: Sequence[NewJob], keep_uploads: timedelta, places: Places) -> list[Job]:
    asked, about = dumps([_written(job) for job in jobs]), _about(jobs, places)
    if any(job.upload_ids for job in jobs):
        rows = await _fetched(connection, _INSERT_WITH_UPLOADS, asked, about, keep_uploads)
    else:
        rows = await connection.fetch(_INSERT, asked, about)
    return [_accepted(job, row, places) for job, row in zip(jobs, rows, strict=True)]


async def _insert_limited(
    connection: Any, limited: Sequence[tuple[NewJob, Limits]], keep_uploads: timedelta, places: Places
) -> list[Job | TooMany]:
    if not any(limits.of_jobs for _, limits in limited):
        return [*await _insert(connection, [job for job, _ in limited], keep_uploads, places)]
    asked = dumps(
        [_written(job) | {"most_waiting": limits.waiting, "most_today": limits.jobs_per_day} for job, limits in limited]
    )
    about = _about([job for job, _ in limited], places)
    if any(job.upload_ids for job, _ in limited):
        rows = await _fetched(connection, _INSERT_LIMITED_WITH_UPLOADS, asked, about, keep_uploads)
    else:
        rows = await connection.fetch(_INSERT_LIMITED, asked, about)
    accepted: list[Job | TooMany] = []
    for (job, limits), row in zip(limited, rows, strict=True):
        refused = refusal(limits, row["waiting"], row["today"]) if row["id"] is None else None
        accepted.append(refused or _accepted(job, row, places))
    return accepted


def _about(jobs: Sequence[NewJob], places: Places) -> str:
    """Return what `_ABOUT` names of each job, as JSON."""
    return dumps(
        [
            places.asked(job)
            | {"user_id": job.user_id, "priority": job.priority, "not_before": job.not_before}
            | {"first_data": {SENT: job.sent} if job.sent is not None else {}}
            for job in jobs
        ]
    )


async def _fetched(connection: Any, statement: str, *values: Any) -> list[Any]:
    try:
        rows: list[Any] = await connection.fetch(statement, *values)
    except asyncpg.ForeignKeyViolationError as error:
        raise InvalidRequest("An upload that the job needs was deleted in this moment.") from error
    return rows


def _accepted(job: NewJob, row: Any, places: Places) -> Job:
    places.note(job, row)
    return Job(
        **{name: getattr(job, name) for name in ASKED_AGAIN},
        models=job.models,
        model_key=job.model_key,
        cost_s=job.cost_s,
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
