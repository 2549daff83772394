"""What is set of users who share the backends: their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.storage.statements import Statement

if TYPE_CHECKING:
    from app.storage.database import Database

DEFAULT_WEIGHT: Final = 1.0
"""Of users of whom none is set."""
MOST_LISTED: Final = 1000
_SET: Final = Statement("""
    INSERT INTO tenants (tenant, weight) VALUES (:tenant::text, :weight::float8)
    ON CONFLICT (tenant) DO UPDATE SET weight = EXCLUDED.weight""")
_FORGET: Final = Statement("DELETE FROM tenants WHERE tenant = :tenant::text RETURNING tenant")
_ALL: Final = Statement("SELECT tenant, weight FROM tenants ORDER BY tenant LIMIT :most::int")


class Tenants:
    """Weights in PostgreSQL. Methods raise `DatabaseUnavailable` while it is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def set_weight(self, tenant: str, weight: float) -> None:
        """Set the weight by which the jobs count that the user sends from now on; of the default nothing is kept."""
        async with self._database.driver() as connection:
            if weight == DEFAULT_WEIGHT:
                await _FORGET.rows(connection, tenant=tenant)
            else:
                await _SET.rows(connection, tenant=tenant, weight=weight)

    async def weights(self) -> dict[str, float]:
        """Return user → weight of the first `MOST_LISTED` who have not the default, by name."""
        async with self._database.driver() as connection:
            return {row["tenant"]: row["weight"] for row in await _ALL.rows(connection, most=MOST_LISTED)}
