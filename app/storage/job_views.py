"""Reading jobs: whole ones, snapshots for watchers, attempts, events, figures of the queue; lists are inherited."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import ColumnElement, func, or_, select

from app.domain.errors import JobNotFound
from app.domain.fair_tags import cost_us
from app.domain.job import Attempt, Job, JobStatus, Output, Phase, Turn
from app.runtime.batching import Batcher
from app.storage.database import driver_of
from app.storage.fair_tags import DEFERRED, QUEUED, base_of, weight_of
from app.storage.files import THUMBNAIL
from app.storage.graphs import AskedGraph, ShownGraphs, read_asked, read_sent, read_shown, read_whole
from app.storage.job_lists import COUNTED, PAGE_BYTES, PLAN_FOR_THESE_VALUES, SEARCHED, JobLists
from app.storage.schema import (
    AttemptRow,
    ContentRow,
    EventRow,
    JobRow,
    OutputRow,
)
from app.storage.sent_jobs import SENT
from app.storage.snapshots import read_snapshots
from app.storage.statements import Statement
from app.storage.whole_jobs import JobView, attempt_of, fitting, read_whole_jobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from app.domain.job import NewJob
    from app.domain.message import Snapshot
    from app.storage.database import Database

SOON: Final = timedelta(hours=1)
"""Jobs due later than this need no turn yet, and must not displace those that do."""
MOST_AT_ONCE: Final = 64
"""Jobs by number that one read brings."""
WATCHED_AT_ONCE: Final = 1000
"""Snapshots that one statement brings: a hundred watchers may ask for 500 each at the same time."""
MOST_BEFORE: Final = 10_000
_WAITING_BEFORE: Final = Statement(f"""
    WITH place AS MATERIALIZED (
        SELECT {base_of(":user_id::text", ":priority::smallint", ":shares::bool")}
            + (:cost_us::bigint / {weight_of(":user_id")})::bigint AS tag
    )
    SELECT (SELECT count(*) FROM (
        SELECT FROM generation_jobs WHERE {QUEUED} AND (priority > :priority OR priority = :priority
            AND (fair_tag <= (SELECT tag FROM place) OR :not_before::timestamptz > now())) LIMIT :most::int
    ) AS due) + (SELECT count(*) FROM (
        SELECT FROM generation_jobs WHERE {DEFERRED} AND available_at <= :not_before LIMIT :most
    ) AS deferred)""")  # noqa: S608  # of our own words only
_WAITING_TURNS: Final = Statement(f"""
    (SELECT id, attempt, available_at FROM generation_jobs
        WHERE {QUEUED} AND available_at <= now() + :soon::interval
        ORDER BY priority DESC, fair_tag, id LIMIT :most::int)
    UNION ALL
    (SELECT id, attempt, available_at FROM generation_jobs
        WHERE {DEFERRED} AND available_at <= now() + :soon ORDER BY available_at, id LIMIT :most)
    LIMIT :most""")  # noqa: S608  # of our own words only
_OWNERS: Final = "SELECT id, user_id FROM generation_jobs WHERE id = ANY($1::bigint[])"
MOST_OWNERS: Final = 1000
"""Owners whose reads at the same time are remembered to be shared."""
MOST_STEPS: Final = 500
"""Events, or attempts, of a job that one read brings."""
GRAPHS_AT_ONCE: Final = 4
"""Maximum number of graphs that are read at a time, in the whole process."""


MOST_MODELS: Final = 200
"""Maximum number of models in the figures of the queue, those with the most waiting jobs: clients may name any."""
# The age of a job that waits between two attempts counts from when it could be taken again.
_LIVE: Final = f"""
    SELECT status, priority, model, count, age_s, of_model FROM (
        SELECT status, priority, model, count(*) AS count, extract(epoch FROM now() - min(available_at)) AS age_s,
            GROUPING(model) = 0 AS of_model,
            row_number() OVER (PARTITION BY GROUPING(model), status ORDER BY count(*) DESC, model) AS place
        FROM (
            SELECT status, priority, COALESCE(checkpoint_model, '') AS model, available_at
            FROM generation_jobs
            WHERE (status = 'pending' OR status = 'running') AND (user_id = $1 OR $1::text IS NULL)
        ) AS live
        GROUP BY GROUPING SETS ((status, priority), (status, model))
    ) AS ranked
    WHERE NOT of_model OR status = 'pending' AND place <= {MOST_MODELS}
    ORDER BY place"""  # noqa: S608  # of our own words only


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


class JobViews(JobLists):
    """Reads of jobs. Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(
        self,
        database: Database,
        *,
        counted: int = COUNTED,
        searched: int = SEARCHED,
        page_bytes: int = PAGE_BYTES,
        owner: str | None = None,
        graphs: asyncio.Semaphore | None = None,
    ) -> None:
        super().__init__(database, counted=counted, searched=searched, page_bytes=page_bytes, owner=owner)
        self._graphs = graphs or asyncio.Semaphore(GRAPHS_AT_ONCE)
        self._viewing = Batcher(self._read, most=MOST_AT_ONCE, flights=2)
        self._of_owners: OrderedDict[str, JobViews] = OrderedDict()
        """The reads of the owners who read last, the last one last: what one asks for at once is one read too."""

    def seen_by(self, owner: str | None) -> JobViews:
        """Return the same reads, to which the jobs of others than this user are not there; of None, all are."""
        if owner is None or owner == self._owner:
            return self
        found = self._of_owners.pop(owner, None)
        if found is None:
            found = JobViews(
                self._database,
                counted=self._counted,
                searched=self._searched,
                page_bytes=self._page_bytes,
                owner=owner,
                graphs=self._graphs,
            )
        self._of_owners[owner] = found
        if len(self._of_owners) > MOST_OWNERS:
            self._of_owners.popitem(last=False)
        return found

    async def view(self, job_id: int) -> JobView:
        """Return one job with all that belongs to it, or raise `JobNotFound`; many that ask at once share the reads."""
        view = await self._viewing.do(job_id)
        if view is None:
            raise JobNotFound([job_id])
        return view

    async def settle(self) -> None:
        """Return when no job is being read on behalf of several."""
        await self._viewing.settle()
        for views in self._of_owners.values():
            await views.settle()

    async def _read(self, job_ids: Sequence[int]) -> list[JobView | None]:
        async with self._database.driver() as connection:
            return await read_whole_jobs(connection, job_ids, self._owner, positions=True)

    async def detailed(self, job_id: int) -> JobView:
        """Return one job as `view` does, its attempts with their tracebacks and spans."""
        async with self._database.driver() as connection:
            (view,) = await read_whole_jobs(connection, [job_id], self._owner, positions=True, details=True)
        if view is None:
            raise JobNotFound([job_id])
        return view

    async def several(self, job_ids: Sequence[int]) -> list[JobView]:
        """Return those of the jobs that exist, without their positions: as many as a page may have bytes."""
        async with self._database.driver() as connection:
            shown = await fitting(connection, job_ids, self._page_bytes)
            views = await read_whole_jobs(connection, job_ids[:shown], self._owner, positions=False)
        return [view for view in views if view is not None]

    async def attempts(self, job_id: int, *, after: int = 0, limit: int = MOST_STEPS) -> list[Attempt]:
        """Return the job's attempts, the first one first, from the one after this number on; or raise `JobNotFound`."""
        columns = [
            column for column in AttemptRow.__table__.columns if column.key not in ("graph", "traceback", "spans")
        ]
        found = select(*columns).where(
            AttemptRow.job_id == job_id, AttemptRow.number > after, *self._own(AttemptRow.job_id)
        )
        async with self._database.transaction() as session:
            rows = (await session.execute(found.order_by(AttemptRow.number).limit(limit))).mappings().all()
            if not rows:
                await self._require(session, job_id)
        return [attempt_of(row, details=False) for row in rows]

    async def whole(self, job_id: int) -> Job:
        """Return a job with its graph, or raise `JobNotFound`; few at a time, as all below."""
        async with self._graphs, self._database.driver() as connection:
            return await read_whole(connection, job_id, self._owner)

    async def asked_graph(self, job_id: int) -> AskedGraph:
        """Return the graph that the client sent, and what goes with it."""
        async with self._graphs, self._database.driver() as connection:
            return await read_asked(connection, job_id, self._owner)

    async def sent_graph(self, job_id: int) -> str | None:
        """Return the graph as it was last sent to ComfyUI, as JSON text; None before that, `JobNotFound` for no job."""
        async with self._graphs, self._database.driver() as connection:
            return await read_sent(connection, job_id, self._owner)

    async def shown_graphs(self, job_id: int, most_characters: int, node: str | None) -> ShownGraphs:
        """Return a job's graphs as far as they are short enough, and the title of the node at work."""
        async with self._graphs, self._database.driver() as connection:
            return await read_shown(connection, job_id, self._owner, most_characters, node)

    async def around(self, job_id: int) -> tuple[int | None, int | None]:
        """Return the numbers of the jobs before and after this one, whose own need not be there."""
        own = () if self._owner is None else (JobRow.user_id == self._owner,)
        older = select(func.max(JobRow.id)).where(JobRow.id < job_id, *own).scalar_subquery()
        newer = select(func.min(JobRow.id)).where(JobRow.id > job_id, *own).scalar_subquery()
        async with self._database.transaction() as session:
            before, after = (await session.execute(select(older, newer))).one()
        return before, after

    async def events(self, job_id: int, *, after: int = 0, limit: int = MOST_STEPS) -> list[Event]:
        """Return steps of the job's life in order, from the one after this `seq` on, or raise `JobNotFound`."""
        found = select(EventRow).where(EventRow.job_id == job_id, EventRow.seq > after, *self._own(EventRow.job_id))
        async with self._database.transaction() as session:
            rows = list(await session.scalars(found.order_by(EventRow.seq).limit(limit)))
            if not rows:
                await self._require(session, job_id)
        return [_event(row) for row in rows]

    async def last_events(self, job_id: int, limit: int) -> list[Event]:
        """Return the last steps of the job's life, in order."""
        found = select(EventRow).where(EventRow.job_id == job_id, *self._own(EventRow.job_id))
        found = found.order_by(EventRow.seq.desc()).limit(limit)
        async with self._database.transaction() as session:
            return [_event(row) for row in await session.scalars(found)][::-1]

    async def snapshots(self, job_ids: Sequence[int]) -> dict[int, Snapshot]:
        """Return the present state of those of the jobs that exist; of very many it is read in steps."""
        found: dict[int, Snapshot] = {}
        async with self._database.driver() as connection:
            for start in range(0, len(job_ids), WATCHED_AT_ONCE):
                found |= await read_snapshots(connection, job_ids[start : start + WATCHED_AT_ONCE], self._owner)
        return found

    async def owners(self, job_ids: Sequence[int]) -> dict[int, str]:
        """Return whose those of the jobs are that exist."""
        async with self._database.driver() as connection:
            rows = await connection.fetch(_OWNERS, job_ids)
        return {row["id"]: row["user_id"] for row in rows}

    async def stats(self) -> QueueStats:
        """Return the figures of the queue: exact for what waits and runs, and of the models for the `MOST_MODELS`."""
        stats, waits_s = QueueStats(), list[float]()
        async with self._database.driver() as connection:
            rows = await connection.fetch(_LIVE, self._owner)
        for row in rows:
            if row["of_model"]:
                stats.by_model[row["model"]] = row["count"]
                continue
            _add(stats.by_status, row["status"], row["count"])
            if row["status"] == JobStatus.PENDING:
                _add(stats.by_priority, row["priority"], row["count"])
                waits_s.append(max(0.0, float(row["age_s"])))
        return replace(stats, oldest_wait_s=max(waits_s, default=None))

    async def finished_since(self, since: datetime) -> dict[str, int]:
        """Return how many jobs ended in each way since then."""
        own = () if self._owner is None else (JobRow.user_id == self._owner,)
        ended = select(JobRow.status, func.count()).where(JobRow.completed_at >= since, *own)
        async with self._database.transaction() as session:
            await session.execute(PLAN_FOR_THESE_VALUES)
            return dict((await session.execute(ended.group_by(JobRow.status))).all())

    async def waiting_turns(self, session: AsyncSession, limit: int) -> list[Turn]:
        """Return the turns of jobs that are due or will be `SOON`, the next one first; in the caller's transaction."""
        rows = await _WAITING_TURNS.rows(await driver_of(session), soon=SOON, most=limit)
        return [Turn(*row) for row in rows]

    async def known_paths(self, paths: Sequence[str]) -> set[str]:
        """Return those of the store's paths that belong to an output, or will in a moment."""
        statement = select(OutputRow.path, OutputRow.thumbnail_path).where(
            or_(OutputRow.path.in_(paths), OutputRow.thumbnail_path.in_(paths))
        )
        # A thumbnail is stored before that is noted.
        beside = func.regexp_replace(OutputRow.path, r"\.[^./]*$", "").concat(THUMBNAIL)
        due = select(beside).where(OutputRow.thumbnail_due, beside.in_(paths))
        async with self._database.transaction() as session:
            known = {path for row in await session.execute(statement) for path in row if path}
            if any(path.endswith(THUMBNAIL) for path in paths):
                known |= set(await session.scalars(due))
            return known

    async def output(self, content_id: int, index: int) -> Output | None:
        """Return one output, or None."""
        found = await self.output_and_owner(content_id, index)
        return found[0] if found is not None else None

    async def waiting_before(self, job: NewJob, *, shares: bool) -> int:
        """Return how many waiting jobs come before a new one: at most `MOST_BEFORE` of those that are due.

        `shares` is as the store's that is to accept it.
        """
        async with self._database.driver() as connection:
            found: int = await _WAITING_BEFORE.value(
                connection,
                user_id=job.user_id,
                priority=job.priority,
                shares=shares,
                cost_us=cost_us(job.cost_s),
                not_before=job.not_before,
                most=MOST_BEFORE,
            )
        return found

    async def output_and_owner(self, content_id: int, index: int) -> tuple[Output, str] | None:
        """Return one output and the user whose job made it, or None."""
        found = (
            select(OutputRow, JobRow.user_id)
            .join(ContentRow, ContentRow.id == OutputRow.content_id)
            .join(JobRow, JobRow.id == ContentRow.job_id)
            .where(OutputRow.content_id == content_id, OutputRow.index == index)
        )
        if self._owner is not None:
            found = found.where(JobRow.user_id == self._owner)
        async with self._database.transaction() as session:
            row = (await session.execute(found)).one_or_none()
            return (_output(row[0]), row[1]) if row is not None else None

    async def content(self, content_id: int) -> tuple[int, datetime, list[Output]] | None:
        """Return (job id, when it was stored, outputs) of a content, or None."""
        async with self._database.transaction() as session:
            found = select(ContentRow).where(ContentRow.id == content_id, *self._own(ContentRow.job_id))
            row = await session.scalar(found)
            if row is None:
                return None
            outputs = select(OutputRow).where(OutputRow.content_id == content_id).order_by(OutputRow.index)
            return row.job_id, row.created_at, [_output(each) for each in await session.scalars(outputs)]

    def _own(self, job_id: Any) -> tuple[ColumnElement[bool], ...]:
        """Return the condition that a column is of a job that may be seen."""
        if self._owner is None:
            return ()
        own = select(JobRow.id).where(JobRow.id == job_id, JobRow.user_id == self._owner)
        return (own.exists(),)

    async def _require(self, session: AsyncSession, job_id: int) -> None:
        """Raise `JobNotFound` if the job is not there."""
        own = () if self._owner is None else (JobRow.user_id == self._owner,)
        if await session.scalar(select(JobRow.id).where(JobRow.id == job_id, *own)) is None:
            raise JobNotFound([job_id])


def _event(row: EventRow) -> Event:
    names = [name for name in Event.__dataclass_fields__ if name not in ("phase", "data")]
    # Who sent a job from where is for those alone who may see the audit.
    data = {name: value for name, value in row.data.items() if name != SENT}
    return Event(phase=Phase(row.phase), data=data, **{name: getattr(row, name) for name in names})


def _output(row: OutputRow) -> Output:
    return Output(**{name: getattr(row, name) for name in Output.__dataclass_fields__})


def _add(counts: dict[Any, int], name: Any, count: int) -> None:
    counts[name] = counts.get(name, 0) + count
