"""Jobs by their numbers, each with all that belongs to it: the read that clients repeat most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.domain.job import Attempt, Job, JobStatus, Output, Phase
from app.storage.schema import AttemptRow, JobRow, OutputRow

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class JobView:
    """A job with its attempts and outputs."""

    job: Job
    attempts: list[Attempt]
    outputs: list[Output]
    position: int | None
    """How many waiting jobs come before it, and itself: 1 is the next. None unless it waits."""


def _columns(table: Any, *, without: Sequence[str] = ()) -> str:
    return ", ".join(f'"{column.name}"' for column in table.__table__.columns if column.name not in without)


_JOBS: Final = f"SELECT {_columns(JobRow)} FROM generation_jobs WHERE id = ANY($1)"  # noqa: S608  # names of our own
_DETAILS: Final = ("traceback", "spans")
"""What of an attempt can be long, and is shown of a single job only. The graph has a route of its own."""


def _attempts(without: Sequence[str]) -> str:
    columns = _columns(AttemptRow, without=["graph", *without])
    return f"SELECT {columns} FROM job_attempts WHERE job_id = ANY($1) ORDER BY number"  # noqa: S608


_ATTEMPTS: Final = _attempts(without=_DETAILS)
_DETAILED_ATTEMPTS: Final = _attempts(without=())
_OUTPUTS: Final = f'SELECT {_columns(OutputRow)} FROM outputs WHERE content_id = ANY($1) ORDER BY "index"'  # noqa: S608
_POSITIONS: Final = """
    SELECT job.id, 1 + (
        SELECT count(*) FROM generation_jobs AS other
        WHERE other.status = 'pending' AND (other.priority > job.priority
            OR other.priority = job.priority AND (other.available_at, other.id) < (job.available_at, job.id))
    ) AS position
    FROM generation_jobs AS job WHERE job.id = ANY($1) AND job.status = 'pending'"""

_JOB_FIELDS: Final = [name for name in Job.__dataclass_fields__ if name not in ("job_id", "phase")]
_DETAILED_FIELDS: Final = [name for name in Attempt.__dataclass_fields__ if name != "graph"]
_ATTEMPT_FIELDS: Final = [name for name in _DETAILED_FIELDS if name not in _DETAILS]
_NO_DETAILS: Final = dict.fromkeys(_DETAILS)
_OUTPUT_FIELDS: Final = list(Output.__dataclass_fields__)


async def read_whole_jobs(
    connection: Any, job_ids: Sequence[int], *, positions: bool, details: bool = False
) -> list[JobView | None]:
    """Return the jobs in the order of `job_ids`, None for those that are not there; through the driver itself.

    Left out unless asked for: positions in the queue, which cost the more the longer it is, and as `details` the
    tracebacks and spans of the attempts.
    """
    rows = {row["id"]: row for row in await connection.fetch(_JOBS, job_ids)}
    attempts: dict[int, list[Attempt]] = {}
    if rows:
        fields: list[str] = _DETAILED_FIELDS if details else _ATTEMPT_FIELDS
        absent: dict[str, None] = {} if details else _NO_DETAILS
        for row in await connection.fetch(_DETAILED_ATTEMPTS if details else _ATTEMPTS, list(rows)):
            attempt = Attempt(**{"graph": None, **absent, **{name: row[name] for name in fields}})
            attempts.setdefault(row["job_id"], []).append(attempt)
    outputs: dict[int, list[Output]] = {}
    if contents := [row["content_id"] for row in rows.values() if row["content_id"] is not None]:
        for row in await connection.fetch(_OUTPUTS, contents):
            output = Output(**{name: row[name] for name in _OUTPUT_FIELDS})
            outputs.setdefault(row["content_id"], []).append(output)
    places: dict[int, int] = {}
    waiting = [job_id for job_id, row in rows.items() if row["status"] == JobStatus.PENDING]
    if positions and waiting:
        places = {row["id"]: row["position"] for row in await connection.fetch(_POSITIONS, waiting)}
    views = {
        job_id: JobView(
            _job(row), attempts.get(job_id, []), outputs.get(row["content_id"] or 0, []), places.get(job_id)
        )
        for job_id, row in rows.items()
    }
    return [views.get(job_id) for job_id in job_ids]


def _job(row: Any) -> Job:
    return Job(job_id=row["id"], phase=Phase(row["phase"]), **{name: row[name] for name in _JOB_FIELDS})
