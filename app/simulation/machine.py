"""One backend in virtual time: what it really has in memory, what its worker believes, and what it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.domain.scheduling.fleet import BackendState
from app.domain.scheduling.learned_times import Loads, Speed
from app.domain.scheduling.warm_models import WarmSet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.domain.scheduling.jobs import Candidate
    from app.simulation.scenario import Arrival, Hardware
    from app.simulation.waiting import Key


@dataclass(slots=True)
class Claimed:
    """A job that a backend has taken."""

    key: Key
    job: Candidate
    arrival: Arrival
    overtook: tuple[int, ...]
    load_s: float = 0.0
    run_s: float = 0.0
    wait_s: float = 0.0


class Machine:
    """A backend: one job running, at most one queued behind it."""

    def __init__(self, name: str, hardware: Hardware) -> None:
        self.name = name
        self.hardware = hardware
        self.running: Claimed | None = None
        self.ahead: Claimed | None = None
        self.up = True
        self.looked_at = -1.0
        self.looks_at = -1.0
        """The moment for which it has set itself to look again."""
        self.runs = 0
        """How many it has begun, which tells the end of a run that was lost from that of another."""
        self.idle_since: float | None = None
        self._memory = WarmSet(keeps=hardware.keeps)
        self._believed = WarmSet()
        self._speed = Speed()
        self.state = BackendState(name)

    def begin(self, claimed: Claimed, now: float, gap_s: float, loads: Loads, load_s: Mapping[str, float]) -> float:
        """Run a job, and return when it will end."""
        self.running, self.idle_since = claimed, None
        self.runs += 1
        models = claimed.job.models
        claimed.load_s = sum(load_s[name] for name in sorted(models - self._memory.models))
        claimed.run_s = claimed.arrival.run_s / self.hardware.speed
        claimed.wait_s = now + gap_s + claimed.load_s - claimed.arrival.at
        expected_s = loads.of(models - self._believed.models) + claimed.job.cost_s / self._speed.factor
        self._show(self._believed.after(models), now + gap_s + expected_s, busy=True)
        return now + gap_s + claimed.load_s + claimed.run_s

    def queue(self, claimed: Claimed) -> None:
        """Queue a job behind the running one."""
        self.ahead = claimed
        free_at = self.state.free_at + claimed.job.cost_s / self._speed.factor
        self._show(self._believed.after(self.state.warm).after(claimed.job.models), free_at, busy=True)

    def end(self, now: float, loads: Loads) -> tuple[Claimed, Loads]:
        """End the run, and return it with what it taught about loads."""
        claimed = self.running
        assert claimed is not None  # noqa: S101 - ends are set by `begin` alone
        self.running = None
        models = claimed.job.models
        if claimed.load_s:
            loads = loads.learned(models - self._memory.models, claimed.load_s)
        self._believed = self._believed.after(models, loaded=claimed.load_s > 0)
        self._memory = self._memory.after(models)
        self._speed = self._speed.learned(claimed.job.cost_s, claimed.run_s)
        self._show(self._believed, now, busy=False)
        return claimed, loads

    def wait(self, now: float) -> None:
        """Leave the waiting jobs to others."""
        if self.idle_since is None:
            self.idle_since = now
            self._show(self._believed, now, busy=False)

    def die(self, now: float) -> list[Claimed]:
        """Lose what is in memory, and return the jobs that it had."""
        lost = [claimed for claimed in (self.running, self.ahead) if claimed is not None]
        self.running = self.ahead = self.idle_since = None
        self.up = False
        self._memory, self._believed = self._memory.forgotten(), self._believed.forgotten()
        self._show(self._believed, now, busy=False)
        return lost

    def come_back(self, now: float) -> None:
        """Take jobs again."""
        self.up = True
        self._show(self._believed, now, busy=False)

    def _show(self, warm: WarmSet, free_at: float, *, busy: bool) -> None:
        self.state = BackendState(
            self.name,
            warm.models,
            free_at,
            busy=busy,
            idle_since=self.idle_since,
            room=warm.room,
            speed=self._speed.factor,
            live=self.up,
        )
