"""Lists of jobs by keyset: narrowed, sorted, searched and counted, at the same cost whatever there is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import ColumnElement, Select, bindparam, func, select, text, tuple_

from app.domain.job import JobStatus, Standing
from app.storage.cursors import read_cursor, write_cursor
from app.storage.database import driver_of
from app.storage.schema import AttemptRow, JobRow
from app.storage.whole_jobs import JobView, fitting, read_whole_jobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import BindParameter
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.sql.base import ColumnCollection, ReadOnlyColumnCollection

    from app.storage.database import Database

    _Columns = ColumnCollection[str, Any] | ReadOnlyColumnCollection[str, Any]

COUNTED: Final = 10_000
"""Maximum number of jobs that are counted for a list; a longer list is said to have at least as many."""
SEARCHED: Final = 50_000
"""Number of jobs that one search for a text goes through, which takes 0.15 s. The cursor continues it."""
STRETCHES: Final = 4
"""Maximum number of searches that a bulk action makes by itself, in less than a second."""

PAGE_BYTES: Final = 4 * 2**20
"""Approximate maximum bytes of the answer for one page, exceeded by one job at most: a page of long jobs ends early."""

Sort = Literal["-created_at", "created_at", "-updated_at", "updated_at"]
_OLDEST: Final[Sort] = "created_at"
_OPPOSITES: Final[dict[Sort, Sort]] = {
    "-created_at": "created_at",
    "created_at": "-created_at",
    "-updated_at": "updated_at",
    "updated_at": "-updated_at",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """What a list is narrowed to; what is None or empty does not narrow."""

    user_id: str | None = None
    owner: str | None = None
    """The only user whose jobs may be seen, beside what is asked for."""
    status: Sequence[JobStatus] = ()
    job_type: str | None = None
    checkpoint_model: str | None = None
    backend: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    ended_after: datetime | None = None
    ended_before: datetime | None = None
    worker: str | None = None
    """A worker that has worked on it, in any of its attempts."""
    error_code: str | None = None
    node_type: str | None = None
    """The class of the node in which the attempt failed that the job's error is of."""
    until_id: int | None = None
    """The greatest id: what was sent later does not match."""
    waited_over_s: float | None = None
    """Seconds that it waited, or has waited so far (`Job.waited_s`). No index serves it, as for `q`."""
    ran_over_s: float | None = None
    """Seconds that it ran, or has run so far (`Job.ran_s`). No index serves it, as for `q`."""
    q: str | None = None
    """A text that the prompt contains, whatever its case. No index helps to find it, hence `SEARCHED`."""

    @property
    def searching(self) -> bool:
        """Whether it has conditions that no index helps with."""
        return bool(self.q) or self.waited_over_s is not None or self.ran_over_s is not None

    @property
    def without_search(self) -> JobFilter:
        """The filter that indexes serve."""
        return replace(self, q=None, waited_over_s=None, ran_over_s=None)


@dataclass(frozen=True, slots=True)
class Count:
    """How many jobs match; at least so many, unless it is exact."""

    value: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list. Long jobs may make it short, and a text search may leave it empty, though more jobs follow."""

    items: list[JobView]
    total: int
    """How many jobs the list has; at least so many, unless it is exact."""
    total_exact: bool
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Matching:
    """The jobs that a bulk action is for."""

    job_ids: list[int]
    matched: int
    """How many the filter matches; at least so many, unless it is exact."""
    exact: bool
    next_cursor: str | None
    """Where to go on; None when there are no others. A search may have found none yet, and still lead on."""


PLAN_FOR_THESE_VALUES: Final = text("SET LOCAL plan_cache_mode = force_custom_plan")
"""Plans each statement for its actual values. A generic plan could scan a million jobs to find a user's ten, or read
all jobs for a short range of time."""


class JobLists:
    """Reads of lists. Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(
        self,
        database: Database,
        *,
        counted: int = COUNTED,
        searched: int = SEARCHED,
        page_bytes: int = PAGE_BYTES,
        owner: str | None = None,
    ) -> None:
        self._database = database
        self._owner = owner
        """The only user whose jobs are read; None for all."""
        self._page_bytes = page_bytes
        self._counted = counted
        self._searched = searched

    async def page(self, chosen: JobFilter, sort: Sort, limit: int, *, cursor: str | None, skip: int) -> Page:
        """Return up to `limit` jobs after the cursor, or after skipping; raises `InvalidRequest` for a bad cursor."""
        chosen = self._seen(chosen)
        whole = _places(chosen, sort)
        if cursor is not None:
            whole = _after(whole, sort, *read_cursor(cursor, sort, int))
        wanted = _searched(whole, sort, chosen, self._searched) if chosen.searching else whole
        async with self._database.snapshot() as session:
            if chosen != JobFilter():
                await session.execute(PLAN_FOR_THESE_VALUES)
            # The places first, by an index that needs no row, and then the rows of these alone.
            places = (await session.execute(wanted.limit(limit + 1).offset(skip))).all()
            driver = await driver_of(session)
            shown = await fitting(driver, [place.id for place in places[:limit]], self._page_bytes)
            following: str | None = None
            if len(places) > shown:
                last = places[shown - 1]
                following = write_cursor(sort, last.at, last.id)
            elif chosen.searching:
                following = await _search_on(session, whole, sort, self._searched)
            total, exact = await count_matching(session, chosen, self._counted)
            views = await read_whole_jobs(driver, [place.id for place in places[:shown]], self._owner, positions=False)
        # One may have been deleted meanwhile.
        items = [view for view in views if view is not None]
        # A search may find jobs beyond those that were counted.
        return Page(items, max(total, len(items)), exact, following)

    async def matching(self, chosen: JobFilter, limit: int, cursor: str | None = None) -> Matching:
        """Return the ids of up to `limit` jobs that the filter matches, the oldest first, and how many it matches.

        As for a list they are counted up to a bound, and a search looks at so many jobs at a time, up to a bound too:
        the cursor leads on from there. Raises `InvalidRequest` for a bad one.
        """
        chosen = self._seen(chosen)
        place, job_ids, following = (read_cursor(cursor, _OLDEST, int) if cursor else None), list[int](), None
        async with self._database.snapshot() as session:
            await session.execute(PLAN_FOR_THESE_VALUES)
            total, exact = await count_matching(session, chosen, self._counted)
            for _ in range(STRETCHES):
                rest = _places(chosen, _OLDEST)
                rest = _after(rest, _OLDEST, *place) if place else rest
                wanted = _searched(rest, _OLDEST, chosen, self._searched) if chosen.searching else rest
                room = limit - len(job_ids)
                places = (await session.execute(wanted.limit(room + 1))).all()
                job_ids += [each.id for each in places[:room]]
                if len(places) > room:
                    following = write_cursor(_OLDEST, places[room - 1].at, places[room - 1].id)
                    break
                following = await _search_on(session, rest, _OLDEST, self._searched) if chosen.searching else None
                if following is None or len(job_ids) == limit:
                    break
                place = read_cursor(following, _OLDEST, int)
        return Matching(job_ids, max(total, len(job_ids)), exact, following)

    async def counts(self, chosen: JobFilter) -> dict[JobStatus, Count]:
        """Return for each status how many jobs have it and match the rest of the filter; those of its own do not count.

        Each is exact up to a bound. A search looks at the newest jobs only, as many as the bound.
        """
        chosen = replace(self._seen(chosen), status=())
        async with self._database.snapshot() as session:
            await session.execute(PLAN_FOR_THESE_VALUES)
            newest = _looked_at(chosen, self._counted, JobRow.status)
            by_status = select(newest.c.status, func.count(), _found(chosen, newest.c)).group_by(newest.c.status)
            rows = (await session.execute(by_status)).all()
            if chosen.searching or sum(row[1] for row in rows) <= self._counted:
                found, exact = {row[0]: row[2] for row in rows}, sum(row[1] for row in rows) <= self._counted
                return {status: Count(found.get(status, 0), exact) for status in JobStatus}
            each = [
                select(func.count())
                .select_from(_looked_at(replace(chosen, status=[status]), self._counted))
                .scalar_subquery()
                for status in JobStatus
            ]
            values = (await session.execute(select(*each))).one()
        return {
            status: Count(min(value, self._counted), value <= self._counted)
            for status, value in zip(JobStatus, values, strict=True)
        }

    async def before(self, chosen: JobFilter, sort: Sort, job: Standing) -> Count:
        """Return how many jobs of a list come before this one; of a search none are counted."""
        if chosen.searching:
            return Count(0, exact=False)
        chosen, back = self._seen(chosen), opposite(sort)
        passed = _after(_places(chosen, back), back, getattr(job, back.lstrip("-")), job.job_id)
        counted = select(func.count()).select_from(passed.limit(self._counted + 1).subquery())
        async with self._database.transaction() as session:
            await session.execute(PLAN_FOR_THESE_VALUES)
            value = (await session.execute(counted)).scalar_one()
        return Count(min(value, self._counted), value <= self._counted)

    async def newest_id(self) -> int:
        """Return the greatest id of a job; 0 before there is one."""
        async with self._database.transaction() as session:
            return (await session.scalar(narrowed(select(func.max(JobRow.id)), self._seen(JobFilter())))) or 0

    async def alike(self, errors: Sequence[tuple[str, str | None]], most: int) -> list[Count]:
        """Return how many failed jobs have each of these errors, of this code and in this class of node.

        They are counted up to `most`.
        """
        if not errors:
            return []
        chosen = [
            self._seen(JobFilter(status=[JobStatus.FAILED], error_code=error_code, node_type=node_type))
            for error_code, node_type in errors
        ]
        # Any of them, in no order: to find the newest first all would be read and sorted, at each page of the list.
        found = [narrowed(select(JobRow.id), one).limit(most + 1).subquery() for one in chosen]
        each = [select(func.count()).select_from(one).scalar_subquery() for one in found]
        async with self._database.transaction() as session:
            await session.execute(PLAN_FOR_THESE_VALUES)
            values = (await session.execute(select(*each))).one()
        return [Count(min(value, most), value <= most) for value in values]

    def cursor_at(self, sort: Sort, job: Standing) -> str:
        """Return the cursor that leads on from this job; with the opposite sort it leads back."""
        return write_cursor(sort, getattr(job, sort.lstrip("-")), job.job_id)

    def _seen(self, chosen: JobFilter) -> JobFilter:
        return replace(chosen, owner=self._owner) if self._owner is not None else chosen


def opposite(sort: Sort) -> Sort:
    """Return the order in which the last of this one comes first."""
    return _OPPOSITES[sort]


def narrowed(statement: Select[Any], chosen: JobFilter) -> Select[Any]:
    """Return the statement with every filter that is set."""
    conditions: list[ColumnElement[bool]] = []
    equal = (
        (JobRow.user_id, chosen.user_id),
        (JobRow.user_id, chosen.owner),
        (JobRow.job_type, chosen.job_type),
        (JobRow.checkpoint_model, chosen.checkpoint_model),
        (JobRow.backend_name, chosen.backend),
        (JobRow.error_code, chosen.error_code),
    )
    conditions += [column == value for column, value in equal if value is not None]
    if chosen.status:
        # As literals, so that the partial indexes can serve them.
        statuses: BindParameter[str] = bindparam(None, sorted(chosen.status), expanding=True, literal_execute=True)
        conditions.append(JobRow.status.in_(statuses))
    if chosen.created_after is not None:
        conditions.append(JobRow.created_at >= chosen.created_after)
    if chosen.created_before is not None:
        conditions.append(JobRow.created_at < chosen.created_before)
    if chosen.ended_after is not None:
        conditions.append(JobRow.completed_at >= chosen.ended_after)
    if chosen.ended_before is not None:
        # The second says nothing new, but bounds the lists, which are in the order of creation.
        conditions += [JobRow.completed_at < chosen.ended_before, JobRow.created_at < chosen.ended_before]
    if chosen.until_id is not None:
        conditions.append(JobRow.id <= chosen.until_id)
    if chosen.worker is not None:
        conditions.append(JobRow.id.in_(select(AttemptRow.job_id).where(AttemptRow.worker_id == chosen.worker)))
    if chosen.node_type is not None:
        failed = select(AttemptRow.job_id, AttemptRow.error_code).where(AttemptRow.node_type == chosen.node_type)
        conditions += [tuple_(JobRow.id, JobRow.error_code).in_(failed), JobRow.error_code.is_not(None)]
    return statement.where(*conditions, *_sought(chosen, JobRow.__table__.c))


def _sought(chosen: JobFilter, jobs: _Columns) -> list[ColumnElement[bool]]:
    """Return the conditions that no index helps with, on columns of jobs."""
    conditions: list[ColumnElement[bool]] = []
    if chosen.q:
        conditions.append(jobs.prompt.icontains(chosen.q, autoescape=True))
    if chosen.waited_over_s is not None:
        taken_at = func.coalesce(jobs.started_at, jobs.completed_at, func.now())
        conditions.append(taken_at - jobs.queued_at > timedelta(seconds=chosen.waited_over_s))
    if chosen.ran_over_s is not None:
        ended_at = func.coalesce(jobs.completed_at, func.now())
        conditions.append(ended_at - jobs.started_at > timedelta(seconds=chosen.ran_over_s))
    return conditions


_SOUGHT_IN: Final = (JobRow.prompt, JobRow.queued_at, JobRow.started_at, JobRow.completed_at)
"""Columns that `_sought` looks at."""


def _looked_at(chosen: JobFilter, among: int, *more: Any) -> Any:
    """Return the newest jobs, up to one more than so many of them, to be counted or searched."""
    whole = narrowed(select(JobRow.id, *more, *(_SOUGHT_IN if chosen.searching else ())), chosen.without_search)
    # In this order an index brings them, and nothing else is read.
    return whole.order_by(JobRow.created_at.desc(), JobRow.id.desc()).limit(among + 1).subquery()


def _found(chosen: JobFilter, looked_at: _Columns) -> ColumnElement[int]:
    """Return the count of those looked at that match."""
    found: ColumnElement[int] = func.count()
    return found.filter(*_sought(chosen, looked_at)) if chosen.searching else found


def _places(chosen: JobFilter, sort: Sort) -> Select[Any]:
    """Return the statement for the ids of a list, with the times that it is sorted by; a search narrows it later."""
    at = getattr(JobRow, sort.lstrip("-"))
    statement = narrowed(select(JobRow.id, at.label("at")), chosen.without_search)
    return _in_order(statement, sort, statement.selected_columns)


def _in_order(statement: Select[Any], sort: Sort, places: _Columns) -> Select[Any]:
    if sort.startswith("-"):
        return statement.order_by(places.at.desc(), places.id.desc())
    return statement.order_by(places.at, places.id)


def _after(whole: Select[Any], sort: Sort, at: datetime, job_id: int) -> Select[Any]:
    """Return the statement for what comes after this place of the list."""
    place = tuple_(getattr(JobRow, sort.lstrip("-")), JobRow.id)
    return whole.where(place < (at, job_id) if sort.startswith("-") else place > (at, job_id))


def _searched(whole: Select[Any], sort: Sort, chosen: JobFilter, among: int) -> Select[Any]:
    """Return the statement for those of the next jobs, so many of them, that the search finds."""
    looked_at = whole.add_columns(*_SOUGHT_IN).limit(among).subquery().c
    matching = select(looked_at.id, looked_at.at).where(*_sought(chosen, looked_at))
    return _in_order(matching, sort, looked_at)


async def _search_on(session: AsyncSession, whole: Select[Any], sort: Sort, among: int) -> str | None:
    """Return the cursor that leads on from where the search ended; None when it has reached the list's end."""
    match (await session.execute(whole.offset(among - 1).limit(2))).all():
        case [(job_id, at), _]:
            return write_cursor(sort, at, job_id)
    return None


async def count_matching(session: AsyncSession, chosen: JobFilter, among: int) -> tuple[int, bool]:
    """Return how many jobs match among the first ones, so many of them, and whether those were all."""
    looked_at = _looked_at(chosen, among)
    counted = select(func.count(), _found(chosen, looked_at.c)).select_from(looked_at)
    seen, matching = (await session.execute(counted)).one()
    return min(matching, among), seen <= among
