"""Reading again what somebody misses in a backend that this worker drives, before a job is refused for it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from app.cancellation import end_tasks
from app.domain.errors import BackendLost, QueueUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.messaging.questions import Questions
    from app.messaging.registry import Registry
    from worker.backend import Backend
    from worker.backends import BackendPool

log = logging.getLogger(__name__)

MOST_AT_ONCE: Final = 500
"""Classes being read, or waiting for it; whoever asks for more is answered with what is known."""


class Answering:
    """Answers questions about what our backends offer. `tell` writes heartbeats, by which others see what is new."""

    def __init__(
        self, questions: Questions, pool: BackendPool, registry: Registry, tell: Callable[[], Awaitable[None]]
    ) -> None:
        self._questions = questions
        self._pool = pool
        self._registry = registry
        self._tell = tell
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._again: set[tuple[str, str]] = set()
        """Classes that were asked for again after somebody began with them."""

    async def look(self) -> None:
        """See to all that is asked for and not being seen to; raises `QueueUnavailable`."""
        for backend in self._pool.driven:
            for name in await self._questions.asked(backend.name):
                key = backend.name, name
                if key in self._tasks:
                    self._again.add(key)
                elif len(self._tasks) < MOST_AT_ONCE:
                    self._tasks[key] = asyncio.create_task(self._see_to(backend, name), name=f"read-{backend.name}")

    async def close(self) -> None:
        """End what is being read."""
        await end_tasks(self._tasks.values())

    async def _see_to(self, backend: Backend, name: str) -> None:
        key = backend.name, name
        try:
            number = await self._questions.number(*key)
            while number is not None or key in self._again:
                self._again.discard(key)
                if number is not None:
                    await self._answer(backend, name, number)
                number = await self._questions.number(*key)
        except QueueUnavailable as error:
            log.warning("backend %s: what is asked of it cannot be answered: %s", backend.name, error)
        except Exception:
            log.exception("backend %s: reading a node class again stumbled", backend.name)
        finally:
            self._tasks.pop(key, None)
            self._again.discard(key)

    async def _answer(self, backend: Backend, name: str, number: int) -> None:
        """Read the class if that can be soon, and say that it is done: what is known then decides."""
        wait_s = backend.offering.wait_s(name) if backend.healthy else None
        while wait_s is not None:
            await asyncio.sleep(wait_s)
            # All who asked meanwhile have the same answer.
            number = await self._questions.number(backend.name, name) or number
            if (wait_s := backend.offering.wait_s(name)) == 0:
                await self._read(backend, name)
                break
        await self._questions.answer(backend.name, name, number)

    async def _read(self, backend: Backend, name: str) -> None:
        try:
            await backend.offering.read_again(name)
        except BackendLost as error:
            log.info("backend %s did not say what it offers: %s", backend.name, error)
        if await backend.offering.publish(self._registry):
            await self._tell()
