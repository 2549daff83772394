"""Heartbeats of workers and backends in Redis, and what the backends offer."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
import zlib
from typing import TYPE_CHECKING, Any, Final, TypeVar

from app.domain.heartbeats import BackendBeat, WorkerBeat, backend_beat, parse_heartbeat, worker_beat
from app.domain.offers import MOST_BYTES, MOST_REPLACING_BYTES, Offer, changed_by, read_kept
from app.messaging.redis_connection import redis_errors_as

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from arq.connections import ArqRedis

    from app.domain.catalog import Catalog
    from app.messaging.channels import Names

log = logging.getLogger(__name__)

KEPT_S: Final = 24 * 3600
"""Seconds for which a worker or backend that is gone stays listed."""
_MOST_CATALOGS: Final = 16
_MOST_WEIGHT: Final = 2 * MOST_BYTES
"""Maximum total bytes of the texts from which the catalogs in memory were read."""
_REPLACED_BEATS: Final = 10
"""Time for which a backend's replaced offer is kept, in multiples of the age at which a heartbeat is stale."""
_MOST_KEPT_BYTES: Final = MOST_BYTES + MOST_REPLACING_BYTES + 1
CHANGED_BY: Final = "+"
"""Separator in the digest of an offer. Before it stands the digest of the full reading, which may be 30 MB. After it
stands the digest of the few classes that were read again since, because something was missing in them."""

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


_Beat = TypeVar("_Beat", WorkerBeat, BackendBeat)


class Registry:
    """Heartbeats in Redis. Methods raise `QueueUnavailable` while it is away.

    `stale_s` is the age at which a heartbeat means that its writer is gone.
    """

    def __init__(self, redis: ArqRedis, names: Names, stale_s: float) -> None:
        self._redis = redis
        self._names = names
        self.stale_s: Final = stale_s
        self._catalogs: dict[str, Catalog] = {}
        self._changed: dict[str, tuple[Catalog, Catalog, Catalog]] = {}
        """Digest of two parts → those, and what they describe together."""
        self._weights: dict[str, int] = {}
        """Length of what a catalog was read from, which tells how much memory it takes."""
        self._unreadable: set[str] = set()
        """Names of which it was logged that their heartbeat cannot be read."""
        self._drive = redis.register_script(_DRIVE)
        self._stop_driving = redis.register_script(_STOP_DRIVING)

    @property
    def catalog_weights(self) -> dict[str, int]:
        """Digest → bytes of what the catalog was read from, of the catalogs in memory."""
        return dict(self._weights)

    async def beat(self, worker_id: str, worker: Mapping[str, Any], backends: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the heartbeat of a worker and of the backends that it drives."""
        now = time.time()
        with redis_errors_as("The heartbeat could not be written."):
            async with self._redis.pipeline(transaction=False) as pipe:
                if (written := _encoded(worker_id, worker)) is not None:
                    pipe.set(self._names.worker(worker_id), written, ex=KEPT_S)
                    pipe.zadd(self._names.workers, {worker_id: now})
                for name, state in backends.items():
                    if (written := _encoded(name, state)) is None:
                        continue
                    pipe.set(self._names.backend(name), written, ex=KEPT_S)
                    pipe.zadd(self._names.backends, {name: now})
                    for part in _parts(state.get("catalog")):
                        pipe.expire(self._names.catalog(part), KEPT_S)
                for index in (self._names.workers, self._names.backends):
                    pipe.zremrangebyscore(index, "-inf", now - KEPT_S)
                await pipe.execute()

    async def leave(self, worker_id: str) -> None:
        """Remove a worker that stopped by itself, so that it is not listed as lost."""
        with redis_errors_as("The heartbeat could not be removed."):
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.delete(self._names.worker(worker_id), self._names.asked(worker_id))
                pipe.zrem(self._names.workers, worker_id)
                await pipe.execute()

    async def workers(self) -> list[WorkerBeat]:
        """Return the heartbeats of all workers seen within a day."""
        return await self._beats(self._names.workers, self._names.worker, worker_beat)

    async def backends(self) -> list[BackendBeat]:
        """Return the heartbeats of all backends seen within a day."""
        return await self._beats(self._names.backends, self._names.backend, backend_beat)

    async def drive(self, name: str, worker_id: str, lease_s: float) -> bool:
        """Take or renew the lease on driving a backend; False while another worker holds it."""
        with redis_errors_as("The lease on a backend could not be taken."):
            return bool(await self._drive(keys=[self._names.driver(name)], args=[worker_id, int(lease_s * 1000)]))

    async def stop_driving(self, name: str, worker_id: str, last: Mapping[str, Any]) -> None:
        """Let the lease on a backend go, so that another worker need not wait for its end.

        `last` becomes its heartbeat, until the next driver tells more.
        """
        keys = [self._names.driver(name), self._names.backend(name)]
        with redis_errors_as("The lease on a backend could not be given back."):
            await self._stop_driving(keys=keys, args=[worker_id, _encoded(name, last) or "{}", KEPT_S])

    async def put_catalog(self, described: bytes, instead_of: str | None = None) -> str:
        """Store what a backend offers and return its digest. What it offered before expires soon if no other offers it.

        A backend that offers something else each time would fill Redis otherwise.
        """
        digest = hashlib.sha256(described).hexdigest()[:32]
        packed = await asyncio.to_thread(zlib.compress, described, 1)
        with redis_errors_as("What a backend offers could not be kept."):
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.set(self._names.catalog(digest), packed, ex=KEPT_S)
                for part in _parts(instead_of):
                    if part != digest:
                        # Another backend that still offers this says so with its next heartbeat.
                        pipe.expire(self._names.catalog(part), int(self.stale_s * _REPLACED_BEATS) + 1)
                await pipe.execute()
        return digest

    async def catalog(self, digest: str) -> Catalog | None:
        """Return what the backends with this digest offer; None when it is not known."""
        whole, changed, since = digest.partition(CHANGED_BY)
        found = await self._part(whole)
        later = await self._part(since) if changed and found is not None else None
        if found is None or later is None:
            # With what was read since lost, what was read whole is better than nothing.
            return found
        return await self._joined(digest, found, later)

    async def _joined(self, digest: str, found: Catalog, later: Catalog) -> Catalog:
        """Return what both describe together, the same object as long as they are the same."""
        known = self._changed.get(digest)
        if known is None or known[0] is not found or known[1] is not later:
            known = found, later, await asyncio.to_thread(changed_by, found, later)
            self._changed.pop(digest, None)
            while len(self._changed) >= _MOST_CATALOGS:
                del self._changed[next(iter(self._changed))]
            self._changed[digest] = known
        return known[2]

    async def _part(self, digest: str) -> Catalog | None:
        if digest not in self._catalogs:
            with redis_errors_as("What the backends offer could not be read."):
                raw = await self._redis.get(self._names.catalog(digest))
            offer = await asyncio.to_thread(_unpacked, raw) if raw is not None else None
            if offer is None:
                return None
            self._remember(digest, offer)
        return self._catalogs[digest]

    def _remember(self, digest: str, offer: Offer) -> None:
        self._catalogs.pop(digest, None)
        self._weights[digest] = len(offer.described)
        while self._catalogs and (
            len(self._catalogs) >= _MOST_CATALOGS
            or sum(map(self._weights.__getitem__, self._catalogs)) + len(offer.described) > _MOST_WEIGHT
        ):
            oldest = next(iter(self._catalogs))
            del self._catalogs[oldest], self._weights[oldest]
        self._catalogs[digest] = offer.catalog

    async def _beats(
        self,
        index: str,
        key: Callable[[str], str],
        read: Callable[[str, float, bool, Mapping[str, Any]], _Beat],
    ) -> list[_Beat]:
        with redis_errors_as("The heartbeats cannot be read at the moment."):
            names = [name.decode("utf-8", "replace") for name in await self._redis.zrange(index, 0, -1)]
            async with self._redis.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.get(key(name))
                    pipe.pttl(key(name))
                found = await pipe.execute()
        beats: list[_Beat] = []
        for name, raw, left_ms in zip(names, found[::2], found[1::2], strict=True):
            if raw is not None:
                age_s = max(0.0, KEPT_S - left_ms / 1000)
                beats.append(read(name, age_s, age_s < self.stale_s, self._fields(name, raw)))
        return sorted(beats, key=lambda beat: beat.name)

    def _fields(self, name: str, raw: bytes) -> dict[str, Any]:
        """Return what a heartbeat holds; nothing of one that cannot be read, which is logged once."""
        try:
            fields = parse_heartbeat(raw)
        except ValueError as error:
            if name not in self._unreadable:
                self._unreadable.add(name)
                log.warning("the heartbeat of %.100r cannot be read: %s", name, error)
            return {}
        self._unreadable.discard(name)
        return fields


def _parts(digest: Any) -> list[str]:
    """Return the digests of what is kept of an offer."""
    return digest.split(CHANGED_BY) if isinstance(digest, str) and digest else []


def _encoded(name: str, state: Mapping[str, Any]) -> str | None:
    """Return a heartbeat as JSON. One that has no JSON form is logged and left out (None); the others are written."""
    try:
        return json.dumps(state, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        log.exception("the heartbeat of %s cannot be written", name)
        return None


def _unpacked(packed: bytes) -> Offer | None:
    """Return what was kept of a backend's offer; None for what is none, or larger than any can be."""
    try:
        inflating = zlib.decompressobj()
        described = inflating.decompress(packed, _MOST_KEPT_BYTES + 1)
        return read_kept(described) if inflating.eof else None
    except (ValueError, zlib.error) as error:
        log.warning("what a backend offers cannot be read: %s", error)
        return None
