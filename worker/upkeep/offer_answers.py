"""Reading again what somebody misses in a backend that this worker drives, before a job is refused for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING

from app.domain.errors import BackendLost, QueueUnavailable
from app.runtime.end_tasks import end_tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from app.messaging.offer_questions import OfferQuestions
    from app.messaging.registry import Registry
    from worker.comfyui.backend import Backend
    from worker.comfyui.pool import BackendPool

log = logging.getLogger(__name__)


class OfferAnswers:
    """Answers questions about what our backends offer. `tell` writes heartbeats, by which others see what is new."""

    def __init__(
        self, questions: OfferQuestions, pool: BackendPool, registry: Registry, tell: Callable[[], Awaitable[None]]
    ) -> None:
        self._questions = questions
        self._pool = pool
        self._registry = registry
        self._tell = tell
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._news: dict[str, asyncio.Event] = {}
        """Backend → whether something was asked of it, or read, since that was last looked at."""

    async def look(self) -> None:
        """See to all that is asked for; raises `QueueUnavailable`."""
        for backend in self._pool.driven:
            name = backend.name
            self._news.setdefault(name, asyncio.Event()).set()
            if name not in self._tasks and await self._questions.asked(name):
                self._tasks[name] = asyncio.create_task(self._see_to(backend), name=f"answer-{name}")

    async def close(self) -> None:
        """End what is being read."""
        await end_tasks(self._tasks.values())

    async def _see_to(self, backend: Backend) -> None:
        """Answer until nothing is asked of the backend any more."""
        news, reading = self._news[backend.name], dict[str, asyncio.Task[None]]()
        try:
            while True:
                news.clear()
                asked = await self._questions.asked(backend.name)
                if not asked and not reading and not news.is_set():
                    return
                later_s = await self._begin(backend, asked, reading)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(later_s):
                        await news.wait()
        except QueueUnavailable as error:
            log.warning("backend %s: what is asked of it cannot be answered: %s", backend.name, error)
        except Exception:
            log.exception("backend %s: answering what is asked of it stumbled", backend.name)
        finally:
            del self._tasks[backend.name]
            await end_tasks(reading.values())

    async def _begin(
        self, backend: Backend, asked: Mapping[str, int], reading: dict[str, asyncio.Task[None]]
    ) -> float | None:
        """Begin to read what may be read now; return in how many seconds more may be, None when nothing waits for that.

        What may not be read soon is answered at once: what is known of it decides. Who asks while a class waits for its
        turn has the same answer as those before.
        """
        later_s: float | None = None
        given_up = {}
        for name, number in asked.items():
            wait_s = backend.offering.wait_s(name) if backend.healthy else None
            if name in reading:
                continue
            if wait_s is None:
                given_up[name] = number
            elif wait_s > 0:
                later_s = wait_s if later_s is None else min(later_s, wait_s)
            else:
                backend.offering.reserve(name)
                task = asyncio.create_task(self._read(backend, name, number), name=f"read-{backend.name}")
                reading[name] = task
                task.add_done_callback(partial(self._is_read, backend.name, name, reading))
        if given_up:
            await self._questions.answer(backend.name, given_up)
        return later_s

    def _is_read(self, backend: str, name: str, reading: dict[str, asyncio.Task[None]], _: asyncio.Task[None]) -> None:
        reading.pop(name, None)
        self._news[backend].set()

    async def _read(self, backend: Backend, name: str, number: int) -> None:
        """Read a class, have others see it, and say that it is done."""
        try:
            try:
                await backend.offering.read_again(name)
            except BackendLost as error:
                log.info("backend %s did not say what it offers: %s", backend.name, error)
            if await backend.offering.publish(self._registry):
                await self._tell()
            await self._questions.answer(backend.name, {name: number})
        except QueueUnavailable as error:
            log.warning("backend %s: what was asked of it cannot be answered: %s", backend.name, error)
        except Exception:
            log.exception("backend %s: reading a node class again stumbled", backend.name)
