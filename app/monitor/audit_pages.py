"""The audit: who did what, for admins."""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal
from urllib.parse import quote, urlencode

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.keys import AUDIT
from app.monitor.listing import Cursor, Moment
from app.monitor.rendering import render
from app.monitor.shared_fragments import shared
from app.storage.audit import Chosen
from app.web.audit import cursor_at, place_at
from app.web.bodies import read_query
from app.web.checking import check

routes: Final = web.RouteTableDef()

_KINDS: Final = {"job": "jobs", "worker": "workers", "backend": "backends", "key": "keys"}


class AuditAddress(BaseModel):
    """What stands in the address of the audit. Empty means absent, as browsers send the fields of a form."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    actor: str | None = Field(None, max_length=255)
    action: str | None = Field(None, max_length=32)
    target: str | None = Field(None, max_length=1000)
    address: str | None = Field(None, max_length=64)
    since: Moment | None = Field(None, alias="from")
    until: Moment | None = Field(None, alias="to")
    sent: Literal["no"] | None = None
    """Whether without the jobs that were sent by REST, which may be most of it."""
    older: Cursor | None = None
    """Cursor of the page that begins after it, newest first."""
    newer: Cursor | None = None
    """Cursor of the page that ends before it."""

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value} if isinstance(data, dict) else data

    @property
    def times(self) -> dict[str, str]:
        """From when to when, as the fields of browsers have it, by name in the address."""
        values = self.model_dump(mode="json", by_alias=True)
        return {name: (values[name] or "")[:19] for name in ("from", "to")}

    @property
    def chosen(self) -> Chosen:
        """What the list is narrowed to."""
        return Chosen(
            actor=self.actor,
            action=self.action,
            target=self.target,
            address=self.address,
            since=self.since,
            until=self.until,
            sent_jobs=self.sent is None,
        )

    def link(self, **changes: str | None) -> str:
        """Return the address with these changes, on the first page unless they name another."""
        values = self.model_dump(mode="json", by_alias=True) | {"older": None, "newer": None} | changes
        query = urlencode({name: value for name, value in values.items() if value is not None})
        return f"/monitor/audit?{query}" if query else "/monitor/audit"


@routes.get("/audit")
@routes.get("/audit/")
@shared
async def show_audit(request: web.Request) -> web.Response:
    """Show what was done by hand, the newest first."""
    address = check(AuditAddress, read_query(request.query), pointer="")
    page = await request.config_dict[AUDIT].page(
        address.chosen,
        before=place_at(address.older) if address.older is not None else None,
        after=place_at(address.newer) if address.newer is not None else None,
    )
    context: dict[str, Any] = {
        "address": address,
        "page": page,
        "older": address.link(older=cursor_at(page.entries[-1].place)) if page.older and page.entries else None,
        "newer": address.link(newer=cursor_at(page.entries[0].place)) if page.newer and page.entries else None,
        "link_to": _link_to,
    }
    return await render(request, "audit.html", context)


def _link_to(target: str) -> str | None:
    """Return the address of what was acted on, `job 17` or `backend gpu-a`; None of what has no page."""
    kind, _, name = target.partition(" ")
    if kind not in _KINDS or not name:
        return None
    # Workers, backends and keys are each on one page.
    return f"/monitor/jobs/{quote(name)}" if kind == "job" else f"/monitor/{_KINDS[kind]}#{kind}-{quote(name)}"
