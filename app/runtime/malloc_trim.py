"""Memory that a rush of work took, given back to the system when it is free again."""

from __future__ import annotations

import asyncio
import ctypes
from typing import TYPE_CHECKING, Final

from app.runtime.end_tasks import end_tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

EVERY_S: Final = 10.0
"""Seconds between two calls of `malloc_trim`; a call takes 0.1 ms."""


async def giving_memory_back(command: Coroutine[None, None, int]) -> int:
    """Run a command, and give back meanwhile what its allocator keeps.

    glibc alone gives back only what lies at the end of a heap: after a thousand sockets, or some large pictures, 5 MB
    would stay below one block that is still in use. Elsewhere (macOS, musl) the allocator has no such call.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return await command
    trimming = asyncio.create_task(_for_ever(trim), name="memory")
    try:
        return await command
    finally:
        await end_tasks([trimming])


async def _for_ever(trim: Callable[[int], int]) -> None:
    while True:
        await asyncio.sleep(EVERY_S)
        trim(0)
