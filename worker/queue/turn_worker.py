"""The arq worker that takes turns: woken by messages instead of polling, with short locks that are renewed.

It overrides private methods of arq 0.28; a test fails when their names change.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING, Any, Final

from arq.constants import in_progress_key_prefix, job_key_prefix, retry_key_prefix
from arq.jobs import deserialize_job_raw
from arq.utils import ms_to_datetime
from arq.worker import JobExecutionFailed, Retry, Worker

from app.messaging.redis_connection import REDIS_ERRORS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from arq.connections import ArqRedis

log = logging.getLogger(__name__)

LOCK_S: Final = 15.0
"""Seconds until a killed worker's turns are free again; arq's own rule is the longest job timeout plus 10 s."""
IDLE_POLL_S: Final = 2.0
"""Seconds between two polls, in case a wake-up is lost."""
MOST_TURNS: Final = 1000
"""Maximum number of due turns read: more than the slots of all workers, because running turns stay in the queue."""
RETRY_KEY_S: Final = 88400
"""Seconds until a turn's count of tries expires; arq's own value."""


_TAKE: Final = f"""
local queue, now, lock, wanted = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
for at = 4, #ARGV, 2 do
    local turn, due = ARGV[at], ARGV[at + 1]
    if due == '' then
        redis.call('ZREM', queue, turn)
        redis.call('DEL', '{job_key_prefix}' .. turn, '{retry_key_prefix}' .. turn)
    elseif due ~= '0' then
        redis.call('ZADD', queue, 'XX', due, turn)
    end
    redis.call('DEL', '{in_progress_key_prefix}' .. turn)
end
local taken = {{}}
if wanted == 0 then return {{taken, {{}}}} end
local due = redis.call('ZRANGEBYSCORE', queue, '-inf', now, 'WITHSCORES', 'LIMIT', 0, {MOST_TURNS})
for at = 1, #due, 2 do
    if #taken == wanted then break end
    local turn = due[at]
    if redis.call('SET', '{in_progress_key_prefix}' .. turn, '1', 'PX', lock, 'NX') then
        local tries = redis.call('INCR', '{retry_key_prefix}' .. turn)
        redis.call('EXPIRE', '{retry_key_prefix}' .. turn, {RETRY_KEY_S})
        table.insert(taken, {{turn, due[at + 1], tries, redis.call('GET', '{job_key_prefix}' .. turn)}})
    end
end
return {{taken, redis.call('ZRANGEBYSCORE', queue, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)}}
"""
"""Ends turns and takes others, on arq's keys and by arq's rules, in one round trip; arq needs six for each turn.

An ended turn comes with an empty string when it is done, with the time at which it is due again, or with 0 when it
keeps its place in the queue."""


class HeldBack(Retry):
    """The turn is to be tried again, and so would be all others: none is taken for `rest_s` seconds, or until woken.

    `left_to` are backends, of other workers too, that are to be told when the turn can be taken again.
    """

    def __init__(self, rest_s: float, left_to: Collection[str] = ()) -> None:
        super().__init__()
        self.rest_s = rest_s
        self.left_to = left_to


class TurnWorker(Worker):
    """Takes as many turns as there are free slots, as soon as it is woken.

    A turn's function must take its slot before its first `await`, or a slot would be used twice. Turns are taken and
    ended over the connection `line`; everything else in arq uses arq's own pool.
    """

    def __init__(
        self,
        *arguments: Any,
        free_slots: Callable[[], int],
        line: ArqRedis,
        tell: Callable[[Collection[str]], Awaitable[None]] | None = None,
        lock_s: float = LOCK_S,
        idle_poll_s: float = IDLE_POLL_S,
        **options: Any,
    ) -> None:
        options |= {"max_jobs": MOST_TURNS, "poll_delay": 0, "queue_read_limit": MOST_TURNS, "handle_signals": False}
        super().__init__(*arguments, **options)
        self.in_progress_timeout_s = lock_s
        self.idle_poll_s = idle_poll_s
        self._free_slots = free_slots
        self._tell = tell
        self._left_to: set[str] = set()
        """Backends that are to be told when the turns that have ended are given back."""
        self._woken = asyncio.Event()
        self._begun: set[str] = set()
        self._asleep = False
        self._rests_until = 0.0
        """Monotonic time before which no turns are taken."""
        self._ended: dict[str, int | str] = {}
        """Ended turn not yet reported to Redis → when it is due again, in the format of `_TAKE`."""
        self._take = line.register_script(_TAKE)

    @property
    def woken(self) -> bool:
        """Whether it was woken and has not read the queue since."""
        return self._woken.is_set()

    @property
    def asleep(self) -> bool:
        """Whether it waits until it is woken, or until its time has come."""
        return self._asleep

    def wake(self, due_ms: int | None = None) -> None:
        """Read the queue now; this also finds out when a later turn is due."""
        del due_ms
        self._rests_until = 0.0
        self._woken.set()

    async def settle(self) -> None:
        """Report ended turns to Redis; raises redis-py's errors while Redis is unavailable."""
        if self._ended:
            await self._exchange(0)

    async def _poll_iteration(self) -> None:
        # Cleared before the queue is read, so that no wake-up is lost in between.
        self._woken.clear()
        wait_s = self.idle_poll_s
        try:
            self._reap()
            rest_s = max(0.0, self._rests_until - time.monotonic())
            takes = self.allow_pick_jobs and not rest_s
            wanted = max(0, self._free_slots() - self._waiting_for_slots()) if takes else 0
            if wanted or self._ended:
                wait_s = min(wait_s, await self._exchange(wanted))
            if rest_s:
                # Nor before that, whatever turn is due.
                wait_s = rest_s
            await self.heart_beat()
        except REDIS_ERRORS as error:
            log.warning("Redis is unavailable, no turns until it is back: %s", error)
            await asyncio.sleep(1)
        if self.burst and not self.tasks:
            return
        self._asleep = True
        try:
            async with asyncio.timeout(wait_s):
                await self._woken.wait()
        except TimeoutError:
            pass
        finally:
            self._asleep = False

    async def _exchange(self, wanted: int) -> float:
        """End turns, begin up to `wanted` others, and return in how many seconds the next turn is due."""
        ended = dict(self._ended)
        left_to, self._left_to = self._left_to, set()
        ended_args = [each for turn in ended.items() for each in turn]
        now_ms = int(time.time() * 1000)
        lock_ms = int(self.in_progress_timeout_s * 1000)
        taken, following = await self._take(keys=[self.queue_name], args=[now_ms, lock_ms, wanted, *ended_args])
        for turn in ended:
            del self._ended[turn]
        if left_to and self._tell is not None:
            await self._tell(left_to)
        for raw, score, tries, payload in taken:
            turn = raw.decode()
            # A turn that runs here can be taken again if its lock expired, for example while the process was suspended.
            if turn not in self.tasks:
                self.tasks[turn] = asyncio.create_task(self._run_turn(turn, int(float(score)), tries, payload))
        # 2 ms later, because arq compares whole milliseconds.
        return float(following[1]) / 1000 + 0.002 - time.time() if following else math.inf

    def _reap(self) -> None:
        """Forget turns that have ended."""
        for turn, task in list(self.tasks.items()):
            if task.done():
                del self.tasks[turn]
                task.result()
        self._begun &= self.tasks.keys()

    def _waiting_for_slots(self) -> int:
        """Return how many taken turns have not begun, and so hold no slot yet."""
        return sum(turn not in self._begun for turn in self.tasks)

    async def _run_turn(self, turn: str, score: int, tries: int, payload: bytes | None) -> None:
        """Run a turn's function as arq does, without keeping its result; the next exchange reports its end."""
        due: int | str = ""
        self.job_tasks[turn] = self.tasks[turn]
        self._begun.add(turn)
        try:
            if payload is None:
                raise JobExecutionFailed("the turn has expired")  # noqa: TRY301
            name, arguments, keywords, _, enqueued_ms = deserialize_job_raw(payload, deserializer=self.job_deserializer)
            about = {"job_id": turn, "job_try": tries, "enqueue_time": ms_to_datetime(enqueued_ms), "score": score}
            await self.functions[name].coroutine({**self.ctx, **about}, *arguments, **keywords)
            self.jobs_complete += 1
            self._rests_until = 0.0
        except Retry as again:
            due = int(time.time() * 1000) + again.defer_score if again.defer_score else 0
            if isinstance(again, HeldBack):
                self._rests_until = time.monotonic() + again.rest_s
                self._left_to.update(again.left_to)
            self.jobs_retried += 1
        except asyncio.CancelledError:
            # A cancellation ends this run; the turn stays in the queue.
            due = 0
            self.jobs_retried += 1
        except Exception:
            log.exception("turn %s failed", turn)
            self.jobs_failed += 1
        finally:
            self._ended[turn] = due
            del self.job_tasks[turn]
            self._woken.set()

    async def renew_locks(self) -> None:
        """Renew the locks of running turns; called with each heartbeat."""
        if not self.tasks:
            return
        async with self.pool.pipeline(transaction=False) as pipe:
            for job_id in self.tasks:
                pipe.pexpire(in_progress_key_prefix + job_id, int(self.in_progress_timeout_s * 1000))
            await pipe.execute()
