"""How PostgreSQL goes about our statements: records them as they go to it, and has them explained."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from app.storage.schema import Base

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from app.storage.database import Database

Statement = tuple[str, Any]
"""A statement with its parameters."""


@asynccontextmanager
async def recorded(database: Database) -> AsyncIterator[list[Statement]]:
    """Record the statements on our tables, complete when the block ends.

    SQLAlchemy tells its own; what is given to the driver itself the driver tells.
    """
    seen: list[Statement] = []
    watched: set[asyncpg.Connection] = {driven for _, driven in database.spare}

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if any(table in statement for table in Base.metadata.tables):
            seen.append((statement, parameters))

    def note_logged(logged: Any) -> None:
        if logged.query not in {statement for statement, _ in seen}:
            note(None, None, logged.query, logged.args)

    def watch(connection: Any, *_: Any) -> None:
        watched.add(connection.driver_connection)
        connection.driver_connection.add_query_logger(note_logged)

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    event.listen(engine, "checkout", watch)
    for driven in watched:
        driven.add_query_logger(note_logged)
    try:
        yield seen
        await asyncio.sleep(0)  # what the driver logs is noted in the loop's next round
    finally:
        event.remove(engine, "before_cursor_execute", note)
        event.remove(engine, "checkout", watch)
        for connection in watched:
            connection.remove_query_logger(note_logged)


async def cached_plan(connection: asyncpg.Connection, statement: str) -> str:
    """Return the generic plan: the one for parameters that are not known yet."""
    async with connection.transaction():
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE explained AS {statement}")
        known = "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'explained'"
        count = await connection.fetchval(known)
        nulls = f"({', '.join(['NULL'] * count)})" if count else ""
        rows = await connection.fetch(f"EXPLAIN EXECUTE explained{nulls}")
        await connection.execute("DEALLOCATE explained")
    return "\n".join(row[0] for row in rows)


async def plan(connection: asyncpg.Connection, statement: Statement, options: str = "") -> str:
    """Return the plan for these very parameters; what it may change is undone."""
    query, values = statement
    transaction = connection.transaction()
    await transaction.start()
    try:
        rows = await connection.fetch(f"EXPLAIN {options} {query}", *values)
    finally:
        await transaction.rollback()
    return "\n".join(row[0] for row in rows)


def join_by_nested_loops(database: Database) -> None:
    """Have PostgreSQL join by nested loops in connections that are opened from now on.

    How it joins depends on statistics, and these on when they were gathered: a statement must be right in either way.
    """

    @event.listens_for(database.engine.sync_engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.run_async(
            lambda driven: driven.execute(
                "SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off;"
                "SET enable_hashagg = off; SET enable_sort = off"
            )
        )
