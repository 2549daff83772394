"""Processes concurrent requests in batches: one transaction or one round trip serves all of them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from app.domain.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Gathers items while earlier ones are processed, so that no item waits when nothing else is going on.

    `work` takes up to `most` items and returns a result for each, in their order; `flights` batches may be under way
    at once.
    """

    def __init__(self, work: Callable[[Sequence[T]], Awaitable[Sequence[R]]], *, most: int, flights: int) -> None:
        self._work = work
        self._most = most
        self._flights = flights
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._flying: set[asyncio.Task[None]] = set()

    async def do(self, item: T) -> R:
        """Return the item's result; raises what `work` raises."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if len(self._flying) < self._flights:
            flight = asyncio.create_task(self._fly())
            self._flying.add(flight)
        return await future

    async def settle(self) -> None:
        """Return when nothing is being processed: that goes on when its callers have gone."""
        await asyncio.gather(*self._flying)

    async def _fly(self) -> None:
        try:
            while self._waiting:
                # Other callers that are ready at this moment join the batch.
                await asyncio.sleep(0)
                if batch := [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]:
                    await self._deal_with(batch)
        finally:
            # Not in a done callback: an item added before the callback ran would wait for a task that has ended.
            self._flying.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _deal_with(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            await self._one(batch)
        except Exception as error:  # noqa: BLE001  # handed to the callers
            if isinstance(error, Unavailable) or len(batch) == 1:
                _fail(batch, error)
                return
            # A single item may have caused the error, so each one is processed again alone.
            for each in batch:
                try:
                    await self._one([each])
                except Exception as own:  # noqa: BLE001
                    _fail([each], own)
        except BaseException:
            for _, future in batch:
                future.cancel()
            raise

    async def _one(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        results = await self._work([item for item, _ in batch])
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)


def _fail(batch: Sequence[tuple[T, asyncio.Future[R]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
