"""Real servers for every test: one PostgreSQL and one Redis a session, a database, a namespace and a store a test."""

from __future__ import annotations

import asyncio
import gc
import itertools
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import uvloop
from alembic import command
from integration.monitor_fixtures import Life
from pydantic import SecretStr
from redis import Redis
from xdist.scheduler import LoadScopeScheduling

from app.embedded.services import Running, Wanted, start
from app.embedded.temporary import temporary_data_dir
from app.main import create_app
from app.messaging.channels import Names
from app.messaging.redis_connection import close, make_redis
from app.settings import Settings, load_settings
from app.storage.database import Database, make_engine
from app.storage.migrating import alembic_config
from databases import ReusedDatabase, execute, on_database
from harness import NEWEST_COMFYUI, ServedAsOurs, Service, StandinServer, Workers
from worker.standin.main import STANDIN
from worker.standin.main import create_app as create_standin
from worker.standin.options import StandinOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from aiohttp.test_utils import TestClient
    from arq.connections import ArqRedis

_numbers = itertools.count(1)


_GROUPS = (
    # These start processes on ports that they found free, and would race for them.
    "/acceptance/",
    "/integration/test_embedded",
    # These fill a database once for all tests of the module, which takes seconds.
    "/integration/test_long_graphs",
    "/integration/test_store_plans",
)


class GroupScheduling(LoadScopeScheduling):
    """Gives each group of tests to one of the parallel processes, and each other test to any that is free.

    Tests in a browser are a group a module: more would leave one process with all of them at the end. (pytest-xdist's
    own groups do nothing with pytest 9.2, which does not let the name of a test be changed any more.)
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        if "/acceptance/test_monitor" in module:
            return module
        return next((group for group in _GROUPS if group in module), nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    return GroupScheduling(config, log)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking through all that was collected, again and again, during the tests."""
    gc.collect()
    gc.freeze()


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests in the event loop that server and worker have."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def servers() -> Iterator[Running]:
    """PostgreSQL and Redis for the session, on ports that the system chose."""
    with temporary_data_dir(in_memory=True) as folder:
        services = start(Wanted(data_dir=folder, postgres=True, redis=True, redis_port=0, durable=False))
        yield services.running
        services.stop()


@pytest.fixture(scope="session")
def template(servers: Running) -> str:
    """Name of a migrated database, of which each test gets a copy."""
    url = _lasting(servers, "template_of_tests", "template1").replace("postgresql:", "postgresql+asyncpg:")
    command.upgrade(alembic_config(url), "head")
    return "template_of_tests"


@pytest.fixture(scope="session")
def make_model(servers: Running, template: str) -> Callable[[str], str]:
    """Make a migrated database of this name for a module's own `model`, and return its URL."""
    return partial(_lasting, servers, template=template)


@pytest.fixture
def model(template: str) -> str:
    """Name of the database of which the test gets a copy; a module whose tests want much in it has its own."""
    return template


@pytest.fixture
async def empty_database_url(servers: Running) -> AsyncIterator[str]:
    """URL of a database without a schema."""
    async for url in _copy(servers, "template0"):
        yield url


@pytest.fixture(scope="session")
def reused(servers: Running, template: str) -> Iterator[ReusedDatabase]:
    """The database that tests without a model of their own have one after the other."""
    assert servers.database_url is not None
    database = ReusedDatabase(servers.database_url, template)
    yield database
    database.close()


@pytest.fixture
async def database_url(servers: Running, model: str, template: str, reused: ReusedDatabase) -> AsyncIterator[str]:
    """URL of a migrated database that is this test's alone: empty, or a copy of the module's model."""
    if model == template:
        yield await reused.emptied()
    else:
        async for url in _copy(servers, model):
            yield url


@pytest.fixture
def heartbeat_seconds() -> float:
    """`HEARTBEAT_SECONDS`: workers count as live for 3 s, and keep their attempts for 5; see `LIVES` for more."""
    return 1.0


@pytest.fixture
def settings(servers: Running, database_url: str, tmp_path: Path, heartbeat_seconds: float) -> Settings:
    """Settings of the test environment with this test's own database, namespace and store, and short times."""
    assert servers.redis_url is not None
    with Redis.from_url(servers.redis_url, db=3) as redis:
        redis.flushdb()
    return load_settings(
        "test",
        database_url=SecretStr(database_url),
        redis_url=SecretStr(servers.redis_url),
        redis_namespace=f"test_{next(_numbers)}",
        data_dir=tmp_path / "data",
        storage_dir=tmp_path / "storage",
        comfyui_urls="",
        default_checkpoint="",
        heartbeat_seconds=heartbeat_seconds,
        lease_seconds=5 * heartbeat_seconds,
        retry_base_seconds=0.05,
        comfyui_poll_seconds=0.3,
        ws_linger_seconds=0.3,
        shutdown_grace_seconds=2,
    )


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    """The test's database."""
    database = Database(make_engine(settings))
    yield database
    await database.close()


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[ArqRedis]:
    """A client of the test's Redis."""
    redis = make_redis(settings, patient=False)
    yield redis
    await close(redis)


@pytest.fixture
def names(settings: Settings) -> Names:
    """The names of the test's keys and channels in Redis."""
    return Names(settings.redis_namespace)


@pytest.fixture
async def client(settings: Settings, aiohttp_client: Any) -> TestClient[Any, Any]:
    """A client of the whole server, served as `make up` serves it."""
    return await aiohttp_client(ServedAsOurs(create_app(settings)))


@pytest.fixture
def comfyui_version(request: pytest.FixtureRequest) -> str:
    """Which ComfyUI the stand-ins are, unless a test says so of one: see `harness.BOTH_AGES`."""
    return str(getattr(request, "param", NEWEST_COMFYUI))


@pytest.fixture
async def start_standin(aiohttp_server: Any, comfyui_version: str) -> Callable[..., Awaitable[StandinServer]]:
    """Start a ComfyUI stand-in that loses no time, with the options given."""

    async def start_one(**options: Any) -> StandinServer:
        quick = {"model_load_seconds": 0, "lora_load_seconds": 0, "step_seconds": 0, "version": comfyui_version}
        app = create_standin(StandinOptions(**(quick | options)))
        server = await aiohttp_server(app)
        return StandinServer(str(server.make_url("")).rstrip("/"), app[STANDIN])

    return start_one


@pytest.fixture
async def start_worker(settings: Settings) -> AsyncIterator[Workers]:
    """Start a worker for the backends of the given settings, or of `comfyui_urls`; it is stopped at the end."""
    workers = Workers(settings)
    yield workers
    await workers.stop_all()


@pytest.fixture
async def service(
    client: TestClient[Any, Any],
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_worker: Workers,
) -> Service:
    """Server, worker and stand-in together, ready to run jobs."""
    standin = await start_standin()
    worker = await start_worker(f"standin={standin.url}")
    found = Service(client, standin, worker)
    await found.heard_of(worker)
    return found


def _lasting(servers: Running, name: str, template: str) -> str:
    assert servers.database_url is not None
    asyncio.run(execute(servers.database_url, f"CREATE DATABASE {name} TEMPLATE {template}"))
    return on_database(servers.database_url, name)


async def _copy(servers: Running, template: str) -> AsyncIterator[str]:
    assert servers.database_url is not None
    name = f"test_{next(_numbers)}"
    await execute(servers.database_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield on_database(servers.database_url, name)
    with suppress(asyncpg.PostgresError):
        await execute(servers.database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def life(client: TestClient[Any, Any], database: Database) -> Life:
    """Jobs that are led through their lives by hand, as a worker would."""
    return Life(client, database)
