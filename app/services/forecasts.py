"""Plays the queue forward now and then, for all who ask when a job begins: what that costs does not grow with them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from app.domain.errors import QueueUnavailable
from app.domain.job_cost import MOST_S, UNKNOWN_S
from app.domain.scheduling.forecast import MOST_PLAYED, Playing
from app.domain.scheduling.heard import state_heard
from app.domain.scheduling.jobs import Candidate
from app.domain.scheduling.missing import cannot_run
from app.services.readiness import why_idle

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from app.domain.job import ListedJob, NewJob
    from app.domain.scheduling.fleet import BackendState
    from app.domain.scheduling.forecast import Expected, Forecast
    from app.messaging.registry import Registry
    from app.services.live_fleet import LiveFleet
    from app.storage.run_times import RunTimes
    from app.storage.waiting_jobs import WaitingJobs

FRESH_S: Final = 0.5
"""Minimum seconds between two plays."""
SHARE: Final = 0.003
"""Maximum share of a processor that plays take: with 200 jobs waiting there is one every five seconds or so."""
_AT_ONCE: Final = 16
"""Steps of a play between which nothing else runs: about a millisecond."""


class Forecasts:
    """What the queue will probably do. Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(
        self,
        waiting: WaitingJobs,
        run_times: RunTimes,
        fleet: LiveFleet,
        registry: Registry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._waiting = waiting
        self._run_times = run_times
        self._fleet = fleet
        self._registry = registry
        self._clock = clock
        self._lock = asyncio.Lock()
        self._played: Forecast | None = None
        self._until = float("-inf")
        """When the next play is due."""
        self._known: tuple[float, list[BackendState]] = float("-inf"), []
        """The states as they were read last, and until when that holds."""

    async def of(self, job: ListedJob | NewJob, position: int) -> Expected | None:
        """Return when a job that waits at this position, from 1, or would, will begin, and for how long it will run.

        None if no backend can run it, or nothing is known of how long runs take.
        """
        forecast = await self._forecast()
        if forecast is None or await self._run_times.lately() is None:
            return None
        return forecast.of(self._costed(_candidate(job)), position, self._clock())

    async def any_backend(self) -> bool:
        """Whether a backend takes jobs."""
        return bool(await self._states())

    async def obstacle(self, job: ListedJob) -> str | None:
        """Return why a waiting job cannot run now: no backend has its models; None if one has, or none takes jobs."""
        offers = {state.name: state.offers for state in await self._states()}
        return cannot_run(job.models, job.backend, offers)

    async def _forecast(self) -> Forecast | None:
        """Return what has come of the last play, or of a new one when that is due; None while no backend takes jobs."""
        async with self._lock:
            if self._clock() >= self._until:
                self._played, spent_s = await self._play()
                self._until = self._clock() + max(FRESH_S, spent_s / SHARE)
            return self._played

    async def _play(self) -> tuple[Forecast | None, float]:
        """Play, and return with it the seconds of a processor that it took."""
        states = await self._states()
        if not states:
            return None, 0.0
        waiting = [self._costed(each) for each in await self._waiting.first(MOST_PLAYED)]
        began_s, spent_s = time.thread_time(), 0.0
        playing = Playing(waiting, states, self._run_times.loads, self._clock())
        for number, _ in enumerate(playing.steps()):
            if number % _AT_ONCE == _AT_ONCE - 1:
                spent_s += time.thread_time() - began_s
                await asyncio.sleep(0)
                began_s = time.thread_time()
        return playing.forecast(), spent_s + time.thread_time() - began_s

    async def _states(self) -> list[BackendState]:
        """Return the states of the backends that take jobs, or did `FRESH_S` ago; none while Redis is away."""
        if self._clock() >= self._known[0]:
            self._known = self._clock() + FRESH_S, await self._read_states()
        return self._known[1]

    async def _read_states(self) -> list[BackendState]:
        try:
            present = await self._fleet.now()
            reasons = why_idle(present.backends, present.workers)
            usable = [beat for beat in present.backends if reasons[beat.name] is None]
            now = self._clock()
            return [state_heard(beat, await self._offers(beat.catalog), now) for beat in usable]
        except QueueUnavailable:
            return []

    async def _offers(self, digest: str | None) -> Container[str] | None:
        """Return the model files of what a backend offers; None if that is not known."""
        catalog = await self._registry.catalog(digest) if digest else None
        return catalog.model_files.known if catalog is not None and catalog.nodes else None

    def _costed(self, job: Candidate) -> Candidate:
        """Return a job with what such runs take by now, where it was not known, or out of bounds, when it came."""
        known = self._run_times.at_hand(None, job.model_key)
        alike = known.models or known.lately
        told = job.cost_s != UNKNOWN_S and job.cost_s < MOST_S
        return job if told or alike is None else replace(job, cost_s=alike.p50)


def _candidate(job: ListedJob | NewJob) -> Candidate:
    return Candidate(
        getattr(job, "job_id", 0),
        job.user_id,
        frozenset(job.models),
        job.cost_s,
        job.priority,
        prefer=job.prefer,
        only=job.backend,
        model_key=job.model_key,
    )
