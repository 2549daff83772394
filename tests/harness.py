"""What tests share besides fixtures: bodies, the whole service in one process, and waiting for a condition."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp.test_utils import TestServer

from app.keys import REGISTRY
from app.main import SERVING
from app.web.connections import LOOPBACK, Runner
from worker.main import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from aiohttp import ClientWebSocketResponse, web
    from aiohttp.test_utils import TestClient

    from app.domain.public_addresses import Network
    from app.settings import Settings
    from worker.standin.server import Standin

GUARD_S = 60.0
"""Seconds after which a test that waits for something fails instead of hanging; it says nothing about speed."""

FOUNDING_BODY = {
    "user_id": "your-user-id",
    "job_type": "image",
    "prompt": "a beautiful sunset over mountains",
    "width": 832,
    "height": 1216,
}
"""The body of the founding example, to the letter."""

SMALL_BODY = FOUNDING_BODY | {"width": 64, "height": 64, "sampler_params": {"steps": 4}}
"""A job that is done in no time."""


NEWEST_COMFYUI = "0.33.0"
BOTH_AGES = pytest.mark.parametrize("comfyui_version", ["0.3.64", NEWEST_COMFYUI], indirect=True)
"""For tests of what each age of ComfyUI does in its own way: deaths, interrupts, frames, histories, files."""


LIVES = pytest.mark.parametrize("heartbeat_seconds", [30.0], ids=[""])
"""For tests that write heartbeats by hand, or in which a worker may not be missed: heartbeats count for 90 s."""


class ServedAsOurs(TestServer):
    """The server, served as `make up` serves it; `exempt` have as many connections as they like."""

    def __init__(self, app: web.Application, exempt: Sequence[Network] = LOOPBACK) -> None:
        super().__init__(app)
        self._exempt = exempt

    async def _make_runner(self, **options: Any) -> Runner:
        return Runner(self.app, exempt=self._exempt, **(SERVING | options))


@dataclass
class StandinServer:
    """A running stand-in."""

    url: str
    state: Standin = field(repr=False)


class Workers:
    """Starts workers in this process; calling it is what the fixture `start_worker` gives to tests."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running: list[tuple[WorkerProcess, asyncio.Task[int]]] = []

    async def __call__(self, comfyui_urls: str, **changes: Any) -> WorkerProcess:
        """Start a worker for these backends, with these settings changed."""
        worker = WorkerProcess(self._settings.model_copy(update={"comfyui_urls": comfyui_urls, **changes}))
        self._running.append((worker, asyncio.create_task(worker.work(), name="worker")))
        return worker

    async def stop(self, worker: WorkerProcess) -> None:
        """Stop a worker, and return when it has ended."""
        worker.stop()
        assert await next(task for each, task in self._running if each is worker) == 0

    async def stop_all(self) -> None:
        """Stop all workers, those that were started first at first."""
        for worker, _ in self._running:
            await self.stop(worker)


@dataclass
class Service:
    """The whole service in this process, with what tests do again and again."""

    client: TestClient[Any, Any]
    standin: StandinServer
    worker: WorkerProcess

    async def backend_online(self, count: int = 1) -> None:
        """Wait until so many backends are there."""

        async def online() -> bool:
            stats = await (await self.client.get("/api/v1/generation-jobs/queue/stats")).json()
            return bool(stats["backends_online"] >= count)

        await eventually(online)

    async def exchange_worker(
        self,
        start_worker: Workers,
        comfyui_urls: str | None = None,
        *,
        ready: Iterable[str] | None = None,
        **changes: Any,
    ) -> WorkerProcess:
        """Stop the worker, and start one for these backends when it has ended; by default for `standin` again.

        Returns when the server has heard of the new worker, and that it drives the backends of these names and finds
        them well; by default those of all that it was given. A job that is submitted then carries no warning.
        """
        await start_worker.stop(self.worker)
        self.worker = await start_worker(comfyui_urls or f"standin={self.standin.url}", **changes)
        await self.heard_of(self.worker, ready)
        return self.worker

    async def heard_of(self, worker: WorkerProcess, ready: Iterable[str] | None = None) -> None:
        """Wait until the server knows from heartbeats that this worker lives and has these backends, by default all.

        A count of backends does not show it: a worker that has just ended leaves heartbeats that are still young.
        """
        names = set(worker.pool.backends if ready is None else ready)
        registry = self.client.app[REGISTRY]

        async def heard() -> bool:
            live = {beat.name for beat in await registry.workers() if beat.live}
            driven = {
                beat.name
                for beat in await registry.backends()
                if beat.live and beat.healthy and beat.driver == worker.worker_id
            }
            return worker.worker_id in live and names <= driven

        await eventually(heard)

    async def drain(self, name: str) -> None:
        """Drain a backend, and return when the worker that drives it has confirmed that it gives it no more jobs."""

        async def confirmed() -> bool:
            answer = await self.client.post(f"/api/v1/backends/{name}/drain")
            assert answer.status == 200, await answer.text()
            return bool((await answer.json())["confirmed"])

        await eventually(confirmed)

    async def submit(self, **changes: Any) -> dict[str, Any]:
        """Submit a small job with these fields changed."""
        answer = await self.client.post("/api/v1/generation-jobs/", json=SMALL_BODY | changes)
        assert answer.status == 201, await answer.text()
        return dict(await answer.json())

    async def job(self, job_id: int) -> dict[str, Any]:
        """Read a job."""
        answer = await self.client.get(f"/api/v1/generation-jobs/{job_id}")
        assert answer.status == 200, await answer.text()
        return dict(await answer.json())

    async def finished(self, job_id: int, timeout_s: float = GUARD_S) -> dict[str, Any]:
        """Wait for the job's end over its WebSocket, and read it then."""
        async with asyncio.timeout(timeout_s), self.client.ws_connect(f"/ws/jobs/{job_id}") as ws:
            async for message in ws:
                if message.json()["status"] in ("completed", "failed", "cancelled"):
                    break
        return await self.job(job_id)

    async def run(self, **changes: Any) -> dict[str, Any]:
        """Submit a job, and return it when it has ended."""
        return await self.finished((await self.submit(**changes))["job_id"])

    async def executing(self, job_id: int) -> dict[str, Any]:
        """Wait until ComfyUI executes the job, and return it."""

        async def begun() -> dict[str, Any] | None:
            job = await self.job(job_id)
            return job if job["phase"] == "executing" else None

        return dict(await eventually(begun))

    def executions(self) -> Counter[str]:
        """Return how often the stand-in executed each prompt."""
        return Counter(each.prompt_id for each in self.standin.state.log.executions)


async def eventually(condition: Callable[[], Awaitable[Any]], timeout_s: float = GUARD_S) -> Any:
    """Wait until the condition holds, and return what it gave; a test that waits in vain fails by `TimeoutError`."""
    async with asyncio.timeout(timeout_s):
        while not (found := await condition()):
            await asyncio.sleep(0.02)
    return found


def transport_of(ws: ClientWebSocketResponse) -> Any:
    """Return the transport below a client's WebSocket."""
    connection = ws._response.connection  # noqa: SLF001 - aiohttp has no public way to it
    assert connection is not None
    return connection.transport
