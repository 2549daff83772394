"""The processes of a run: PostgreSQL and Redis on fixed ports; apps, workers and stand-ins, watched and restarted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Final

import asyncpg
from aiohttp import ClientError, ClientSession, ClientTimeout
from pydantic import SecretStr

from app.embedded.postgres_server import PostgresServer
from app.embedded.redis_server import RedisServer
from app.settings import ROOT, Settings, load_settings
from app.storage.migrating import migrate
from tests.chaos.clients import KEEP_UPLOADS_S
from tests.chaos.servers import Database, pick_ports

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path


READY_S: Final = 30.0
PATIENCE_S: Final = 15.0
"""How long an ordered end may take."""
ORPHAN_S: Final = 30
"""Longer than an outage may keep the row of a stored file waiting: the sweep runs meanwhile."""
SHORT_TIMES: Final = {
    "LEASE_SECONDS": "4",
    "HEARTBEAT_SECONDS": "1",
    "RETRY_BASE_SECONDS": "0.2",
    "RETRY_MAX_SECONDS": "2",
    "RECONCILE_SECONDS": "2",
    "KEEP_UPLOADS_DAYS": str(KEEP_UPLOADS_S / 86_400),
    "ORPHAN_SECONDS": str(ORPHAN_S),
    "COMFYUI_POLL_SECONDS": "1",
    "COMFYUI_STALL_SECONDS": "6",
    "COMFYUI_TIMEOUT_SECONDS": "5",
    "DATABASE_TIMEOUT_SECONDS": "5",
    "REDIS_TIMEOUT_SECONDS": "2",
    "SHUTDOWN_GRACE_SECONDS": "3",
    "WS_LINGER_SECONDS": "0.5",
    "CANCEL_WAIT_SECONDS": "3",
}
"""Everything that waits, waits less than in life, so that minutes show what hours would."""


@dataclass
class Member:
    """One process of ours. It is restarted when it ends, and an end that nobody asked for is written down."""

    name: str
    module: str
    arguments: Sequence[str]
    environment: dict[str, str]
    folder: Path
    ready: Callable[[], Awaitable[bool]]
    process: asyncio.subprocess.Process | None = None
    incarnation: int = 0
    surprises: list[str] = field(default_factory=list)
    exits: list[tuple[float, int]] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the fault that is at it, so that faults for one member come one after the other."""
    _log: IO[bytes] | None = None
    _watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process number, 0 when it does not run."""
        return self.process.pid if self.process and self.process.returncode is None else 0

    @property
    def log_path(self) -> Path:
        """What it said, all its incarnations one after the other."""
        return self.folder / f"{self.name}.log"

    async def start(self) -> None:
        """Start it; it ends with us, even when we are killed, because its input ends then."""
        self.incarnation += 1
        if self._log is None:
            self._log = self.log_path.open("ab", buffering=0)
        self._log.write(f"=== {self.name}, start {self.incarnation}\n".encode())
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.commands.die_with_parent", self.module, *self.arguments),
            cwd=ROOT,
            env=self.environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self._watch = asyncio.create_task(self._note_end(self.process), name=f"watch-{self.name}")

    async def until_ready(self) -> None:
        """Wait until it serves; raises `TimeoutError`."""
        async with asyncio.timeout(READY_S):
            while not await self.ready():
                await asyncio.sleep(0.1)

    async def end(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code; what does not end in time is killed, and that is a surprise."""
        process, self.process = self.process, None
        if process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            async with asyncio.timeout(PATIENCE_S):
                code = await process.wait()
        except TimeoutError:
            self.surprises.append(f"{self.name} did not end within {PATIENCE_S:.0f} s of {number.name}")
            process.kill()
            code = await process.wait()
        self.exits.append((time.time(), code))
        if number is signal.SIGTERM and code not in (0, 128 + signal.SIGTERM):
            self.surprises.append(f"{self.name} ended with code {code} after SIGTERM")
        return code

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()

    async def _note_end(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        if self.process is process:
            self.surprises.append(f"{self.name} (start {self.incarnation}) ended by itself with code {code}")
            self.process = None
            await asyncio.sleep(0.5)
            await self.start()


class Fleet:
    """Everything that runs."""

    def __init__(self, folder: Path, session: ClientSession, *, workers: int, apps: int, standins: int) -> None:
        self.folder = folder
        self.store = folder / "store"
        ports = pick_ports(2 + apps + standins)
        self.api_urls = [f"http://127.0.0.1:{port}" for port in ports[2 : 2 + apps]]
        self.standin_urls = {f"s{index}": f"http://127.0.0.1:{port}" for index, port in enumerate(ports[2 + apps :])}
        self._session = session
        # As in production: a server that is killed may lose nothing that it has confirmed.
        postgres = PostgresServer(folder / "postgres", durable=True, prefer_wheels=False)
        postgres.port = ports[0]
        self.postgres = Database(postgres)
        self.redis = Database(
            RedisServer(folder / "redis", port=ports[1], config=None, durable=True, prefer_wheels=False)
        )
        self.headers: dict[str, str] = {}
        """What a request of ours shows that needs a key."""
        self._counts = {"worker": workers, "app": apps, "standin": standins}
        self.workers: list[Member] = []
        self.apps: list[Member] = []
        self.standins: list[Member] = []

    @property
    def members(self) -> list[Member]:
        """All processes of ours."""
        return [*self.apps, *self.workers, *self.standins]

    @property
    def settings(self) -> Settings:
        """The settings that the processes have."""
        values: dict[str, Any] = {name.lower(): value for name, value in self._own_settings().items()}
        for secret in ("database_url", "redis_url"):
            values[secret] = SecretStr(values[secret])
        del values["genonaut_env"]
        return load_settings("test", **values)

    async def start(self, prepare: Callable[[], Awaitable[None]] | None = None) -> None:
        """Start everything and wait until it serves; `prepare` is called when the databases are there."""
        for folder in (self.folder / "logs", self.store):
            folder.mkdir()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.postgres.start())
            group.create_task(self.redis.start())
        await migrate(self.settings)
        if prepare is not None:
            await prepare()
        self._make_members()
        for member in self.members:
            await member.start()
        for member in self.members:
            await member.until_ready()

    async def stop(self) -> None:
        """Stop everything that was started, whatever state it is in."""
        for group in (self.workers, self.apps, self.standins):
            await asyncio.gather(*(member.end(signal.SIGTERM) for member in group))
        for member in self.members:
            member.close()
        await asyncio.gather(self.postgres.stop(), self.redis.stop(), return_exceptions=True)

    async def query(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        """Ask PostgreSQL, over a connection of its own: servers come and go here."""
        connection = await asyncpg.connect(self.postgres.url, timeout=5)
        try:
            return [dict(row) for row in await connection.fetch(statement, *arguments, timeout=10)]
        finally:
            await connection.close()

    async def serves(self, url: str) -> bool:
        """Whether an app answers a request that needs both PostgreSQL and Redis."""
        return await self._answers(f"{url}/api/v1/generation-jobs/queue/stats")

    def environment(self) -> dict[str, str]:
        """Return the environment of our processes."""
        known = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
        return known | self._own_settings() | {"PYTHONUNBUFFERED": "1"}

    def _own_settings(self) -> dict[str, str]:
        return SHORT_TIMES | {
            "GENONAUT_ENV": "test",
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.redis.url,
            "REDIS_DB": "3",
            "REDIS_NAMESPACE": "chaos",
            "DATA_DIR": str(self.folder / "data"),
            "STORAGE_DIR": str(self.store),
            "COMFYUI_URLS": ",".join(f"{name}={url}" for name, url in self.standin_urls.items()),
            "DEFAULT_CHECKPOINT": "",
            "BACKEND_SLOTS": "2",
            "LOG_LEVEL": "INFO",
        }

    def _make_members(self) -> None:
        environment, logs = self.environment(), self.folder / "logs"
        for index, (name, url) in enumerate(self.standin_urls.items()):
            arguments = ["--port", url.rpartition(":")[2], "--directory", str(self.folder / f"comfyui-{index}")]
            arguments += ["--model-load-seconds", "0.2", "--step-seconds", "0.05"]
            ready = self._probe(f"{url}/system_stats")
            self.standins.append(Member(name, "worker.standin", arguments, environment, logs, ready))
        for index, url in enumerate(self.api_urls):
            own = environment | {"API_PORT": url.rpartition(":")[2]}
            self.apps.append(Member(f"app{index}", "app", ["serve"], own, logs, self._probe(f"{url}/health/live")))
        for index in range(self._counts["worker"]):
            member = Member(f"worker{index}", "worker", [], environment, logs, _always)
            member.ready = _said(member, "Genonaut worker")
            self.workers.append(member)

    def _probe(self, url: str) -> Callable[[], Awaitable[bool]]:
        return lambda: self._answers(url)

    async def _answers(self, url: str) -> bool:
        try:
            async with self._session.get(url, headers=self.headers, timeout=ClientTimeout(total=2)) as response:
                return response.status == 200
        except (ClientError, OSError, TimeoutError):
            return False


async def _always() -> bool:
    return True


def _said(member: Member, text: str) -> Callable[[], Awaitable[bool]]:
    """Return a probe for what the present incarnation has logged."""

    async def probe() -> bool:
        told = await asyncio.to_thread(member.log_path.read_text, errors="replace")
        return text in told.rpartition(f"=== {member.name}, start {member.incarnation}\n")[2]

    return probe
