"""The secret by which links to outputs are signed: one row, the same for all servers and workers."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from app.storage.statements import Statement

if TYPE_CHECKING:
    from app.storage.database import Database

_BYTES: Final = 32
_READ: Final = Statement("SELECT secret FROM link_secrets")
# Of two that make it at the same time the second one gets what the first one has made.
_MAKE: Final = Statement("""
    INSERT INTO link_secrets (id, secret) VALUES (1, :secret)
    ON CONFLICT (id) DO UPDATE SET id = excluded.id RETURNING secret""")
_RENEW: Final = Statement("""
    INSERT INTO link_secrets (id, secret) VALUES (1, :secret)
    ON CONFLICT (id) DO UPDATE SET secret = excluded.secret, made_at = now()""")


class LinkSecretStore:
    """Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> bytes:
        """Return the secret; it is made when it is first asked for."""
        async with self._database.driver() as connection:
            found: bytes | None = await _READ.value(connection)
            if found is None:
                found = await _MAKE.value(connection, secret=secrets.token_bytes(_BYTES))
        return bytes(found or b"")

    async def renew(self) -> None:
        """Make another secret: what was signed before is wrong from then on."""
        async with self._database.driver() as connection:
            await _RENEW.value(connection, secret=secrets.token_bytes(_BYTES))
