"""The arq worker that takes turns: arq's own, on its own keys, woken instead of polling, with short renewed locks.

What is overridden are private hooks of arq 0.28; a test fails when their names change.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from arq.constants import in_progress_key_prefix
from arq.worker import Worker
from redis.exceptions import RedisError

from app.messaging.connection import AWAY

if TYPE_CHECKING:
    from collections.abc import Callable

    from arq.typing import WorkerCoroutine

log = logging.getLogger(__name__)

LOCK_S: Final = 15.0
"""A killed worker's turns are free again after this time; arq's own rule is the longest job timeout plus 10 s."""
IDLE_POLL_S: Final = 1.0
"""The poll that heals a lost wake-up."""
MOST_TURNS: Final = 1000
"""More turns than any worker has slots; how many it takes is decided anew at each look."""


class TurnWorker(Worker):
    """Takes as many turns as there are free slots, as soon as it is woken.

    A turn's function is to take its slot before it first waits for anything, or slots are given away twice.
    """

    def __init__(
        self,
        *arguments: Any,
        free_slots: Callable[[], int],
        lock_s: float = LOCK_S,
        idle_poll_s: float = IDLE_POLL_S,
        **options: Any,
    ) -> None:
        options |= {"max_jobs": MOST_TURNS, "poll_delay": 0, "queue_read_limit": MOST_TURNS, "handle_signals": False}
        super().__init__(*arguments, **options)
        self.in_progress_timeout_s = lock_s
        self._idle_poll_s = idle_poll_s
        self._free_slots = free_slots
        self._woken = asyncio.Event()
        self._begun: set[str] = set()
        for name, function in self.functions.items():
            self.functions[name] = replace(function, coroutine=self._noting(function.coroutine))

    def wake(self, due_ms: int | None = None) -> None:
        """Look at the queue now; when the turn is due later, the look finds out when."""
        del due_ms
        self._woken.set()

    async def _poll_iteration(self) -> None:
        # Cleared before the queue is read, so that no wake-up is lost in between.
        self._woken.clear()
        wait_s = self._idle_poll_s
        try:
            self._reap()
            self.max_jobs = min(MOST_TURNS, self.job_counter + max(0, self._free_slots() - self._waiting_for_slots()))
            may_take = self.allow_pick_jobs and self.job_counter < self.max_jobs
            looked_at_ms = int(time.time() * 1000)
            await super()._poll_iteration()
            if may_take:
                wait_s = min(wait_s, await self._next_due_s(looked_at_ms))
        except (*AWAY, RedisError) as error:
            log.warning("Redis is away, no turns until it is back: %s", error)
            await asyncio.sleep(1)
        if self.burst and not self.tasks:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._woken.wait()

    async def _next_due_s(self, looked_at_ms: int) -> float:
        """Return in how many seconds the next turn is due that a look then did not see; infinity for none."""
        found = await self.pool.zrangebyscore(
            self.queue_name, f"({looked_at_ms}", "+inf", start=0, num=1, withscores=True
        )
        # A little later: arq compares whole milliseconds.
        return found[0][1] / 1000 + 0.002 - time.time() if found else math.inf

    def _reap(self) -> None:
        """Forget turns that have ended: arq does so only after it took new ones, when it takes them for running."""
        for turn, task in list(self.tasks.items()):
            if task.done():
                del self.tasks[turn]
                task.result()
        self._begun &= self.tasks.keys()

    def _waiting_for_slots(self) -> int:
        """Return how many turns were taken whose functions have not begun, and have yet to take their slots."""
        return sum(turn not in self._begun for turn in self.tasks)

    def _noting(self, function: WorkerCoroutine) -> WorkerCoroutine:
        async def noted(ctx: dict[Any, Any], *arguments: Any, **keywords: Any) -> Any:
            self._begun.add(ctx["job_id"])
            return await function(ctx, *arguments, **keywords)

        return noted

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Drop the turns that somebody has already, in one round trip; arq asks for each one by one (#471)."""
        wanted = [job_id for job_id in job_ids if job_id.decode() not in self.tasks]
        if not wanted:
            return
        async with self.pool.pipeline(transaction=False) as pipe:
            for job_id in wanted:
                pipe.exists(in_progress_key_prefix + job_id.decode())
            taken = await pipe.execute()
        await super().start_jobs([job_id for job_id, busy in zip(wanted, taken, strict=True) if not busy])

    def _release_sem_dec_counter_on_complete(self) -> None:
        super()._release_sem_dec_counter_on_complete()
        # A look that is under way has counted this turn's slot as free already, or the next one will.
        self.max_jobs -= 1
        self.wake()

    async def renew_locks(self) -> None:
        """Keep the locks of running turns from ending; called with each heartbeat."""
        if not self.tasks:
            return
        async with self.pool.pipeline(transaction=False) as pipe:
            for job_id in self.tasks:
                pipe.pexpire(in_progress_key_prefix + job_id, int(self.in_progress_timeout_s * 1000))
            await pipe.execute()
