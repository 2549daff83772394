"""Items that come at the same time are dealt with together, and each gets its own result."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from app.domain.errors import DatabaseUnavailable
from app.runtime.batching import Batcher

if TYPE_CHECKING:
    from collections.abc import Sequence


async def test_what_comes_while_a_batch_is_under_way_is_the_next_batch() -> None:
    batches: list[list[int]] = []
    gate = asyncio.Event()

    async def double(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        await gate.wait()
        return [2 * item for item in items]

    batcher = Batcher(double, most=4, flights=1)
    first = [asyncio.create_task(batcher.do(number)) for number in range(3)]
    while not batches:
        await asyncio.sleep(0)
    later = [asyncio.create_task(batcher.do(number)) for number in range(3, 9)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*first, *later) == [2 * number for number in range(9)]
    assert batches == [[0, 1, 2], [3, 4, 5, 6], [7, 8]]


async def test_so_many_batches_are_under_way_at_once_and_no_more() -> None:
    under_way = most = 0

    async def work(items: Sequence[int]) -> Sequence[int]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        under_way -= 1
        return items

    batcher = Batcher(work, most=1, flights=3)
    assert await asyncio.gather(*(batcher.do(number) for number in range(20))) == list(range(20))
    assert most == 3


async def test_one_that_is_to_blame_does_not_spoil_it_for_the_others() -> None:
    async def invert(items: Sequence[int]) -> list[float]:
        return [1 / item for item in items]

    batcher = Batcher(invert, most=10, flights=1)
    results = await asyncio.gather(*(batcher.do(number) for number in (1, 0, 2)), return_exceptions=True)
    assert results[::2] == [1, 0.5]
    assert isinstance(results[1], ZeroDivisionError)


async def test_an_outage_is_everybodys_and_nothing_is_tried_again() -> None:
    calls = 0

    async def away(items: Sequence[int]) -> list[int]:
        nonlocal calls
        calls += 1
        raise DatabaseUnavailable("away")

    batcher = Batcher(away, most=10, flights=1)
    results = await asyncio.gather(*(batcher.do(number) for number in range(5)), return_exceptions=True)
    assert [type(each) for each in results] == [DatabaseUnavailable] * 5
    assert calls == 1
    # And it goes on afterwards.
    with pytest.raises(DatabaseUnavailable):
        await batcher.do(1)


async def test_who_waits_no_longer_does_not_hold_up_the_others() -> None:
    gate = asyncio.Event()

    async def work(items: Sequence[int]) -> Sequence[int]:
        await gate.wait()
        return items

    batcher = Batcher(work, most=10, flights=1)
    gone, stays = (asyncio.create_task(batcher.do(number)) for number in (1, 2))
    await asyncio.sleep(0)
    gone.cancel()
    gate.set()
    assert await stays == 2
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_who_comes_in_the_moment_in_which_a_batch_ends_is_not_forgotten() -> None:
    async def double(items: Sequence[int]) -> list[int]:
        return [2 * item for item in items]

    batcher = Batcher(double, most=4, flights=1)
    async with asyncio.timeout(10):
        assert [await batcher.do(number) for number in range(5)] == [0, 2, 4, 6, 8]
