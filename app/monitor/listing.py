"""The list of jobs: its address, which holds filter and place, and the page that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.domain.job import JobStatus
from app.storage.job_views import JobFilter

if TYPE_CHECKING:
    from app.storage.job_views import JobViews, Page
    from app.storage.whole_jobs import JobView

PAGE_JOBS: Final = 50


class ListAddress(BaseModel):
    """What stands in the address of the list. Empty means absent, as browsers send the fields of a form."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore", frozen=True)

    status: JobStatus | None = None
    q: str | None = Field(None, max_length=1000)
    user: str | None = Field(None, max_length=255)
    model: str | None = Field(None, max_length=255)
    backend: str | None = Field(None, max_length=255)
    older: str | None = Field(None, max_length=1000)
    """Cursor of the page that begins after it, newest first."""
    newer: str | None = Field(None, max_length=1000)
    """Cursor of the page that ends before it."""

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value} if isinstance(data, dict) else data

    @property
    def first(self) -> bool:
        """Whether this is the page on which new jobs appear."""
        return self.older is None and self.newer is None

    @property
    def narrowed_by(self) -> dict[str, str]:
        """The filters that are set, but for the status, which has its tabs."""
        names = ("q", "user", "model", "backend")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def link(self, **changes: str | None) -> str:
        """Return the address with these changes, on the first page unless they name another."""
        values = self.model_dump(mode="json") | {"older": None, "newer": None} | changes
        query = urlencode({name: value for name, value in values.items() if value is not None})
        return f"/monitor/?{query}" if query else "/monitor/"

    def to_filter(self) -> JobFilter:
        """Return what the list is narrowed to."""
        return JobFilter(
            status=[self.status] if self.status else (),
            q=self.q,
            user_id=self.user,
            checkpoint_model=self.model,
            backend=self.backend,
        )


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of the list, newest first, with the addresses of its neighbours."""

    items: list[JobView]
    total: str
    """How many jobs the list has, `10,000+` when it is not known more exactly."""
    newer: str | None
    older: str | None


async def read_listing(views: JobViews, address: ListAddress) -> Listing | None:
    """Return the page of this address; None when going newer has reached the top, where the first page belongs.

    Raises
    ------
    DatabaseUnavailable, InvalidRequest
    """
    chosen = address.to_filter()
    if address.newer is not None:
        page = await views.page(chosen, "created_at", PAGE_JOBS, cursor=address.newer, skip=0)
        if page.next_cursor is None:
            return None
        older = address.link(older=views.cursor_at("-created_at", page.items[0].job)) if page.items else None
        return Listing(page.items[::-1], _told(page), address.link(newer=page.next_cursor), older)
    page = await views.page(chosen, "-created_at", PAGE_JOBS, cursor=address.older, skip=0)
    newer = None
    if address.older is not None:
        newer = address.link(newer=views.cursor_at("created_at", page.items[0].job)) if page.items else address.link()
    older_link = address.link(older=page.next_cursor) if page.next_cursor else None
    return Listing(page.items, _told(page), newer, older_link)


def _told(page: Page) -> str:
    return f"{page.total:,}" if page.total_exact else f"{page.total:,}+"
