"""Keys made, listed, revoked and restored at the command line: the first one, and the way back in."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from app.commands.noting import note
from app.commands.terminal import show, table
from app.domain.access import Role
from app.domain.errors import GenonautError, InvalidRequest
from app.domain.key_format import name_fault, owner_fault, parse_expiry
from app.domain.limits import parse_limits
from app.embedded.shared import State
from app.environment import with_servers
from app.messaging.channels import Names
from app.messaging.events import Events
from app.messaging.redis_connection import close, make_redis
from app.services.access import KNOWN_S, Access
from app.storage.audit import Audit
from app.storage.database import Database, make_engine
from app.storage.keys import KeyStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from app.settings import Settings

log = logging.getLogger(__name__)

DEFAULT_ROLE: Final = Role.USER
"""The one that sees and changes least of others."""


class WrongCommand(GenonautError):
    """The command lacks something, or has what makes no sense."""

    code = "wrong_command"


@dataclass(frozen=True, slots=True)
class _Tools:
    """What commands about keys work with."""

    keys: KeyStore
    audit: Audit
    settings: Settings
    redis_runs: bool
    """Whether there may be servers that are to learn of a change: those that share an embedded Redis keep it going."""

    async def tell(self, key_id: int) -> None:
        """Have running servers look at a key anew; those that are not reached do so within `KNOWN_S`."""
        if not self.redis_runs:
            return
        redis = make_redis(self.settings, patient=False)
        try:
            events = Events(redis, Names(self.settings.redis_namespace))
            if not await Access(self.keys, events, read_only=False).tell_of_change(key_id):
                log.warning("running servers could not be told: they know it within %g s", KNOWN_S)
        finally:
            await close(redis)

    async def note(self, action: str, name: str, **data: Any) -> None:
        """Note what was done to the key of this name."""
        await note(self.audit, action, f"key {name}", **data)


async def add(settings: Settings, name: str, role: str, owner: str = "", expires: str = "", limits: str = "") -> int:
    """Make a key and print it, once."""
    if (fault := name_fault(name)) is not None:
        raise WrongCommand(f"NAME {fault}: NAME=ann.")
    if owner and (fault := owner_fault(owner)) is not None:
        raise WrongCommand(f"OWNER {fault}.")
    role = role or DEFAULT_ROLE
    if role not in list(Role):
        raise WrongCommand(f"ROLE can be {', '.join(Role)}, and not {role!r}.")
    expires_at = _expiry(expires)
    own_limits = _limits(limits)
    async with _tools(settings) as tools:
        first = not await tools.keys.closed()
        secret, key = await tools.keys.make(name, Role(role), owner or None, expires_at, own_limits, keep_admin=False)
        await tools.tell(key.id)
        given = {"role": key.role, "owner": key.owner, "expires_at": key.expires_at, "limits": key.limits or None}
        await tools.note("key_add", name, **_plain(given))
    show(secret)
    until = f", until {_minute(key.expires_at)}" if key.expires_at is not None else ""
    text = f"This is {name}'s key, shown only now. Its role is {role}, and its jobs are of {key.owner}{until}."
    if first:
        text += " From now on the service needs a key, REST, sockets and page alike."
    show(text)
    return 0


async def list_all(settings: Settings) -> int:
    """Show the keys, without what opens anything."""
    async with _tools(settings) as tools:
        found = await tools.keys.all()
    if not found:
        show("There is no key: the service is open to every user of this machine.")
        return 0
    rows = [
        (
            key.name,
            key.role,
            key.owner,
            _minute(key.created_at),
            _minute(key.expires_at),
            _minute(key.last_used_at),
            key.last_used_from or "",
            _minute(key.revoked_at) if key.revoked_at else "",
            " ".join(f"{name}={'none' if value is None else value}" for name, value in key.limits.items()),
        )
        for key in found
    ]
    show(table(("NAME", "ROLE", "OWNER", "MADE", "EXPIRES", "LAST USED", "FROM", "REVOKED", "LIMITS"), rows))
    return 0


async def revoke(settings: Settings, name: str) -> int:
    """Revoke a key."""
    async with _tools(settings) as tools:
        key = await tools.keys.end((await tools.keys.named(name)).id, keep_admin=False)
        await tools.tell(key.id)
        await tools.note("key_revoke", name)
        admin_left = await tools.keys.has_admin()
    show(f"{name}'s key opens nothing any more, and its sessions have ended.")
    if not admin_left:
        show(f"No key of an admin is left. Make one: make keys-add-{settings.genonaut_env} NAME=... ROLE=admin")
    return 0


async def restore(settings: Settings, name: str) -> int:
    """Take back a revocation."""
    async with _tools(settings) as tools:
        key = await tools.keys.change((await tools.keys.named(name)).id, revoked_at=None)
        await tools.tell(key.id)
        await tools.note("key_restore", name)
    expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    show(f"{name}'s key has expired: {_minute(key.expires_at)}." if expired else f"{name}'s key opens again.")
    return 0


def _expiry(text: str) -> datetime | None:
    try:
        return parse_expiry(text, datetime.now(UTC)) if text else None
    except ValueError as error:
        raise WrongCommand(f"EXPIRES {error}.") from None


def _limits(text: str) -> Mapping[str, Any]:
    try:
        return parse_limits(text)
    except InvalidRequest as error:
        raise WrongCommand(f"LIMITS: {error}") from error


@asynccontextmanager
async def _tools(settings: Settings) -> AsyncIterator[_Tools]:
    redis_runs = bool(settings.redis_url.get_secret_value()) or _embedded_redis_runs(settings)
    async with with_servers(settings, redis=redis_runs) as complete:
        database = Database(make_engine(complete))
        try:
            await database.check_schema(f"make migrate-{settings.genonaut_env}")
            yield _Tools(KeyStore(database), Audit(database), complete, redis_runs)
        finally:
            await database.close()


def _embedded_redis_runs(settings: Settings) -> bool:
    process = State.read(settings.data_path.resolve() / "redis" / "state.json").process
    return process is not None and process.is_alive()


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: each.isoformat() if isinstance(each, datetime) else each
        for name, each in given.items()
        if each is not None
    }


def _minute(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC" if at else "never"
