"""Workers that take turns of a test's own making, on slots that can be counted."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from arq.worker import func, get_kwargs

from app.messaging.queue import TURN_FUNCTION
from app.runtime.end_tasks import end_tasks
from harness import eventually
from worker.queue.arq_tasks import WorkerSettings
from worker.queue.turn_worker import TurnWorker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from arq.connections import ArqRedis

    from app.messaging.channels import Names

NEVER_S = 3600.0
"""An idle poll that no test lives to see: whatever happens, happened because the worker was woken."""


@dataclass
class Slots:
    """Slots as a backend has them, and turns that take one each for as long as the test says."""

    total: int
    used: int = 0
    most: int = 0
    began: list[tuple[int, float]] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def free(self) -> int:
        return self.total - self.used

    async def take_turn(self, _ctx: dict[str, Any], job_id: int) -> None:
        self.used += 1
        self.most = max(self.most, self.used)
        self.began.append((job_id, time.time()))
        try:
            await self.go_on.wait()
        finally:
            self.used -= 1
        self.ended.append(job_id)


def turn_worker(
    redis: ArqRedis,
    names: Names,
    function: Callable[..., Awaitable[Any]],
    free: Callable[[], int] = lambda: 5,
    **options: Any,
) -> TurnWorker:
    """Make a worker with the settings of the real one, but for its function."""
    settings = get_kwargs(WorkerSettings) | {
        "functions": [func(function, name=TURN_FUNCTION, timeout=10**9, max_tries=10**6, keep_result=0)],  # type: ignore[arg-type]
        "queue_name": names.queue,
        "redis_pool": redis,
        "line": redis,
        "health_check_key": f"{names.worker('w')}:arq",
        "idle_poll_s": NEVER_S,
    }
    return TurnWorker(**settings | options, free_slots=free)  # type: ignore[arg-type]


@asynccontextmanager
async def at_work(worker: TurnWorker) -> AsyncIterator[asyncio.Task[None]]:
    """Let the worker work within the block."""
    task = asyncio.create_task(worker.async_run())
    try:
        yield task
    finally:
        await end_tasks([task])
        await end_tasks(worker.tasks.values())
        await worker.settle()


async def until(condition: Callable[[], Any]) -> None:
    async def met() -> Any:
        return condition()

    await eventually(met)


async def idle(worker: TurnWorker) -> None:
    """Wait until the worker sleeps."""
    await until(lambda: worker.asleep)


async def until_gone(redis: ArqRedis, names: Names) -> None:
    async def gone() -> bool:
        return await redis.zcard(names.queue) == 0

    await eventually(gone)
