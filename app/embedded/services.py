"""Starts the servers that a process needs, shares them with other processes, and stops those that none uses."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from app.embedded.postgres_server import PostgresServer
from app.embedded.redis_server import RedisServer
from app.embedded.shared import Say, Server, Share
from app.embedded.standin_server import StandinServer

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be run."""

    data_dir: Path
    """Everything of ours lives below it; who has the same one shares the servers."""
    postgres: bool = False
    redis: bool = False
    standin_port: int | None = None
    """None: no stand-in; 0: any free port."""
    redis_port: int | None = None
    """None: the port of `redis_config`, else 6379, when that is free, else any; 0: any."""
    redis_config: Path | None = None
    """A redis.conf; its address and folders do not count, its password stands in the URL."""
    durable: bool = True
    """False for tests: quicker, and the data may be lost when the machine stops."""
    prefer_wheels: bool = False
    """True: what the wheels bring comes before what the machine has."""


@dataclass(frozen=True, slots=True)
class Running:
    """Where to reach what runs; None for what was not wanted."""

    database_url: str | None = None
    """postgresql://postgres:PASSWORD@127.0.0.1:PORT/genonaut"""
    redis_url: str | None = None
    """redis://:PASSWORD@127.0.0.1:PORT; without a password while a server of an earlier version runs on"""
    standin_url: str | None = None
    """http://127.0.0.1:PORT"""


class Services:
    """The servers this user takes part in, until `stop`."""

    def __init__(self, shares: Mapping[str, Share], running: Running) -> None:
        self._shares = shares
        self.running = running

    def stop(self) -> None:
        """Stop using them; those that no other process uses are stopped, all at once. A second call does nothing.

        Raises
        ------
        EmbeddedError
            One does not end.
        """
        _all_at_once({name: share.leave for name, share in self._shares.items()})


def start(wanted: Wanted, say: Say = log.info) -> Services:
    """Start what is wanted, or share what runs already; `say` is called from several threads.

    Raises
    ------
    EmbeddedError
        One server cannot be had; those started for this are stopped again.
    """
    servers = _servers(wanted)
    shares = {name: Share(server, say) for name, server in servers.items()}
    services = Services(shares, Running())
    try:
        ports = _all_at_once({name: share.enter for name, share in shares.items()})
        services.running = Running(**{name: server.url(ports[name]) for name, server in servers.items()})
    except BaseException:
        services.stop()
        raise
    return services


@asynccontextmanager
async def embedded_services(wanted: Wanted, say: Say = log.info) -> AsyncIterator[Running]:
    """Have what is wanted running in the block; see `start` for what it raises, also when cancelled."""
    loop = asyncio.get_running_loop()
    # Futures of the executor and not tasks: a loop that ends cancels its tasks, and a thread goes on anyway.
    starting = loop.run_in_executor(None, start, wanted, say)
    try:
        services = await _settled(starting)
    except asyncio.CancelledError:
        if starting.exception() is None:
            await _settled(loop.run_in_executor(None, starting.result().stop))
        raise
    try:
        yield services.running
    finally:
        await _settled(loop.run_in_executor(None, services.stop))


async def _settled(future: asyncio.Future[T]) -> T:
    """Wait for what cannot be cancelled; a cancellation is raised only afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return future.result()


def _servers(wanted: Wanted) -> dict[str, Server]:
    """Return the servers by the fields of `Running`."""
    folder = wanted.data_dir.resolve()
    servers: dict[str, Server] = {}
    if wanted.postgres:
        servers["database_url"] = PostgresServer(
            folder / "postgres", durable=wanted.durable, prefer_wheels=wanted.prefer_wheels
        )
    if wanted.redis:
        servers["redis_url"] = RedisServer(
            folder / "redis",
            port=wanted.redis_port,
            config=wanted.redis_config.resolve() if wanted.redis_config else None,
            durable=wanted.durable,
            prefer_wheels=wanted.prefer_wheels,
        )
    if wanted.standin_port is not None:
        servers["standin_url"] = StandinServer(folder / "standin", port=wanted.standin_port)
    return servers


def _all_at_once(calls: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """Call each in a thread of its own and wait for all; of what they raise, raise the first."""
    if not calls:
        return {}
    with ThreadPoolExecutor(len(calls)) as executor:  # which, should Ctrl-C end our waiting, itself waits for all
        futures = {name: executor.submit(call) for name, call in calls.items()}
        wait(futures.values())
    return {name: future.result() for name, future in futures.items()}
