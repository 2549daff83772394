"""Jobs by their numbers, each with all that belongs to it but its graphs: the read that clients repeat most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.domain.job import Attempt, JobStatus, ListedJob, Output
from app.storage.columns import LISTED, listed_of
from app.storage.fair_tags import DEFERRED, QUEUED
from app.storage.pauses import pause_in, pause_of
from app.storage.schema import AttemptRow, OutputRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.pauses import Pause

MOST_ATTEMPTS: Final = 50
"""Maximum number of attempts, the last ones, in the answer for a job: there is no limit to retries."""
MOST_DETAILED: Final = 10
"""Maximum number of attempts in an answer with their tracebacks and spans."""


@dataclass(frozen=True, slots=True)
class JobView:
    """A job with its last attempts, and its outputs."""

    job: ListedJob
    attempts: list[Attempt]
    outputs: list[Output]
    position: int | None
    """How many waiting jobs come before it, and itself: 1 is the next. None unless it waits."""
    pause: Pause | None = None
    """Why it is not taken; None unless it waits and is paused, and where positions are not read."""


def _columns(table: Any, *, without: Sequence[str] = ()) -> str:
    return ", ".join(f'"{column.name}"' for column in table.__table__.columns if column.name not in without)


_JOBS: Final = f"SELECT {LISTED} FROM generation_jobs WHERE id = ANY($1) AND (user_id = $2 OR $2 IS NULL)"  # noqa: S608
_DETAILS: Final = ("traceback", "spans")
"""What of an attempt can be long, and is shown of a single job only. The graph has a route of its own."""


def _attempts(without: Sequence[str], most: int) -> str:
    columns = _columns(AttemptRow, without=["graph", *without])
    return f"""
        SELECT last.* FROM unnest($1::bigint[]) AS asked (id), LATERAL (
            SELECT {columns} FROM job_attempts WHERE job_id = asked.id ORDER BY number DESC LIMIT {most}
        ) AS last ORDER BY number"""  # noqa: S608  # of our own words only


_ATTEMPTS: Final = _attempts(_DETAILS, MOST_ATTEMPTS)
_DETAILED_ATTEMPTS: Final = _attempts((), MOST_DETAILED)
_OUTPUTS: Final = f'SELECT {_columns(OutputRow)} FROM outputs WHERE content_id = ANY($1) ORDER BY "index"'  # noqa: S608
_POSITIONS: Final = f"""
    SELECT job.id, 1 + (
        SELECT count(*) FROM generation_jobs AS other WHERE {QUEUED} AND (other.priority > job.priority
            OR other.priority = job.priority
                AND (job.fair_tag IS NULL OR (other.fair_tag, other.id) < (job.fair_tag, job.id)))
    ) + CASE WHEN job.fair_tag IS NOT NULL THEN 0 ELSE (
        SELECT count(*) FROM generation_jobs AS other
        WHERE {DEFERRED} AND (other.available_at, other.id) < (job.available_at, job.id)
    ) END AS position, pause.*
    FROM generation_jobs AS job LEFT JOIN LATERAL ({pause_of("job.user_id")}) AS pause ON true
    WHERE job.id = ANY($1) AND job.status = 'pending'"""  # noqa: S608  # our own words only
"""What is not to begin yet comes after all that is due by now, in the order of time."""


def _sizes(*columns: str) -> str:
    return " + ".join(f"COALESCE(pg_column_size({column}), 0)" for column in columns)


_JSON: Final = ("metadata", "params", "lora_models", "image", "mask", "inputs")
_TEXTS: Final = ("prompt", "negative_prompt", "error_message", "cancel_reason")
_AROUND: Final = f"""
    2000 + 500 * LEAST(attempt, {MOST_ATTEMPTS}) + CASE WHEN content_id IS NULL THEN 0
        ELSE (SELECT COALESCE(sum(700 + COALESCE(octet_length(source::text), 0)), 0)
            FROM outputs WHERE outputs.content_id = jobs.content_id) END"""  # noqa: S608
"""Estimated bytes of JSON of a job, without the fields that can be long."""
_BYTES: Final = f"""
    {_AROUND} + CASE WHEN attempt > 1 THEN COALESCE((
        SELECT sum(octet_length(error_message)) FROM (
            SELECT error_message FROM job_attempts WHERE job_id = jobs.id ORDER BY number DESC LIMIT {MOST_ATTEMPTS}
        ) AS last), 0) ELSE 0 END
    + octet_length(jsonb_build_array({", ".join((*_TEXTS, *_JSON))}, warnings)::text)"""  # noqa: S608
"""Bytes of JSON of a job with those fields; `1e300` is written with 301 digits."""
_PER_BYTE: Final = 26
"""Maximum bytes of JSON text for one stored byte of uncompressed JSON; `_PER_TEXT_BYTE` is the same for a text."""
_PER_TEXT_BYTE: Final = 6
_AT_MOST: Final = f"""
    {_AROUND} + {_PER_TEXT_BYTE} * ({_sizes(*_TEXTS, "warnings")}) + {_PER_BYTE} * ({_sizes(*_JSON)})"""
_PACKED: Final = " OR ".join(f"pg_column_compression({column}) IS NOT NULL" for column in (*_TEXTS, *_JSON, "warnings"))
_FITTING: Final = f"""
    SELECT CASE WHEN (
        SELECT sum({_AT_MOST}) < $2::bigint AND NOT bool_or(attempt > 1 OR {_PACKED})
        FROM generation_jobs AS jobs WHERE id = ANY($1::bigint[])
    ) THEN cardinality($1) ELSE (
        WITH RECURSIVE walked (place, bytes) AS (
            SELECT 0, 0::bigint
            UNION ALL
            SELECT place + 1, bytes + COALESCE((
                SELECT {_BYTES} FROM generation_jobs AS jobs WHERE id = ($1)[place + 1]), 0)::bigint
            FROM walked WHERE place < cardinality($1) AND bytes < $2
        )
        SELECT max(place) FROM walked
    ) END"""  # noqa: S608  # of our own words only
"""In most cases the stored sizes show that all jobs fit. Otherwise jobs are measured one by one, until they no longer
fit, because measuring a job reads its fields."""

_DETAILED_FIELDS: Final = list(Attempt.__dataclass_fields__)
_ATTEMPT_FIELDS: Final = [name for name in _DETAILED_FIELDS if name not in _DETAILS]
_NO_DETAILS: Final[dict[str, Any]] = dict.fromkeys(_DETAILS)
_NOTHING: Final[dict[str, Any]] = {}
_OUTPUT_FIELDS: Final = list(Output.__dataclass_fields__)


async def fitting(connection: Any, job_ids: Sequence[int], most_bytes: int) -> int:
    """Return how many of these jobs, from the first one on, make an answer of about so many bytes: one at least."""
    if len(job_ids) < 2:
        return len(job_ids)
    found: int = await connection.fetchval(_FITTING, job_ids, most_bytes)
    return found


async def read_whole_jobs(
    connection: Any, job_ids: Sequence[int], owner: str | None, *, positions: bool, details: bool = False
) -> list[JobView | None]:
    """Return the jobs in the order of `job_ids`, None for those that are not there; through the driver itself.

    Another's than `owner`'s is not there, unless that is None.
    Left out unless asked for: positions in the queue, which cost the more the longer it is, and as `details` the
    tracebacks and spans of the attempts.
    """
    rows = {row["id"]: row for row in await connection.fetch(_JOBS, job_ids, owner)}
    attempts: dict[int, list[Attempt]] = {}
    if rows:
        for row in await connection.fetch(_DETAILED_ATTEMPTS if details else _ATTEMPTS, list(rows)):
            attempts.setdefault(row["job_id"], []).append(attempt_of(row, details=details))
    outputs: dict[int, list[Output]] = {}
    if contents := [row["content_id"] for row in rows.values() if row["content_id"] is not None]:
        for row in await connection.fetch(_OUTPUTS, contents):
            output = Output(**{name: row[name] for name in _OUTPUT_FIELDS})
            outputs.setdefault(row["content_id"], []).append(output)
    places: dict[int, Any] = {}
    jobs = {job_id: listed_of(row) for job_id, row in rows.items()}
    waiting = [job_id for job_id, job in jobs.items() if job.status is JobStatus.PENDING]
    if positions and waiting:
        places = {row["id"]: row for row in await connection.fetch(_POSITIONS, waiting)}
    views = {
        job_id: JobView(
            job,
            attempts.get(job_id, []),
            outputs.get(job.content_id or 0, []),
            places[job_id]["position"] if job_id in places else None,
            pause_in(places.get(job_id)),
        )
        for job_id, job in jobs.items()
    }
    return [views.get(job_id) for job_id in job_ids]


def attempt_of(record: Any, *, details: bool) -> Attempt:
    """Return the attempt of a row; without details those are None."""
    read, absent = (_DETAILED_FIELDS, _NOTHING) if details else (_ATTEMPT_FIELDS, _NO_DETAILS)
    return Attempt(**{**absent, **{name: record[name] for name in read}})
