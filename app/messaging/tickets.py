"""Tickets of WebSockets: each opens one socket, once and soon, for who cannot send a header there."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from app.messaging.redis_connection import redis_errors_as
from app.runtime.json_text import dumps

if TYPE_CHECKING:
    from collections.abc import Collection

    from arq.connections import ArqRedis

    from app.messaging.channels import Names

TTL_S: Final = 60
"""Seconds for which a ticket is good."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a ticket is good for."""

    key_id: int | None
    """The key that it was made with; None while there are no keys."""
    job_ids: tuple[int, ...] = ()
    """The jobs that may be followed."""
    events: bool = False
    """Whether it is good for all events instead."""

    def covers(self, job_ids: Collection[int]) -> bool:
        """Whether these jobs may be followed with it; of its own, fewer will do."""
        return bool(job_ids) and set(job_ids) <= set(self.job_ids)


class Tickets:
    """Tickets in Redis, found by their hash. Methods raise `QueueUnavailable` while Redis is away."""

    def __init__(self, redis: ArqRedis, names: Names) -> None:
        self._redis = redis
        self._names = names

    async def make(self, ticket: Ticket) -> str:
        """Keep a ticket for `TTL_S`, and return the text that it is shown as; only its hash is kept."""
        text = secrets.token_urlsafe(32)
        with redis_errors_as("No ticket can be made at the moment."):
            await self._redis.set(self._name(text), dumps(asdict(ticket)), ex=TTL_S)
        return text

    async def take(self, text: str) -> Ticket | None:
        """Return the ticket that is shown as this text; of two who take it one gets None, as who comes late does."""
        with redis_errors_as("Tickets cannot be looked at at the moment."):
            kept = await self._redis.getdel(self._name(text))
        if kept is None:
            return None
        told = json.loads(kept)
        return Ticket(told["key_id"], tuple(told["job_ids"]), told["events"])

    def _name(self, text: str) -> str:
        # A client may send any bytes as one, which come as lone surrogates.
        return self._names.ticket(hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest())
