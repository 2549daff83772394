"""Handler of `/api/v1/audit`: what was done by hand, for admins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from app.keys import AUDIT
from app.storage.cursors import read_cursor, write_cursor
from app.web.audit_messages import AuditEntryAnswer, AuditListAnswer, AuditQuery
from app.web.bodies import read_query
from app.web.checking import check
from app.web.responses import answered

if TYPE_CHECKING:
    from app.storage.audit import Entry

routes: Final = web.RouteTableDef()

ALL: Final = "/api/v1/audit"
_NEWEST: Final = "-entry_id"


@routes.get(ALL)
async def list_entries(request: web.Request) -> web.Response:
    """List entries, the newest first."""
    asked = check(AuditQuery, read_query(request.query), pointer="")
    page = await request.app[AUDIT].page(
        actor=asked.actor,
        action=asked.action,
        target=asked.target,
        address=asked.address,
        until=asked.before,
        before=read_cursor(asked.cursor, _NEWEST, int)[1] if asked.cursor is not None else None,
        limit=asked.limit,
    )
    last = page.entries[-1] if page.older and page.entries else None
    cursor = write_cursor(_NEWEST, last.at, last.id) if last is not None else None
    return answered(AuditListAnswer(items=[_answer(entry) for entry in page.entries], next_cursor=cursor))


def _answer(entry: Entry) -> AuditEntryAnswer:
    told = {name: getattr(entry, name) for name in AuditEntryAnswer.model_fields if hasattr(entry, name)}
    return AuditEntryAnswer(entry_id=entry.id, timestamp=entry.at, **told)
