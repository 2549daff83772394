"""What operators have paused: kept in PostgreSQL, where claims read it, so that it survives everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.domain.pauses import Pause
from app.storage.statements import Statement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.storage.database import Database

MOST_LISTED: Final = 1000
EVERYBODY: Final = ""
"""The name in the table under which everybody is paused: no user's, and before all others in any order."""
COLUMNS: Final = "tenant, paused_at, paused_by, reason"
# Said again it holds since then, for what was said last.
_PAUSE: Final = Statement(f"""
    INSERT INTO pauses (tenant, paused_by, reason) VALUES (:tenant::text, :actor::text, :reason::text)
    ON CONFLICT (tenant) DO UPDATE SET paused_by = EXCLUDED.paused_by, reason = EXCLUDED.reason
    RETURNING {COLUMNS}""")  # noqa: S608  # of our own words only
_RESUME: Final = Statement(f"DELETE FROM pauses WHERE tenant = :tenant::text RETURNING {COLUMNS}")  # noqa: S608
_OF: Final = Statement(f"SELECT {COLUMNS} FROM pauses WHERE tenant = ANY (:tenants::text[]) ORDER BY tenant")  # noqa: S608
_ALL: Final = Statement(f"SELECT {COLUMNS} FROM pauses ORDER BY tenant LIMIT :most::int")  # noqa: S608


def pause_of(user_id: str) -> str:
    """Return the SELECT, as SQL, of why the jobs of a user are not taken: no row unless they are paused."""
    return f"SELECT {COLUMNS} FROM pauses WHERE tenant IN ('{EVERYBODY}', {user_id}) ORDER BY tenant LIMIT 1"  # noqa: S608


class Pauses:
    """Pauses of users, and of everybody, who is None. Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def pause(self, user_id: str | None, reason: str | None, actor: str) -> Pause:
        """Have no more of the waiting jobs taken."""
        async with self._database.driver() as connection:
            row = await _PAUSE.row(connection, tenant=user_id or EVERYBODY, reason=reason, actor=actor)
        return _required(row)

    async def resume(self, user_id: str | None) -> Pause | None:
        """Have them taken again, and return what had paused them; None when nothing had."""
        async with self._database.driver() as connection:
            return pause_in(await _RESUME.row(connection, tenant=user_id or EVERYBODY))

    async def concerning(self, *user_ids: str) -> list[Pause]:
        """Return what holds back the jobs of these users, everybody's pause first."""
        async with self._database.driver() as connection:
            return _all_of(await _OF.rows(connection, tenants=[EVERYBODY, *user_ids]))

    async def all(self) -> list[Pause]:
        """Return what is paused, everybody first, and then the first `MOST_LISTED` users by name."""
        async with self._database.driver() as connection:
            return _all_of(await _ALL.rows(connection, most=MOST_LISTED + 1))


def pause_in(row: Any) -> Pause | None:
    """Return the pause of a row with `COLUMNS`; None without one, and of one that is null."""
    if row is None or row["paused_at"] is None:
        return None
    return Pause(row["tenant"] or None, row["paused_at"], row["paused_by"], row["reason"])


def _all_of(rows: Sequence[Any]) -> list[Pause]:
    return [found for row in rows if (found := pause_in(row)) is not None]


def _required(row: Any) -> Pause:
    found = pause_in(row)
    assert found is not None  # noqa: S101 - the statement always returns one
    return found
