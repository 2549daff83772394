"""Databases for tests: one that is emptied between two tests costs a few milliseconds, a copy of a model fifty."""

from __future__ import annotations

import asyncio
import re
import threading
from typing import Final

import asyncpg

_LEFT_BY_OTHERS: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_EMPTY: Final = """
DO $$
DECLARE name text;
BEGIN
    SET LOCAL session_replication_role = replica;  -- no order of the tables, no foreign keys
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
        EXECUTE format('DELETE FROM %I', name);
    END LOOP;
    FOR name IN SELECT sequencename FROM pg_sequences WHERE schemaname = 'public' AND last_value IS NOT NULL LOOP
        EXECUTE format('ALTER SEQUENCE %I RESTART', name);
    END LOOP;
END $$
"""
_SCHEMA: Final = """
SELECT md5(string_agg(concat_ws(' ', c.oid, c.relname, c.relkind, c.reloptions, a.attname, a.atttypid, a.attnotnull,
    a.attisdropped), ',' ORDER BY c.oid, a.attnum))
    || (SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace)
    || (SELECT count(*) FROM pg_trigger) || (SELECT count(*) FROM pg_constraint)
    || (SELECT count(*) FROM pg_db_role_setting) || (SELECT string_agg(version_num, ',') FROM alembic_version)
FROM pg_class AS c LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid WHERE c.relnamespace = 'public'::regnamespace
"""
"""What a test may have changed besides rows; sequences that start again keep their names and numbers."""
_MOST_ROWS_LEFT: Final = 20_000
"""Deleted rows stay in the files until they are vacuumed away: after so many a new copy is quicker to read."""


class ReusedDatabase:
    """A copy of the template for one test after the other. It is made anew when a test has changed its schema.

    It is emptied over one connection that outlives the tests' event loops, in a thread of its own: to connect would
    take longer than to empty it.
    """

    def __init__(self, server_url: str, template: str) -> None:
        self._server_url = server_url
        self._template = template
        self._count = 0
        self._schema = ""
        self._url = ""
        self._connection: asyncpg.Connection | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="reused-database", daemon=True)
        self._thread.start()

    async def emptied(self) -> str:
        """Return the URL of the database, without rows, and with no connection of another test left to it."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._emptied(), self._loop))

    def close(self) -> None:
        """Close the connection and end the thread."""
        if self._connection is not None:
            asyncio.run_coroutine_threadsafe(self._connection.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _emptied(self) -> str:
        if self._connection is None or not await self._empty(self._connection):
            await self._make()
        return self._url

    async def _empty(self, connection: asyncpg.Connection) -> bool:
        """Whether it could be made as the template is."""
        try:
            await connection.execute(_LEFT_BY_OTHERS)
            if await connection.fetchval(_SCHEMA) != self._schema:
                return False
            left = "SELECT coalesce(sum(n_dead_tup + n_live_tup), 0) FROM pg_stat_user_tables"
            if await connection.fetchval(left) > _MOST_ROWS_LEFT:
                return False
            await connection.execute(_EMPTY)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            return False
        return True

    async def _make(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            await execute(self._server_url, f"DROP DATABASE IF EXISTS reused_{self._count} WITH (FORCE)")
        self._count += 1
        name = f"reused_{self._count}"
        await execute(self._server_url, f"CREATE DATABASE {name} TEMPLATE {self._template}")
        self._url = on_database(self._server_url, name)
        self._connection = await asyncpg.connect(self._url)
        self._schema = await self._connection.fetchval(_SCHEMA)


async def execute(url: str, statement: str) -> None:
    """Execute one statement over a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def on_database(url: str, name: str) -> str:
    """Return the URL with another database's name."""
    return re.sub(r"/[^/]*$", f"/{name}", url)
