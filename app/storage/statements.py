"""SQL with named parameters for the driver, which itself knows them by number only."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncpg

_PARAMETER: Final = re.compile(r"(?<!:):([a-z]\w*)")
"""`:name`, and not the type behind `::`."""


class Statement:
    """SQL whose parameters are written `:name`. Their numbers are given once, not at each use.

    Methods take the driver's own connection and each parameter by its name; a name too few or too many is a
    `TypeError`.
    """

    def __init__(self, sql: str) -> None:
        self.names: Final = tuple(dict.fromkeys(_PARAMETER.findall(sql)))
        numbers = {name: f"${number}" for number, name in enumerate(self.names, start=1)}
        self.sql: Final = _PARAMETER.sub(lambda found: numbers[found[1]], sql)

    async def rows(self, connection: asyncpg.Connection, /, **values: Any) -> list[asyncpg.Record]:
        """Execute it and return all rows."""
        found: list[asyncpg.Record] = await connection.fetch(self.sql, *self._in_order(values))
        return found

    async def row(self, connection: asyncpg.Connection, /, **values: Any) -> asyncpg.Record | None:
        """Execute it and return the first row, or None."""
        return await connection.fetchrow(self.sql, *self._in_order(values))

    async def value(self, connection: asyncpg.Connection, /, **values: Any) -> Any:
        """Execute it and return the first value of the first row, or None."""
        return await connection.fetchval(self.sql, *self._in_order(values))

    def _in_order(self, values: dict[str, Any]) -> list[Any]:
        if len(values) != len(self.names) or not values.keys() >= set(self.names):
            raise TypeError(f"the statement takes {', '.join(self.names)}; given: {', '.join(values)}")
        return [values[name] for name in self.names]
