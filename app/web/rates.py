"""Requests a second: counted as soon as it is known whose they are, and each answer says what is left."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from aiohttp import web

from app.domain.errors import TooMany
from app.keys import RATES
from app.messaging.request_rates import Rate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.domain.access import Caller

RATE: Final = web.RequestKey[Rate | None]("RATE", object)  # type: ignore[arg-type]
"""What is left of the key's requests; None where they are not limited."""
_POLICY: Final = "requests"
HELD_S: Final = 0.5
"""A refusal is answered about so late: who sends the next request when the last one is answered would take the
processor from all others by refusals alone. `Retry-After` is a second at least."""
MOST_HELD: Final = 1000
"""Refusals that wait at once; others are answered without delay."""
HELD: Final = web.AppKey("HELD", asyncio.Semaphore)


async def count_request(request: web.Request, caller: Caller) -> None:
    """Count the request of a key whose requests a second are limited; raises `TooMany`."""
    if caller.key_id is None or caller.limits.requests_per_second is None:
        return
    rate = request[RATE] = await request.config_dict[RATES].use(caller.key_id, caller.limits)
    if rate.retry_after_s > 0:
        await _hold(request.config_dict[HELD])
        raise TooMany(
            f"This key may send {caller.limits.requests_per_second:g} requests a second, {rate.quota} at once.",
            rate.retry_after_s,
        )


async def _hold(held: asyncio.Semaphore) -> None:
    if not held.locked():
        async with held:
            # Not all at once: who sends over many connections would come again over all of them in the same moment.
            await asyncio.sleep(HELD_S * random.uniform(0.5, 1.5))


def rate_headers(request: web.Request) -> Mapping[str, str]:
    """Return the headers that tell what is left, as draft-ietf-httpapi-ratelimit-headers-10 has them."""
    rate = request[RATE]
    if rate is None:
        return {}
    return {
        "RateLimit-Policy": f'"{_POLICY}";q={rate.quota};w={rate.window_s}',
        "RateLimit": f'"{_POLICY}";r={rate.remaining};t={rate.reset_s}',
    }
