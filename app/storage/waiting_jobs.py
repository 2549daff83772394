"""The first jobs that wait, as a choice sees them, to play the queue forward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.domain.job import Turn
from app.storage.attempts import candidate_of
from app.storage.claims import AVOID_FOR, WAITING

if TYPE_CHECKING:
    from app.domain.scheduling.jobs import Candidate
    from app.storage.database import Database


class WaitingJobs:
    """Reads them. Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def first(self, most: int) -> list[Candidate]:
        """Return the first jobs that are due, in the order in which they are."""
        return [candidate_of(row) for row in await self._rows(most)]

    async def turns(self, most: int) -> list[tuple[Turn, Candidate]]:
        """Return the same with the turns for which they wait."""
        rows = await self._rows(most)
        return [(Turn(row["id"], row["attempt"], row["available_at"]), candidate_of(row)) for row in rows]

    async def _rows(self, most: int) -> list[Any]:
        async with self._database.driver() as connection:
            return await WAITING.rows(connection, most=most, avoid_for=AVOID_FOR)
