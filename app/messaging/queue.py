"""The queue of turns in arq's own keys: one round trip to enqueue and wake a worker, and one to take a turn back."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from arq.constants import in_progress_key_prefix, job_key_prefix, retry_key_prefix
from arq.jobs import serialize_job
from redis.exceptions import RedisError

from app.domain.errors import QueueUnavailable
from app.domain.job import task_id
from app.messaging.connection import AWAY, EXPIRES_MS, serialize

if TYPE_CHECKING:
    from datetime import datetime

    from arq.connections import ArqRedis

    from app.messaging.channels import Names

TURN_FUNCTION: Final = "take_turn"
"""Name of the worker's arq function."""

_ENQUEUE: Final = """
local new = redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2], 'NX')
local added = redis.call('ZADD', KEYS[2], 'NX', ARGV[3], ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[3])
return added
"""
"""arq's own enqueue takes four round trips, and answers "duplicate" when the connection breaks in the middle, with
nothing queued (ARQ, section 0, point 4). This one can be sent again, and mends a turn of which only half is there."""

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
        turn, now_ms = task_id(job_id, attempt), int(time.time() * 1000)
        # Rounded up: a turn that comes a part of a millisecond too early finds its job not yet to be had.
        score = max(now_ms, math.ceil(due.timestamp() * 1000)) if due is not None else now_ms
        payload = serialize_job(TURN_FUNCTION, (job_id,), {}, None, now_ms, serializer=serialize)
        try:
            added = await self._enqueue(
                keys=[job_key_prefix + turn, self._names.queue],
                args=[payload, score - now_ms + EXPIRES_MS, score, turn, self._names.wake],
            )
        except (*AWAY, RedisError) as error:
            raise QueueUnavailable("The queue cannot be reached at the moment.") from error
        return bool(added)

    async def take_back(self, job_id: int, attempt: int) -> None:
        """Forget a turn that nobody has begun; a begun one finds out by itself that there is nothing to do."""
        turn = task_id(job_id, attempt)
        prefixes = (job_key_prefix, in_progress_key_prefix, retry_key_prefix)
        job, running, retries = (prefix + turn for prefix in prefixes)
        try:
            await self._take_back(keys=[job, self._names.queue, running, retries], args=[turn])
        except (*AWAY, RedisError) as error:
            raise QueueUnavailable("The queue cannot be reached at the moment.") from error

    async def missing(self, turns: list[str]) -> list[str]:
        """Return those of the turns that are not in the queue."""
        if not turns:
            return []
        try:
            scores = await self._redis.zmscore(self._names.queue, turns)
        except (*AWAY, RedisError) as error:
            raise QueueUnavailable("The queue cannot be reached at the moment.") from error
        return [turn for turn, score in zip(turns, scores, strict=True) if score is None]

    async def ping(self) -> None:
        """Ask Redis for a sign of life."""
        try:
            await self._redis.ping()
        except (*AWAY, RedisError) as error:
            raise QueueUnavailable("The queue cannot be reached at the moment.") from error
