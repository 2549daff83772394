"""Gives a backend its next job: the first that waits, or the one by which the least is lost to loading.

The choice itself is pure (`app.domain.scheduling`). Here it is fed with what is known of all backends, and carried out:
the statement of the claim settles races with other workers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from app.domain.errors import QueueUnavailable
from app.domain.job_cost import UNKNOWN_S
from app.domain.loaded_models import models_of
from app.domain.scheduling.choice import CANDIDATES, LOOK_AGAIN_S, SOONEST_LOOK_S, choose
from app.domain.scheduling.fleet import BackendState, Fleet, lacking
from app.domain.scheduling.heard import state_heard
from app.domain.scheduling.jobs import Leave, Reason
from app.domain.scheduling.learned_times import Loads, Runs
from app.domain.workflow_key import workflow_key
from app.storage.attempts import SMALL, By

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from app.domain.heartbeats import BackendBeat
    from app.domain.job import Job
    from app.domain.scheduling.jobs import Candidate
    from app.messaging.queue import JobQueue
    from app.messaging.registry import Registry
    from app.storage.attempts import AttemptStore
    from app.storage.run_times import RunTimes
    from worker.attempts.attempt import Attempt
    from worker.attempts.attempt_metrics import AttemptMetrics
    from worker.comfyui.backend import Backend
    from worker.comfyui.pool import BackendPool

log = logging.getLogger(__name__)

MOST_TRIES: Final = 4
"""How often a job is chosen again when another worker takes the chosen one in the same moment."""
REFRESH_S: Final = 1.0
"""Seconds between two readings of how other workers' backends are, at least."""
LACKING_S: Final = 5.0
"""Seconds for which jobs that need a model which a backend lacks are left out of what it looks at."""
MOST_LACKING: Final = 1_000
"""Models that are remembered for that."""
_FEW_RUNS: Final = 3
"""So many runs of a kind say how long they usually take; of fewer no speed is learned."""


@dataclass(slots=True)
class _Lacking:
    """Models that waiting jobs need and a backend lacks."""

    models: set[str]
    until: float


class JobChoice:
    """Claims jobs for this worker's backends."""

    def __init__(
        self,
        store: AttemptStore,
        pool: BackendPool,
        registry: Registry,
        queue: JobQueue,
        run_times: RunTimes,
        metrics: AttemptMetrics,
        worker_id: str,
        lease_s: float,
        *,
        chooses: bool,
    ) -> None:
        """If it does not choose, each backend gets the first job that it may take."""
        self._store = store
        self._pool = pool
        self._registry = registry
        self._queue = queue
        self._run_times = run_times
        self._metrics = metrics
        self._worker_id = worker_id
        self._lease_s = lease_s
        self._chooses = chooses
        self.fleet: Final = Fleet()
        """All backends, as this worker knows them."""
        self._loads = Loads()
        self._runs = Runs()
        self._refreshed_at = float("-inf")
        self._lacking: dict[str, _Lacking] = {}
        self._choosing = asyncio.Lock()
        """Held from a look at what waits until the claim: of two choices at once one would lose."""

    async def claim(self, backend: Backend) -> Job | Leave:
        """Take a job for a backend that has a free slot, or tell why none is taken.

        A job during which a backend stopped is taken only if no other job waits. Raises `DatabaseUnavailable`.
        """
        by = By(self._worker_id, backend.name, str(uuid4()), self._lease_s, unrefused=backend.breaker.in_doubt)
        found = await self._chosen(backend, by) if self._chooses else await self._first(by)
        nothing_waits = isinstance(found, Leave) and found.reason is Reason.EMPTY
        if nothing_waits and backend.used == 1 and not backend.breaker.in_doubt:
            found = await self._store.claim_suspect(by.worker_id, by.backend, by.prompt_id, by.lease_s) or found
        if not isinstance(found, Leave):
            self.took(backend, found)
        return found

    def took(self, backend: Backend, job: Job) -> None:
        """Note that a backend has a job, claimed or taken over."""
        models = frozenset(job.models)
        load_s = self._loads.of(models - self._state(backend).warm)
        backend.memory.took(job.job_id, models, self._cost_s(job.cost_s, job.model_key), load_s)

    def ended(self, attempt: Attempt) -> None:
        """Note that a job's run is over, however it ended, and learn how long its models took to load."""
        memory, job_id = attempt.backend.memory, attempt.job.job_id
        if not attempt.began:
            memory.dropped(job_id)
            return
        if len(attempt.graph) > SMALL:
            # To look through it would hold up all else for milliseconds.
            memory.ended(job_id, frozenset(attempt.job.models), None)
            return
        loaded = models_of(attempt.graph, attempt.backend.catalog)
        models, seconds = frozenset(loaded.models), attempt.seconds_of(loaded.loaders)
        new = memory.ended(job_id, models, seconds, self._loads.of(models))
        attempt.ledger.load_s = seconds
        if seconds:
            self._metrics.loaded(attempt.backend.name, seconds)
            self._loads = self._loads.learned(new or models, seconds)

    def succeeded(self, attempt: Attempt) -> None:
        """Learn from a run that succeeded how long such runs take, and how fast its backend is."""
        run_s, load_s, memory = attempt.run_s, attempt.ledger.load_s, attempt.backend.memory
        if run_s is None or load_s is None:
            return
        self._runs.learn(attempt.job.model_key, (run_s - load_s) * memory.speed)
        usual = self._run_times.at_hand(workflow_key(attempt.graph), None).same
        if usual is not None and usual.count >= _FEW_RUNS:
            memory.ran(usual.p50, run_s - load_s)

    async def refresh(self) -> None:
        """Read how the backends of other workers are; raises `QueueUnavailable`."""
        if not self._chooses or time.monotonic() - self._refreshed_at < REFRESH_S:
            return
        self._refreshed_at = time.monotonic()
        ours = {backend.name for backend in self._pool.driven}
        others = [beat for beat in await self._registry.backends() if beat.name not in ours]
        states = [await self._state_of(beat) for beat in others]
        for name in set(self.fleet.names()) - ours - {beat.name for beat in others}:
            self.fleet.remove(name)
        for state in states:
            self.fleet.update(state)

    async def _first(self, by: By) -> Job | Leave:
        job = await self._store.claim(by.worker_id, by.backend, by.prompt_id, by.lease_s, unrefused=by.unrefused)
        return job if job is not None else Leave(LOOK_AGAIN_S, Reason.EMPTY)

    async def _chosen(self, backend: Backend, by: By) -> Job | Leave:
        backend.memory.looked_at = time.monotonic()
        if not self._state(backend).busy:
            job = await self._at_hand(backend, by)
            if job is not None:
                return job
        async with self._choosing:
            # What is queued behind a run is taken one after another: who is asked first would begin it the soonest, and
            # only when it has taken its job it is not for the next one to leave it to that backend.
            job = await self._at_hand(backend, by) if self._state(backend).busy else None
            if job is not None:
                return job
            for _ in range(MOST_TRIES):
                candidates = await self._candidates(backend, by)
                now = time.monotonic()
                found = choose(candidates, self._state(backend), self.fleet, self._loads, now)
                if isinstance(found, Leave):
                    if found.reason is Reason.ELSEWHERE and backend.memory.idle_since is None:
                        backend.memory.idle_since = time.monotonic()
                    return found
                job = await self._store.claim_chosen(by, found)
                if job is not None:
                    self._metrics.chose(found.reason, len(found.overtook))
                    await self.tell(found.left_to)
                    return job
                self._metrics.lost_race()
        return Leave(SOONEST_LOOK_S, Reason.ELSEWHERE)

    async def _at_hand(self, backend: Backend, by: By) -> Job | None:
        """Take the first job if its models are loaded here, and no other backend would finish such a job sooner."""
        here = self._state(backend)
        if not self.fleet.is_as_good_as_any(here, time.monotonic()):
            return None
        reason = Reason.AHEAD if here.busy else Reason.DUE
        job = await self._store.claim_at_hand(by, here.warm, reason)
        if job is not None:
            self._metrics.chose(reason, 0)
        return job

    async def _candidates(self, backend: Backend, by: By) -> list[Candidate]:
        """Return the first waiting jobs, without those whose models the backend lacks if these are all."""
        known = self._lacking.get(backend.name)
        without = known.models if known is not None and known.until > time.monotonic() else set[str]()
        candidates = await self._waiting(by, without)
        if not candidates and await self._store.promote():
            candidates = await self._waiting(by, without)
        lacks = self._lacks(backend, candidates)
        if not lacks or len(candidates) < CANDIDATES:
            return candidates
        # They would stand in front of all others, however many they are.
        without = set(list(without | lacks)[-MOST_LACKING:])
        self._lacking[backend.name] = _Lacking(without, time.monotonic() + LACKING_S)
        return await self._waiting(by, without)

    async def _waiting(self, by: By, without: Collection[str]) -> list[Candidate]:
        found = await self._store.candidates(by, without, CANDIDATES)
        return [replace(each, cost_s=self._cost_s(each.cost_s, each.model_key)) for each in found]

    def _cost_s(self, told_s: float, model_key: str | None) -> float:
        """Return what a job will cost: where nothing was known when it was accepted, by what was seen since."""
        return told_s if told_s != UNKNOWN_S else self._runs.of(model_key) or told_s

    def _lacks(self, backend: Backend, candidates: Sequence[Candidate]) -> set[str]:
        offers = _offers(backend)
        if offers is None:
            return set()
        return {model for job in candidates for model in lacking(job.models, offers)}

    @property
    def others(self) -> frozenset[str]:
        """The backends of other workers that take jobs, as far as is known."""
        ours = {backend.name for backend in self._pool.driven}
        return frozenset(name for name in self.fleet.names() if name not in ours and self._takes_jobs(name))

    def _takes_jobs(self, name: str) -> bool:
        state = self.fleet.get(name)
        return state is not None and state.live

    async def tell(self, names: Collection[str]) -> None:
        """Have those of these backends that other workers drive look for a job, as some were left to them.

        While a turn that found nothing is still held, they find none: it is to be given back first.
        """
        ours = {backend.name for backend in self._pool.driven}
        others = [name for name in names if name not in ours]
        if others:
            try:
                await self._queue.have_looked(others)
            except QueueUnavailable as error:
                log.debug("backends look for jobs by themselves: %s", error)

    def _state(self, backend: Backend) -> BackendState:
        """Return how a backend is now, and bring all that this worker drives up to date."""
        for each in self._pool.driven:
            self.fleet.update(own_state(each))
        state = self.fleet.get(backend.name)
        if state is None or not state.live:
            # It has a free slot, whatever else is thought of it.
            state = own_state(backend, live=True)
            self.fleet.update(state)
        return state

    async def _state_of(self, beat: BackendBeat) -> BackendState:
        """Return the state of another worker's backend."""
        catalog = await self._registry.catalog(beat.catalog) if beat.catalog else None
        offers = catalog.model_files.known if catalog is not None and catalog.nodes else None
        return state_heard(beat, offers, time.monotonic())


def own_state(backend: Backend, *, live: bool | None = None) -> BackendState:
    """Return how a backend that this worker drives is."""
    if live is None:
        live = backend.load.slots > 0
    return backend.memory.state(backend.name, foreign=backend.foreign, live=live, offers=_offers(backend))


def _offers(backend: Backend) -> Collection[str] | None:
    """Return the model files that a backend has; None until they are known."""
    return backend.catalog.model_files.known if backend.catalog.nodes else None
