"""What is queued behind runs when several backends of one worker ask for a job at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from app.domain.scheduling.backend_load import BackendLoad, by_preference
from app.domain.scheduling.jobs import Candidate, Choice, Reason
from worker.attempts.attempt_metrics import AttemptMetrics
from worker.attempts.job_choice import JobChoice
from worker.comfyui.model_memory import ModelMemory

if TYPE_CHECKING:
    from app.storage.attempts import By


@dataclass
class Busy:
    """A backend on which one job runs."""

    name: str
    memory: ModelMemory = field(default_factory=ModelMemory)
    used: int = 2
    foreign: int = 0
    breaker: Any = field(default_factory=lambda: SimpleNamespace(in_doubt=False))
    catalog: Any = field(default_factory=lambda: SimpleNamespace(nodes={}))

    @property
    def load(self) -> BackendLoad:
        return BackendLoad(self.name, 2, 1, ends_at=self.memory.ends_at)


class Queue:
    """Waiting jobs that need no models, each of a second."""

    def __init__(self, count: int) -> None:
        self.waiting = list(range(count))
        self.taken: dict[str, str] = {}
        self.looks = 0

    async def claim_at_hand(self, by: By, warm: Any, reason: Reason) -> Any:
        await asyncio.sleep(0)
        self.taken[by.backend] = reason.value
        return SimpleNamespace(job_id=self.waiting.pop(0), models=(), cost_s=1.0, model_key=None)

    async def candidates(self, by: By, without: Any, most: int) -> list[Candidate]:
        await asyncio.sleep(0)
        self.looks += 1
        return [Candidate(each, "ann", frozenset(), 1.0) for each in self.waiting]

    async def claim_chosen(self, by: By, chosen: Choice) -> Any:
        raise AssertionError("nothing is to be weighed")


async def test_backends_that_ask_at_once_each_get_a_job_behind_their_run_the_one_that_is_free_soonest_first() -> None:
    backends = {name: Busy(name) for name in "abcde"}
    for number, (name, run_s) in enumerate({"a": 0.5, "b": 0.9, "c": 0.3, "d": 0.0, "e": 0.7}.items()):
        backends[name].memory.took(1000 + number, frozenset(), run_s, 0.0)
    queue = Queue(9)
    pool = SimpleNamespace(backends=backends, driven=list(backends.values()))
    unused, metrics = cast("Any", None), AttemptMetrics()
    choice = JobChoice(cast("Any", queue), cast("Any", pool), unused, unused, unused, metrics, "w", 15.0, chooses=True)
    asked = by_preference(each.load for each in backends.values())
    await asyncio.gather(*(choice.claim(cast("Any", backends[name])) for name in asked))
    assert list(queue.taken) == ["d", "c", "a", "e", "b"]
    assert set(queue.taken.values()) == {"ahead"}
    assert queue.looks == 0
