"""The queue of turns in arq's own keys: one round trip to enqueue and wake a worker, and one to take a turn back."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from arq.constants import in_progress_key_prefix, job_key_prefix, retry_key_prefix
from arq.jobs import serialize_job

from app.domain.job import task_id
from app.messaging.redis_connection import EXPIRES_MS, redis_errors_as, serialize

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from arq.connections import ArqRedis

    from app.messaging.channels import Names

TURN_FUNCTION: Final = "take_turn"
"""Name of the worker's arq function."""
FAR_MS: Final = 2**53
"""Later than any turn is due."""

_ENQUEUE: Final = """
local added, soonest, turns = {}, ARGV[2], #KEYS - 1
for turn = 1, turns do
    local at = 4 * turn
    redis.call('SET', KEYS[turn + 1], ARGV[at], 'PX', ARGV[at + 1], 'NX')
    added[turn] = redis.call('ZADD', KEYS[1], 'NX', ARGV[at + 2], ARGV[at + 3])
    if tonumber(ARGV[at + 2]) < tonumber(soonest) then soonest = ARGV[at + 2] end
end
redis.call('PUBLISH', ARGV[1], soonest)
for each = 4 * turns + 4, #ARGV do
    redis.call('PUBLISH', ARGV[3], ARGV[each])
end
return added
"""
"""arq's own enqueue takes four round trips, and answers "duplicate" when the connection breaks in the middle, with
nothing queued (manual, architecture.md). This one can be sent again, and mends a turn of which only half is there."""

_TAKE_BACK: Final = """
if redis.call('EXISTS', KEYS[3]) == 0 then
    redis.call('ZREM', KEYS[2], ARGV[1])
    redis.call('DEL', KEYS[1], KEYS[4])
end
return 1
"""


class JobQueue:
    """Turns in arq's queue. Methods raise `QueueUnavailable` while Redis is away."""

    def __init__(self, redis: ArqRedis, names: Names) -> None:
        self._redis = redis
        self._names = names
        self._enqueue = redis.register_script(_ENQUEUE)
        self._take_back = redis.register_script(_TAKE_BACK)

    async def enqueue(self, job_id: int, attempt: int, due: datetime | None = None) -> bool:
        """Give a job's attempt its turn, due now or at `due`, and wake the workers; False when it had it already."""
        return (await self.enqueue_all([(job_id, attempt, due)]))[0]

    async def enqueue_all(
        self, turns: Sequence[tuple[int, int, datetime | None]], news: Sequence[str] = ()
    ) -> list[bool]:
        """Give attempts, (job id, attempt, due), their turns in one round trip; return of each whether it had none yet.

        `news` are messages for the clients that watch all events.
        """
        now_ms = int(time.time() * 1000)
        keys: list[str] = [self._names.queue]
        values: list[str | bytes | int] = [self._names.wake, FAR_MS, self._names.events]
        for job_id, attempt, due in turns:
            turn = task_id(job_id, attempt)
            # Rounded up: a turn that comes a part of a millisecond too early finds its job not yet to be had.
            score = max(now_ms, math.ceil(due.timestamp() * 1000)) if due is not None else now_ms
            payload = serialize_job(TURN_FUNCTION, (job_id,), {}, None, now_ms, serializer=serialize)
            keys.append(job_key_prefix + turn)
            values += [payload, score - now_ms + EXPIRES_MS, score, turn]
        with redis_errors_as("The queue cannot be reached at the moment."):
            added = await self._enqueue(keys=keys, args=[*values, *news])
        return [bool(each) for each in added]

    async def wake(self) -> None:
        """Have the workers read the queue: jobs that they had to leave may be taken now."""
        with redis_errors_as("The queue cannot be reached at the moment."):
            await self._redis.publish(self._names.wake, str(int(time.time() * 1000)))

    async def take_back(self, job_id: int, attempt: int) -> None:
        """Remove a turn that no worker has begun; a begun one finds that there is nothing to do."""
        turn = task_id(job_id, attempt)
        prefixes = (job_key_prefix, in_progress_key_prefix, retry_key_prefix)
        job, running, retries = (prefix + turn for prefix in prefixes)
        with redis_errors_as("The queue cannot be reached at the moment."):
            await self._take_back(keys=[job, self._names.queue, running, retries], args=[turn])

    async def have_looked(self, backends: Iterable[str]) -> None:
        """Have the workers that drive these backends look for jobs: some were left to them."""
        with redis_errors_as("The queue cannot be reached at the moment."):
            for name in backends:
                await self._redis.publish(self._names.looks, name)

    async def missing(self, turns: list[str]) -> list[str]:
        """Return those of the turns that are not in the queue."""
        if not turns:
            return []
        with redis_errors_as("The queue cannot be reached at the moment."):
            scores = await self._redis.zmscore(self._names.queue, turns)
        return [turn for turn, score in zip(turns, scores, strict=True) if score is None]

    async def ping(self) -> None:
        """Ask Redis for a sign of life."""
        with redis_errors_as("The queue cannot be reached at the moment."):
            await self._redis.ping()
