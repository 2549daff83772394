"""Handler of `/api/v1/audit`: what was done by hand, for admins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from app.keys import AUDIT
from app.storage.audit import Place
from app.storage.cursors import read_cursor, write_cursor
from app.web.audit_messages import AuditEntryAnswer, AuditListAnswer, AuditQuery
from app.web.bodies import read_query
from app.web.checking import check
from app.web.responses import answered

if TYPE_CHECKING:
    from app.storage.audit import Entry

routes: Final = web.RouteTableDef()

ALL: Final = "/api/v1/audit"
_NEWEST: Final = "-timestamp"


@routes.get(ALL)
async def list_entries(request: web.Request) -> web.Response:
    """List entries, the newest first."""
    asked = check(AuditQuery, read_query(request.query), pointer="")
    before = place_at(asked.cursor) if asked.cursor is not None else None
    page = await request.app[AUDIT].page(asked.chosen, before=before, limit=asked.limit)
    cursor = cursor_at(page.entries[-1].place) if page.older and page.entries else None
    return answered(AuditListAnswer(items=[_answer(entry) for entry in page.entries], next_cursor=cursor))


def cursor_at(place: Place) -> str:
    """Return the cursor after, or before, an entry: the number of one is even, and of a job's odd."""
    return write_cursor(_NEWEST, place.at, 2 * place.id + place.of_job)


def place_at(cursor: str) -> Place:
    """Return the place of a cursor; raises `InvalidRequest` for one that is none."""
    at, number = read_cursor(cursor, _NEWEST, int)
    return Place(at, bool(number % 2), number // 2)


def _answer(entry: Entry) -> AuditEntryAnswer:
    told = {name: getattr(entry, name) for name in AuditEntryAnswer.model_fields if hasattr(entry, name)}
    return AuditEntryAnswer(entry_id=entry.id if not entry.of_job else None, timestamp=entry.at, **told)
