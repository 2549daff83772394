"""Who is there: heartbeats of workers and backends, and what backends offer."""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from app.domain.catalog import Catalog, read_catalog
from app.domain.errors import QueueUnavailable
from app.messaging.connection import AWAY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arq.connections import ArqRedis

    from app.messaging.channels import Names

KEPT_S: Final = 24 * 3600
"""A worker or backend that is gone stays listed so long."""


_DRIVE: Final = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_STOP_DRIVING: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
redis.call('DEL', KEYS[1])
return 1
"""


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat as it was found."""

    name: str
    age_s: float
    """Since it was written, by Redis' own clock: the clocks of our machines may differ."""
    state: Mapping[str, Any]
    live: bool
    """It is young enough for its writer to be alive."""


class Registry:
    """Heartbeats in Redis. Methods raise `QueueUnavailable` while it is away.

    `stale_s` is the age at which a heartbeat means that its writer is gone.
    """

    def __init__(self, redis: ArqRedis, names: Names, stale_s: float) -> None:
        self._redis = redis
        self._names = names
        self.stale_s: Final = stale_s
        self._catalogs: dict[str, Catalog] = {}
        self._drive = redis.register_script(_DRIVE)
        self._stop_driving = redis.register_script(_STOP_DRIVING)

    async def beat(self, worker_id: str, worker: Mapping[str, Any], backends: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the heartbeat of a worker and of the backends that it drives."""
        now = time.time()
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.set(self._names.worker(worker_id), json.dumps(worker), ex=KEPT_S)
                pipe.zadd(self._names.workers, {worker_id: now})
                for name, state in backends.items():
                    pipe.set(self._names.backend(name), json.dumps(state), ex=KEPT_S)
                    pipe.zadd(self._names.backends, {name: now})
                    if state.get("catalog"):
                        pipe.expire(self._names.catalog(state["catalog"]), KEPT_S)
                for index in (self._names.workers, self._names.backends):
                    pipe.zremrangebyscore(index, "-inf", now - KEPT_S)
                await pipe.execute()
        except (*AWAY, RedisError) as error:
            raise QueueUnavailable("The heartbeat could not be written.") from error

    async def leave(self, worker_id: str) -> None:
        """A worker has stopped of its own will: it is not lost, it is gone."""
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.delete(self._names.worker(worker_id), self._names.asked(worker_id))
                pipe.zrem(self._names.workers, worker_id)
                await pipe.execute()
        except (*AWAY, RedisError) as error:
            raise QueueUnavailable("The heartbeat could not be removed.") from error

    async def workers(self) -> list[Beat]:
        """Return the heartbeats of all workers seen within a day."""
        return await self._beats(self._names.workers, self._names.worker)

    async def backends(self) -> list[Beat]:
        """Return the heartbeats of all backends seen within a day."""
        return await self._beats(self._names.backends, self._names.backend)

    async def drive(self, name: str, worker_id: str, lease_s: float) -> bool:
        """Take or renew the lease on driving a backend; False while another worker holds it."""
        try:
            return bool(await self._drive(keys=[self._names.driver(name)], args=[worker_id, int(lease_s * 1000)]))
        except (*AWAY, RedisError) as error:
            raise QueueUnavailable("The lease on a backend could not be taken.") from error

    async def stop_driving(self, name: str, worker_id: str, last: Mapping[str, Any]) -> None:
        """Let the lease on a backend go, so that another worker need not wait for its end.

        `last` becomes its heartbeat, until the next driver tells more.
        """
        keys = [self._names.driver(name), self._names.backend(name)]
        try:
            await self._stop_driving(keys=keys, args=[worker_id, json.dumps(last), KEPT_S])
        except (*AWAY, RedisError) as error:
            raise QueueUnavailable("The lease on a backend could not be given back.") from error

    async def put_catalog(self, object_info: bytes) -> str:
        """Keep what a backend offers and return its digest."""
        digest = hashlib.sha256(object_info).hexdigest()[:32]
        try:
            await self._redis.set(self._names.catalog(digest), zlib.compress(object_info, 1), ex=KEPT_S)
        except (*AWAY, RedisError) as error:
            raise QueueUnavailable("What a backend offers could not be kept.") from error
        return digest

    async def catalog(self, digest: str) -> Catalog | None:
        """Return what the backends with this digest offer; None when it is not known."""
        if digest not in self._catalogs:
            try:
                raw = await self._redis.get(self._names.catalog(digest))
            except (*AWAY, RedisError) as error:
                raise QueueUnavailable("What the backends offer could not be read.") from error
            if raw is None:
                return None
            while len(self._catalogs) >= 16:
                self._catalogs.pop(next(iter(self._catalogs)))
            self._catalogs[digest] = read_catalog(json.loads(zlib.decompress(raw)))
        return self._catalogs[digest]

    async def _beats(self, index: str, key: Any) -> list[Beat]:
        try:
            names = [name.decode() for name in await self._redis.zrange(index, 0, -1)]
            async with self._redis.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.get(key(name))
                    pipe.pttl(key(name))
                found = await pipe.execute()
        except (*AWAY, RedisError) as error:
            raise QueueUnavailable("The heartbeats cannot be read at the moment.") from error
        beats = []
        for name, raw, left_ms in zip(names, found[::2], found[1::2], strict=True):
            if raw is not None:
                age_s = max(0.0, KEPT_S - left_ms / 1000)
                beats.append(Beat(name, age_s, json.loads(raw), age_s < self.stale_s))
        return sorted(beats, key=lambda beat: beat.name)
