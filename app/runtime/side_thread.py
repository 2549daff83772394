"""One thread beside the event loop, for what takes longer than everybody else can wait."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from app.domain.errors import Busy

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")

SMALL_BYTES: Final = 64 * 1024
"""Maximum bytes of JSON that is processed in the event loop, in a few milliseconds: a thread would take as long."""
MAX_WAITING: Final = 32
"""Maximum number of requests that wait for the thread; a further one is refused with `Busy`."""


class SideThread:
    """Does one thing at a time in a thread of its own. Small things are done at once, where they are."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sideline")
        self._waiting = 0

    async def do(self, size_bytes: int, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what the function returns; `size_bytes` is the size of what it works on, as JSON.

        Raises
        ------
        Busy
            Too much waits already.
        """
        if size_bytes <= SMALL_BYTES:
            return function(*args, **kwargs)
        if self._waiting >= MAX_WAITING:
            raise Busy("Too many large requests are being read at the moment.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the thread; what waits for it is not done any more."""
        self._thread.shutdown(wait=True, cancel_futures=True)
