"""Several backends for the service, started anew with the settings of a comparison, and what they saw of the jobs."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import asyncpg

from tests.bench.client import Unexpected
from tests.bench.job_rows import run_bodies
from tests.bench.service import answers, connected
from tests.bench.usage import processors_s, usage
from tests.chaos.processes import Member
from tests.chaos.servers import pick_ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from tests.bench.service import Service

OURS: Final[Mapping[str, str]] = {"PREFER_LOADED_MODELS": "true", "FAIRNESS": "tenant"}
FIFO: Final[Mapping[str, str]] = {"PREFER_LOADED_MODELS": "false", "FAIRNESS": "off"}
"""First come, first served, on whichever backend has a free slot."""
_SEEN: Final = """SELECT job.user_id, extract(epoch FROM try.executing_at - job.created_at)::float AS wait_s
    FROM job_attempts AS try JOIN generation_jobs AS job ON job.id = try.job_id WHERE job.id = ANY ($1::bigint[])"""


class _Used(NamedTuple):
    """Seconds of processor time, at a moment or since another one; all 0 on a system that does not tell."""

    seconds: float
    worker_s: float
    standins_s: float
    all_s: float

    def since(self, before: _Used) -> tuple[float, float, float]:
        """Return the shares of a core that worker and stand-ins had since then, and the share of all cores in use."""
        seconds, worker_s, standins_s, all_s = (now - then for now, then in zip(self, before, strict=True))
        return worker_s / seconds, standins_s / seconds, all_s / seconds / (os.cpu_count() or 1)


@dataclass(frozen=True)
class Seen:
    """What was seen of jobs that were all sent at once, and have completed."""

    executions: list[list[dict[str, Any]]]
    """Of each backend, in the order of the starts."""
    loads: int
    """How often a checkpoint was loaded."""
    waits_s: dict[str, list[float]]
    """User → how long each of its jobs waited until a backend began to execute it."""
    worker_cpu: float = 0.0
    """Share of a core that the worker had, from the first POST to the last terminal frame."""
    standins_cpu: float = 0.0
    """The same of all stand-ins together."""
    all_cpu: float = 0.0
    """Share of all cores that was in use meanwhile, by whatever the machine does."""

    @property
    def seconds(self) -> float:
        """From the first start of a run to the last end of one."""
        return max(each["ended"] for each in self._all()) - min(each["started"] for each in self._all())

    @property
    def busy_share(self) -> float:
        """How much of their time the backends work, from when the last one has begun until the first has ended."""
        began = max(runs[0]["started"] for runs in self.executions)
        ended = min(runs[-1]["ended"] for runs in self.executions)
        worked = sum(max(0.0, min(each["ended"], ended) - max(each["started"], began)) for each in self._all())
        return float(worked / (len(self.executions) * (ended - began)))

    def _all(self) -> Iterator[dict[str, Any]]:
        return (each for runs in self.executions for each in runs)


class Backends:
    """Stand-ins in one process, which the service's worker drives instead of its usual one."""

    def __init__(self, service: Service, urls: Mapping[str, str], standins: Member) -> None:
        self._service = service
        self._urls = urls
        self._standins = standins

    async def run(self, bodies: Sequence[bytes], connections: int = 1) -> Seen:
        """Submit these jobs, over one connection in their order, and return what was seen of them.

        Raises `Unexpected` when one does not complete, or a backend has got none.
        """
        before, used = await self._logs(), self._used()
        run = await run_bodies(self._service, bodies, connections)
        shares, after = self._used().since(used), await self._logs()
        executions = [now["executions"][len(then["executions"]) :] for now, then in zip(after, before, strict=True)]
        if not all(executions):
            raise Unexpected(f"only {sum(map(bool, executions))} of {len(executions)} backends were used")
        loads = sum(now["loads"] - then["loads"] for now, then in zip(after, before, strict=True))
        return Seen(executions, loads, await self._waits_s(run.job_ids), *shares)

    def _used(self) -> _Used:
        cpu_s = [
            found.cpu_s if (found := usage([pid])) else 0.0 for pid in (self._service.worker.pid, self._standins.pid)
        ]
        return _Used(time.perf_counter(), cpu_s[0], cpu_s[1], processors_s())

    async def _logs(self) -> list[dict[str, Any]]:
        return list(await asyncio.gather(*map(self._log, self._urls.values())))

    async def _log(self, url: str) -> dict[str, Any]:
        async with self._service.session.get(f"{url}/standin/log") as response:
            return dict(await response.json())

    async def _waits_s(self, job_ids: list[int]) -> dict[str, list[float]]:
        connection = await asyncpg.connect(self._service.database_url)
        try:
            rows = await connection.fetch(_SEEN, job_ids)
        finally:
            await connection.close()
        waits_s: dict[str, list[float]] = {}
        for row in rows:
            waits_s.setdefault(row["user_id"], []).append(row["wait_s"])
        return waits_s


@asynccontextmanager
async def backends(service: Service, count: int, load_s: float, settings: Mapping[str, str]) -> AsyncIterator[Backends]:
    """Have the service with so many backends, each with nothing loaded, and with these settings, in the block.

    It is started anew: nothing is known of earlier jobs. What runs after the block has it `as_usual` first.
    """
    ports = pick_ports(count)
    urls = {f"b{number}": f"http://127.0.0.1:{port}" for number, port in enumerate(ports)}
    arguments = ["--load-seconds", str(load_s), *map(str, ports)]
    # The last one begins to serve when all others do.
    probe = answers(service.session, f"http://127.0.0.1:{ports[-1]}/system_stats")
    standins = Member("standins", "tests.bench.standins", arguments, service.environment, service.worker.folder, probe)
    own = service.environment | settings | {"COMFYUI_URLS": ",".join(f"{name}={url}" for name, url in urls.items())}
    await standins.start()
    try:
        await standins.until_ready()
        await service.renew(own, connected(service.worker, *urls))
        yield Backends(service, urls, standins)
    finally:
        await standins.end(signal.SIGTERM)
        standins.close()
