"""Since when models are missing that waiting jobs need: kept in Redis, because another worker looks each time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.messaging.redis_connection import redis_errors_as

if TYPE_CHECKING:
    from collections.abc import Collection

    from arq.connections import ArqRedis

    from app.messaging.channels import Names

KEPT_S: Final = 600
"""Seconds after which it is forgotten if nobody has looked: what was there meanwhile is not known."""
MOST: Final = 1_000
"""Models of which it is remembered."""


class MissingModels:
    """Methods raise `QueueUnavailable` while Redis is away."""

    def __init__(self, redis: ArqRedis, names: Names) -> None:
        self._redis = redis
        self._names = names

    async def missing_for(self, models: Collection[str]) -> dict[str, float]:
        """Note that these, and no others, are missing now, and return for how many seconds each has been."""
        key, named = self._names.missing_models, sorted(models)[:MOST]
        with redis_errors_as("Which models are missing cannot be noted at the moment."):
            seconds, micros = await self._redis.time()
            now = seconds + micros / 1e6
            found = await self._redis.execute_command("HGETALL", key)  # type: ignore[no-untyped-call]
            known = {name.decode(): float(since) for name, since in found.items()}
            since = {model: known.get(model, now) for model in named}
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.delete(key)
                if since:
                    pipe.hset(key, mapping=since)
                    pipe.expire(key, KEPT_S)
                await pipe.execute()
        return {model: max(0.0, now - each) for model, each in since.items()}
