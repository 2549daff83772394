"""Keys, for admins: who has one, when and from where it was last used; made, limited, revoked and restored."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from pydantic import BaseModel, Field

from app.domain.access import Role
from app.domain.errors import InvalidRequest, KeyTaken, NoAdminLeft
from app.domain.key_format import MOST_NAME_CHARS, name_fault, owner_fault, parse_expiry
from app.domain.limits import parse_limits
from app.keys import AUDIT, KEY_MANAGEMENT, KEYS
from app.monitor.actions import lead_back
from app.monitor.rendering import render
from app.web.api_keys import as_noted, key_id_of, state_of
from app.web.auditing import note, noted
from app.web.bodies import MAX_ID, read_form, read_query
from app.web.checking import check

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.storage.keys import Key

routes: Final = web.RouteTableDef()

FIELDS: Final = ("name", "role", "owner", "expires", "limits")
MOST_CHARS: Final = 1000
"""Of what is filled into a field."""


class KeysAddress(BaseModel):
    """What stands in the address of the page."""

    older: int | None = Field(None, ge=0, le=MAX_ID)
    """The page that begins after this key, newest first."""
    newer: int | None = Field(None, ge=0, le=MAX_ID)
    """The page that ends before it."""


@dataclass(frozen=True, slots=True)
class KeyForm:
    """What is filled in, and what is wrong with it."""

    values: dict[str, str]
    faults: dict[str, str] = field(default_factory=dict)

    def read(self, name: str, read: Callable[[str], Any]) -> Any:
        """Return what a field says; None of one that is empty or wrong, which is blamed then."""
        text = self.values[name]
        try:
            return read(text) if text else None
        except InvalidRequest as error:
            self.faults[name] = str(error)
        except ValueError as error:
            self.faults[name] = f"It {error}."
        return None

    def blame(self, name: str, fault: str | None) -> None:
        """Say what is wrong with a field, if anything is."""
        if fault is not None:
            self.faults[name] = f"It {fault}."


@dataclass(frozen=True, slots=True)
class ShownKey:
    """A key in the list."""

    key: Key
    state: str
    form: KeyForm
    """What is filled in to change it: its present limits, or what was sent and is wrong."""

    @property
    def limits(self) -> str:
        """The limits that are not the defaults, as they are written."""
        return _written(self.key)


@routes.get("/keys")
@routes.get("/keys/")
async def show_keys(request: web.Request) -> web.Response:
    """Show the keys, the newest first, and the form that makes one."""
    return await _show(request, _empty())


@routes.post("/keys")
async def make_key(request: web.Request) -> web.Response:
    """Make a key, and show it in this answer alone: it stands in no address, cookie or log."""
    sent = await read_form(request)
    form = KeyForm({name: str(sent.get(name, "")).strip()[:MOST_CHARS] for name in FIELDS})
    name, owner, now = form.values["name"], form.values["owner"] or None, datetime.now(UTC)
    form.blame("name", name_fault(name))
    form.blame("owner", owner_fault(owner) if owner else None)
    role = form.read("role", _role) or Role.USER
    expires_at = form.read("expires", lambda text: parse_expiry(text, now))
    limits = form.read("limits", parse_limits) or {}
    if form.faults:
        return await _show(request, form, HTTPStatus.UNPROCESSABLE_ENTITY)
    making = request.config_dict[KEY_MANAGEMENT].make(name, role, owner=owner, expires_at=expires_at, limits=limits)
    given = {"role": role, "owner": owner, "expires_at": expires_at, "limits": limits or None}
    given = {each: value for each, value in given.items() if value is not None}
    try:
        secret, key = await noted(request, "key_add", f"key {name}", making, **as_noted(given))
    except KeyTaken as error:
        form.faults["name"] = str(error)
    except NoAdminLeft:
        form.faults["role"] = "The first key closes the service, so it is to be an admin's: make one of the role admin."
    else:
        return await render(request, "key_made.html", {"secret": secret, "key": key})
    return await _show(request, form, HTTPStatus.CONFLICT)


@routes.post("/keys/{key_id}/{action:revoke|restore}")
async def change_key(request: web.Request) -> web.Response:
    """Revoke a key, but not the last one of an admin, or take that back."""
    action, management = request.match_info["action"], request.config_dict[KEY_MANAGEMENT]
    key = await request.config_dict[KEYS].get(key_id_of(request))
    changing = management.revoke(key.id) if action == "revoke" else management.change(key.id, revoked_at=None)
    try:
        await noted(request, f"key_{action}", f"key {key.name}", changing)
    except NoAdminLeft:
        code = "key_needed"
    else:
        code = f"key_{action}d"
    return await lead_back(request, code, key.id, otherwise="/monitor/keys")


@routes.post("/keys/{key_id}/limits")
async def limit_key(request: web.Request) -> web.Response:
    """Set the limits of a key that are not the defaults, or undo what an entry of the audit tells of."""
    sent, key = await read_form(request), await request.config_dict[KEYS].get(key_id_of(request))
    form = KeyForm({"limits": str(sent.get("limits", "")).strip()[:MOST_CHARS]})
    undone = str(sent.get("entry", ""))
    limits = await _limits_before(request, key, undone) if undone else form.read("limits", parse_limits) or {}
    if limits is None:
        return await lead_back(request, "key_not_limited", key.id, otherwise="/monitor/keys")
    if form.faults:
        return await _render(request, _empty(), [_shown(key, form)], HTTPStatus.UNPROCESSABLE_ENTITY)
    await request.config_dict[KEY_MANAGEMENT].change(key.id, limits=limits)
    before = {"limits": dict(key.limits)}
    entry = await note(request, "key_change", f"key {key.name}", "done", limits=limits, before=before)
    return await lead_back(request, "key_limited", key.id, entry or 0, otherwise="/monitor/keys")


async def _limits_before(request: web.Request, key: Key, entry: str) -> dict[str, Any] | None:
    """Return the limits that a key had before the change of which this entry tells; None if it tells of none."""
    number = int(entry) if entry.isascii() and entry.isdigit() and len(entry) < 19 else 0
    found = await request.config_dict[AUDIT].entry(number)
    if found is None or (found.action, found.target) != ("key_change", f"key {key.name}"):
        return None
    before = found.data.get("before", {})
    return parse_limits(before["limits"]) if "limits" in before else None


async def _show(request: web.Request, form: KeyForm, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    address = check(KeysAddress, read_query(request.query), pointer="")
    page = await request.config_dict[KEYS].page(before=address.older, after=address.newer)
    older = f"/monitor/keys?older={page.keys[-1].id}" if page.older and page.keys else None
    newer = f"/monitor/keys?newer={page.keys[0].id}" if page.newer and page.keys else None
    return await _render(request, form, [_shown(key) for key in page.keys], status, older=older, newer=newer)


async def _render(
    request: web.Request,
    form: KeyForm,
    shown: list[ShownKey],
    status: HTTPStatus,
    *,
    older: str | None = None,
    newer: str | None = None,
) -> web.Response:
    context: dict[str, Any] = {
        "form": form,
        "shown": shown,
        "not_changed": any(each.form.faults for each in shown),
        "roles": list(Role),
        "most_chars": MOST_NAME_CHARS,
        "older": older,
        "newer": newer,
    }
    return await render(request, "keys.html", context, status=status)


def _shown(key: Key, form: KeyForm | None = None) -> ShownKey:
    return ShownKey(key, state_of(key, datetime.now(UTC)), form or KeyForm({"limits": _written(key)}))


def _empty() -> KeyForm:
    return KeyForm(dict.fromkeys(FIELDS, ""))


def _written(key: Key) -> str:
    return " ".join(f"{name}={'none' if value is None else value}" for name, value in key.limits.items())


def _role(text: str) -> Role:
    if text not in list(Role):
        raise ValueError(f"is one of {', '.join(Role)}")
    return Role(text)
