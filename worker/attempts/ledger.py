"""What PostgreSQL and the watchers are told of an attempt: committed first, and told then."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import DatabaseUnavailable, InvalidTransition
from app.domain.job import Phase
from app.runtime.json_text import dumps
from app.storage.attempts import Noted, written
from app.storage.job_views import snapshot_of

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
"""Between two frames of progress. With the frames of the steps to `executing` and `saving` that makes ten a second."""
_RUNNING: Final = (Phase.ASSIGNED, Phase.EXECUTING, Phase.CANCELLING)


class Ledger:
    """One attempt as it is written down; `job` is as the last step left it."""

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
        """Under which the backend has it: an old server gives it another one than asked for."""
        self.sent: tuple[Graph, float | None] | None = None
        """The graph and when it went, while PostgreSQL has yet to be told of them; no moment of one taken over."""
        self.percent = 0
        """How far it is, as far as watchers were told. Its row keeps this, so that nobody reads more than is told."""
        self._backend = backend
        self._store = store
        self._events = events
        self._metrics = metrics
        self._watch = watch
        self._tick = 0

    async def persist(
        self, write: Callable[[Noted], Awaitable[Standing]], reached: Phase, outputs: Sequence[Output] = ()
    ) -> Job:
        """Make a step to the phase `reached`, waiting while the database is away, and tell the watchers."""
        delay_s = 0.1
        while True:
            try:
                # A commit whose answer was lost has happened all the same.
                done = await self._store.get(self.job.job_id) if delay_s > 0.1 else None
                ours = done is not None and done.phase is reached and done.attempt - self.job.attempt in (0, 1)
                self.job = self.job.now(done if done is not None and ours else await write(await self._untold()))
            except DatabaseUnavailable as error:
                log.warning("job %s: waiting for the database: %s", self.job.job_id, error)
                delay_s = min(delay_s * 2, 2.0)
                await asyncio.sleep(delay_s)
            else:
                self.sent = None
                self._tick = 0
                self._metrics.reached(self.job.status, self._backend, self._watch.ended_at)
                self._tell(output_paths=[output.path for output in outputs])
                return self.job

    def announce(self) -> None:
        """Tell the watchers that it was claimed."""
        self._tell()

    async def mark_saving(self) -> None:
        """ComfyUI is done with the prompt, and its outputs are on their way."""
        await self.persist(lambda noted: self._store.saving(self.claim, noted=noted), Phase.SAVING)

    async def complete(self, outputs: list[Output], notes: list[str]) -> None:
        """Everything is durable: say so."""
        await self.persist(
            lambda noted: self._store.complete(self.claim, outputs, notes, noted=noted),
            Phase.COMPLETED,
            outputs,
        )

    async def mark_cancelled(self) -> None:
        """ComfyUI confirmed that the prompt runs no more."""
        await self.persist(lambda noted: self._store.cancelled(self.claim, noted=noted), Phase.CANCELLED)

    async def note_sent(self) -> None:
        """Note the graph as sent, because the attempt's next step lets it wait."""
        if self.sent is None:
            return
        graph, sent_at = self.sent
        try:
            await self._store.submitting(self.claim, self.prompt_id, graph, _ago(sent_at))
        except DatabaseUnavailable as error:
            log.warning("job %s: its graph is noted later: %s", self.job.job_id, error)
        else:
            self.sent = None

    async def mark_executing(self) -> None:
        try:
            await self.persist(lambda noted: self._store.executing(self.claim, noted=noted), Phase.EXECUTING)
        except InvalidTransition as error:
            if error.phase != Phase.CANCELLING:
                raise
            # Its cancellation was asked for a moment ago, and the message about it is still on its way.
            self._watch.cancelling = True

    async def publish_progress(self) -> None:
        """Publish the percentage when it rises, and which node is at work, at most ten times a second."""
        while True:
            await self._watch.changed.wait()
            self._watch.changed.clear()
            if self.job.phase is Phase.EXECUTING:
                self._tick += 1
                self._tell(tick=self._tick, at=datetime.now(UTC), node=self._watch.spans.at_work())
            await asyncio.sleep(PROGRESS_S)

    async def _untold(self) -> Noted:
        """What of the attempt PostgreSQL has yet to be told."""
        watch = self._watch
        graph, sent_at = self.sent or (None, None)
        told, key = await written(graph) if graph is not None else (None, None)
        spans = watch.spans.kept(watch.began_at) if watch.began_at is not None else []
        return Noted(
            graph=told,
            workflow_key=key,
            sent_s=_ago(sent_at),
            began_s=_ago(watch.began_at),
            ended_s=_ago(watch.ended_at),
            spans=dumps(spans) if spans else None,
        )

    def _tell(self, **more: Any) -> None:
        """Tell the watchers how the job is, with what a row has not."""
        told = snapshot_of(self.job)
        if told.phase in _RUNNING:
            self.percent = max(told.progress, self._watch.fold.percent)
            told = replace(told, progress=self.percent)
        self._events.tell(replace(told, **more))


def _ago(moment: float | None) -> float | None:
    """Return how many seconds ago the moment was."""
    return time.monotonic() - moment if moment is not None else None
