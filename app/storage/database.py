"""The connection to PostgreSQL: engine, sessions, what a driver's errors mean to us, and the schema's version."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from app.domain.errors import DatabaseUnavailable, SchemaNotAtHead
from app.runtime.json_text import dumps, loads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

    from app.settings import Settings

HEAD: Final = "0018"
"""The last revision in migrations/versions; alembic knows it too, but takes 10 MB of each process that asks."""

CLOSE_S: Final = 5.0
"""Maximum seconds that `Database.close` waits for connections in use."""
_SERVER_AWAY: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    # PostgreSQL ends one of two transactions that wait for each other; it may be repeated.
    asyncpg.DeadlockDetectedError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
_OF_THE_DRIVER: Final = (
    DBAPIError,
    PoolTimeoutError,
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
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
    event.listen(engine.sync_engine, "checkout", _replace_unusable)
    return engine


def _replace_unusable(adapted: DBAPIConnection, _record: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
    """Replace a connection that no request can use, before one gets it.

    The driver already knows; SQLAlchemy's own ping would cost three round trips at each use.
    """
    if not _is_usable(adapted.driver_connection):
        raise DisconnectionError


def _is_usable(driven: asyncpg.Connection) -> bool:
    """Whether the server has not dropped the connection while it was idle, nor has a transaction of another open on it.

    That is left behind by a task that was cancelled within a COMMIT: SQLAlchemy takes the transaction for ended then.
    Within a BEGIN likewise, which SQLAlchemy takes for not begun; and until the driver has heard what came of the
    cancelled statement, it does not know of a transaction. asyncpg's own pool asks it the same way.
    """
    being_cancelled = driven._protocol._is_cancelling()  # noqa: SLF001 - it has no public name
    return not (driven.is_closed() or driven.is_in_transaction() or being_cancelled)


class Database:
    """Hands out sessions, each one transaction, and turns the driver's errors into ours."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)
        self.spare: list[_Spare] = []
        """Connections of `driver` that wait for their next use outside the pool."""
        # At least half of the pool's places are left to the sessions.
        self._most_spare = engine.pool.size() // 2 if isinstance(engine.pool, AsyncAdaptedQueuePool) else 0

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
    async def snapshot(self) -> AsyncIterator[AsyncSession]:
        """Begin a transaction for reading, whose statements all see the same snapshot; raises as `transaction`.

        In other transactions each statement sees what was committed before it. A count could then include a job that
        is missing in the list.
        """
        async with self.transaction() as session:
            await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield session

    def driver(self) -> _Lent:
        """Lend the driver's own connection: each statement a transaction of its own, prepared, and one round trip.

        For what is done thousands of times a second, where SQLAlchemy's layers, and the way into its pool and out of
        it, cost more than the statement itself. JSON goes in as text.

        Raises
        ------
        DatabaseUnavailable
            As `transaction`.
        """
        return _Lent(self)

    @property
    def keeps_spare(self) -> bool:
        """Whether another connection of `driver` may wait outside the pool."""
        return len(self.spare) < self._most_spare

    async def close(self) -> None:
        """Close all connections, after those in use have come back: at most `CLOSE_S`."""
        self._most_spare = 0
        while self.spare:
            await self.spare.pop()[0].close()
        pool = self.engine.pool
        if isinstance(pool, AsyncAdaptedQueuePool):
            # A session whose task was cancelled is closed by a task of SQLAlchemy's own, which cannot be awaited.
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    while pool.checkedout():  # noqa: ASYNC110 - a pool has no event for it
                        await asyncio.sleep(0.01)
        await self.engine.dispose()

    async def ping(self) -> None:
        """Ask the server for a sign of life; raises `DatabaseUnavailable`."""
        async with self.transaction() as session:
            await session.execute(text("SELECT 1"))

    async def schema_revision(self) -> str | None:
        """Return the schema's revision; None when there is no schema."""
        async with self.transaction() as session:
            if await session.scalar(text("SELECT to_regclass('alembic_version')")) is None:
                return None
            revision: str | None = await session.scalar(text("SELECT version_num FROM alembic_version"))
            return revision

    async def check_schema(self, help_command: str) -> None:
        """Raise `SchemaNotAtHead`, naming the command that helps, unless the schema is the one of this version."""
        found = await self.schema_revision()
        if found != HEAD:
            what = "has no schema yet" if found is None else f"has the schema of revision {found}"
            raise SchemaNotAtHead(f"The database {what}; this version needs {HEAD}. Run: {help_command}")


_Spare = tuple[AsyncConnection, asyncpg.Connection]
"""A connection out of the pool for good, and the driver's own in it."""


class _Lent:
    """A loan of the driver's own connection: a spare one, which did not go back into the pool, or one from the pool.

    `asyncpg.Pool` would need a second share of the connections, and costs more: of a `SELECT 1` a loan takes 10 µs of
    processor time here and 140 µs there, the statement itself 90 µs (measured with asyncpg 0.32).
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def __aenter__(self) -> asyncpg.Connection:
        spare = self._database.spare
        with _away_named():
            while spare:
                self._lent, self._driven = spare.pop()
                if _is_usable(self._driven):
                    return self._driven
                await _finished(_discard(self._lent))
            self._lent = await self._database.engine.connect()
            try:
                self._driven = (await self._lent.get_raw_connection()).driver_connection
            except BaseException:
                await _finished(self._lent.close())
                raise
            return self._driven

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None and self._database.keeps_spare:
            self._database.spare.append((self._lent, self._driven))
            return
        with _away_named():
            # The server may be closing this connection. It is not reused, because its next statement would fail.
            broken = error is not None and is_away(error)
            await _finished(_discard(self._lent) if broken else self._lent.close())
            if isinstance(error, _OF_THE_DRIVER):
                raise error


async def _discard(connection: AsyncConnection) -> None:
    """Close a connection instead of giving it back to the pool."""
    await connection.invalidate()
    await connection.close()


async def _finished(closing: Coroutine[Any, Any, None]) -> None:
    """Await it to its end even when this task is cancelled: half closed, a connection is lost to the pool."""
    task = asyncio.ensure_future(closing)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


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
    except _OF_THE_DRIVER as error:
        if is_away(error):
            raise DatabaseUnavailable("The database cannot be reached at the moment.") from error
        raise


def is_away(error: BaseException) -> bool:
    """Whether the error says that the server cannot serve us now, and not that the statement is wrong."""
    if isinstance(error, PoolTimeoutError | OSError | TimeoutError):
        return True
    # "cannot switch to state …": the server has closed an idle connection, and the driver has not noticed that yet.
    if isinstance(error, asyncpg.InternalClientError):
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
