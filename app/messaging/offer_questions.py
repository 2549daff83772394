"""Questions to the drivers of backends before a job is refused: is a node class still as it was when last read?

Questions are kept until they are answered, so a lost message only costs a delay. They are numbered: the asker waits
until its question or a later one is answered, by a reading that therefore began after it had asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from app.messaging.redis_connection import redis_errors_as

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection, Mapping, Sequence

    from arq.connections import ArqRedis

    from app.messaging.channels import Names

KEPT_S: Final = 15
"""Seconds after which questions and answers are deleted; no server waits as long."""

_ASK: Final = """
local number = redis.call('INCR', KEYS[1])
for each = 2, #ARGV do redis.call('HSET', KEYS[2], ARGV[each], number) end
redis.call('EXPIRE', KEYS[2], ARGV[1])
redis.call('PUBLISH', KEYS[3], '')
return number
"""
_ANSWER: Final = """
for each = 2, #KEYS do
    local class, number = ARGV[2 * each - 2], ARGV[2 * each - 1]
    redis.call('SET', KEYS[each], number, 'EX', ARGV[1])
    if redis.call('HGET', KEYS[1], class) == number then redis.call('HDEL', KEYS[1], class) end
end
return 1
"""


class OfferQuestions:
    """Questions and answers in Redis. Methods raise `QueueUnavailable` while it is away."""

    def __init__(self, redis: ArqRedis, names: Names) -> None:
        self._redis = redis
        self._names = names
        self._ask = redis.register_script(_ASK)
        self._answer = redis.register_script(_ANSWER)

    async def ask(self, backend: str, classes: Collection[str]) -> int:
        """Have these classes of a backend read again; return the number of the question."""
        names = self._names
        keys = [names.questions, names.asked_to_read(backend), names.questions_asked]
        with redis_errors_as("The worker that drives the backend cannot be asked at the moment."):
            return int(await self._ask(keys=keys, args=[KEPT_S, *classes]))

    async def answered(self, backend: str, classes: Sequence[str], number: int) -> bool:
        """Whether all of these have been read since the question with this number."""
        with redis_errors_as("The answer cannot be read at the moment."):
            found = await self._redis.mget([self._names.read(backend, each) for each in classes])
        return all(raw is not None and int(raw) >= number for raw in found)

    async def asked(self, backend: str) -> dict[str, int]:
        """Return class → number of the last question about it, of those that have no answer yet."""
        with redis_errors_as("The open questions cannot be read at the moment."):
            found = await cast("Awaitable[dict[bytes, bytes]]", self._redis.hgetall(self._names.asked_to_read(backend)))
        return {name.decode("utf-8", "replace"): int(number) for name, number in found.items()}

    async def answer(self, backend: str, numbers: Mapping[str, int]) -> None:
        """Store that these classes were read after these questions; questions asked since then remain open."""
        names = self._names
        keys = [names.asked_to_read(backend), *(names.read(backend, each) for each in numbers)]
        with redis_errors_as("The answer cannot be stored at the moment."):
            await self._answer(keys=keys, args=[KEPT_S, *(part for each in numbers.items() for part in each)])
