"""Connections to Redis that outlive its restarts, and JSON in place of pickle for what arq keeps there."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import json
from typing import TYPE_CHECKING, Any, Final

from arq.connections import ArqRedis
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.domain.errors import QueueUnavailable

if TYPE_CHECKING:
    from types import TracebackType

    from app.settings import Settings

REDIS_ERRORS: Final = (RedisError, OSError)
"""What a command raises when Redis cannot be reached, does not answer in time, or refuses it. (`TimeoutError` is an
`OSError`.)"""

MOST_CONNECTIONS: Final = 100
"""Maximum number of commands of one client at a time; a further one waits."""

EXPIRES_MS: Final = 30 * 24 * 3600 * 1000
"""arq drops a turn at this age, however long it waits or is retried; a waiting job is enqueued again long before."""


class redis_errors_as:  # noqa: N801 -- read as a statement, like `contextlib.suppress`
    """Have an error of Redis in the block raised as `QueueUnavailable` with this message."""

    def __init__(self, message: str) -> None:
        self._message = message

    def __enter__(self) -> None:
        """Enter the block."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Raise `QueueUnavailable` in place of an error of Redis."""
        if isinstance(error, REDIS_ERRORS):
            raise QueueUnavailable(self._message) from error


def make_redis(settings: Settings, *, patient: bool) -> ArqRedis:
    """Make a client with a pool of its own; nothing connects before it is used.

    A patient one, for workers, retries until Redis is back; the other gives up after a second, for requests.
    redis-py 5 does not retry an `OSError` of connecting by itself (redis-py #3450), and needs the asyncio `Retry`
    (#4262). Its plain pool connects under a lock: while Redis is away each caller would wait for all before it, so the
    one that waits for a free connection is taken, which connects outside its lock.
    """
    pool = BlockingConnectionPool.from_url(
        settings.redis_url_with_db,
        max_connections=MOST_CONNECTIONS,
        timeout=None if patient else settings.redis_timeout_seconds,
        retry=Retry(ExponentialBackoff(cap=1, base=0.05), -1 if patient else 1),
        retry_on_error=[RedisConnectionError, RedisTimeoutError, OSError],
        socket_timeout=settings.redis_timeout_seconds,
        socket_connect_timeout=settings.redis_timeout_seconds,
        health_check_interval=15,
    )
    return ArqRedis(pool, job_serializer=serialize, job_deserializer=deserialize, expires_extra_ms=EXPIRES_MS)


class Line(ArqRedis):
    """A client with one connection of its own, for the commands that every job waits for: one at a time, no pool.

    A pool looks at a connection before it lends it, and a time limit of the connection's own puts each write into a
    task of its own: together a third of what a command costs, and the reason why it goes out late when the event loop
    has much to do. Here it is on the wire before anything else runs. The limit holds for the whole command, the wait
    for those before it included. It gives up as soon as the client for requests does.
    """

    def __init__(self, settings: Settings) -> None:
        pool = ConnectionPool.from_url(
            settings.redis_url_with_db,
            max_connections=1,
            retry=Retry(ExponentialBackoff(cap=1, base=0.05), 1),
            retry_on_error=[RedisConnectionError, RedisTimeoutError, OSError],
            socket_connect_timeout=settings.redis_timeout_seconds,
            socket_keepalive=True,
        )
        super().__init__(
            pool,
            job_serializer=serialize,
            job_deserializer=deserialize,
            expires_extra_ms=EXPIRES_MS,
            single_connection_client=True,
        )
        self._limit_s = settings.redis_timeout_seconds

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Execute a command; raises `TimeoutError` as well as what redis-py raises."""
        async with asyncio.timeout(self._limit_s):
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


def make_listener(settings: Settings) -> Redis:
    """Make a client for pub/sub, which waits without a time limit and never retries: its owner subscribes anew."""
    pool = ConnectionPool.from_url(
        settings.redis_url_with_db,
        retry=Retry(ExponentialBackoff(), 0),
        socket_connect_timeout=settings.redis_timeout_seconds,
        socket_keepalive=True,
        health_check_interval=15,
    )
    return Redis(connection_pool=pool)


async def close(redis: Redis) -> None:
    """Close the client and its connections."""
    await redis.aclose()
    await redis.connection_pool.disconnect()


def serialize(value: Any) -> bytes:
    """Return JSON. Exceptions, which arq puts into results, go by name and arguments."""
    return json.dumps(value, default=_plain).encode()


def deserialize(data: bytes) -> Any:
    """Undo `serialize`; an exception of a class that is not built in becomes a `RuntimeError`."""
    return json.loads(data, object_hook=_rebuilt)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseException):
        return {"__exception__": type(value).__name__, "args": [str(each) for each in value.args]}
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _rebuilt(value: dict[str, Any]) -> Any:
    name, found = value.get("__exception__"), value.get("args")
    if not isinstance(name, str) or not isinstance(found, list):
        return value
    arguments = [str(each) for each in found]
    kind = asyncio.CancelledError if name == "CancelledError" else getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception | asyncio.CancelledError):
        # Some take no texts, such as UnicodeDecodeError and ExceptionGroup.
        with contextlib.suppress(TypeError, ValueError):
            return kind(*arguments)
    return RuntimeError(f"{name}: {', '.join(arguments)}")
