"""The hands that carry out the schedule of faults, and note whom each one hit."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aiohttp import ClientError, ClientTimeout
from redis.asyncio import Redis

from app.runtime.end_tasks import end_tasks
from tests.chaos.callers import Caller
from tests.chaos.clients import Connection, Kind
from tests.chaos.schedule import AWAY_S, BROKEN_S, Fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from aiohttp import ClientSession

    from tests.chaos.clients import Record
    from tests.chaos.executions import ExecutionLogs
    from tests.chaos.keyring import Holder, Key, Keyring
    from tests.chaos.planting import Planter
    from tests.chaos.processes import Fleet, Member
    from tests.chaos.schedule import Planned
    from tests.chaos.servers import Database

AWAY: Final = (ClientError, OSError, TimeoutError)
REVOKED_S: Final = 4.0
"""So long a key stays revoked after every server has refused it: its sockets have to be closed by then."""
SHOWN_S: Final = 20.0
"""So long a revoked key is shown to a server that does not refuse it."""
POISON_S: Final = 120.0
"""How long a poisonous job may take to be found out, queue and all."""
SAVERS_AT_ONCE: Final = 10
GPUS: Final = ("cuda", "accelerator", "hip", "mps", "cublas")
_TOLD: Final = ClientTimeout(total=30)
"""How long a stand-in may take to learn of a fault, on a machine that does much else: without it the run is over."""
STALL_NOTICED_S: Final = 40.0
"""Each new driver of a backend watches it for a whole stall limit before it says that it stands still."""


@dataclass
class Injection:
    """One fault as it happened; times are Unix seconds."""

    planned: Planned
    at: float
    since: float = 0.0
    """When recovery could begin: the fault itself, or for what was away on purpose the moment it was back."""
    jobs: list[int] = field(default_factory=list)
    """Those that ran under it."""
    waiting: list[int] = field(default_factory=list)
    app: int | None = None
    backend: str | None = None
    worker_pid: int | None = None
    """Set where it is not known whom it hit, because PostgreSQL was away just then."""
    answered_s: list[float] = field(default_factory=list)
    """Seconds until an app answered again."""
    until: float = 0.0
    note: str = ""
    unnoticed: bool = False
    """It was for the service to notice, and it did not."""


class Injector:
    """Carries out the schedule, and notes whom each fault hit."""

    def __init__(
        self,
        fleet: Fleet,
        session: ClientSession,
        logs: ExecutionLogs,
        planter: Planter,
        record: Record,
        keyring: Keyring | None,
    ) -> None:
        self._planter = planter
        self._keyring = keyring
        self._record = record
        self._fleet = fleet
        self._session = session
        self._logs = logs
        self.injections: list[Injection] = []
        self._carry_out: dict[Fault, Callable[[Injection], Awaitable[None]]] = {
            Fault.WORKER_KILL: self._kill_worker,
            Fault.WORKER_FREEZE: self._freeze_worker,
            Fault.WORKER_ROLL: lambda injection: self._roll(injection, self._fleet.workers),
            Fault.APP_KILL: self._kill_app,
            Fault.APP_ROLL: lambda injection: self._roll(injection, self._fleet.apps),
            Fault.REDIS_RESTART: lambda injection: self._restart(injection, self._fleet.redis),
            Fault.REDIS_AWAY: lambda injection: self._restart(injection, self._fleet.redis, AWAY_S),
            Fault.REDIS_FLUSH: self._flush,
            Fault.POSTGRES_FAST: lambda injection: self._restart(injection, self._fleet.postgres),
            Fault.POSTGRES_IMMEDIATE: lambda injection: self._restart(
                injection, self._fleet.postgres, 0, signal.SIGQUIT
            ),
            Fault.POSTGRES_AWAY: lambda injection: self._restart(injection, self._fleet.postgres, AWAY_S),
            Fault.STANDIN_KILL: self._kill_standin,
            Fault.DEAD_THREAD: self._end_thread,
            Fault.DEAF: lambda injection: self._disturb(injection, {"kind": "deaf"}),
            Fault.DROP_SOCKETS: lambda injection: self._disturb(injection, {"kind": "drop_sockets"}),
            Fault.LOSE_ANSWER: lambda injection: self._disturb(injection, {"kind": "lose_answer", "times": 2}),
            Fault.VIEW_ERROR: lambda injection: self._disturb(
                injection, {"kind": "view", "how": "error", "times": 1}, {"kind": "view", "how": "truncated"}
            ),
            Fault.BROKEN_GPU: self._break_gpu,
            Fault.POISON: self._poison,
            Fault.FIXED_SAVERS: self._save_over,
            Fault.KEY_REVOKED: self._revoke,
            Fault.KEY_REPLACED: self._replace_key,
            Fault.KEY_WITHOUT_REDIS: self._revoke_without_redis,
            Fault.KEY_WITHOUT_POSTGRES: self._revoke_without_postgres,
            Fault.KEY_WITHOUT_APP: self._revoke_without_app,
        }

    async def run(self, schedule: Sequence[Planned], began: float) -> None:
        """Inject everything at its time, `began` being the monotonic start; returns when the last one is over."""
        async with asyncio.TaskGroup() as group:
            for planned in schedule:
                await asyncio.sleep(max(0.0, began + planned.at_s - time.monotonic()))
                injection = Injection(planned, time.time())
                self.injections.append(injection)
                group.create_task(self._inject(injection), name=planned.fault)

    async def clear(self) -> None:
        """Take back what still waits for its occasion."""
        for url in self._fleet.standin_urls.values():
            async with self._session.delete(f"{url}/standin/faults", timeout=_TOLD):
                pass

    async def _inject(self, injection: Injection) -> None:
        await self._carry_out[injection.planned.fault](injection)
        injection.until = time.time()

    async def _hit(self, injection: Injection, *, worker: Member | None = None, backend: str | None = None) -> None:
        """Note the jobs that run, on this worker or backend, and those that wait. PostgreSQL may be away just now."""
        injection.at = injection.since = time.time()
        statement = """SELECT id, status, worker_id FROM generation_jobs WHERE status = 'pending' OR
            (status = 'running' AND ($1::text IS NULL OR worker_id LIKE $1) AND ($2::text IS NULL OR backend_name = $2))
        """
        try:
            rows = await self._fleet.query(statement, f"%:{worker.pid}:%" if worker else None, backend)
        except Exception:  # noqa: BLE001 - whatever PostgreSQL says in the middle of a restart
            injection.backend, injection.worker_pid = backend, worker.pid if worker else None
            return
        # What an earlier fault's victim ran is not this fault's.
        live = {str(member.pid) for member in self._fleet.workers if member.pid}
        running = [row for row in rows if row["status"] == "running"]
        injection.jobs = [row["id"] for row in running if (row["worker_id"] or "::").split(":")[1] in live]
        injection.waiting = [row["id"] for row in rows if row["status"] == "pending"]
        injection.at = injection.since = time.time()

    async def _answering(self, injection: Injection) -> None:
        """Measure until each app answers again."""

        async def measure(url: str) -> None:
            while time.time() < injection.since + 30:
                if await self._fleet.serves(url):
                    injection.answered_s.append(time.time() - injection.since)
                    return
                await asyncio.sleep(0.05)
            injection.answered_s.append(30.0)

        await asyncio.gather(*(measure(url) for url in self._fleet.api_urls))

    async def _worker(self, injection: Injection) -> Member:
        """Return the worker that is meant: usually the one that runs most, for one may drive all backends."""
        workers = self._fleet.workers
        chosen = workers[injection.planned.target % len(workers)]
        if injection.planned.target % 4 == 0:
            return chosen
        statement = (
            "SELECT worker_id, count(*) AS jobs FROM generation_jobs WHERE status = 'running' GROUP BY worker_id"
        )
        try:
            rows = await self._fleet.query(f"{statement} ORDER BY jobs DESC")
        except Exception:  # noqa: BLE001 - whatever PostgreSQL says in the middle of a restart
            return chosen
        busy = [str(row["worker_id"]).split(":")[1:2] for row in rows]
        return next((worker for pid in busy for worker in workers if [str(worker.pid)] == pid), chosen)

    async def _kill_worker(self, injection: Injection) -> None:
        worker = await self._worker(injection)
        async with worker.lock:
            await self._hit(injection, worker=worker)
            await worker.end(signal.SIGKILL)
            await asyncio.sleep(injection.planned.down_s)
            await worker.start()
            await worker.until_ready()

    async def _freeze_worker(self, injection: Injection) -> None:
        worker = await self._worker(injection)
        async with worker.lock:
            await self._hit(injection, worker=worker)
            process = worker.process
            if process is not None:
                process.send_signal(signal.SIGSTOP)
                try:
                    await asyncio.sleep(AWAY_S)
                finally:
                    process.send_signal(signal.SIGCONT)

    async def _roll(self, injection: Injection, members: list[Member]) -> None:
        await self._hit(injection)
        for index, member in enumerate(members):
            async with member.lock:
                if members is self._fleet.apps:
                    injection.app = index
                await member.end(signal.SIGTERM)
                await member.start()
                await member.until_ready()

    async def _kill_app(self, injection: Injection) -> None:
        injection.app = injection.planned.target % len(self._fleet.apps)
        app = self._fleet.apps[injection.app]
        async with app.lock:
            injection.at = injection.since = time.time()
            await app.end(signal.SIGKILL)
            await asyncio.sleep(injection.planned.down_s)
            await app.start()
            await app.until_ready()
            injection.answered_s.append(time.time() - injection.at)

    async def _restart(
        self, injection: Injection, server: Database, down_s: float = 0.0, *signals: signal.Signals
    ) -> None:
        async with server.lock:
            await self._hit(injection)
            await self._stop_for(server, down_s, *signals)
            injection.since = time.time()
        await self._answering(injection)

    async def _stop_for(self, server: Database, down_s: float, *signals: signal.Signals) -> None:
        """Stop a database and start it again, and write that down; the caller holds its lock."""
        began = time.time()
        await server.stop(*signals)
        await asyncio.sleep(down_s)
        await server.start()
        self._note_outage(server, began)

    def _note_outage(self, server: Database, began: float) -> None:
        name = "redis" if server is self._fleet.redis else "postgres"
        self._record.outages.setdefault(name, []).append((began, time.time()))

    async def _flush(self, injection: Injection) -> None:
        await self._hit(injection)
        async with self._fleet.redis.lock, Redis.from_url(self._fleet.redis.url) as redis:
            began = time.time()
            await redis.flushall()
            self._note_outage(self._fleet.redis, began)
            injection.since = time.time()
        await self._answering(injection)

    def _standin(self, injection: Injection) -> Member:
        return self._fleet.standins[injection.planned.target % len(self._fleet.standins)]

    async def _kill_standin(self, injection: Injection) -> None:
        standin = self._standin(injection)
        async with standin.lock:
            await self._hit(injection, backend=standin.name)
            await self._replace(standin, signal.SIGKILL, injection.planned.down_s)

    async def _replace(self, standin: Member, number: signal.Signals, down_s: float) -> None:
        """End a stand-in, its history with it, and start it again."""
        await self._logs.collect(standin.name)
        await standin.end(number)
        self._logs.ends(standin.name)
        await asyncio.sleep(down_s)
        await standin.start()
        await standin.until_ready()
        self._logs.begins(standin.name)

    async def _disturb(self, injection: Injection, *faults: dict[str, Any]) -> None:
        standin = self._standin(injection)
        async with standin.lock:
            await self._hit(injection, backend=standin.name)
            await self._tell(standin, list(faults))

    async def _tell(self, standin: Member, faults: list[dict[str, Any]]) -> None:
        url = f"{self._fleet.standin_urls[standin.name]}/standin/faults"
        async with self._session.post(url, json=faults, timeout=_TOLD) as response:
            response.raise_for_status()

    async def _end_thread(self, injection: Injection) -> None:
        """Let the thread die at the next prompt; restart the server when the workers have noticed that it stalls."""
        standin = self._standin(injection)
        async with standin.lock:
            await self._tell(standin, [{"kind": "dead_thread_at_start"}])
            died = await self._until(20, lambda: self._logs.is_dead(standin.name))
            await self._hit(injection, backend=standin.name)
            noticed = died and await self._until(STALL_NOTICED_S, lambda: self._is_noticed(standin.name))
            took_s = time.time() - injection.at
            injection.note = f"noticed after {took_s:.1f} s" if noticed else f"not noticed in {took_s:.1f} s"
            injection.unnoticed = died and not noticed
            await self._replace(standin, signal.SIGTERM, 0.2)

    async def _break_gpu(self, injection: Injection) -> None:
        """Let every run of a server fail at once with a device error, for a while."""
        standin = self._standin(injection)
        async with standin.lock:
            await self._hit(injection, backend=standin.name)
            gpu = GPUS[injection.planned.target % len(GPUS)]
            await self._tell(standin, [{"kind": "broken_gpu", "gpu": gpu, "times": None}])
            try:
                await asyncio.sleep(BROKEN_S)
            finally:
                url = f"{self._fleet.standin_urls[standin.name]}/standin/faults?kind=broken_gpu"
                async with self._session.delete(url, timeout=_TOLD):
                    pass
            self._logs.breakdowns[standin.name].append((injection.at, time.time()))

    async def _save_over(self, injection: Injection) -> None:
        """Send jobs whose savers all write the same file, at once."""
        injection.at = injection.since = time.time()
        self._planter.plant(Kind.FIXED, SAVERS_AT_ONCE, injection.planned.target)

    async def _revoke(self, injection: Injection) -> None:
        """Revoke a user's key, and take that back after a while."""
        await self._revoked(injection, contextlib.nullcontext())

    async def _replace_key(self, injection: Injection) -> None:
        """Give a user another key: before its present one is revoked, or only some time after that."""
        keyring, holder = self._keys(injection)
        async with holder.lock:
            injection.at = injection.since = time.time()
            by_command = injection.planned.target % 4 < 2
            await self._remembered(holder)
            if injection.planned.target % 2:
                last = await keyring.renew(holder)
                assert last is not None
                await keyring.revoke(last, holder.owner, by_command=by_command)
            else:
                assert holder.key is not None
                await keyring.revoke(holder.key, holder.owner, by_command=by_command)
                await asyncio.sleep(injection.planned.down_s)
                last = await keyring.renew(holder)
                assert last is not None
            await self._until_refused(last, holder)

    async def _revoke_without_redis(self, injection: Injection) -> None:
        """Revoke a key while Redis is away, so that no server is told."""
        redis = self._fleet.redis

        @contextlib.asynccontextmanager
        async def away() -> AsyncIterator[None]:
            async with redis.lock:
                began = time.time()
                await redis.stop()
                try:
                    yield
                    await asyncio.sleep(injection.planned.down_s)
                finally:
                    await redis.start()
                    self._note_outage(redis, began)
                    injection.since = time.time()

        await self._revoked(injection, away())

    async def _revoke_without_postgres(self, injection: Injection) -> None:
        """Revoke a key, and have PostgreSQL away at once: the servers go on with what they remember."""
        await self._revoked(injection, contextlib.nullcontext(), without_postgres=True)

    async def _revoke_without_app(self, injection: Injection) -> None:
        """Kill a server, and revoke a key before it is back."""
        app = self._fleet.apps[injection.planned.target % len(self._fleet.apps)]

        @contextlib.asynccontextmanager
        async def away() -> AsyncIterator[None]:
            async with app.lock:
                await app.end(signal.SIGKILL)
                try:
                    yield
                finally:
                    await app.start()
                    await app.until_ready()
                    injection.since = time.time()

        await self._revoked(injection, away())

    async def _revoked(
        self,
        injection: Injection,
        during: contextlib.AbstractAsyncContextManager[None],
        *,
        without_postgres: bool = False,
    ) -> None:
        keyring, holder = self._keys(injection)
        by_command = injection.planned.target % 4 < 2
        async with holder.lock:
            injection.at = injection.since = time.time()
            assert holder.key is not None
            await self._remembered(holder)
            watching = self._watch_events(holder)
            async with during:
                revocation = await keyring.revoke(holder.key, holder.owner, by_command=by_command)
            if without_postgres:
                async with self._fleet.postgres.lock:
                    await self._stop_for(self._fleet.postgres, injection.planned.down_s)
                injection.since = time.time()
            await self._until_refused(holder.key, holder)
            await asyncio.sleep(REVOKED_S)
            await end_tasks(watching)
            await keyring.restore(revocation, by_command=not by_command)

    async def _until_refused(self, key: Key, holder: Holder) -> None:
        """Show a revoked key to each server again and again, until it is refused; the checks judge the answers."""

        async def show(app: int) -> None:
            deadline = time.monotonic() + SHOWN_S
            while await self._shown(key, holder, app) not in (401, 429) and time.monotonic() < deadline:
                await asyncio.sleep(0.2)

        await asyncio.gather(*(show(app) for app in range(len(self._fleet.apps))))

    async def _remembered(self, holder: Holder) -> None:
        """Show the present key to each server, so that each remembers whose it is."""
        assert holder.key is not None
        await asyncio.gather(*(self._shown(holder.key, holder, app) for app in range(len(self._fleet.apps))))

    def _watch_events(self, holder: Holder) -> list[asyncio.Task[None]]:
        """Have a socket at each server that stays open until its key is revoked, whatever becomes of jobs."""
        assert holder.key is not None
        return [asyncio.create_task(self._watch(holder.key, app), name="watch") for app in range(len(self._fleet.apps))]

    async def _watch(self, key: Key, app: int) -> None:
        connection = Connection(0, app, [], time.time(), key=key.name)
        with contextlib.suppress(*AWAY):
            try:
                url = f"{self._fleet.api_urls[app]}/ws/events"
                async with self._session.ws_connect(url, headers=key.headers()) as ws:
                    self._record.watched.append(connection)
                    async for _ in ws:
                        pass
                    connection.close_code = ws.close_code
            finally:
                connection.closed_at = time.time()

    async def _shown(self, key: Key, holder: Holder, app: int) -> int | None:
        caller = Caller(self._session, self._fleet.api_urls, holder, random.Random(key.name), self._record.sent)
        with contextlib.suppress(*AWAY, ValueError):
            async with caller.request("GET", app, "/api/v1/me", key=key) as response:
                return response.status
        return None

    def _keys(self, injection: Injection) -> tuple[Keyring, Holder]:
        assert self._keyring is not None, "a fault of keys in a run without keys"
        target, keyring = injection.planned.target, self._keyring
        if target % 4 == 0:
            return keyring, keyring.holder(target)
        # Who has most sockets open just now loses most.
        names = {holder.key.name: holder for holder in keyring.holders if holder.key and not holder.lock.locked()}
        opened = Counter(each.key for each in self._record.connections if not each.closed_at and each.key in names)
        return keyring, names[opened.most_common(1)[0][0]] if opened else keyring.holder(target)

    async def _poison(self, injection: Injection) -> None:
        """Send a poisonous job, and restart what it kills, until it has been found out."""
        injection.at = injection.since = time.time()
        (client,) = self._planter.plant(Kind.POISON, 1, injection.planned.target)
        async with asyncio.TaskGroup() as group:
            deaths = [group.create_task(self._mend(standin, client)) for standin in self._fleet.standins]
        found_out = "found out" if client.done() else f"not found out in {POISON_S:.0f} s"
        injection.note = f"{found_out}; {sum(task.result() for task in deaths)} threads died in that time"

    async def _mend(self, standin: Member, client: asyncio.Task[None]) -> int:
        """Restart a server whenever its thread is found dead and that was noticed; return how often it was."""
        deadline = time.monotonic() + POISON_S
        deaths, last = 0, False
        while not last:
            last = client.done() or time.monotonic() > deadline
            # The fault that holds the lock sees to it itself.
            if not standin.lock.locked() and await self._logs.is_dead(standin.name):
                async with standin.lock:
                    await self._until(STALL_NOTICED_S, lambda: self._is_noticed(standin.name))
                    await self._replace(standin, signal.SIGTERM, 0.2)
                deaths += 1
            await asyncio.sleep(0.3)
        return deaths

    async def _is_noticed(self, name: str) -> bool:
        """Whether the service says that something is wrong with this backend."""
        for url in self._fleet.api_urls:
            try:
                async with self._session.get(
                    f"{url}/health/ready", headers=self._fleet.headers, timeout=ClientTimeout(total=2)
                ) as response:
                    told = {each["name"]: each.get("reason") for each in (await response.json())["backends"]}
                    if told.get(name):
                        return True
            except (*AWAY, ValueError, KeyError):
                continue
        return False

    async def _until(self, seconds: float, condition: Callable[[], Awaitable[bool]]) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if await condition():
                return True
            await asyncio.sleep(0.2)
        return False
