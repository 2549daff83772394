"""Reads node classes again that a server did not find in a driven backend, before a job is refused for that."""

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
    """Answers questions about what the driven backends offer; `send_heartbeats` makes changes visible to others."""

    def __init__(
        self,
        questions: OfferQuestions,
        pool: BackendPool,
        registry: Registry,
        send_heartbeats: Callable[[], Awaitable[None]],
    ) -> None:
        self._questions = questions
        self._pool = pool
        self._registry = registry
        self._send_heartbeats = send_heartbeats
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._news: dict[str, asyncio.Event] = {}
        """Backend → set when there is a new question about it, or a class has been read."""

    async def start_answers(self) -> None:
        """Start a task for each driven backend with open questions; raises `QueueUnavailable`."""
        for backend in self._pool.driven:
            name = backend.name
            self._news.setdefault(name, asyncio.Event()).set()
            if name not in self._tasks and await self._questions.asked(name):
                self._tasks[name] = asyncio.create_task(self._answer(backend), name=f"answer-{name}")

    async def close(self) -> None:
        """Cancel all running answers."""
        await end_tasks(self._tasks.values())

    async def _answer(self, backend: Backend) -> None:
        """Answer questions about the backend until none is open."""
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
            log.warning("backend %s: questions about its offer cannot be answered: %s", backend.name, error)
        except Exception:
            log.exception("backend %s: unexpected error while answering questions about its offer", backend.name)
        finally:
            del self._tasks[backend.name]
            await end_tasks(reading.values())

    async def _begin(
        self, backend: Backend, asked: Mapping[str, int], reading: dict[str, asyncio.Task[None]]
    ) -> float | None:
        """Start reading the classes that may be read now; return in how many seconds the next one may be, or None.

        Questions about a class that may not be read soon are answered at once, from the current catalog. All questions
        about a class that waits to be read get the same answer.
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
        """Read a class, publish what has changed, and answer the question."""
        try:
            try:
                await backend.offering.read_again(name)
            except BackendLost as error:
                log.info("backend %s: a node class cannot be read: %s", backend.name, error)
            if await backend.offering.publish(self._registry):
                await self._send_heartbeats()
            await self._questions.answer(backend.name, {name: number})
        except QueueUnavailable as error:
            log.warning("backend %s: a question about its offer cannot be answered: %s", backend.name, error)
        except Exception:
            log.exception("backend %s: unexpected error while reading a node class", backend.name)
