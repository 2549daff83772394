"""Keys of the page: made, listed, revoked."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from app.commands.terminal import show, table
from app.domain.access import Role
from app.domain.errors import GenonautError
from app.environment import with_servers
from app.storage.database import Database, make_engine
from app.storage.keys import KeyStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.settings import Settings


class WrongCommand(GenonautError):
    """The command lacks something, or has what makes no sense."""

    code = "wrong_command"


async def add(settings: Settings, name: str, role: str) -> int:
    """Make a key and print it, once."""
    if not 1 <= len(name) <= 255 or not name.isprintable():
        raise WrongCommand("A key needs a name of 1 to 255 characters: NAME=ann.")
    if role not in list(Role):
        raise WrongCommand(f"ROLE can be {', '.join(Role)}, and not {role!r}.")
    async with _keys(settings) as keys:
        first = not await keys.closed()
        secret = await keys.add(name, Role(role))
    show(secret)
    print_note = f"This is {name}'s key, shown only now. It signs in to the page as {role}."
    show(f"{print_note} From now on the page needs a key." if first else print_note)
    return 0


async def list_all(settings: Settings) -> int:
    """Show the keys."""
    async with _keys(settings) as keys:
        found = await keys.all()
    if not found:
        show("There is no key: the page is open to every user of this machine.")
        return 0
    rows = [
        (
            key.name,
            key.role,
            _day(key.created_at),
            _day(key.last_used_at),
            _day(key.revoked_at) if key.revoked_at else "",
        )
        for key in found
    ]
    show(table(("NAME", "ROLE", "MADE", "LAST USED", "REVOKED"), rows))
    return 0


async def revoke(settings: Settings, name: str) -> int:
    """Revoke a key."""
    async with _keys(settings) as keys:
        await keys.revoke(name)
    show(f"{name}'s key opens nothing any more, and its sessions have ended.")
    return 0


@asynccontextmanager
async def _keys(settings: Settings) -> AsyncIterator[KeyStore]:
    async with with_servers(settings, redis=False) as complete:
        database = Database(make_engine(complete))
        try:
            await database.check_schema(f"make migrate-{settings.genonaut_env}")
            yield KeyStore(database)
        finally:
            await database.close()


def _day(at: object) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC" if at else "never"
