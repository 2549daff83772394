"""Names that jobs had lately, to be offered where one filters by them: read from the statistics, which are small."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.storage.ended_jobs import DAY_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.storage.database import Database

AGE_S: Final = 60.0
"""So old may be what is offered; the statistics are counted once a minute."""
MOST: Final = 50
"""Names of each kind, those of the most jobs."""

_READ: Final = f"""
    SELECT what, array_agg(name ORDER BY place) AS names FROM (
        SELECT what, name, row_number() OVER (PARTITION BY what ORDER BY sum(count) DESC, name) AS place
        FROM job_statistics, LATERAL (VALUES
            ('models', 'model', checkpoint_model), ('backends', 'backend', backend_name),
            ('errors', 'all', error_code), ('nodes', 'all', node_type)
        ) AS told (what, of_scope, name)
        WHERE span_s = {DAY_S} AND scope = of_scope AND name <> ''
        GROUP BY what, name
    ) AS ranked
    WHERE place <= {MOST} GROUP BY what"""  # noqa: S608  # of our own words only


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Names of each kind, those of the most jobs first."""

    models: Sequence[str] = ()
    backends: Sequence[str] = ()
    errors: Sequence[str] = ()
    """Codes of errors, and below classes of nodes that failed."""
    nodes: Sequence[str] = ()


class KnownNames:
    """Reads names. Raises `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: tuple[float, Names] | None = None
        """What was read last, and until when that holds by the monotonic clock."""

    def forget(self) -> None:
        """Read the names anew when they are asked for next."""
        self._known = None

    async def read(self) -> Names:
        """Return the names that jobs had which have ended in the time for which statistics are kept."""
        if self._known is not None and time.monotonic() < self._known[0]:
            return self._known[1]
        async with self._database.driver() as connection:
            found = Names(**{row["what"]: row["names"] for row in await connection.fetch(_READ)})
        self._known = time.monotonic() + AGE_S, found
        return found
