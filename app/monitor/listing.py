"""The list of jobs: its address, which holds filter and place, and the page that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal
from urllib.parse import urlencode

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from app.domain.job import JobStatus
from app.storage.job_lists import COUNTED, Count, JobFilter, Sort, opposite
from app.web.requests import storable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.storage.job_lists import Page
    from app.storage.job_views import JobViews
    from app.storage.whole_jobs import JobView

SIZES: Final = (25, 50, 100, 200)
PAGE_JOBS: Final = 50
GALLERY_JOBS: Final = 100
"""More than fill a large screen: the gallery holds what is new once it has gone on to a second page."""
MAX_AGE_S: Final = 10 * 365 * 86400.0
LIVE: Final = (JobStatus.PENDING, JobStatus.RUNNING)
SEEN: Final = (JobStatus.RUNNING, JobStatus.COMPLETED)
"""Statuses of the jobs that the gallery shows: what they left, or the picture that comes up."""
TABS: Final[Mapping[str, tuple[JobStatus, ...]]] = {
    "active": LIVE,
    "completed": (JobStatus.COMPLETED,),
    "failed": (JobStatus.FAILED,),
    "cancelled": (JobStatus.CANCELLED,),
    "": tuple(JobStatus),
}
"""Tabs by what stands in the address; the empty one is of all jobs."""
BULK_STATUSES: Final[Mapping[str, tuple[JobStatus, ...]]] = {
    "cancel": LIVE,
    "retry": (JobStatus.FAILED, JobStatus.CANCELLED),
    "delete": (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED),
}
"""Actions on many jobs, and the statuses in which they may be done."""
NARROWING: Final = {
    "q": "text",
    "user": "user",
    "model": "model",
    "backend": "backend",
    "worker": "worker",
    "error": "error",
    "node": "node",
    "job_type": "type",
    "from": "sent from",
    "to": "sent before",
    "ended_from": "ended from",
    "ended_to": "ended before",
    "waited_over": "waited over",
    "ran_over": "ran over",
}
"""Filters by their names in the address, and as they are called on the page. The status has its tabs."""


@dataclass(frozen=True, slots=True)
class Order:
    """An order of the list in words, and what the pages before and after one are called."""

    word: str
    before: str
    after: str


NEWEST: Final = "-created_at"
ORDERS: Final[Mapping[Sort, Order]] = {
    NEWEST: Order("newest first", "Newer", "Older"),
    "created_at": Order("oldest first", "Older", "Newer"),
    "-updated_at": Order("last changed first", "Changed later", "Changed earlier"),
    "updated_at": Order("longest unchanged first", "Changed earlier", "Changed later"),
}
"""Orders by their names in the address."""


_KINDS: Final = 8
"""Maximum number of kinds of errors that are counted on a page."""
_ALIKE: Final = 999
"""Maximum number up to which jobs that failed alike are counted."""


def _with_zone(value: Any) -> Any:
    """Return a time as browsers' fields send it, without a zone, as UTC, which is what the field asks for."""
    if not isinstance(value, str):
        return value
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return value
    return at if at.tzinfo else at.replace(tzinfo=UTC)


Moment = Annotated[datetime, BeforeValidator(_with_zone), AfterValidator(storable)]
Name = Annotated[str, Field(max_length=255)]
Cursor = Annotated[str, Field(max_length=1000)]
Seconds = Annotated[float, Field(ge=0, le=MAX_AGE_S, allow_inf_nan=False)]


class ListAddress(BaseModel):
    """What stands in the address of the list. Empty means absent, as browsers send the fields of a form."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    view: Literal["gallery"] | None = None
    """None is the list of rows."""
    status: Literal["active"] | JobStatus | None = None
    q: str | None = Field(None, max_length=1000)
    user: Name | None = None
    model: Name | None = None
    backend: Name | None = None
    worker: Name | None = None
    error: Name | None = None
    node: Name | None = None
    job_type: Name | None = None
    since: Moment | None = Field(None, alias="from")
    until: Moment | None = Field(None, alias="to")
    ended_from: Moment | None = None
    ended_to: Moment | None = None
    waited_over: Seconds | None = None
    ran_over: Seconds | None = None
    size: Literal[25, 50, 100, 200] | None = None
    sort: Sort | None = None
    after: Cursor | None = None
    """Cursor of the page that begins after it, in the list's order."""
    before: Cursor | None = None
    """Cursor of the page that ends before it."""

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = {name: value for name, value in data.items() if value not in ("", None)}
        if isinstance(given.get("size"), str) and given["size"].isascii() and given["size"].isdigit():
            given["size"] = int(given["size"][:9])
        return given

    @property
    def first(self) -> bool:
        """Whether this is the page with which the list begins."""
        return self.after is None and self.before is None

    @property
    def takes_new(self) -> bool:
        """Whether this is the page on which new jobs appear."""
        return self.first and self.by.startswith("-")

    @property
    def by(self) -> Sort:
        """By what the list is sorted."""
        return self.sort or NEWEST

    @property
    def jobs(self) -> int:
        """How many jobs a page has."""
        return self.size or (PAGE_JOBS if self.view is None else GALLERY_JOBS)

    @property
    def fields(self) -> dict[str, str]:
        """What is set, by its name in the address, as texts."""
        values = self.model_dump(mode="json", by_alias=True)
        return {name: _text(value) for name, value in values.items() if value is not None}

    @property
    def narrowed_by(self) -> dict[str, str]:
        """The filters that are set, but for the status, which has its tabs."""
        fields = self.fields
        return {name: fields[name] for name in NARROWING if name in fields}

    def link(self, **changes: str | None) -> str:
        """Return the address with these changes, on the first page unless they name another."""
        values = {**self.fields, "after": None, "before": None, **changes}
        query = urlencode({name: value for name, value in values.items() if value is not None})
        return f"/monitor/?{query}" if query else "/monitor/"

    @property
    def output_query(self) -> str:
        """What of the address goes with the address of an output: from there one steps on in the same list."""
        chosen = {name: value for name, value in self.fields.items() if name not in ("view", "after", "before")}
        return f"?{urlencode(chosen)}" if chosen else ""

    def to_filter(self) -> JobFilter:
        """Return what the list is narrowed to, in whatever view."""
        statuses = LIVE if self.status == "active" else (self.status,) if self.status else ()
        return JobFilter(
            status=[JobStatus(status) for status in statuses],
            q=self.q,
            user_id=self.user,
            checkpoint_model=self.model,
            backend=self.backend,
            worker=self.worker,
            error_code=self.error,
            node_type=self.node,
            job_type=self.job_type,
            created_after=self.since,
            created_before=self.until,
            ended_after=self.ended_from,
            ended_before=self.ended_to,
            waited_over_s=self.waited_over,
            ran_over_s=self.ran_over,
        )

    def to_shown(self) -> JobFilter | None:
        """Return what the view shows of the list; None when it can show nothing of it, as of failed jobs."""
        return self.to_filter() if self.view is None else limited(self.to_filter(), SEEN)


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of the list with the addresses of its neighbours."""

    items: list[JobView]
    total: str
    """How many jobs the list has, `10,000+` when it is not known more exactly."""
    order: Order
    passed: Count | None
    """How many jobs of the list come before this page; None when that is not known."""
    before: str | None
    after: str | None

    @property
    def position(self) -> str:
        """Which jobs of the list these are, in words."""
        shown, noun = len(self.items), "job" if self.total == "1" else "jobs"
        if self.passed is None or not self.passed.exact:
            return f"{shown} of {self.total} {noun}, {self.order.word}"
        first = self.passed.value + 1
        return f"{first:,}–{self.passed.value + shown:,} of {self.total} {noun}, {self.order.word}"


async def read_listing(views: JobViews, address: ListAddress) -> Listing | None:
    """Return the page of this address; None when going back has reached the top, where the first page belongs.

    Raises
    ------
    DatabaseUnavailable, InvalidRequest
    """
    chosen, onward, backward = address.to_shown(), address.by, opposite(address.by)
    if chosen is None:
        return Listing([], "0", ORDERS[onward], None, None, None)
    if address.before is not None:
        page = await views.page(chosen, backward, address.jobs, cursor=address.before, skip=0)
        if page.next_cursor is None:
            return None
        items, before = page.items[::-1], address.link(before=page.next_cursor)
        after = address.link(after=views.cursor_at(onward, items[-1].job)) if items else None
    else:
        page = await views.page(chosen, onward, address.jobs, cursor=address.after, skip=0)
        items, before = page.items, None
        if address.after is not None:
            before = address.link(before=views.cursor_at(backward, items[0].job)) if items else address.link()
        after = address.link(after=page.next_cursor) if page.next_cursor else None
    return Listing(
        items, _total_text(page), ORDERS[onward], await _passed(views, chosen, address, items), before, after
    )


@dataclass(frozen=True, slots=True)
class Tab:
    """A tab above the list."""

    name: str
    """As it stands in the address; empty for all jobs."""
    count: str


@dataclass(frozen=True, slots=True)
class Scope:
    """What an action would be done to, if it were done to all that the list holds."""

    action: str
    count: str
    link: str
    """Of the page that asks first, with what is in the list at this moment and nothing that comes later."""


async def count_tabs(views: JobViews, address: ListAddress) -> tuple[list[Tab], list[Scope]]:
    """Return the tabs with how many jobs each has under the address' other filters, and what may be done to all."""
    counts = await views.counts(address.to_filter())
    until = await views.newest_id()
    tabs = [Tab(name, told([counts[status] for status in statuses])) for name, statuses in TABS.items()]
    scopes = []
    for action in BULK_STATUSES:
        found = [counts[status] for status in bulk_filter(address, action).status]
        if any(count.value for count in found):
            query = urlencode({**address.fields, "until_id": until})
            scopes.append(Scope(action, told(found), f"/monitor/bulk/{action}?{query}"))
    return tabs, scopes


def bulk_filter(address: ListAddress, action: str) -> JobFilter:
    """Return what of the list an action can be done to, by status; without any if it can be done to nothing there."""
    chosen, able = address.to_filter(), BULK_STATUSES[action]
    return limited(chosen, able) or replace(chosen, status=[])


def limited(chosen: JobFilter, statuses: tuple[JobStatus, ...]) -> JobFilter | None:
    """Return the filter for those of these statuses that it lets through; None when there are none."""
    left = [status for status in statuses if not chosen.status or status in chosen.status]
    return replace(chosen, status=left) if left else None


async def read_alike(views: JobViews, items: list[JobView]) -> dict[int, tuple[str | None, str]]:
    """Return of each failed job on the page the node's class in which it failed, and how many failed alike."""
    errors = {view.job.job_id: error for view in items if (error := error_of(view)) is not None}
    # Most that fail fail alike; of a page that is full of different ones the first are counted.
    kinds = list(dict.fromkeys(errors.values()))[:_KINDS]
    counts = dict(zip(kinds, await views.alike(kinds, _ALIKE), strict=True))
    return {
        job_id: (error[1], told([counts[error]]) if error in counts and counts[error].value > 1 else "")
        for job_id, error in errors.items()
    }


def error_of(view: JobView) -> tuple[str, str | None] | None:
    """Return the code of a failed job's error, and the class of the node that it is of; None for any other job."""
    job = view.job
    if job.status is not JobStatus.FAILED or job.error_code is None:
        return None
    failed = (each.node_type for each in reversed(view.attempts) if each.error_code == job.error_code)
    return job.error_code, next(failed, None)


def told(counts: list[Count]) -> str:
    """Return the sum of counts in words: exact up to `COUNTED`, and with a plus when there may be more."""
    total = sum(count.value for count in counts)
    more = total > COUNTED or not all(count.exact for count in counts)
    return f"{min(total, COUNTED):,}{'+' if more else ''}"


async def _passed(views: JobViews, chosen: JobFilter, address: ListAddress, items: list[JobView]) -> Count | None:
    if address.first:
        return Count(0, exact=True)
    if not items or chosen.searching:
        return None
    return await views.before(chosen, address.by, items[0].job)


def _total_text(page: Page) -> str:
    return told([Count(page.total, page.total_exact)])


def _text(value: Any) -> str:
    return str(value).removesuffix(".0")
