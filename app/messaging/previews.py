"""Previews of running jobs: the newest picture of each in Redis, and messages about it for the pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.messaging.redis_connection import REDIS_ERRORS, redis_errors_as
from app.runtime.json_text import dumps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arq.connections import ArqRedis

    from app.messaging.channels import Names

TTL_S: Final = 30
"""Seconds after which a picture is deleted unless it is renewed: its worker is gone then."""
_NUMBER_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture, and its number: of two of a job the greater one is the newer."""

    number: int
    image: bytes


class Previews:
    """Pictures by job. While Redis is away writing raises `QueueUnavailable`, and there is nothing to be read."""

    def __init__(self, redis: ArqRedis, names: Names) -> None:
        self._redis = redis
        self._names = names

    async def put(self, job_id: int, attempt: int, number: int, image: bytes) -> None:
        """Store the picture in place of the one before, and publish its number."""
        news = {"type": "preview", "job_id": job_id, "attempt": attempt, "number": number, "seq": number}
        with redis_errors_as("A preview could not be kept."):
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.set(self._names.preview(job_id), number.to_bytes(_NUMBER_BYTES, "big") + image, ex=TTL_S)
                pipe.publish(self._names.events, dumps(news))
                await pipe.execute()

    async def keep(self, job_id: int) -> None:
        """Keep the picture longer: the run goes on and has no newer one."""
        with redis_errors_as("A preview could not be kept."):
            await self._redis.expire(self._names.preview(job_id), TTL_S)

    async def remove(self, job_id: int) -> None:
        """Delete the picture: the run is over."""
        with redis_errors_as("A preview could not be removed."):
            await self._redis.delete(self._names.preview(job_id))

    async def get(self, job_id: int) -> Preview | None:
        """Return the newest picture of a job, if it has one."""
        try:
            kept = await self._redis.get(self._names.preview(job_id))
        except REDIS_ERRORS:
            return None
        if not kept or len(kept) <= _NUMBER_BYTES:
            return None
        return Preview(int.from_bytes(kept[:_NUMBER_BYTES], "big"), kept[_NUMBER_BYTES:])

    async def numbers(self, job_ids: Sequence[int]) -> dict[int, int]:
        """Return the number of the newest picture of each job that has one, in one round trip."""
        if not job_ids:
            return {}
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for job_id in job_ids:
                    pipe.getrange(self._names.preview(job_id), 0, _NUMBER_BYTES - 1)
                heads: list[bytes] = await pipe.execute()
        except REDIS_ERRORS:
            return {}
        return {
            job_id: int.from_bytes(head, "big")
            for job_id, head in zip(job_ids, heads, strict=True)
            if len(head) == _NUMBER_BYTES
        }
