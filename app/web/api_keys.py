"""Handlers of `/api/v1/keys`: admins make, change and revoke keys."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from app.domain.errors import KeyNotFound
from app.domain.limits import parse_limits
from app.keys import KEY_MANAGEMENT, KEYS
from app.storage.cursors import read_cursor, write_cursor
from app.web.auditing import noted
from app.web.bodies import MAX_ID, read_object, read_query
from app.web.checking import check
from app.web.key_messages import (
    KeyAnswer,
    KeyChangeRequest,
    KeyListAnswer,
    KeyListQuery,
    KeyRequest,
    KeyRevokeQuery,
    MadeKeyAnswer,
)
from app.web.requests import NoQuery
from app.web.responses import answered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.storage.keys import Key

routes: Final = web.RouteTableDef()

ALL: Final = "/api/v1/keys"
ONE: Final = ALL + r"/{key_id:\d+}"
_NEWEST: Final = "-key_id"


@routes.get(ALL)
async def list_keys(request: web.Request) -> web.Response:
    """List keys, the newest first."""
    asked = check(KeyListQuery, read_query(request.query), pointer="")
    before = read_cursor(asked.cursor, _NEWEST, int)[1] if asked.cursor is not None else None
    page = await request.app[KEYS].page(name=asked.name, owner=asked.owner, before=before, limit=asked.limit)
    last = page.keys[-1] if page.older and page.keys else None
    cursor = write_cursor(_NEWEST, last.created_at, last.id) if last is not None else None
    return answered(KeyListAnswer(items=[key_answer(key) for key in page.keys], next_cursor=cursor))


@routes.post(ALL)
async def create_key(request: web.Request) -> web.Response:
    """Make a key, and show it, once."""
    check(NoQuery, read_query(request.query), pointer="")
    asked = check(KeyRequest, await read_object(request))
    limits = parse_limits(asked.limits, "/limits")
    making = request.app[KEY_MANAGEMENT].make(
        asked.name, asked.role, owner=asked.owner, expires_at=asked.expires_at, limits=limits
    )
    given = as_noted(asked.model_dump(exclude={"name", "limits"}, exclude_none=True) | {"limits": limits or None})
    secret, key = await noted(request, "key_add", f"key {asked.name}", making, **given)
    answer = MadeKeyAnswer(**_values(key), key=secret)
    return answered(answer, HTTPStatus.CREATED, **{"Location": f"{ALL}/{key.id}", "Cache-Control": "no-store"})


@routes.get(ONE)
async def get_key(request: web.Request) -> web.Response:
    """Show a key."""
    check(NoQuery, read_query(request.query), pointer="")
    return answered(key_answer(await request.app[KEYS].get(key_id_of(request))))


@routes.patch(ONE)
async def change_key(request: web.Request) -> web.Response:
    """Change limits and expiry of a key, or take its revocation back."""
    check(NoQuery, read_query(request.query), pointer="")
    key_id = key_id_of(request)
    asked = check(KeyChangeRequest, await read_object(request))
    values: dict[str, Any] = {}
    if "limits" in asked.model_fields_set:
        values["limits"] = parse_limits(asked.limits, "/limits")
    if "expires_at" in asked.model_fields_set:
        values["expires_at"] = asked.expires_at
    if "revoked" in asked.model_fields_set:
        values["revoked_at"] = None
    key = await request.app[KEYS].get(key_id)
    if values:
        action = "key_restore" if values.keys() == {"revoked_at"} else "key_change"
        changing = request.app[KEY_MANAGEMENT].change(key_id, **values)
        before = as_noted({name: getattr(key, name) for name in values})
        key = await noted(request, action, f"key {key.name}", changing, **as_noted(values), before=before)
    return answered(key_answer(key))


@routes.delete(ONE)
async def revoke_key(request: web.Request) -> web.Response:
    """Revoke a key."""
    asked = check(KeyRevokeQuery, read_query(request.query), pointer="")
    key = await request.app[KEYS].get(key_id_of(request))
    await noted(request, "key_revoke", f"key {key.name}", request.app[KEY_MANAGEMENT].revoke(key.id, force=asked.force))
    return web.Response(status=HTTPStatus.NO_CONTENT)


def key_answer(key: Key) -> KeyAnswer:
    """Return a key as it is told of."""
    return KeyAnswer(**_values(key))


def key_id_of(request: web.Request) -> int:
    """Return the number of the key in the address; raises `KeyNotFound` for one that no key can have."""
    digits = request.match_info["key_id"]
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else MAX_ID + 1
    if number > MAX_ID:
        raise KeyNotFound(f"There is no key {digits[:40]}.")
    return number


def as_noted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is set of a key as an entry of the audit keeps it."""
    return {name: each.isoformat() if isinstance(each, datetime) else each for name, each in values.items()}


def state_of(key: Key, now: datetime) -> str:
    """Return whether a key opens anything: `active`, `expired` or `revoked`."""
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "active"


def _values(key: Key) -> dict[str, Any]:
    told = {name: getattr(key, name) for name in KeyAnswer.model_fields if hasattr(key, name)}
    return told | {"key_id": key.id, "state": state_of(key, datetime.now(UTC))}
