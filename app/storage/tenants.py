"""What is set of users who share the backends: their weights, and which of them are paused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.storage.fair_tags import waiting_owners
from app.storage.pauses import EVERYBODY, pause_in
from app.storage.quotas import waiting_of
from app.storage.statements import Statement

if TYPE_CHECKING:
    from app.domain.pauses import Pause
    from app.storage.database import Database

DEFAULT_WEIGHT: Final = 1.0
"""Of users of whom none is set."""
MOST_LISTED: Final = 1000
MOST_COUNTED: Final = 1000
"""Of the waiting jobs of each user that are due no more are counted."""
# In one statement, whose first part finds the weight of before.
_SET: Final = Statement("""
    WITH before AS MATERIALIZED (SELECT weight FROM tenants WHERE tenant = :tenant::text), kept AS (
        INSERT INTO tenants (tenant, weight) VALUES (:tenant, :weight::float8)
        ON CONFLICT (tenant) DO UPDATE SET weight = EXCLUDED.weight
    )
    SELECT weight FROM before""")
_FORGET: Final = Statement("DELETE FROM tenants WHERE tenant = :tenant::text RETURNING weight")
_ALL: Final = Statement("SELECT tenant, weight FROM tenants ORDER BY tenant LIMIT :most::int")
_RUNNING: Final = "(SELECT count(*) FROM generation_jobs WHERE status = 'running' AND user_id = named.tenant)"


def _standings(named: str) -> Statement:
    """Return the statement that tells of each of the users that `named` selects where it stands."""
    return Statement(f"""
        SELECT named.tenant, COALESCE(weight, {DEFAULT_WEIGHT}) AS weight, paused_at, paused_by, reason,
            {waiting_of("named.tenant", str(MOST_COUNTED))} AS waiting, {_RUNNING} AS running
        FROM ({named}) AS named LEFT JOIN tenants ON tenants.tenant = named.tenant
            LEFT JOIN pauses ON pauses.tenant = named.tenant
        ORDER BY named.tenant""")  # noqa: S608  # of our own words only


_OF_ONE: Final = _standings("SELECT :tenant::text AS tenant")
_STEERED: Final = _standings("""
    (SELECT tenant FROM tenants WHERE tenant > :after::text ORDER BY tenant LIMIT :most::int)
    UNION (SELECT tenant FROM pauses WHERE tenant > :after ORDER BY tenant LIMIT :most)
    ORDER BY tenant LIMIT :most""")
_PRESENT: Final = _standings(f"""
    WITH RECURSIVE {waiting_owners()}
    (SELECT user_id AS tenant FROM waiting WHERE user_id IS NOT NULL LIMIT :most::int)
    UNION (SELECT user_id FROM generation_jobs WHERE status = 'running' LIMIT :most)
    UNION (SELECT tenant FROM tenants ORDER BY tenant LIMIT :most)
    UNION (SELECT tenant FROM pauses WHERE tenant <> '{EVERYBODY}' ORDER BY tenant LIMIT :most)""")  # noqa: S608


@dataclass(frozen=True, slots=True)
class TenantStanding:
    """What is set of a user, and what it has in the queue."""

    user_id: str
    weight: float
    pause: Pause | None
    """Its own; everybody's is another."""
    waiting: int
    running: int


class Tenants:
    """Users in PostgreSQL. Methods raise `DatabaseUnavailable` while it is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def set_weight(self, tenant: str, weight: float) -> float:
        """Set the weight by which the jobs count that the user sends from now on, and return the one of before.

        Of the default nothing is kept.
        """
        async with self._database.driver() as connection:
            if weight == DEFAULT_WEIGHT:
                before = await _FORGET.value(connection, tenant=tenant)
            else:
                before = await _SET.value(connection, tenant=tenant, weight=weight)
        return DEFAULT_WEIGHT if before is None else float(before)

    async def weights(self) -> dict[str, float]:
        """Return user → weight of the first `MOST_LISTED` who have not the default, by name."""
        async with self._database.driver() as connection:
            return {row["tenant"]: row["weight"] for row in await _ALL.rows(connection, most=MOST_LISTED)}

    async def standing(self, tenant: str) -> TenantStanding:
        """Return where a user stands; one whom nobody knows has the defaults, and nothing in the queue."""
        async with self._database.driver() as connection:
            (row,) = await _OF_ONE.rows(connection, tenant=tenant)
        return _standing_of(row)

    async def present(self, most: int) -> list[TenantStanding]:
        """Return users of whom anything is set, and others who have jobs in the queue: the paused ones first."""
        async with self._database.driver() as connection:
            found = [_standing_of(row) for row in await _PRESENT.rows(connection, most=most)]
        found.sort(key=lambda each: (each.pause is None, each.weight == DEFAULT_WEIGHT, -each.waiting, each.user_id))
        return found[:most]

    async def steered(self, after: str, most: int) -> list[TenantStanding]:
        """Return the first users after this name who are paused, or have another weight than the default, by name."""
        async with self._database.driver() as connection:
            return [_standing_of(row) for row in await _STEERED.rows(connection, after=after, most=most)]


def _standing_of(row: Any) -> TenantStanding:
    return TenantStanding(row["tenant"], row["weight"], pause_in(row), row["waiting"], row["running"])
