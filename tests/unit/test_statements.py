"""Parameters of SQL by name: each gets one number, and a wrong set of names is refused before anything is sent."""

from __future__ import annotations

from typing import Any

import pytest

from app.storage.statements import Statement


class Connection:
    """Keeps what it was asked to execute."""

    async def fetch(self, sql: str, *values: Any) -> tuple[str, tuple[Any, ...]]:
        """Return the statement and its values, as the driver would get them."""
        return sql, values


def test_a_name_is_one_number_wherever_it_stands_and_casts_stay() -> None:
    statement = Statement("SELECT :b::text, :a, :b, '{\"x\": true}'::jsonb WHERE :a_2 > now() - :wait::interval")
    assert statement.names == ("b", "a", "a_2", "wait")
    assert statement.sql == "SELECT $1::text, $2, $1, '{\"x\": true}'::jsonb WHERE $3 > now() - $4::interval"


async def test_values_go_in_the_order_of_the_numbers_whatever_the_order_of_the_names() -> None:
    statement = Statement("SELECT :second, :first, :second")
    assert await statement.rows(Connection(), first=1, second=2) == ("SELECT $1, $2, $1", (2, 1))


@pytest.mark.parametrize("values", [{}, {"a": 1}, {"a": 1, "b": 2, "c": 3}, {"a": 1, "c": 3}])
async def test_a_name_too_few_or_too_many_is_named(values: dict[str, int]) -> None:
    with pytest.raises(TypeError, match="the statement takes a, b; given"):
        await Statement("SELECT :a, :b").rows(Connection(), **values)
