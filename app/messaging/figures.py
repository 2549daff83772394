"""The fleet's figures in Redis: each process adds what it has counted, and servers read the sums."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.errors import QueueUnavailable
from app.messaging.redis_connection import REDIS_ERRORS, redis_errors_as

if TYPE_CHECKING:
    from arq.connections import ArqRedis

    from app.messaging.channels import Names
    from app.metrics import Tally


class Figures:
    """Sums over all processes. Methods raise `QueueUnavailable` while Redis is away."""

    def __init__(self, redis: ArqRedis, names: Names) -> None:
        self._redis = redis
        self._names = names

    async def add(self, tally: Tally) -> None:
        """Hand over what a process has counted; what cannot be handed over is kept for the next time.

        An answer that is lost on the way may be counted twice: these are figures, and no jobs.
        """
        added = tally.take()
        if not added:
            return
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for field, value in added.items():
                    pipe.hincrbyfloat(self._names.figures, field, value)
                await pipe.execute()
        except REDIS_ERRORS as error:
            tally.put_back(added)
            raise QueueUnavailable("What was counted could not be handed over.") from error

    async def read(self) -> dict[str, float]:
        """Return the sums by their fields."""
        with redis_errors_as("The fleet's figures cannot be read at the moment."):
            found = await self._redis.execute_command("HGETALL", self._names.figures)  # type: ignore[no-untyped-call]
        return {field.decode(): float(value) for field, value in found.items()}
