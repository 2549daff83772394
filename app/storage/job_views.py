"""Reading jobs: lists by keyset, snapshots for watchers, attempts, events, figures of the queue."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, tuple_

from app.domain.errors import Fault, InvalidRequest, JobNotFound
from app.domain.job import Attempt, Job, JobStatus, Output, Phase
from app.domain.message import Snapshot
from app.storage.schema import IS_WAITING, AttemptRow, ContentRow, EventRow, JobRow, OutputRow
from app.storage.transitions import to_domain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import InstrumentedAttribute

    from app.storage.database import Database

SOON: Final = timedelta(hours=1)
"""Who is due later needs no turn yet, and must not be in the way of those who do."""

Sort = Literal["-created_at", "created_at", "-updated_at", "updated_at"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """What a list is narrowed to; what is None or empty does not narrow."""

    user_id: str | None = None
    status: Sequence[JobStatus] = ()
    job_type: str | None = None
    checkpoint_model: str | None = None
    backend: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    q: str | None = None
    """A text that the prompt contains, whatever its case."""


@dataclass(frozen=True, slots=True)
class JobView:
    """A job with its attempts and outputs."""

    job: Job
    attempts: list[Attempt]
    outputs: list[Output]
    position: int | None
    """How many waiting jobs come before it, and itself: 1 is the next. None unless it waits."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list."""

    items: list[JobView]
    total: int
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A step of a job's life."""

    seq: int
    at: datetime
    event: str
    phase: Phase
    attempt: int
    actor: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """Figures of the queue at one moment."""

    by_status: dict[str, int] = field(default_factory=dict)
    oldest_wait_s: float | None = None
    by_priority: dict[int, int] = field(default_factory=dict)
    by_model: dict[str, int] = field(default_factory=dict)


_KEYS: Final[dict[str, InstrumentedAttribute[Any]]] = {"created_at": JobRow.id, "updated_at": JobRow.updated_at}
"""What a sort goes by: ids are given in the order of creation, and are unique."""


class JobViews:
    """Reads of jobs. Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def view(self, job_id: int) -> JobView:
        """Return one job with all that belongs to it, or raise `JobNotFound`."""
        async with self._database.transaction() as session:
            row = await session.get(JobRow, job_id)
            if row is None:
                raise JobNotFound([job_id])
            return (await _views(session, [row], positions=True))[0]

    async def page(self, chosen: JobFilter, sort: Sort, limit: int, *, cursor: str | None, skip: int) -> Page:
        """Return up to `limit` jobs after the cursor, or after skipping; raises `InvalidRequest` for a bad cursor."""
        descending, key = sort.startswith("-"), _KEYS[sort.lstrip("-")]
        wanted = narrowed(select(JobRow), chosen)
        if cursor is not None:
            value, after = _read_cursor(cursor, sort)
            place = tuple_(key, JobRow.id)
            wanted = wanted.where(place < (value, after) if descending else place > (value, after))
        order = [key.desc(), JobRow.id.desc()] if descending else [key.asc(), JobRow.id.asc()]
        async with self._database.transaction() as session:
            rows = list(await session.scalars(wanted.order_by(*order).limit(limit + 1).offset(skip)))
            total = await session.scalar(narrowed(select(func.count()).select_from(JobRow), chosen)) or 0
            more = len(rows) > limit
            items = await _views(session, rows[:limit], positions=False)
        last = rows[limit - 1] if more else None
        following = _write_cursor(sort, getattr(last, key.key), last.id) if last is not None else None
        return Page(items, total, following)

    async def matching(self, chosen: JobFilter, limit: int) -> tuple[list[int], int]:
        """Return the ids of up to `limit` jobs that the filter matches, the oldest first, and how many it matches."""
        async with self._database.transaction() as session:
            total = await session.scalar(narrowed(select(func.count()).select_from(JobRow), chosen)) or 0
            ids = await session.scalars(narrowed(select(JobRow.id), chosen).order_by(JobRow.id).limit(limit))
            return list(ids), total

    async def attempts(self, job_id: int) -> list[Attempt]:
        """Return the job's attempts, the first one first."""
        return (await self.view(job_id)).attempts

    async def graph(self, job_id: int) -> dict[str, Any] | None:
        """Return the graph as it was last sent to ComfyUI; None before that, `JobNotFound` for no job."""
        async with self._database.transaction() as session:
            if await session.get(JobRow, job_id) is None:
                raise JobNotFound([job_id])
            sent = select(AttemptRow.graph).where(AttemptRow.job_id == job_id, AttemptRow.graph.is_not(None))
            return await session.scalar(sent.order_by(AttemptRow.number.desc()).limit(1))

    async def usual_execution_s(self) -> float | None:
        """Return the median execution time of the last 50 completed attempts, in seconds; None when there are none."""
        took = func.extract(
            "epoch", AttemptRow.executed_at - func.coalesce(AttemptRow.executing_at, AttemptRow.submitted_at)
        )
        last = select(took.label("took")).where(AttemptRow.outcome == "completed")
        recent = last.order_by(AttemptRow.ended_at.desc()).limit(50).subquery()
        async with self._database.transaction() as session:
            found = await session.scalar(select(func.percentile_cont(0.5).within_group(recent.c.took)))
        return float(found) if found is not None else None

    async def events(self, job_id: int) -> list[Event]:
        """Return the steps of the job's life in order, or raise `JobNotFound`."""
        async with self._database.transaction() as session:
            rows = list(await session.scalars(select(EventRow).where(EventRow.job_id == job_id).order_by(EventRow.seq)))
            if not rows:
                raise JobNotFound([job_id])
            names = [name for name in Event.__dataclass_fields__ if name != "phase"]
            return [Event(phase=Phase(row.phase), **{name: getattr(row, name) for name in names}) for row in rows]

    async def snapshots(self, job_ids: Sequence[int]) -> dict[int, Snapshot]:
        """Return the present state of those of the jobs that exist."""
        async with self._database.transaction() as session:
            rows = list(await session.scalars(select(JobRow).where(JobRow.id.in_(job_ids))))
            paths: dict[int, list[str]] = {}
            if contents := [row.content_id for row in rows if row.content_id is not None]:
                found = select(OutputRow.content_id, OutputRow.path).where(OutputRow.content_id.in_(contents))
                for content_id, path in await session.execute(found.order_by(OutputRow.content_id, OutputRow.index)):
                    paths.setdefault(content_id, []).append(path)
            return {row.id: snapshot_of(to_domain(row), paths.get(row.content_id or 0, [])) for row in rows}

    async def stats(self) -> QueueStats:
        """Return the figures of the queue: exact for what waits and runs."""
        async with self._database.transaction() as session:
            live = select(JobRow.status, func.count()).where(JobRow.status.in_(["pending", "running"]))
            by_status = dict((await session.execute(live.group_by(JobRow.status))).all())
            age = func.extract("epoch", func.now() - func.min(JobRow.created_at))
            oldest = await session.scalar(select(age).where(IS_WAITING))
            priorities = select(JobRow.priority, func.count()).where(IS_WAITING).group_by(JobRow.priority)
            by_priority = dict((await session.execute(priorities)).all())
            model = func.coalesce(JobRow.checkpoint_model, "")
            models = select(model, func.count()).where(IS_WAITING).group_by(model)
            by_model = dict((await session.execute(models)).all())
        oldest_s = float(oldest) if oldest is not None else None
        return QueueStats(by_status=by_status, oldest_wait_s=oldest_s, by_priority=by_priority, by_model=by_model)

    async def finished_since(self, since: datetime) -> dict[str, int]:
        """Return how many jobs ended in each way since then."""
        statement = select(JobRow.status, func.count()).where(JobRow.completed_at >= since).group_by(JobRow.status)
        async with self._database.transaction() as session:
            return dict((await session.execute(statement)).all())

    async def waiting_turns(self, session: AsyncSession, limit: int) -> list[Job]:
        """Return waiting jobs that are due or will be `SOON`, the next one first; in the caller's transaction."""
        statement = select(JobRow).where(IS_WAITING, JobRow.available_at <= func.now() + SOON)
        statement = statement.order_by(JobRow.priority.desc(), JobRow.available_at, JobRow.id).limit(limit)
        return [to_domain(row) for row in await session.scalars(statement)]

    async def known_paths(self, paths: Sequence[str]) -> set[str]:
        """Return those of the store's paths that belong to an output."""
        statement = select(OutputRow.path, OutputRow.thumbnail_path).where(
            or_(OutputRow.path.in_(paths), OutputRow.thumbnail_path.in_(paths))
        )
        async with self._database.transaction() as session:
            return {path for row in await session.execute(statement) for path in row if path}

    async def output(self, content_id: int, index: int) -> Output | None:
        """Return one output, or None."""
        async with self._database.transaction() as session:
            row = await session.get(OutputRow, (content_id, index))
            return _output(row) if row is not None else None

    async def content(self, content_id: int) -> tuple[int, datetime, list[Output]] | None:
        """Return (job id, when it was stored, outputs) of a content, or None."""
        async with self._database.transaction() as session:
            row = await session.get(ContentRow, content_id)
            if row is None:
                return None
            outputs = select(OutputRow).where(OutputRow.content_id == content_id).order_by(OutputRow.index)
            return row.job_id, row.created_at, [_output(each) for each in await session.scalars(outputs)]

    def cursor_at(self, sort: Sort, job: Job) -> str:
        """Return the cursor that leads on from this job; with the opposite sort it leads back."""
        key = _KEYS[sort.lstrip("-")].key
        return _write_cursor(sort, job.job_id if key == "id" else getattr(job, key), job.job_id)


def snapshot_of(job: Job, output_paths: list[str] | None = None) -> Snapshot:
    """Return what watchers are told of this job."""
    return Snapshot(
        job_id=job.job_id,
        phase=job.phase,
        seq=job.seq,
        at=job.updated_at,
        attempt=job.attempt,
        progress=job.progress,
        backend_name=job.backend_name,
        error_code=job.error_code,
        error_message=job.error_message,
        cancel_reason=job.cancel_reason,
        content_id=job.content_id,
        output_paths=output_paths or [],
    )


def narrowed(statement: Select[Any], chosen: JobFilter) -> Select[Any]:
    """Return the statement with every filter that is set."""
    conditions: list[ColumnElement[bool]] = []
    equal = (
        (JobRow.user_id, chosen.user_id),
        (JobRow.job_type, chosen.job_type),
        (JobRow.checkpoint_model, chosen.checkpoint_model),
        (JobRow.backend_name, chosen.backend),
    )
    conditions += [column == value for column, value in equal if value is not None]
    if chosen.status:
        conditions.append(JobRow.status.in_(list(chosen.status)))
    if chosen.created_after is not None:
        conditions.append(JobRow.created_at >= chosen.created_after)
    if chosen.created_before is not None:
        conditions.append(JobRow.created_at < chosen.created_before)
    if chosen.q:
        conditions.append(JobRow.prompt.icontains(chosen.q, autoescape=True))
    return statement.where(*conditions)


async def _views(session: AsyncSession, rows: Sequence[JobRow], *, positions: bool) -> list[JobView]:
    """Return the rows with their attempts and outputs: one query for each kind, however many jobs."""
    attempts: dict[int, list[Attempt]] = {}
    outputs: dict[int, list[Output]] = {}
    if job_ids := [row.id for row in rows]:
        # The graphs can be large; they have a route of their own.
        columns = [column for column in AttemptRow.__table__.columns if column.key != "graph"]
        statement = select(*columns).where(AttemptRow.job_id.in_(job_ids)).order_by(AttemptRow.number)
        for found in (await session.execute(statement)).mappings():
            values = {name: found[name] for name in Attempt.__dataclass_fields__ if name != "graph"}
            attempts.setdefault(found["job_id"], []).append(Attempt(graph=None, **values))
    if contents := [row.content_id for row in rows if row.content_id is not None]:
        listed = select(OutputRow).where(OutputRow.content_id.in_(contents)).order_by(OutputRow.index)
        for output in await session.scalars(listed):
            outputs.setdefault(output.content_id, []).append(_output(output))
    return [
        JobView(
            to_domain(row),
            attempts.get(row.id, []),
            outputs.get(row.content_id or 0, []),
            await _position(session, row) if positions else None,
        )
        for row in rows
    ]


async def _position(session: AsyncSession, row: JobRow) -> int | None:
    if row.status != JobStatus.PENDING:
        return None
    same = and_(JobRow.priority == row.priority, tuple_(JobRow.available_at, JobRow.id) < (row.available_at, row.id))
    before = or_(JobRow.priority > row.priority, same)
    statement = select(func.count()).select_from(JobRow).where(IS_WAITING, before)
    return 1 + (await session.scalar(statement) or 0)


def _output(row: OutputRow) -> Output:
    return Output(**{name: getattr(row, name) for name in Output.__dataclass_fields__})


def _write_cursor(sort: str, value: Any, job_id: int) -> str:
    plain = value.isoformat() if isinstance(value, datetime) else value
    return base64.urlsafe_b64encode(json.dumps([sort, plain, job_id]).encode()).decode().rstrip("=")


def _read_cursor(cursor: str, sort: str) -> tuple[Any, int]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        written_for, value, job_id = json.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
        # Of a time without a zone, or none in UTC, the driver would make an error of its own.
        place = datetime.fromisoformat(value).astimezone(UTC) if isinstance(value, str) else int(value)
        by_time = sort.lstrip("-") == "updated_at"
        fits = written_for == sort and isinstance(place, datetime) == by_time and 0 <= int(job_id) < 2**63
        fits = fits and (by_time or place == int(job_id))
    except (ValueError, TypeError, OverflowError, RecursionError):
        fits = False
    if not fits:
        detail = "Take next_cursor of the page before, with the same sort, or leave the cursor out."
        fault = Fault("cursor", "invalid_cursor", detail)
        raise InvalidRequest("The cursor is none that this service gave out.", [fault])
    return place, int(job_id)
