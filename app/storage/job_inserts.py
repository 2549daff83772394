"""Jobs that are accepted: the statement that inserts their rows, first events and needed uploads, however many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import asyncpg
from sqlalchemy.dialects import postgresql

from app.domain.errors import InvalidRequest
from app.domain.job import ASKED_AGAIN, STATUS_OF, Job, JobEvent, NewJob, Phase
from app.domain.limits import UNLIMITED
from app.runtime.json_text import Written, dump_kept, dumps
from app.storage.fair_tags import TAG_TYPED, tagged
from app.storage.quotas import ADMITTED, LIMITS_TYPED, refusal
from app.storage.schema import JobRow
from app.storage.sent_jobs import SENT
from app.storage.transitions import event_row, event_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from app.domain.errors import TooMany
    from app.domain.limits import Limits
    from app.storage.fair_tags import Places

_GIVEN: Final = [column for column in JobRow.__table__.columns if column.key in NewJob.__dataclass_fields__]
_NAMES: Final = ", ".join(column.name for column in _GIVEN)
_ASKED: Final = ", ".join(f"asked.{column.name}" for column in _GIVEN)
_TYPED: Final = ", ".join(f"{column.name} {column.type.compile(postgresql.dialect())}" for column in _GIVEN)  # type: ignore[no-untyped-call]
_ABOUT: Final = f"""user_id varchar(255), priority smallint, not_before timestamptz, upload_ids text[],
    first_data jsonb, {TAG_TYPED}, {LIMITS_TYPED}"""
"""What is read of each job more than once, apart from its row, which may have megabytes.

`first_data` is what the job's first event keeps."""
_SUBMITTED: Final = event_row(
    JobEvent.SUBMITTED, "user_id", "first_data", seq="1", phase=f"'{Phase.QUEUED}'", source="tagged"
)
_NEEDED: Final = """, needed AS (
        INSERT INTO job_uploads (job_id, upload_id) SELECT id, unnest(upload_ids) FROM tagged
    ), renewed AS (
        UPDATE uploads SET expires_at = GREATEST(expires_at, now() + $3::interval)
        FROM (
            SELECT id FROM uploads WHERE id IN (SELECT unnest(upload_ids) FROM tagged) ORDER BY id FOR NO KEY UPDATE
        ) AS locked WHERE uploads.id = locked.id
    )"""
"""The CTEs that note which uploads the jobs need, and keep those for longer.

Uploads are locked in the order of their ids, so that of two that share some one waits for the other.
"""


def _insert_statement(*, limited: bool, uploads: bool) -> str:
    """Return the statement that inserts jobs: one round trip, however many.

    Each gets its id before anything is inserted, in the order of the rows: what is inserted, and what is told, need not
    be matched with each other afterwards. Of jobs that are `limited` there is a row for each that was asked for,
    without an id where it was not accepted.
    """
    admitted = f", {ADMITTED}" if limited else ""
    source = "about JOIN admitted USING (ordinality, user_id)" if limited else "about"
    told = "id, available_at, now() AS created_at, now() AS updated_at, fair_tag, weight"
    if limited:
        told += ", waiting + nth AS waiting, today + nth AS today"
    return f"""
    WITH asked AS (
        SELECT * FROM ROWS FROM (json_to_recordset($1::json) AS ({_TYPED})) WITH ORDINALITY
    ), about AS MATERIALIZED (
        SELECT nextval('generation_jobs_id_seq') AS id, 1 AS attempt, GREATEST(now(), not_before) AS available_at, *
        FROM ROWS FROM (json_to_recordset($2::json) AS ({_ABOUT})) WITH ORDINALITY
    ){admitted}, {tagged(source)}, accepted AS (
        INSERT INTO generation_jobs
            (id, {_NAMES}, status, phase, seq, attempt, attempt_limit, progress, refused_by, available_at,
            queued_at, fair_tag)
        SELECT id, {_ASKED}, '{STATUS_OF[Phase.QUEUED]}', '{Phase.QUEUED}', 1, attempt, max_attempts, 0, '{{}}',
            available_at, available_at, fair_tag
        FROM asked JOIN tagged USING (ordinality)
    ), logged AS (
        {event_rows(_SUBMITTED)}
    ){_NEEDED if uploads else ""}
    SELECT {told} FROM {"numbered LEFT JOIN tagged USING (ordinality)" if limited else "tagged"} ORDER BY ordinality"""  # noqa: S608  # names of our own


_STATEMENTS: Final = {
    (limited, uploads): _insert_statement(limited=limited, uploads=uploads)
    for limited in (False, True)
    for uploads in (False, True)
}
"""By whether any of the jobs is limited, and whether any needs uploads."""


async def insert(connection: Any, jobs: Sequence[NewJob], keep_uploads: timedelta, places: Places) -> list[Job]:
    """Accept all of the jobs; raises `InvalidRequest` when an upload has just been deleted."""
    rows = await _inserted(connection, [(job, UNLIMITED) for job in jobs], keep_uploads, places, limited=False)
    return [_accepted(job, row, places) for job, row in zip(jobs, rows, strict=True)]


async def insert_limited(
    connection: Any, asked: Sequence[tuple[NewJob, Limits]], keep_uploads: timedelta, places: Places
) -> list[Job | TooMany]:
    """Accept as many of the jobs as their limits let, and of the others return why not; raises as `insert`."""
    if not any(limits.of_jobs for _, limits in asked):
        return [*await insert(connection, [job for job, _ in asked], keep_uploads, places)]
    rows = await _inserted(connection, asked, keep_uploads, places, limited=True)
    accepted: list[Job | TooMany] = []
    for (job, limits), row in zip(asked, rows, strict=True):
        refused = refusal(limits, row["waiting"], row["today"]) if row["id"] is None else None
        accepted.append(refused or _accepted(job, row, places))
    return accepted


async def _inserted(
    connection: Any,
    asked: Sequence[tuple[NewJob, Limits]],
    keep_uploads: timedelta,
    places: Places,
    *,
    limited: bool,
) -> list[Any]:
    uploads = any(job.upload_ids for job, _ in asked)
    values = [dumps([_written(job) for job, _ in asked]), dumps([_about(*each, places) for each in asked])]
    more = [keep_uploads] if uploads else []
    try:
        rows: list[Any] = await connection.fetch(_STATEMENTS[limited, uploads], *values, *more)
    except asyncpg.ForeignKeyViolationError as error:
        raise InvalidRequest("An upload that the job needs was deleted in this moment.") from error
    return rows


def _written(job: NewJob) -> dict[str, Any]:
    given = {name: getattr(job, name) for name in NewJob.__dataclass_fields__ if name not in ("sent", "upload_ids")}
    if job.workflow is not None:
        given["workflow"] = Written(dump_kept(job.workflow))
    if job.extra_pnginfo is not None:
        given["extra_pnginfo"] = Written(job.extra_pnginfo)
    return given


def _about(job: NewJob, limits: Limits, places: Places) -> dict[str, Any]:
    """Return what `_ABOUT` names of a job."""
    return {
        "user_id": job.user_id,
        "priority": job.priority,
        "not_before": job.not_before,
        "upload_ids": job.upload_ids,
        "first_data": {SENT: job.sent} if job.sent is not None else {},
        "most_waiting": limits.waiting,
        "most_today": limits.jobs_per_day,
        **places.asked(job),
    }


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
