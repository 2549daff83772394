"""Ending tasks for certain."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

AGAIN_S: Final = 1.0


async def end_tasks(tasks: Iterable[asyncio.Future[Any]], again_s: float = AGAIN_S) -> list[Any]:
    """Cancel tasks, again if they have not ended after `again_s` seconds, and return their results or exceptions.

    One `cancel()` is not enough: the `wait_for` of Python 3.11, which redis-py uses for every command, swallows a
    cancellation that comes in the moment in which what it waits for ends (python/cpython#86296).
    """
    ending = list(tasks)
    pending = {task for task in ending if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=again_s)
    return await asyncio.gather(*ending, return_exceptions=True)
