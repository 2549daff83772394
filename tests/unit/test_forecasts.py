"""However many ask when their jobs begin, the queue is played seldom."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from app.domain.heartbeats import backend_beat
from app.domain.job_cost import UNKNOWN_S, Comparable
from app.domain.run_times import RunTime
from app.domain.scheduling.jobs import Candidate
from app.domain.scheduling.learned_times import Loads
from app.services.forecasts import FRESH_S, SHARE, Forecasts
from app.services.live_fleet import FleetMembers

USUAL = RunTime(8.0, 10.0, 12.0, 30)


class World:
    """What a forecast is made of, and how often it was read."""

    def __init__(self, *backends: str) -> None:
        self.reads = 0
        self.now_s = 100.0
        self.loads = Loads()
        self.known: RunTime | None = USUAL
        self.waits = [Candidate(number, "ann", frozenset(), UNKNOWN_S, fair_tag=number) for number in range(1, 4)]
        self.beats = [backend_beat(name, 0.0, live=True, fields={"healthy": True}) for name in backends]

    async def first(self, most: int) -> list[Candidate]:
        self.reads += 1
        await asyncio.sleep(0)
        return self.waits[:most]

    async def lately(self) -> RunTime | None:
        return self.known

    def at_hand(self, *_: Any) -> Comparable:
        return Comparable(lately=self.known)

    async def now(self) -> FleetMembers:
        return FleetMembers(self.beats, ())

    def forecasts(self) -> Forecasts:
        world: Any = self
        return Forecasts(world, world, world, world, lambda: self.now_s)


def asked(job_id: int) -> Any:
    return SimpleNamespace(
        job_id=job_id, user_id="ann", models=(), cost_s=UNKNOWN_S, priority=0, backend=None, prefer=None, model_key=None
    )


async def test_all_who_ask_at_once_share_a_play() -> None:
    world = World("a")
    forecasts = world.forecasts()
    found = await asyncio.gather(*(forecasts.of(asked(3), 3) for _ in range(100)))
    assert {each.begin.likely_s for each in found if each is not None} == {20.0}
    assert world.reads == 1


async def test_the_next_play_waits_until_the_last_has_cost_its_share() -> None:
    world = World("a")
    forecasts = world.forecasts()
    await forecasts.of(asked(1), 1)
    world.now_s += FRESH_S * 0.9
    await forecasts.of(asked(1), 1)
    assert world.reads == 1
    # Three jobs are played within a second of a processor.
    world.now_s += 1.0 / SHARE
    await forecasts.of(asked(1), 1)
    assert world.reads == 2


async def test_what_was_not_known_of_a_job_is_taken_from_what_ran_since() -> None:
    world = World("a")
    world.known = RunTime(30.0, 40.0, 50.0, 9)
    found = await world.forecasts().of(asked(2), 2)
    assert found is not None
    assert found.begin.likely_s == 40.0


async def test_nothing_is_said_without_a_backend_or_before_anything_has_run() -> None:
    world = World()
    assert await world.forecasts().of(asked(1), 1) is None
    assert not await world.forecasts().any_backend()
    world = World("a")
    world.known = None
    assert await world.forecasts().of(asked(1), 1) is None
    assert await world.forecasts().any_backend()
