"""Stores an attempt's steps in PostgreSQL and then publishes them as events."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import DatabaseUnavailable, InvalidTransition
from app.domain.job import Phase
from app.domain.message import snapshot_of
from app.runtime.json_text import dumps
from app.storage.attempts import Noted, written
from app.storage.outages import repeat_until_available

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from app.domain.job import Job, Output, Standing
    from app.domain.workflow import Graph
    from app.messaging.events import Events
    from app.storage.attempts import AttemptStore, Claim
    from worker.attempts.attempt_metrics import AttemptMetrics
    from worker.attempts.prompt_watch import PromptWatch

log = logging.getLogger(__name__)

PROGRESS_S: Final = 0.125
"""Minimum seconds between two progress events: with the events for `executing` and `saving`, at most ten a second."""
_RUNNING: Final = (Phase.ASSIGNED, Phase.EXECUTING, Phase.CANCELLING)


class Ledger:
    """The stored state of one attempt; `job` is the job after the last committed step."""

    def __init__(
        self,
        job: Job,
        claim: Claim,
        backend: str,
        store: AttemptStore,
        events: Events,
        metrics: AttemptMetrics,
        watch: PromptWatch,
    ) -> None:
        self.job = job
        self.claim = claim
        self.prompt_id = job.prompt_id or ""
        """The id under which the backend knows the prompt; an old server assigns its own."""
        self.sent: tuple[Graph, float | None] | None = None
        """The submitted graph and its time, until they are stored; the time is None for an attempt taken over."""
        self.load_s: float | None = None
        """For how many seconds the run loaded models; None until that is known, or if it was not seen."""
        self.percent = 0
        """The progress last published. The row stores this value, so that a read never shows more than the events."""
        self._backend = backend
        self._store = store
        self._events = events
        self._metrics = metrics
        self._watch = watch
        self._tick = 0

    async def persist(
        self, write: Callable[[Noted], Awaitable[Standing]], reached: Phase, outputs: Sequence[Output] = ()
    ) -> Job:
        """Store the step to the phase `reached`, waiting while the database is unavailable, and publish it."""
        repeated = False

        async def store() -> Standing:
            nonlocal repeated
            # If only the reply to a commit was lost, the step is already stored.
            done = await self._store.get(self.job.job_id) if repeated else None
            repeated = True
            if done is not None and done.phase is reached and done.attempt - self.job.attempt in (0, 1):
                return done
            return await write(await self._unstored())

        self.job = self.job.now(await repeat_until_available(store, f"job {self.job.job_id} waits to be stored"))
        self.sent = None
        self._tick = 0
        self._metrics.reached(self.job.status, self._backend, self._watch.ended_at)
        self._publish(output_paths=[output.path for output in outputs])
        return self.job

    def announce(self) -> None:
        """Publish that the attempt was claimed."""
        self._publish()

    async def mark_saving(self) -> None:
        """Store that the prompt has ended and its outputs are being saved."""
        await self.persist(lambda noted: self._store.saving(self.claim, noted=noted), Phase.SAVING)

    async def complete(self, outputs: list[Output], notes: list[str]) -> None:
        """Store that the job is completed; all outputs must be durable by now."""
        await self.persist(
            lambda noted: self._store.complete(self.claim, outputs, notes, noted=noted),
            Phase.COMPLETED,
            outputs,
        )

    async def mark_cancelled(self) -> None:
        """Store that the job is cancelled; ComfyUI has confirmed that the prompt no longer runs."""
        await self.persist(lambda noted: self._store.cancelled(self.claim, noted=noted), Phase.CANCELLED)

    async def note_sent(self) -> None:
        """Store the submitted graph by itself when the attempt's next step is not due soon."""
        if self.sent is None:
            return
        graph, sent_at = self.sent
        try:
            await self._store.submitting(self.claim, self.prompt_id, graph, _ago(sent_at))
        except DatabaseUnavailable as error:
            log.warning("job %s: its graph is stored later: %s", self.job.job_id, error)
        else:
            self.sent = None

    async def mark_executing(self) -> None:
        try:
            await self.persist(lambda noted: self._store.executing(self.claim, noted=noted), Phase.EXECUTING)
        except InvalidTransition as error:
            if error.phase != Phase.CANCELLING:
                raise
            # Cancellation was requested a moment ago; the message about it has not arrived yet.
            self._watch.cancelling = True

    async def publish_progress(self) -> None:
        """Publish progress and the running node whenever they change, at most every `PROGRESS_S`."""
        while True:
            await self._watch.changed.wait()
            self._watch.changed.clear()
            if self.job.phase is Phase.EXECUTING:
                self._tick += 1
                self._publish(tick=self._tick, at=datetime.now(UTC), node=self._watch.spans.at_work())
            await asyncio.sleep(PROGRESS_S)

    async def _unstored(self) -> Noted:
        """Return the facts about the attempt that are not in PostgreSQL yet."""
        watch = self._watch
        graph, sent_at = self.sent or (None, None)
        workflow, key = await written(graph) if graph is not None else (None, None)
        spans = watch.spans.kept(watch.began_at) if watch.began_at is not None else []
        return Noted(
            graph=workflow,
            workflow_key=key,
            sent_s=_ago(sent_at),
            began_s=_ago(watch.began_at),
            ended_s=_ago(watch.ended_at),
            spans=dumps(spans) if spans else None,
            load_s=self.load_s,
        )

    def _publish(self, **more: Any) -> None:
        """Publish a snapshot of the job, with the fields in `more`, which the row does not have."""
        snapshot = snapshot_of(self.job)
        if snapshot.phase in _RUNNING:
            self.percent = max(snapshot.progress, self._watch.fold.percent)
            snapshot = replace(snapshot, progress=self.percent)
        self._events.tell(replace(snapshot, **more))


def _ago(moment: float | None) -> float | None:
    """Return how many seconds ago a monotonic time was; None for None."""
    return time.monotonic() - moment if moment is not None else None
