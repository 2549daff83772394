"""A turn goes from backend to backend, beside other turns that do so too."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from app.domain.scheduling.backend_load import BackendLoad
from app.domain.scheduling.jobs import Leave, Reason
from worker.attempts.runner import Runner


class OneSlot:
    """A backend with one slot, which tells how many turns had it at once."""

    def __init__(self, name: str) -> None:
        self.name, self.used, self.most_used = name, 0, 0

    @property
    def load(self) -> BackendLoad:
        return BackendLoad(self.name, 1, self.used)

    def take_slot(self) -> None:
        self.used += 1
        self.most_used = max(self.most_used, self.used)

    def free_slot(self) -> None:
        self.used -= 1


class NothingNow:
    """A choice that leaves every job, after others have had their turn."""

    async def claim(self, backend: OneSlot) -> Leave:
        for _ in range(3 if backend.name == "a" else 9):
            await asyncio.sleep(0)
        return Leave(0.5, Reason.ELSEWHERE)


async def test_a_turn_that_left_a_job_takes_no_slot_that_another_turn_has_taken_meanwhile() -> None:
    backends = [OneSlot("a"), OneSlot("b")]
    pool = SimpleNamespace(by_preference=lambda: [each for each in backends if each.load.free])
    rest = cast("Any", [None] * 6)
    settings, store, events = cast("Any", [SimpleNamespace()] * 3)
    runner = Runner("w", settings, store, events, cast("Any", pool), cast("Any", NothingNow()), *rest)
    both = await asyncio.gather(runner.take_turn(1), runner.take_turn(2))
    assert [each.most_used for each in backends] == [1, 1]
    assert [again.rest_s for again in both if again is not None] == [0.5, 0.5]
