"""Waiting until PostgreSQL can be reached again: what a job depends on is repeated, and not given up."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, TypeVar

from app.domain.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

FIRST_DELAY_S: Final = 0.1
MAX_DELAY_S: Final = 2.0
"""Maximum seconds between two tries."""

T = TypeVar("T")


async def repeat_until_available(step: Callable[[], Awaitable[T]], meanwhile: str) -> T:
    """Call `step` until it raises no `DatabaseUnavailable`, and return what it returns.

    `meanwhile` is logged at each failure: what waits, and how. The reply to a commit can be lost after PostgreSQL has
    made it, so the step must bear being repeated.
    """
    delay_s = FIRST_DELAY_S
    while True:
        try:
            return await step()
        except DatabaseUnavailable as error:
            log.warning("%s: %s", meanwhile, error)
        await asyncio.sleep(delay_s)
        delay_s = min(2 * delay_s, MAX_DELAY_S)
