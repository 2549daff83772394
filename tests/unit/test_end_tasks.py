"""A task that swallows its cancellation is ended all the same."""

from __future__ import annotations

import asyncio

from app.runtime.end_tasks import end_tasks


async def test_a_task_that_swallows_its_first_cancellation_is_ended() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed > 2:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    (result,) = await end_tasks([task], again_s=0.01)
    assert isinstance(result, asyncio.CancelledError)
    assert swallowed == 3


async def test_results_and_errors_of_tasks_that_have_ended_are_returned() -> None:
    async def fails() -> None:
        raise ValueError("why not")

    done, failed = asyncio.create_task(asyncio.sleep(0, 7)), asyncio.create_task(fails())
    await asyncio.wait({done, failed})
    result, error = await end_tasks([done, failed])
    assert (result, str(error)) == (7, "why not")
