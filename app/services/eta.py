"""How long jobs will still take: one rule for the API and the page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from app.domain.job import JobStatus, Phase
from app.domain.run_times import Range, remaining

if TYPE_CHECKING:
    from app.domain.job import NewJob, Standing
    from app.domain.run_times import RunTime
    from app.domain.scheduling.forecast import Expected
    from app.services.forecasts import Forecasts
    from app.storage.run_times import RunTimes
    from app.storage.whole_jobs import JobView


@dataclass(frozen=True, slots=True)
class Estimate:
    """What can be said of the end of a job that runs, or of the begin of one that waits."""

    time: Range | None
    """Seconds to the end, or until its run begins; None when no run has been completed that could be compared."""
    turn: bool = False
    """It is the time until its run begins, not until the job ends."""
    counts_down: bool = False
    """ComfyUI works on the job: the time gets shorter as it passes."""
    run: Range | None = None
    """Seconds that the run itself will take, loading included, of a job that waits."""

    @property
    def end(self) -> Range | None:
        """The seconds to the job's end."""
        time, run = self.time, self.run
        if time is None or run is None:
            return time
        return Range(time.low_s + run.low_s, time.likely_s + run.likely_s, time.high_s + run.high_s)


class Eta:
    """Estimates from the last runs of the same workflow, and from the queue played forward."""

    def __init__(self, run_times: RunTimes, forecasts: Forecasts) -> None:
        self._run_times = run_times
        self._forecasts = forecasts

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
            if await self._run_times.lately() is None:
                return Estimate(None, turn=True) if await self._forecasts.any_backend() else None
            expected = await self._forecasts.of(view.job, view.position)
            return turn_of(expected, (view.job.available_at - now).total_seconds()) if expected is not None else None
        last = view.attempts[-1] if view.attempts else None
        if view.job.status is not JobStatus.RUNNING or last is None:
            return None
        usual = await self._run_times.usual([last.workflow_key]) if last.workflow_key else {}
        return end_of(view.job, usual.get(last.workflow_key or ""), last.executing_at, progress, now)

    async def obstacle(self, view: JobView) -> str | None:
        """Return why a job that waits cannot run now: no backend has its models. None if that is not so, or unknown."""
        return await self._forecasts.obstacle(view.job) if view.job.status is JobStatus.PENDING else None

    async def expected(self, job: NewJob, workflow_key: str | None, position: int) -> tuple[Range | None, Range | None]:
        """Return the seconds until the run of a job at this position would begin, and that it would take.

        None is what is not known. `workflow_key` is of the graph that it would run.
        """
        expected, lately = await self._forecasts.of(job, position), await self._run_times.lately()
        usual = await self._run_times.usual([workflow_key]) if workflow_key else {}
        run = usual.get(workflow_key or "") or lately
        left_s = (job.not_before - datetime.now(UTC)).total_seconds() if job.not_before is not None else 0.0
        wait = turn_of(expected, left_s).time if expected is not None else None
        return wait, remaining(run, 0.0, 0) if run is not None else None


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


def turn_of(expected: Expected, left_s: float) -> Estimate:
    """Return the estimate for a job that waits, and may not begin for `left_s` seconds; fewer than 0 do not count."""
    begin = expected.begin
    time = Range(max(left_s, begin.low_s), max(left_s, begin.likely_s), max(left_s, begin.high_s))
    return Estimate(time, turn=True, run=expected.run)
