"""The audit: who did what, for admins."""

from __future__ import annotations

from typing import Any, ClassVar, Final
from urllib.parse import quote, urlencode

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.keys import AUDIT
from app.monitor.rendering import render
from app.monitor.shared_fragments import shared
from app.web.bodies import MAX_ID, read_query
from app.web.checking import check

routes: Final = web.RouteTableDef()

_KINDS: Final = {"job": "jobs", "worker": "workers", "backend": "backends", "key": "keys"}


class AuditAddress(BaseModel):
    """What stands in the address of the audit. Empty means absent, as browsers send the fields of a form."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore", frozen=True)

    actor: str | None = Field(None, max_length=255)
    action: str | None = Field(None, max_length=32)
    target: str | None = Field(None, max_length=1000)
    address: str | None = Field(None, max_length=64)
    older: int | None = Field(None, ge=0, le=MAX_ID)
    """The page that begins after this entry, newest first."""
    newer: int | None = Field(None, ge=0, le=MAX_ID)
    """The page that ends before it."""

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value} if isinstance(data, dict) else data

    def link(self, **changes: str | int | None) -> str:
        """Return the address with these changes, on the first page unless they name another."""
        values = self.model_dump() | {"older": None, "newer": None} | changes
        query = urlencode({name: value for name, value in values.items() if value is not None})
        return f"/monitor/audit?{query}" if query else "/monitor/audit"


@routes.get("/audit")
@routes.get("/audit/")
@shared
async def show_audit(request: web.Request) -> web.Response:
    """Show what was done by hand, the newest first."""
    address = check(AuditAddress, read_query(request.query), pointer="")
    page = await request.config_dict[AUDIT].page(
        actor=address.actor,
        action=address.action,
        target=address.target,
        address=address.address,
        before=address.older,
        after=address.newer,
    )
    context: dict[str, Any] = {
        "address": address,
        "page": page,
        "older": address.link(older=page.entries[-1].id) if page.older and page.entries else None,
        "newer": address.link(newer=page.entries[0].id) if page.newer and page.entries else None,
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
