"""What operators ask of workers: kept until it is done, so that a lost message costs a delay and nothing else."""

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
"""So long a worker is asked for a state: for as long as one that went silent stays listed."""
SOON_S: Final = 60
"""What is to be done at once and has not been done within this time is not done later, when nobody expects it."""

_DELETE: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
_RUN: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
redis.call('SET', KEYS[2], ARGV[3], 'EX', ARGV[2])
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[5])
return 1
"""


class OperatorMessages:
    """Wishes in Redis. Methods raise `QueueUnavailable` while it is away."""

    def __init__(self, redis: ArqRedis, names: Names) -> None:
        self._redis = redis
        self._names = names
        self._delete = redis.register_script(_DELETE)
        self._run = redis.register_script(_RUN)

    async def nudge(self) -> None:
        """Have all workers look at once what is wanted of them, here or in PostgreSQL."""
        with redis_errors_as("The workers cannot be told at the moment."):
            await self._redis.publish(self._names.commands, b"")

    async def ask(self, worker_id: str, state: WorkerState) -> None:
        """Ask a worker to be in this state; its heartbeat says when it is."""
        await self._leave(self._names.asked(worker_id), state, ASKED_S)

    async def asked(self, worker_ids: Sequence[str]) -> dict[str, WorkerState]:
        """Return worker → the state that it was asked to be in, of those that were."""
        found = await self._found(map(self._names.asked, worker_ids))
        known = {state.value.encode(): state for state in WorkerState}
        return {name: known[raw] for name, raw in zip(worker_ids, found, strict=True) if raw in known}

    async def ask_to_free(self, backend: str) -> None:
        """Ask for a backend's memory to be freed."""
        await self._leave(self._names.asked_to_free(backend), uuid4().hex, SOON_S)

    async def asked_to_free(self, backends: Sequence[str]) -> dict[str, str]:
        """Return backend → number of the wish, of those whose memory is to be freed."""
        found = await self._found(map(self._names.asked_to_free, backends))
        return {name: raw.decode() for name, raw in zip(backends, found, strict=True) if raw}

    async def freed(self, backend: str, wish: str) -> None:
        """The wish was passed on; one that was uttered since remains."""
        with redis_errors_as("What was done cannot be noted at the moment."):
            await self._delete(keys=[self._names.asked_to_free(backend)], args=[wish])

    async def ask_to_run(self, task: str, last_run: str) -> bool:
        """Enqueue a periodic task; False when it waits to be run already.

        `last_run` tells its last run from others: as long as that is the last one, the wish is not fulfilled.
        """
        now_ms = int(time.time() * 1000)
        turn = f"{task}:asked:{now_ms}"
        job = serialize_job(task, (), {}, None, now_ms, serializer=serialize)
        keys = [self._names.asked_to_run(task), job_key_prefix + turn, self._names.maintenance]
        with redis_errors_as("The workers cannot be told at the moment."):
            return bool(await self._run(keys=keys, args=[last_run, SOON_S, job, now_ms, turn]))

    async def asked_to_run(self, tasks: Sequence[str]) -> dict[str, str]:
        """Return task → its last run when it was asked to run at once, of those that were."""
        found = await self._found(map(self._names.asked_to_run, tasks))
        return {name: raw.decode() for name, raw in zip(tasks, found, strict=True) if raw is not None}

    async def _leave(self, key: str, wish: str, kept_s: int) -> None:
        with redis_errors_as("The workers cannot be told at the moment."):
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.set(key, wish, ex=kept_s)
                pipe.publish(self._names.commands, b"")
                await pipe.execute()

    async def _found(self, keys: Iterable[str]) -> list[bytes | None]:
        wanted = list(keys)
        if not wanted:
            return []
        with redis_errors_as("What was asked for cannot be read at the moment."):
            return list(await self._redis.mget(wanted))
