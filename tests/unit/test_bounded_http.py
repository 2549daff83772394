"""Messages handed out in turns: a backend that sends without end leaves the event loop to the others."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from worker.comfyui import bounded_http
from worker.comfyui.bounded_http import in_turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest


async def endless() -> AsyncIterator[int]:
    """Yield at once, whenever asked: as a socket does whose messages have come already."""
    number = 0
    while True:
        yield number
        number += 1


async def test_others_have_their_turn_between_messages_without_end() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    async for number in in_turns(endless()):
        if number == 10_000:
            break
    task.cancel()
    assert turns >= 100


async def test_messages_that_lead_to_much_have_half_of_the_time() -> None:
    began, worked_s = time.monotonic(), 0.0
    async for _ in in_turns(endless()):
        start = time.monotonic()
        while time.monotonic() - start < 0.02:
            pass
        worked_s += time.monotonic() - start
        if worked_s > 1:
            break
    # What it has at once, and then as long a pause as it worked.
    assert time.monotonic() - began > 1.4


async def test_few_messages_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps: list[float] = []

    async def sleep(delay_s: float) -> None:
        sleeps.append(delay_s)

    # Their share of time is theirs by the clock, which a busy machine uses up for others.
    monkeypatch.setattr(bounded_http, "_SHARE_S", 3600.0)
    monkeypatch.setattr(bounded_http.asyncio, "sleep", sleep)

    async def few() -> AsyncIterator[int]:
        for number in range(1000):
            yield number

    assert [number async for number in in_turns(few())] == list(range(1000))
    assert set(sleeps) == {0}
