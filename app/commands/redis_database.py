"""One environment's database in Redis: what is in it, and clearing it."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

from arq.constants import (
    abort_jobs_ss,
    health_check_key_suffix,
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)

from app.commands.terminal import amount, duration, show, table
from app.domain.errors import QueueUnavailable
from app.environment import with_servers
from app.messaging.channels import Names
from app.messaging.redis_connection import REDIS_ERRORS, close, make_redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from arq.connections import ArqRedis

    from app.settings import Settings

SCAN_COUNT: Final = 1000
"""Keys a step of SCAN: Redis serves others between the steps, which it does not with KEYS."""


@asynccontextmanager
async def open_redis(settings: Settings) -> AsyncIterator[tuple[ArqRedis, Settings]]:
    """Have a client for the environment's database; an embedded Redis that does not run is started for the block.

    Raises
    ------
    QueueUnavailable
        Redis is away, or refuses us.
    """
    async with with_servers(settings, postgres=False) as complete:
        redis = make_redis(complete, patient=False)
        try:
            yield redis, complete
        except REDIS_ERRORS as error:
            where = without_password(complete.redis_url_with_db)
            raise QueueUnavailable(f"Redis at {where} (REDIS_URL) cannot be used: {error}") from error
        finally:
            await close(redis)


async def redis_keys(settings: Settings) -> int:
    """List every key of the environment's database, with type and time to live."""
    rows = []
    async with open_redis(settings) as (redis, complete):
        for keys in _in_pieces(await _all_keys(redis)):
            async with redis.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.type(key)
                    pipe.pttl(key)
                told = await pipe.execute()
            for key, kind, left_ms in zip(keys, told[::2], told[1::2], strict=True):
                if kind != b"none":  # it has gone in the meantime
                    rows.append((_text(key), kind.decode(), _time_to_live(left_ms)))
    show(table(("KEY", "TYPE", "TTL"), rows) if rows else f"{_database(complete)} has no keys.")
    return 0


async def redis_info(settings: Settings) -> int:
    """Tell of the server, and of what the environment has in it."""
    names = Names(settings.redis_namespace)
    async with open_redis(settings) as (redis, complete):
        server: dict[str, Any] = await redis.info()
        sizes, counts = await _sizes(redis, names)
        queue = await redis.zcard(names.queue)
        channels = sorted(await redis.pubsub_channels(f"{names.namespace}:*"))
        listeners = await redis.pubsub_numsub(*channels) if channels else []
    version = f"Redis {server['redis_version']}"
    if "valkey_version" in server:
        version = f"Valkey {server['valkey_version']}, which speaks as {version}"
    limit = amount(server["maxmemory"]) if server.get("maxmemory") else "no limit"
    facts = (
        ("Server", without_password(complete.redis_url_with_db)),
        ("Version", f"{version}, up for {duration(server['uptime_in_seconds'])}"),
        ("Memory", f"{amount(server['used_memory'])}, {limit}, policy {server.get('maxmemory_policy', 'unknown')}"),
        ("Clients", server["connected_clients"]),
        ("Database", f"{complete.redis_db}, namespace {names.namespace}, {counts.total()} keys"),
        ("Queue", f"{queue} turns in {names.queue}"),
    )
    show("\n".join(f"{name:10}{value}" for name, value in facts))
    rows = [(kind, counts[kind], amount(sizes[kind])) for kind in sorted(counts)]
    show("\n" + (table(("KEYS", "COUNT", "MEMORY"), rows) if rows else "The database has no keys."))
    heard = [(_text(channel), count) for channel, count in sorted(listeners)]
    show("\n" + (table(("CHANNEL", "LISTENERS"), heard) if heard else "No channel of this namespace has a subscriber."))
    return 0


async def redis_flush(settings: Settings) -> int:
    """Clear the environment's database, and no other, and tell what was in it."""
    names = Names(settings.redis_namespace)
    async with open_redis(settings) as (redis, complete):
        counts = Counter(_kind(key, names) for key in await _all_keys(redis))
        async with redis.pipeline(transaction=True) as pipe:
            pipe.dbsize()
            pipe.flushdb()
            deleted, _ = await pipe.execute()
    if not deleted:
        show(f"{_database(complete)} had no keys; nothing was deleted.")
        return 0
    show(f"{_database(complete)} is cleared: {deleted} keys were deleted.\n")
    show(table(("KEYS", "COUNT"), sorted(counts.items())))
    show(
        "\nNo job is lost: waiting jobs are in PostgreSQL, and a running worker gives them their turns again "
        f"within {2 * settings.reconcile_seconds} s."
    )
    return 0


def without_password(url: str) -> str:
    """Return the URL as it may be shown."""
    parts = urlsplit(url)
    if not parts.password:
        return url
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{parts.netloc.rpartition('@')[2]}"))


def _database(settings: Settings) -> str:
    where = without_password(settings.redis_url.get_secret_value())
    return f"Database {settings.redis_db} ({settings.redis_namespace}) of {where}"


async def _all_keys(redis: ArqRedis) -> list[bytes]:
    # A set, because SCAN may bring a key twice.
    return sorted({key async for key in redis.scan_iter(count=SCAN_COUNT)})


def _in_pieces(keys: list[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(keys), SCAN_COUNT):
        yield keys[start : start + SCAN_COUNT]


async def _sizes(redis: ArqRedis, names: Names) -> tuple[Counter[str], Counter[str]]:
    """Return the memory and the number of keys of each kind."""
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for keys in _in_pieces(await _all_keys(redis)):
        async with redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.memory_usage(key)
            found = await pipe.execute()
        for key, size in zip(keys, found, strict=True):
            if size is not None:
                sizes[_kind(key, names)] += size
                counts[_kind(key, names)] += 1
    return sizes, counts


def _kind(key: bytes, names: Names) -> str:
    """Return the pattern that stands for all keys of this kind."""
    text = _text(key)
    prefixes = [job_key_prefix, in_progress_key_prefix, result_key_prefix, retry_key_prefix]
    prefixes += [names.worker(""), names.backend(""), names.driver(""), names.catalog(""), names.live(0)[:-1]]
    whole = {names.queue, names.maintenance, names.workers, names.backends}
    whole |= {abort_jobs_ss, names.queue + health_check_key_suffix}
    if text in whole:
        return text
    for prefix in prefixes:
        if text.startswith(prefix):
            return f"{prefix}*"
    # Another one of ours, or of a stranger's: what stands before its first or, after our namespace, second colon.
    own = re.match(rf"({re.escape(names.namespace)}:)?[^:]*:", text)
    return f"{own[0]}*" if own else text


def _time_to_live(left_ms: int) -> str:
    return duration(left_ms / 1000) if left_ms >= 0 else "for ever"


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
