"""How long jobs will still take: one rule for the API and the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.domain.errors import QueueUnavailable
from app.domain.job import JobStatus, Phase
from app.domain.run_times import Range, remaining, until_turn
from app.services.readiness import why_idle

if TYPE_CHECKING:
    from datetime import datetime

    from app.domain.job import Standing
    from app.domain.run_times import RunTime
    from app.services.live_fleet import LiveFleet
    from app.storage.run_times import RunTimes
    from app.storage.whole_jobs import JobView


@dataclass(frozen=True, slots=True)
class Estimate:
    """What can be said of the end of a job that runs, or of the turn of one that waits."""

    time: Range | None
    """Seconds to the end, or to the turn; None when no run has been completed that could be compared."""
    turn: bool = False
    """It is the time until a worker takes the job, not until the job ends."""
    counts_down: bool = False
    """ComfyUI works on the job: the time gets shorter as it passes."""
    run: Range | None = None
    """Seconds that the run itself will take, of a job that waits for its turn."""

    @property
    def end_s(self) -> float | None:
        """The likely number of seconds to the job's end."""
        if self.time is None:
            return None
        return self.time.likely_s if self.run is None else self.time.likely_s + self.run.likely_s


class Eta:
    """Estimates from the last runs of the same workflow, and from the slots of the backends that can take work."""

    def __init__(self, run_times: RunTimes, fleet: LiveFleet) -> None:
        self._run_times = run_times
        self._fleet = fleet

    async def of(self, view: JobView, progress: int, now: datetime) -> Estimate | None:
        """Return the estimate for a job; None when there is nothing to say.

        That is so when it has ended, when it is paused, and when no backend can take it.

        Raises
        ------
        DatabaseUnavailable
        """
        if view.pause is not None:
            return None
        if view.position is not None:
            slots = await self._slots()
            return turn_of(view.position, slots, await self._run_times.lately()) if slots else None
        last = view.attempts[-1] if view.attempts else None
        if view.job.status is not JobStatus.RUNNING or last is None:
            return None
        usual = await self._run_times.usual([last.workflow_key]) if last.workflow_key else {}
        return end_of(view.job, usual.get(last.workflow_key or ""), last.executing_at, progress, now)

    async def expected(self, workflow_key: str | None, position: int) -> tuple[Range | None, Range | None]:
        """Return the seconds until a job at this position would be taken, and that its run would take; None: not known.

        `workflow_key` is of the graph that it would run.
        """
        slots, lately = await self._slots(), await self._run_times.lately()
        usual = await self._run_times.usual([workflow_key]) if workflow_key else {}
        run = usual.get(workflow_key or "") or lately
        wait = until_turn(lately, position, slots) if slots and lately is not None else None
        return wait, remaining(run, 0.0, 0) if run is not None else None

    async def _slots(self) -> int:
        """Return how many jobs the backends that can take work run at a time; 0 while Redis is away."""
        try:
            fleet = await self._fleet.now()
        except QueueUnavailable:
            return 0
        reasons = why_idle(fleet.backends, fleet.workers)
        return sum(beat.slots or 1 for beat in fleet.backends if reasons[beat.name] is None)


def end_of(
    job: Standing, usual: RunTime | None, began_at: datetime | None, progress: int, now: datetime
) -> Estimate | None:
    """Return the estimate for a job that a worker has; None unless ComfyUI has begun with it and is not to stop.

    `usual` is how long runs of the same workflow take, `began_at` when ComfyUI began with this one. A job that ComfyUI
    has not begun may be queued there behind another one, for as long as that takes.
    """
    if job.phase is not Phase.EXECUTING:
        return None
    if usual is None:
        return Estimate(None)
    elapsed_s = max(0.0, (now - began_at).total_seconds()) if began_at else 0.0
    return Estimate(remaining(usual, elapsed_s, progress if began_at else 0), counts_down=began_at is not None)


def turn_of(position: int, slots: int, usual: RunTime | None) -> Estimate:
    """Return the estimate for a job that waits at this position, from 1; `usual` is how long runs of all kinds took."""
    if usual is None:
        return Estimate(None, turn=True)
    return Estimate(until_turn(usual, position, slots), turn=True, run=remaining(usual, 0.0, 0))
