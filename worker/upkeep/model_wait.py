"""Lets jobs fail that wait for models which no live backend has had for `MODEL_WAIT_SECONDS`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from app.domain.errors import ModelsMissing
from app.domain.message import snapshot_of
from app.domain.scheduling.missing import missing, named

if TYPE_CHECKING:
    from collections.abc import Collection, Container

    from app.domain.job import Turn
    from app.domain.scheduling.jobs import Candidate
    from app.messaging.events import Events
    from app.messaging.missing_models import MissingModels
    from app.messaging.registry import Registry
    from app.storage.attempts import AttemptStore
    from app.storage.waiting_jobs import WaitingJobs
    from worker.attempts.attempt_metrics import AttemptMetrics

log = logging.getLogger(__name__)

BATCH: Final = 1_000
"""Waiting jobs that one look takes in, the first ones: what nobody can run does not leave its place there."""


class ModelWait:
    """One look at a time, by whichever worker reconciles."""

    def __init__(
        self,
        waiting: WaitingJobs,
        store: AttemptStore,
        registry: Registry,
        missing_models: MissingModels,
        events: Events,
        metrics: AttemptMetrics,
        wait_s: float,
    ) -> None:
        """With `wait_s` 0 jobs wait for ever."""
        self._waiting = waiting
        self._store = store
        self._registry = registry
        self._missing_models = missing_models
        self._events = events
        self._metrics = metrics
        self._wait_s = wait_s

    async def end_overdue(self, actor: str) -> int:
        """Let fail what has waited for too long, and return how many jobs did.

        A model has to be missing for all that time, as far as was seen. While no backend is live nothing is missing.

        Raises
        ------
        DatabaseUnavailable, QueueUnavailable
        """
        if not self._wait_s:
            return 0
        offers = await self._offers()
        if not offers:
            return 0
        lacks = {
            turn: (job, found)
            for turn, job in await self._waiting.turns(BATCH)
            if (found := missing(job.models, job.only, offers))
        }
        ages = await self._missing_models.missing_for({key for each in lacks.values() for key in _keys(*each)})
        overdue = {
            turn: f"No live backend {_of(job)}has {named(found)}, for which the job has waited {self._wait_s:g} s."
            for turn, (job, found) in lacks.items()
            if all(ages.get(key, 0.0) >= self._wait_s for key in _keys(job, found))
        }
        return await self._give_up(overdue, actor) if overdue else 0

    async def _give_up(self, overdue: dict[Turn, str], actor: str) -> int:
        ended = await self._store.give_up(overdue, ModelsMissing.code, self._wait_s, actor)
        for job in ended:
            log.warning("job %s has failed: %s", job.job_id, job.error_message)
            self._metrics.reached(job.status, "", None)
            await self._events.publish(snapshot_of(job))
        return len(ended)

    async def _offers(self) -> dict[str, Container[str] | None]:
        """Return live backend → its model files; those that are ill or drained are live too, and may take jobs again.

        None where the files are not known.
        """
        offers: dict[str, Container[str] | None] = {}
        for beat in await self._registry.backends():
            if beat.live:
                catalog = await self._registry.catalog(beat.catalog) if beat.catalog else None
                offers[beat.name] = catalog.model_files.known if catalog is not None and catalog.nodes else None
        return offers


def _keys(job: Candidate, found: Collection[str]) -> set[str]:
    """Return what is noted to be missing: models, or those of the one backend that may run the job."""
    return {f"{job.only or '*'} {model}" for model in found}


def _of(job: Candidate) -> str:
    return f"called {job.only} " if job.only is not None else ""
