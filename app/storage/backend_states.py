"""What operators have decided about backends: which are drained. Kept in PostgreSQL, so that it survives everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from app.storage.schema import BackendStateRow
from app.storage.statements import Statement

if TYPE_CHECKING:
    from datetime import datetime

    from app.storage.database import Database

_ALL: Final = Statement("SELECT name, drained, changed_at, changed_by FROM backend_states")


@dataclass(frozen=True, slots=True)
class BackendState:
    """What was decided last about a backend."""

    name: str
    drained: bool
    """It is to be given no more prompts."""
    changed_at: datetime
    changed_by: str

    def awaited(self, drained: bool) -> str | None:
        """Return what its driver has yet to confirm, to drain it or to resume; `drained` is what it says."""
        if self.drained is drained:
            return None
        return "drain" if self.drained else "resume"


class BackendStates:
    """Decisions about backends. Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> dict[str, BackendState]:
        """Return backend → what was decided last, of those about which something ever was."""
        async with self._database.driver() as connection:
            return {row["name"]: BackendState(**row) for row in await _ALL.rows(connection)}

    async def drained(self) -> frozenset[str]:
        """Return the names of those that are to be given no more prompts."""
        async with self._database.transaction() as session:
            return frozenset(await session.scalars(select(BackendStateRow.name).where(BackendStateRow.drained)))

    async def decide(self, name: str, *, drained: bool, actor: str) -> BackendState:
        """Store a decision. One equal to the decision in force changes nothing: its first author stays recorded."""
        decided = insert(BackendStateRow).values(name=name, drained=drained, changed_by=actor)
        decided = decided.on_conflict_do_update(
            index_elements=[BackendStateRow.name],
            set_={"drained": drained, "changed_by": actor, "changed_at": func.now()},
            where=BackendStateRow.drained != drained,
        )
        async with self._database.transaction() as session:
            await session.execute(decided)
            return _to_domain(await session.get_one(BackendStateRow, name))


def _to_domain(row: BackendStateRow) -> BackendState:
    return BackendState(row.name, row.drained, row.changed_at, row.changed_by)
