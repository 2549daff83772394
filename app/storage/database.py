"""The connection to PostgreSQL: engine, sessions, what a driver's errors mean to us, and the schema's version."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from app.domain.errors import DatabaseUnavailable, SchemaNotAtHead
from app.encoding import dumps, loads
from app.settings import ROOT, Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy import Connection
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

_SERVER_AWAY: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    # One of two that wait for each other is sent back; it may try again.
    asyncpg.DeadlockDetectedError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)


def make_engine(settings: Settings) -> AsyncEngine:
    """Make the engine; nothing connects before it is used."""
    timeout_s = settings.database_timeout_seconds
    engine = create_async_engine(
        settings.sqlalchemy_url,
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=timeout_s,
        json_serializer=dumps,
        json_deserializer=loads,
        connect_args={
            "timeout": timeout_s,
            "command_timeout": timeout_s,
            "server_settings": {"application_name": "genonaut", "timezone": "UTC"},
        },
    )
    event.listen(engine.sync_engine, "checkout", _replace_closed)
    return engine


def _replace_closed(adapted: DBAPIConnection, _record: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
    """Replace a connection that the server dropped while it lay in the pool, before a request gets it.

    The driver has heard of its end: no need for SQLAlchemy's own ping, three round trips at each use.
    """
    if adapted.driver_connection.is_closed():
        raise DisconnectionError


class Database:
    """Hands out sessions, each one transaction, and turns the driver's errors into ours."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Begin a transaction; commit at the end, roll back on an error.

        Raises
        ------
        DatabaseUnavailable
            PostgreSQL is away, overloaded, or did not answer in time.
        """
        with _away_named():
            async with self._sessions.begin() as session:
                yield session

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend the driver's own connection: each statement a transaction of its own, prepared, and one round trip.

        For what is done thousands of times a second, where SQLAlchemy's layers and BEGIN and COMMIT cost more than
        the statement itself. JSON goes in as text.

        Raises
        ------
        DatabaseUnavailable
            As `transaction`.
        """
        with _away_named():
            async with self.engine.connect() as connection:
                yield (await connection.get_raw_connection()).driver_connection

    async def ping(self) -> None:
        """Ask the server for a sign of life; raises `DatabaseUnavailable`."""
        async with self.transaction() as session:
            await session.execute(text("SELECT 1"))

    async def check_schema(self, help_command: str) -> None:
        """Raise `SchemaNotAtHead`, naming the command that helps, unless the schema is the one of this version."""
        async with self.transaction() as session:
            connection = await session.connection()
            found = await connection.run_sync(_current_revision)
        head = ScriptDirectory.from_config(alembic_config("")).get_current_head()
        if found != head:
            what = "has no schema yet" if found is None else f"has the schema of revision {found}"
            raise SchemaNotAtHead(f"The database {what}; this version needs {head}. Run: {help_command}")


async def driver_of(session: AsyncSession) -> asyncpg.Connection:
    """Return the driver's own connection of a session, to take part in its transaction.

    The session must have executed a statement: only the first one begins the transaction.
    """
    raw = await (await session.connection()).get_raw_connection()
    return raw.driver_connection


@contextmanager
def _away_named() -> Iterator[None]:
    try:
        yield
    except (
        DBAPIError,
        PoolTimeoutError,
        OSError,
        TimeoutError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
    ) as error:
        if is_away(error):
            raise DatabaseUnavailable("The database cannot be reached at the moment.") from error
        raise


def is_away(error: BaseException) -> bool:
    """Whether the error says that the server cannot serve us now, and not that the statement is wrong."""
    if isinstance(error, PoolTimeoutError | OSError | TimeoutError):
        return True
    # asyncpg's own, such as "connection is closed". Its DataError is one of them too, and a ValueError.
    if isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError):
        return True
    if isinstance(error, DBAPIError) and (error.connection_invalidated or isinstance(error, InterfaceError)):
        return True
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (*_SERVER_AWAY, OSError, TimeoutError)):
            return True
        seen = getattr(seen, "orig", None) or seen.__cause__
    return isinstance(error, OperationalError)


def alembic_config(url: str) -> Config:
    """Return alembic's configuration for a database."""
    config = Config(str(ROOT / "migrations" / "alembic.ini"))
    config.set_main_option("script_location", str(ROOT / "migrations"))
    # A % in a password would be taken for an interpolation.
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


async def migrate(settings: Settings) -> None:
    """Bring the schema to head. Alembic runs its own event loop, so it does that in a thread."""
    await asyncio.to_thread(command.upgrade, alembic_config(settings.sqlalchemy_url), "head")


def _current_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
