"""Links to outputs: ended all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.commands.noting import note
from app.commands.terminal import show
from app.environment import with_servers
from app.services.links import KNOWN_S
from app.storage.audit import Audit
from app.storage.database import Database, make_engine
from app.storage.link_secret import LinkSecretStore

if TYPE_CHECKING:
    from app.settings import Settings


async def renew(settings: Settings) -> int:
    """Make another secret, so that no link of before works any more."""
    async with with_servers(settings, redis=False) as complete:
        database = Database(make_engine(complete))
        try:
            await database.check_schema(f"make migrate-{settings.genonaut_env}")
            await LinkSecretStore(database).renew()
            await note(Audit(database), "links_renew", "links")
        finally:
            await database.close()
    show(f"Links that were given out so far stop working within {KNOWN_S:g} s; answers bring new ones.")
    return 0
