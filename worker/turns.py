"""The arq worker that takes turns: arq's own, on its own keys, woken instead of polling, with short renewed locks.

What is overridden are private hooks of arq 0.28; a test fails when their names change.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from arq.constants import in_progress_key_prefix
from arq.worker import Worker
from redis.exceptions import RedisError

from app.messaging.connection import AWAY

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

LOCK_S: Final = 15.0
"""A killed worker's turns are free again after this time; arq's own rule is the longest job timeout plus 10 s."""
IDLE_POLL_S: Final = 1.0
MOST_TURNS: Final = 1000
"""More turns than any worker has slots; how many it takes is decided anew at each look."""


class TurnWorker(Worker):
    """Takes as many turns as there are free slots, as soon as it is woken."""

    def __init__(self, *arguments: Any, free_slots: Callable[[], int], **options: Any) -> None:
        options |= {"max_jobs": MOST_TURNS, "poll_delay": 0, "queue_read_limit": MOST_TURNS, "handle_signals": False}
        super().__init__(*arguments, **options)
        self.in_progress_timeout_s = LOCK_S
        self._free_slots = free_slots
        self._woken = asyncio.Event()
        self._due: float | None = None

    def wake(self, due_ms: int | None = None) -> None:
        """Look at the queue now, or when something is due there."""
        now = time.time()
        if due_ms is not None and due_ms / 1000 > now:
            due = due_ms / 1000 + 0.002
            self._due = min(self._due or due, due)
            # The loop is woken all the same: it sleeps with the timer that it had.
        self._woken.set()

    async def _poll_iteration(self) -> None:
        # Cleared before the queue is read, so that no wake-up is lost in between.
        self._woken.clear()
        self._due = None if self._due is not None and self._due <= time.time() else self._due
        self.max_jobs = min(MOST_TURNS, self.job_counter + self._free_slots())
        try:
            await super()._poll_iteration()
        except (*AWAY, RedisError) as error:
            log.warning("Redis is away, no turns until it is back: %s", error)
            await asyncio.sleep(1)
        if self.burst and not self.tasks:
            return
        wait_s = IDLE_POLL_S
        if self._due is not None:
            wait_s = max(0.0, min(wait_s, self._due - time.time()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._woken.wait()

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
        self.wake()

    async def renew_locks(self) -> None:
        """Keep the locks of running turns from ending; called with each heartbeat."""
        if not self.tasks:
            return
        async with self.pool.pipeline(transaction=False) as pipe:
            for job_id in self.tasks:
                pipe.pexpire(in_progress_key_prefix + job_id, int(LOCK_S * 1000))
            await pipe.execute()
