"""Operators' requests to workers. They are kept until they are done, so a lost message only costs a delay."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from arq.constants import job_key_prefix
from arq.jobs import serialize_job

from app.domain.worker_states import WorkerState
from app.messaging.redis_connection import redis_errors_as, serialize

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from arq.connections import ArqRedis

    from app.messaging.channels import Names

ASKED_S: Final = 24 * 3600
"""Seconds for which a requested state is kept: as long as a silent worker stays listed."""
SOON_S: Final = 60
"""Seconds after which a request to do something at once is dropped, so that it is not done late and unexpectedly."""

_DELETE: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
_RUN: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
redis.call('SET', KEYS[2], ARGV[3], 'EX', ARGV[2])
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[5])
return 1
"""


class OperatorMessages:
    """Requests in Redis. Methods raise `QueueUnavailable` while it is away."""

    def __init__(self, redis: ArqRedis, names: Names) -> None:
        self._redis = redis
        self._names = names
        self._delete = redis.register_script(_DELETE)
        self._run = redis.register_script(_RUN)

    async def nudge(self) -> None:
        """Make all workers read at once what is requested of them, here or in PostgreSQL."""
        with redis_errors_as("The workers cannot be reached at the moment."):
            await self._redis.publish(self._names.commands, b"")

    async def ask(self, worker_id: str, state: WorkerState) -> None:
        """Request that a worker goes into this state; its heartbeat shows when it has."""
        await self._leave(self._names.asked(worker_id), state, ASKED_S)

    async def asked(self, worker_ids: Sequence[str]) -> dict[str, WorkerState]:
        """Return worker → requested state, of the workers that have a request."""
        found = await self._found(map(self._names.asked, worker_ids))
        known = {state.value.encode(): state for state in WorkerState}
        return {name: known[raw] for name, raw in zip(worker_ids, found, strict=True) if raw in known}

    async def ask_to_free(self, backend: str) -> None:
        """Request that a backend's memory is freed."""
        await self._leave(self._names.asked_to_free(backend), uuid4().hex, SOON_S)

    async def asked_to_free(self, backends: Sequence[str]) -> dict[str, str]:
        """Return backend → id of the request, of those whose memory is to be freed."""
        found = await self._found(map(self._names.asked_to_free, backends))
        return {name: raw.decode() for name, raw in zip(backends, found, strict=True) if raw}

    async def freed(self, backend: str, request: str) -> None:
        """Delete a request that was carried out; a newer one remains."""
        with redis_errors_as("That the request was carried out cannot be stored at the moment."):
            await self._delete(keys=[self._names.asked_to_free(backend)], args=[request])

    async def ask_to_run(self, task: str, last_run: str) -> bool:
        """Enqueue a periodic task; False if it is already enqueued.

        `last_run` identifies its last run: until there is a newer one, the request counts as open.
        """
        now_ms = int(time.time() * 1000)
        turn = f"{task}:asked:{now_ms}"
        job = serialize_job(task, (), {}, None, now_ms, serializer=serialize)
        keys = [self._names.asked_to_run(task), job_key_prefix + turn, self._names.maintenance]
        with redis_errors_as("The workers cannot be reached at the moment."):
            return bool(await self._run(keys=keys, args=[last_run, SOON_S, job, now_ms, turn]))

    async def asked_to_run(self, tasks: Sequence[str]) -> dict[str, str]:
        """Return task → its last run when it was requested, of the tasks that have a request."""
        found = await self._found(map(self._names.asked_to_run, tasks))
        return {name: raw.decode() for name, raw in zip(tasks, found, strict=True) if raw is not None}

    async def _leave(self, key: str, request: str, kept_s: int) -> None:
        with redis_errors_as("The workers cannot be reached at the moment."):
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.set(key, request, ex=kept_s)
                pipe.publish(self._names.commands, b"")
                await pipe.execute()

    async def _found(self, keys: Iterable[str]) -> list[bytes | None]:
        wanted = list(keys)
        if not wanted:
            return []
        with redis_errors_as("The requests to workers cannot be read at the moment."):
            return list(await self._redis.mget(wanted))
