"""What a driver's errors mean to us: a database that is away is told from a statement that is wrong."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from samples import new_job
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import AsyncAdaptedQueuePool

from app.domain.errors import DatabaseUnavailable
from app.embedded.ports import HOST
from app.embedded.services import Wanted, start
from app.embedded.temporary import temporary_data_dir
from app.storage.attempts import AttemptStore
from app.storage.database import Database, driver_of, make_engine
from app.storage.migrating import migrate
from harness import GUARD_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import asyncpg
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.settings import Settings


@pytest.fixture
async def connect(settings: Settings) -> AsyncIterator[Callable[..., Database]]:
    """Make databases of the test's settings with some changed."""
    databases = []

    def make(**changes: Any) -> Database:
        databases.append(Database(make_engine(settings.model_copy(update=changes))))
        return databases[-1]

    yield make
    for database in databases:
        await database.close()


async def pid_of(session: AsyncSession) -> int:
    return int(await session.scalar(text("SELECT pg_backend_pid()")) or 0)


async def kill(database: Database, pid: int) -> None:
    """End a connection from another one, and wait until it is gone."""
    async with database.transaction() as session:
        await session.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://postgres@{HOST}:1/nothing",
        "postgresql://postgres@no-such-host.invalid:5432/nothing",
    ],
)
async def test_a_server_that_is_not_there_is_away(connect: Callable[..., Database], url: str) -> None:
    database = connect(database_url=SecretStr(url), database_timeout_seconds=2)
    for call in (database.ping(), database.check_schema("x"), AttemptStore(database).get(1)):
        with pytest.raises(DatabaseUnavailable):
            await call


async def test_a_wrong_password_or_database_is_away_and_no_crash(
    connect: Callable[..., Database], settings: Settings
) -> None:
    plain = settings.database_url.get_secret_value()
    for url in (plain + "_x", plain.replace("postgres:", "postgres:wrong", 1)):
        if url != plain:
            with pytest.raises(DatabaseUnavailable):
                await connect(database_url=SecretStr(url)).ping()


async def test_a_connection_that_is_cut_in_the_middle_is_away_and_nothing_is_kept(
    database: Database, connect: Callable[..., Database]
) -> None:
    other, store = connect(), AttemptStore(database)
    job = await store.create(new_job())

    async def cut_off(*, before_the_commit_only: bool) -> None:
        async with database.transaction() as session:
            await session.execute(text("UPDATE generation_jobs SET priority = 9"))
            await kill(other, await pid_of(session))
            if not before_the_commit_only:
                await session.execute(text("SELECT 1"))

    for before_the_commit_only in (False, True):
        with pytest.raises(DatabaseUnavailable):
            await cut_off(before_the_commit_only=before_the_commit_only)
    assert (await store.whole(job.job_id)).priority == 0


async def test_a_connection_that_was_cut_while_it_lay_idle_is_replaced(
    database: Database, connect: Callable[..., Database]
) -> None:
    async with database.transaction() as session:
        pid = await pid_of(session)
    await kill(connect(), pid)
    async with database.transaction() as session:
        assert await pid_of(session) != pid


@pytest.mark.parametrize("is_spare", [False, True])
async def test_a_connection_that_comes_back_within_a_transaction_is_replaced(
    connect: Callable[..., Database], is_spare: bool
) -> None:
    """As a task leaves one behind that is cancelled within its COMMIT."""
    database = connect(database_pool_size=2)
    driven = await left_idle(database, is_spare)
    await driven.execute("BEGIN")
    await driven.execute("SELECT 1")
    async with database.driver() as other, database.snapshot() as session:
        assert driven not in (other, await driver_of_(session))
    assert driven.is_closed()


@pytest.mark.parametrize("is_spare", [False, True])
async def test_a_connection_on_which_a_statement_is_being_cancelled_is_replaced(
    connect: Callable[..., Database], is_spare: bool
) -> None:
    """As a task leaves one behind that is cancelled within its BEGIN: the driver knows of no transaction yet."""
    database = connect(database_pool_size=2)
    driven = await left_idle(database, is_spare)
    beginning = asyncio.create_task(driven.execute("BEGIN; SELECT pg_sleep(60)"))
    await asyncio.sleep(0)
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    assert not driven.is_in_transaction()
    async with database.driver() as other, database.snapshot() as session:
        assert driven not in (other, await driver_of_(session))


async def left_idle(database: Database, is_spare: bool) -> asyncpg.Connection:
    """Return a connection that the database keeps for its next use: a spare one, or one in the pool."""
    if not is_spare:
        async with database.transaction() as session:
            return await driver_of_(session)
    async with database.driver() as driven:
        pass
    assert database.spare
    return driven


async def driver_of_(session: AsyncSession) -> asyncpg.Connection:
    await session.execute(text("SELECT 1"))
    return await driver_of(session)


async def test_a_spare_connection_to_which_the_server_has_said_goodbye_is_away_and_goes(
    connect: Callable[..., Database],
) -> None:
    database = connect()
    async with database.driver() as spare:
        assert await spare.fetchval("SELECT 1") == 1
    # What a server that is stopped says to an idle connection, a moment before it closes it.
    fields = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
    said = b"E" + (len(fields) + 4).to_bytes(4) + fields
    spare._protocol.data_received(said)  # noqa: SLF001 - as if the server had sent it
    with pytest.raises(DatabaseUnavailable):  # noqa: PT012 - it is raised on the way out of the loan
        async with database.driver() as again:
            assert again is spare
            await again.fetchval("SELECT 1")
    async with database.driver() as fresh:
        assert fresh is not spare
        assert await fresh.fetchval("SELECT 2") == 2


async def test_a_database_is_closed_when_its_connections_have_come_back(connect: Callable[..., Database]) -> None:
    """Or the garbage collector finds them, in the middle of something else."""
    database = connect()
    pool, begun, may_end = database.engine.pool, asyncio.Event(), asyncio.Event()
    assert isinstance(pool, AsyncAdaptedQueuePool)

    async def in_a_transaction() -> None:
        async with database.transaction() as session:
            await session.execute(text("SELECT 1"))
            begun.set()
            await may_end.wait()

    async def with_the_driver() -> None:
        async with database.driver() as connection:
            await connection.fetchval("SELECT 1")
            await may_end.wait()

    using = [asyncio.create_task(use()) for use in (in_a_transaction, with_the_driver)]
    await begun.wait()
    closing = asyncio.create_task(database.close())
    await asyncio.wait({closing}, timeout=0.3)
    assert not closing.done()
    may_end.set()
    await asyncio.wait([closing, *using])
    assert pool.checkedout() == 0


async def test_a_pool_without_a_free_connection_is_away_in_bounded_time(connect: Callable[..., Database]) -> None:
    database = connect(database_pool_size=1, database_timeout_seconds=1.5)
    async with asyncio.timeout(GUARD_S):
        async with database.transaction() as session:
            await session.execute(text("SELECT 1"))
            with pytest.raises(DatabaseUnavailable):
                await database.ping()
        await database.ping()


async def test_a_statement_that_takes_too_long_is_away_and_the_pool_survives(connect: Callable[..., Database]) -> None:
    database = connect(database_pool_size=1, database_timeout_seconds=1.5)
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            async with asyncio.timeout(GUARD_S), database.transaction() as session:
                await session.execute(text("SELECT pg_sleep(600)"))
    await database.ping()


async def test_a_row_that_somebody_holds_is_away_in_bounded_time(
    database: Database, connect: Callable[..., Database]
) -> None:
    job = await AttemptStore(database).create(new_job())
    quick = AttemptStore(connect(database_timeout_seconds=1.5))
    async with database.transaction() as session:
        await session.execute(text("SELECT 1 FROM generation_jobs FOR UPDATE"))
        with pytest.raises(DatabaseUnavailable):
            await quick.cancel(job.job_id, None, "x")
        assert await quick.claim("w", "b", "p", 60) is None


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("SELECT nonsense", {}),
        ("SELEC", {}),
        ("SELECT * FROM nowhere", {}),
        ("SELECT 1 / 0", {}),
        ("SELECT CAST(:a AS bigint)", {"a": 2**63}),
        ("SELECT CAST(:a AS bigint)", {"a": "text"}),
        ("SELECT CAST(:a AS text)", {"a": "nul \0 byte"}),
        ("SELECT CAST(:a AS text)", {"a": "lone \ud800 surrogate"}),
        ("SELECT CAST(:a AS jsonb)", {"a": '"\\u0000"'}),
    ],
)
async def test_a_wrong_statement_is_a_mistake_and_not_an_outage(
    database: Database, statement: str, values: dict[str, Any]
) -> None:
    with pytest.raises((DBAPIError, UnicodeEncodeError)):
        async with database.transaction() as session:
            await session.execute(text(statement), values)
    await database.ping()


async def test_an_id_that_no_column_holds_is_no_outage(database: Database) -> None:
    with pytest.raises(DBAPIError):
        await AttemptStore(database).get(2**63)


async def test_cancelling_a_caller_gives_the_connection_back(connect: Callable[..., Database]) -> None:
    database = connect(database_pool_size=1)
    began = asyncio.Event()

    async def long() -> None:
        async with database.transaction() as session:
            began.set()
            await session.execute(text("SELECT pg_sleep(60)"))

    task = asyncio.create_task(long())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(GUARD_S):
        await database.ping()


async def test_a_server_that_stops_and_comes_back_is_away_meanwhile(settings: Settings) -> None:
    with temporary_data_dir() as folder:
        wanted = Wanted(data_dir=folder, postgres=True, durable=False)
        services = await asyncio.to_thread(start, wanted)
        try:
            url = SecretStr(services.running.database_url or "")
            own = settings.model_copy(update={"database_url": url, "database_timeout_seconds": 5})
            await migrate(own)
            database = Database(make_engine(own))
            store = AttemptStore(database)
            job = await store.create(new_job())
            await asyncio.to_thread(services.stop)
            with pytest.raises(DatabaseUnavailable):
                await store.get(job.job_id)
            services = await asyncio.to_thread(start, wanted)
            if services.running.database_url == url.get_secret_value():
                assert (await store.get(job.job_id)).job_id == job.job_id
            await database.close()
        finally:
            await asyncio.to_thread(services.stop)
