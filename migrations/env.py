"""Alembic's entry: runs the migrations over asyncpg, the driver that the service itself uses."""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import Connection, pool
from sqlalchemy.ext.asyncio import create_async_engine

from app.storage.schema import Base


def run_in(connection: Connection) -> None:
    """Run the migrations in one transaction, one process at a time."""
    context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
    with context.begin_transaction():
        # Two processes that start at once would both create the tables; the lock ends with the transaction.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7265837415)")
        context.run_migrations()


async def run() -> None:
    """Connect, migrate, disconnect."""
    url = context.config.get_main_option("sqlalchemy.url")
    if not url:
        raise SystemExit("No database URL: run the migrations with `make migrate-dev`.")
    engine = create_async_engine(url, poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(run_in)
        await connection.commit()
    await engine.dispose()


asyncio.run(run())
