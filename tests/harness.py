"""What tests share besides fixtures: bodies, the whole service in one process, and waiting for a condition."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.test_utils import TestClient

    from worker.main import WorkerProcess
    from worker.standin.server import Standin

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


GUARD_S = 60.0
"""Seconds after which a test that waits for an event fails: far more than any takes on a machine that is busy."""
NEWEST_COMFYUI = "0.33.0"
BOTH_AGES = pytest.mark.parametrize("comfyui_version", ["0.3.64", NEWEST_COMFYUI], indirect=True)
"""For tests of what each age of ComfyUI does in its own way: deaths, interrupts, frames, histories, files."""


@dataclass
class StandinServer:
    """A running stand-in."""

    url: str
    state: Standin = field(repr=False)


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

    async def replace_worker(
        self, start_worker: Callable[..., Awaitable[WorkerProcess]], comfyui_urls: str, **changes: Any
    ) -> WorkerProcess:
        """Stop the worker, and start another one of these backends and settings when that has ended.

        Returns when the server has heard of the new worker that it drives all of its backends and has reached them. A
        job that is sent earlier may be run by the old worker, or be told that there is none.
        """
        await self.stop_worker()
        self.worker = await start_worker(comfyui_urls, **changes)
        await self.driven_by(self.worker)
        return self.worker

    async def stop_worker(self) -> None:
        """Stop the worker, and wait until the server has heard that it has gone."""
        self.worker.stop()
        name = self.worker.worker_id

        async def gone() -> bool:
            ready = await (await self.client.get("/health/ready")).json()
            return not any(worker["live"] for worker in ready["workers"] if worker["name"] == name)

        await eventually(gone)

    async def driven_by(self, worker: WorkerProcess) -> None:
        """Wait until the server has heard of this worker that it drives all of its backends and has reached them."""

        async def driven() -> bool:
            ready = await (await self.client.get("/health/ready")).json()
            live = {each["name"] for each in ready["workers"] if each["live"]}
            reached = {
                each["name"] for each in ready["backends"] if each.get("driver") == worker.worker_id and each["healthy"]
            }
            return worker.worker_id in live and reached >= worker.pool.backends.keys()

        await eventually(driven)

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


async def eventually(condition: Callable[[], Awaitable[Any]], timeout_s: float = GUARD_S) -> Any:
    """Wait until the condition holds, and return what it gave; a test that waits in vain fails by `TimeoutError`."""
    async with asyncio.timeout(timeout_s):
        while not (found := await condition()):
            await asyncio.sleep(0.02)
    return found
