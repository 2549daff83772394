"""Before a job is refused, the workers that drive the backends are asked to read their lists again."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from app.runtime.batching import Batcher
from app.runtime.end_tasks import end_tasks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from app.messaging.offer_questions import OfferQuestions

WAIT_S: Final = 3.0
"""Maximum seconds that a request waits before it is refused. A driver answers in some 20 ms, or within a second when
the class was read a moment ago. A longer silence means that the driver or its backend is dead; the last lists decide
then."""
MOST_CLASSES: Final = 50
"""Maximum number of classes of one graph that one backend is asked about: as many as faults are named."""
_MOST_NAME: Final = 300
_FIRST_LOOK_S: Final = 0.01
_LATER_LOOK_S: Final = 0.1
_MOST_AT_ONCE: Final = 64


class OfferRefresh:
    """Has node classes of backends read again. Methods raise `QueueUnavailable` while Redis is away."""

    def __init__(self, questions: OfferQuestions) -> None:
        self._questions = questions
        self._asking: dict[str, Batcher[frozenset[str], None]] = {}
        self._closing = False

    async def read(self, wanted: Mapping[str, frozenset[str]], until: float) -> AsyncGenerator[str, None]:
        """Yield backends of `wanted`, backend → classes, as theirs have been read; end when all have, or at `until`.

        A reading counts that began after this was called. `until` is a moment of the monotonic clock.
        """
        tasks = {
            asyncio.create_task(self._of(backend).do(classes), name=f"afresh-{backend}"): backend
            for backend, names in wanted.items()
            if (classes := frozenset(sorted(filter(_can_be_asked, names))[:MOST_CLASSES]))
        }
        try:
            waiting = set(tasks)
            while waiting and (left_s := until - time.monotonic()) > 0:
                done, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    await task
                    yield tasks[task]
        finally:
            await end_tasks(tasks)

    async def close(self) -> None:
        """Stop waiting for answers, and return when no question is open."""
        self._closing = True
        await asyncio.gather(*(each.settle() for each in self._asking.values()))

    def _of(self, backend: str) -> Batcher[frozenset[str], None]:
        if backend not in self._asking:

            async def ask(items: Sequence[frozenset[str]]) -> list[None]:
                await self._ask(backend, sorted(frozenset().union(*items)))
                return [None] * len(items)

            self._asking[backend] = Batcher(ask, most=_MOST_AT_ONCE, flights=2)
        return self._asking[backend]

    async def _ask(self, backend: str, classes: Sequence[str]) -> None:
        """Ask, and return when the answer is there, or no request waits for it any more."""
        until = time.monotonic() + WAIT_S
        number = await self._questions.ask(backend, classes)
        look_s = _FIRST_LOOK_S
        while time.monotonic() < until and not self._closing:
            await asyncio.sleep(look_s)
            if await self._questions.answered(backend, classes, number):
                return
            look_s = min(look_s * 1.5, _LATER_LOOK_S)


def _can_be_asked(name: str) -> bool:
    """Whether a class may be called so: others are not in any list."""
    try:
        return 0 < len(name) <= _MOST_NAME and bool(name.encode())
    except UnicodeEncodeError:
        return False
