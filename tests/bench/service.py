"""The service as users run it, in processes of its own: PostgreSQL, Redis, app, worker, stand-in, and a bare server."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from aiohttp import ClientError, ClientSession, ClientTimeout
from PIL import Image
from redis.asyncio import Redis

from app.embedded.services import Running, Wanted, embedded_services
from app.embedded.temporary import temporary_data_dir
from app.settings import Settings, load_settings
from app.storage.migrating import migrate
from tests.bench.client import Unexpected
from tests.chaos.processes import Member
from tests.chaos.servers import pick_ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

PICTURE: Final = "noise.png"
"""Name of an input picture of some 4 MB that no compression makes smaller."""
STANDIN: Final = "standin"
"""Name of the backend."""
_PICTURE_SIZE: Final = (1366, 1024)
_LAST_CHARS: Final = 4000


@dataclass(frozen=True)
class Service:
    """Where everything is reached, and the processes that can be stopped and started."""

    session: ClientSession
    api_url: str
    standin_url: str
    bare_url: str
    database_url: str
    redis_url: str
    settings: Settings
    app: Member
    worker: Member
    environment: dict[str, str]
    """Of app and worker, unless a row has started them with another one."""

    async def stop_worker(self) -> None:
        """Stop the worker in its orderly way."""
        await self.worker.end(signal.SIGTERM)

    async def start_worker(self) -> None:
        """Start the worker again, and wait until it drives its backend."""
        await self.worker.start()
        await self.worker.until_ready()

    async def renew(self, environment: dict[str, str], ready: Callable[[], Awaitable[bool]]) -> None:
        """Start app and worker anew with this environment, no jobs and an empty Redis.

        `ready` tells when the worker does its work.
        """
        for member in (self.worker, self.app):
            await member.end(signal.SIGTERM)
            member.environment = environment
        self.worker.ready = ready
        await self.forget_jobs()
        await asyncio.gather(self.app.start(), self.worker.start())
        await asyncio.gather(self.app.until_ready(), self.worker.until_ready())

    async def as_usual(self) -> None:
        """Have app and worker run with their usual environment again, if they do not."""
        if self.worker.environment is not self.environment:
            await self.renew(self.environment, connected(self.worker, STANDIN))

    async def forget_jobs(self) -> None:
        """Empty tables and Redis, so that what one row has left is in no other's way; for when no worker runs."""
        connection = await asyncpg.connect(self.database_url)
        try:
            await connection.execute("TRUNCATE generation_jobs CASCADE")
        finally:
            await connection.close()
        async with Redis.from_url(self.redis_url) as redis:
            await redis.flushall()

    async def until_thumbnails(self) -> None:
        """Wait until no thumbnail is due any more."""
        connection = await asyncpg.connect(self.database_url)
        try:
            while await connection.fetchval("SELECT count(*) FROM outputs WHERE thumbnail_due"):
                await asyncio.sleep(0.1)
        finally:
            await connection.close()

    async def redis_connections(self) -> int:
        """Return how many connections Redis has, this question's own among them."""
        async with Redis.from_url(self.redis_url) as redis:
            return int((await redis.info("clients"))["connected_clients"])

    async def executions(self) -> list[dict[str, Any]]:
        """Return what the stand-in has executed, in the order of the starts."""
        async with self.session.get(f"{self.standin_url}/standin/log") as response:
            return list((await response.json())["executions"])

    def last_words(self) -> str:
        """Return the ends of the logs of app and worker."""
        logs = {member.name: member.log_path.read_text(errors="replace") for member in (self.app, self.worker)}
        return "\n".join(f"--- {name}\n{text[-_LAST_CHARS:]}" for name, text in logs.items())

    async def versions(self) -> str:
        """Return the versions of PostgreSQL and Redis."""
        connection = await asyncpg.connect(self.database_url)
        try:
            postgresql = str(await connection.fetchval("SHOW server_version")).split()[0]
        finally:
            await connection.close()
        async with Redis.from_url(self.redis_url) as redis:
            found = await redis.info("server")
        valkey = found.get("valkey_version")
        return f"PostgreSQL {postgresql}, " + (f"Valkey {valkey}" if valkey else f"Redis {found['redis_version']}")


@asynccontextmanager
async def running_service() -> AsyncIterator[Service]:
    """Have the whole service running in the block, in a temporary folder, with the settings that users begin with."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(temporary_data_dir())
        wanted = Wanted(data_dir=folder, postgres=True, redis=True, redis_port=0)
        running = await stack.enter_async_context(embedded_services(wanted))
        session = await stack.enter_async_context(ClientSession())
        ports = dict(zip(("api", "standin", "bare"), pick_ports(3), strict=True))
        urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        own = _own_settings(running, folder, urls["standin"])
        await migrate(_as_settings(own))
        members = _members(session, folder, own, ports, urls)
        stack.push_async_callback(_end, members)
        await asyncio.to_thread(_draw_noise, folder / "comfyui" / "input" / PICTURE)
        for member in members.values():
            await member.start()
        for member in members.values():
            await member.until_ready()
        yield Service(
            session,
            urls["api"],
            urls["standin"],
            urls["bare"],
            own["DATABASE_URL"],
            own["REDIS_URL"],
            _as_settings(own),
            members["app"],
            members["worker"],
            members["worker"].environment,
        )
    if surprises := [text for member in members.values() for text in member.surprises]:
        raise Unexpected(f"not all went well: {'; '.join(surprises)}")


def _own_settings(running: Running, folder: Path, standin_url: str) -> dict[str, str]:
    assert running.database_url is not None
    assert running.redis_url is not None
    return {
        "GENONAUT_ENV": "test",
        "DATABASE_URL": running.database_url,
        "REDIS_URL": running.redis_url,
        "REDIS_DB": "3",
        "REDIS_NAMESPACE": "bench",
        "DATA_DIR": str(folder / "data"),
        "STORAGE_DIR": str(folder / "store"),
        "COMFYUI_URLS": f"{STANDIN}={standin_url}",
        "DEFAULT_CHECKPOINT": "",
        "LOG_LEVEL": "INFO",
    }


def _as_settings(own: dict[str, str]) -> Settings:
    values = {name.lower(): value for name, value in own.items() if name != "GENONAUT_ENV"}
    return load_settings("test", **values)


def _members(
    session: ClientSession, folder: Path, own: dict[str, str], ports: dict[str, int], urls: dict[str, str]
) -> dict[str, Member]:
    known = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    environment = known | own | {"PYTHONUNBUFFERED": "1", "API_PORT": str(ports["api"])}
    quick = ["--model-load-seconds", "0", "--step-seconds", "0", "--no-previews"]
    standin = ["--port", str(ports["standin"]), "--directory", str(folder / "comfyui"), *quick]
    wanted = {
        "standin": ("worker.standin", standin, answers(session, f"{urls['standin']}/system_stats")),
        "bare": ("tests.bench.bare", [str(ports["bare"])], answers(session, f"{urls['bare']}/job")),
        "app": ("app", ["serve"], answers(session, f"{urls['api']}/health/live")),
    }
    members = {name: Member(name, *rest[:2], environment, folder, rest[2]) for name, rest in wanted.items()}
    worker = Member("worker", "worker", [], environment, folder, answers(session, ""))
    worker.ready = connected(worker, STANDIN)
    return members | {"worker": worker}


def answers(session: ClientSession, url: str) -> Callable[[], Awaitable[bool]]:
    """Return a probe of whether a server answers there."""

    async def probe() -> bool:
        try:
            async with session.get(url, timeout=ClientTimeout(total=2)) as response:
                return response.status == 200
        except (ClientError, OSError, TimeoutError):
            return False

    return probe


def connected(worker: Member, *backends: str) -> Callable[[], Awaitable[bool]]:
    """Return a probe for what the present incarnation has logged: its heartbeats may be of the one before."""

    async def probe() -> bool:
        told = await asyncio.to_thread(worker.log_path.read_text, errors="replace")
        told = told.rpartition(f"=== worker, start {worker.incarnation}\n")[2]
        return all(f"backend {backend} is connected" in told for backend in backends)

    return probe


def _draw_noise(path: Path) -> None:
    path.parent.mkdir(parents=True)
    width, height = _PICTURE_SIZE
    Image.frombytes("RGB", _PICTURE_SIZE, os.urandom(width * height * 3)).save(path, compress_level=1)


async def _end(members: dict[str, Member]) -> None:
    # The worker first: what it hands over needs the others.
    for name in ("worker", "app", "bare", "standin"):
        await members[name].end(signal.SIGTERM)
        members[name].close()
