"""How many requests each key sends: counted where the request is, and added up in Redis for all servers together."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.errors import QueueUnavailable, Unavailable
from app.messaging.redis_connection import redis_errors_as
from app.runtime.batching import Batcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arq.connections import ArqRedis

    from app.domain.limits import Limits
    from app.messaging.channels import Names

log = logging.getLogger(__name__)

TOLD_EVERY_S: Final = 0.02
"""So often Redis is told what was let in here: by so much time a key may exceed its rate with several servers."""
FRESH_S: Final = 1.0
"""A key of which Redis was not heard for so long is asked for before it is let in."""
PATIENCE_S: Final = 0.25
"""Longer than this no request waits for that: then what this server knows by itself decides."""
_MOST_KEYS: Final = 10_000
_AT_ONCE: Final = 500
_US: Final = 1_000_000
"""Microseconds of a second."""

_ADD: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local told = {}
for each = 1, #KEYS do
    local used = tonumber(ARGV[each])
    local owed = math.max(0, tonumber(redis.call('GET', KEYS[each]) or '0') - now) + used
    if used > 0 then
        redis.call('SET', KEYS[each], string.format('%.0f', now + owed), 'PX', math.ceil(owed / 1000) + 1)
    end
    told[each] = owed
end
return told
"""
"""Adds what was used of several keys, in µs, and returns what each of them owes now."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What became of a request, and what is left."""

    quota: int
    """Requests that are let in at once."""
    window_s: int
    """Seconds in which so many are earned anew."""
    remaining: int
    reset_s: int
    """Seconds until one more of them is earned; 0 when all are there."""
    retry_after_s: float
    """0.0 of a request that is let in."""


@dataclass(slots=True)
class _Bucket:
    """What is known here of a key."""

    until: float = 0.0
    """Monotonic time at which all that it has used is paid off. It may be later, by other servers: never earlier."""
    untold_us: int = 0
    """What it has used here and Redis has not been told."""
    heard_at: float = -math.inf


class RequestRates:
    """A token bucket for each key (GCRA: one time tells how full it is).

    The decision takes no round trip, unless nothing was heard of the key for a second: what is used is told to Redis
    some milliseconds later, for all keys at once, and the answer brings what was used elsewhere. While Redis is away
    each server counts for itself. (The library `limits` 5.8 has windows only: a rate with a burst takes two of them,
    and the figures for the headers a third round trip for each request.)
    """

    def __init__(self, redis: ArqRedis, names: Names) -> None:
        self._names = names
        self._add = redis.register_script(_ADD)
        self._buckets: OrderedDict[int, _Bucket] = OrderedDict()
        """By key's id; the last used comes last."""
        self._used: set[int] = set()
        """Those of which there is something to tell."""
        self._hearing = Batcher(self._hear, most=_AT_ONCE, flights=1)
        self._telling: asyncio.Task[None] | None = None
        self._deaf_until = 0.0
        """Monotonic time before which Redis is not waited for, because it was away."""

    async def use(self, key_id: int, limits: Limits) -> Rate:
        """Count a request of a key whose requests a second are limited, and return whether it is let in."""
        assert limits.requests_per_second is not None  # noqa: S101 - the caller has looked
        bucket = self._buckets.setdefault(key_id, _Bucket())
        self._buckets.move_to_end(key_id)
        if len(self._buckets) > _MOST_KEYS:
            self._forget_one()
        now = time.monotonic()
        if now - bucket.heard_at > FRESH_S and now > self._deaf_until:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._hearing.do(key_id)
            except (Unavailable, TimeoutError) as error:
                self._not_heard(error)
            now = time.monotonic()
        cost_s, burst = 1 / limits.requests_per_second, limits.burst_size
        owed_s, full_s = max(0.0, bucket.until - now), burst * cost_s
        # A millionth of a request: what is counted in µs must not cost the last one of a burst.
        over_s = owed_s + cost_s - full_s * (1 + 1e-6)
        if over_s <= 0:
            owed_s += cost_s
            bucket.until = now + owed_s
            bucket.untold_us += round(cost_s * _US)
            self._used.add(key_id)
            if self._telling is None:
                self._telling = asyncio.create_task(self._tell_soon(), name="request-rates")
        remaining = max(0, math.floor((full_s - owed_s) / cost_s + 1e-6))
        return Rate(
            quota=burst,
            window_s=math.ceil(full_s),
            remaining=remaining,
            reset_s=math.ceil(max(0.0, owed_s - full_s + min(burst, remaining + 1) * cost_s)),
            retry_after_s=max(0.0, over_s),
        )

    async def settle(self) -> None:
        """Return when Redis knows all, or is away."""
        while self._telling is not None:
            await self._telling
        await self._hearing.settle()

    async def _tell_soon(self) -> None:
        try:
            while self._used:
                await asyncio.sleep(TOLD_EVERY_S)
                key_ids = [self._used.pop() for _ in range(min(_AT_ONCE, len(self._used)))]
                try:
                    await self._hear(key_ids)
                except QueueUnavailable as error:
                    self._not_heard(error)
        finally:
            self._telling = None

    async def _hear(self, asked: Sequence[int]) -> list[None]:
        """Tell Redis what these keys have used here, and learn what they owe; raises `QueueUnavailable`."""
        key_ids = set(asked)
        buckets = [self._buckets.setdefault(key_id, _Bucket()) for key_id in key_ids]
        used = [bucket.untold_us for bucket in buckets]
        for bucket in buckets:
            # Not told again when Redis is back: what was used meanwhile is paid off meanwhile.
            bucket.untold_us = 0
        asked_at = time.monotonic()
        with redis_errors_as("Redis cannot be reached at the moment."):
            owed = await self._add(keys=[self._names.rate(key_id) for key_id in key_ids], args=used)
        for bucket, owed_us in zip(buckets, owed, strict=True):
            # From when it was asked: what was owed then may have been paid off in part by now, and never more.
            bucket.until = max(bucket.until, asked_at + (owed_us + bucket.untold_us) / _US)
            bucket.heard_at = asked_at
        return [None] * len(asked)

    def _not_heard(self, error: Exception) -> None:
        if time.monotonic() > self._deaf_until:
            log.warning("requests are counted by this server alone: %s", error or "Redis is slow")
        self._deaf_until = time.monotonic() + FRESH_S

    def _forget_one(self) -> None:
        key_id, _ = self._buckets.popitem(last=False)
        self._used.discard(key_id)
