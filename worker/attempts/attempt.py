"""One attempt on its backend: submit the graph and follow the prompt, or take over where another worker left off."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from app.domain.errors import (
    BackendForgot,
    BackendLost,
    BackendStalled,
)
from app.domain.job import Phase
from worker.attempts.ledger import Ledger
from worker.attempts.prompt_follower import PromptFollower
from worker.attempts.prompt_watch import PromptWatch
from worker.attempts.self_queued_prompts import SelfQueuedPrompts
from worker.attempts.submission import Submission, after_the_last, prepared
from worker.comfyui.answers import Ending, read_ending
from worker.comfyui.client import Place
from worker.comfyui.file_ownership import Run, is_in_own_folder
from worker.outputs.websocket_pictures import WebSocketPictures

if TYPE_CHECKING:
    from app.domain.job import Job
    from app.domain.workflow import Graph
    from app.messaging.events import Events
    from app.storage.attempts import AttemptStore, Claim
    from worker.attempts.attempt_metrics import AttemptMetrics
    from worker.comfyui.backend import Backend
    from worker.comfyui.node_outputs import OutputFile
    from worker.outputs.collector import Collection
    from worker.outputs.preview_feed import PreviewFeeds

_NEVER: Final = float("-inf")


class Attempt:
    """The part of an attempt that needs the backend."""

    def __init__(
        self,
        job: Job,
        claim: Claim,
        backend: Backend,
        store: AttemptStore,
        events: Events,
        *,
        poll_s: float,
        stall_s: float,
        metrics: AttemptMetrics,
        previews: PreviewFeeds,
        outputs: Collection,
    ) -> None:
        self.backend = backend
        self._store = store
        self._metrics = metrics
        self._graph: Graph = {}
        self._folder_id = job.prompt_id or ""
        self._alone = False
        self.left_out: str | None = None
        """What the backend would not run of the graph, and why."""
        self._from_the_start = False
        """Whether this worker has had it ever since it was claimed."""
        self._watch = PromptWatch(backend.name, metrics)
        self._watch.cancelling = job.phase is Phase.CANCELLING
        self.ledger = Ledger(job, claim, backend.name, store, events, metrics, self._watch)
        self._prompts = SelfQueuedPrompts(backend, self._watch, self._folder_id)
        self._follower = PromptFollower(
            backend, self._watch, self._prompts, self.ledger, poll_s=poll_s, stall_s=stall_s
        )
        self._preview = previews.of(job.job_id, job.attempt)
        self._watch.on_picture = self._preview.show
        self.outputs = outputs
        self._sent = WebSocketPictures(outputs.downloads)
        self._watch.on_sent = self._sent.take
        self._watch.on_saved = self._expect

    @property
    def job(self) -> Job:
        """The job as the last step left it."""
        return self.ledger.job

    @property
    def claim(self) -> Claim:
        """By which right it is worked on."""
        return self.ledger.claim

    @property
    def cancelling(self) -> bool:
        """Whether its cancellation was asked for."""
        return self._watch.cancelling

    def request_cancel(self) -> None:
        """Stop the prompt and confirm it, as soon as possible."""
        self._watch.request_cancel()

    async def run(self, *, claimed_at: float | None) -> bool:
        """Submit and follow, until the backend has done with it; whether it ended, so that `ending` can say how.

        `claimed_at` is when the claim was asked for, by the monotonic clock; None of an attempt that was taken over:
        its prompt is looked up first, and submitted only if it probably never was. False: it was stopped, because its
        cancellation was asked for, before it began. `leave` is to be called when its files are here, or never will be.

        Raises
        ------
        AttemptFailed
            There will be no ending, or none worth waiting for.
        LostClaim
            The attempt is somebody else's now.
        """
        sent = await prepared(self.job, self.backend, self.ledger.prompt_id)
        self._graph = sent.graph
        self._alone = sent.alone or self.job.repeated
        self._from_the_start = claimed_at is not None
        self._watch.follow(self._graph)
        self._sent.follow(self._graph, self.backend.catalog)
        self._prompts.follow(self._graph)
        # What was told of this attempt by whoever had it before: it never falls.
        self._watch.fold.percent = self.job.progress
        if claimed_at is not None:
            self._watch.due_at = self._metrics.due_at(self.job)
        else:
            self._watch.miss()
        try:
            return await self._run(claimed_at)
        except BackendStalled:
            raise
        except BackendLost as error:
            error.under_it = self._watch.executing or self.job.phase is Phase.EXECUTING
            raise

    async def _run(self, claimed_at: float | None) -> bool:
        with ExitStack() as following:
            following.callback(self._preview.end)
            self._listen(following)
            found = claimed_at is None and await self._found_again()
            await self.backend.exclusive_run.enter(self._watch, alone=self._alone, at_once=found)
            if not found:
                if self.cancelling:
                    return False
                if self.backend.standstill is not None:
                    await self._follower.leave_standstill()
                # An answer asked for before a wait is too old, and the fence is passed anew.
                accepted = await self._submit(claimed_at if claimed_at is not None else _NEVER)
                if accepted != self.ledger.prompt_id:
                    self.ledger.prompt_id = accepted
                    self._prompts.rename(accepted)
                    self._listen(following)
            ended = await self._follower.follow()
            while ended and await self._prompts.go_on(self._follower.history):
                self._watch.again()
                self._listen(following)
                # Of a prompt that has ended already there will be no frame.
                self._follower.entry = await self.backend.comfyui.history(self._prompts.prompt_id)
                ended = await self._follower.follow()
        return ended

    def _listen(self, following: ExitStack) -> None:
        following.enter_context(self.backend.following(self._prompts.prompt_id, self._watch))

    def leave(self) -> None:
        """Nothing more is wanted of the backend."""
        self.backend.exclusive_run.leave(self._watch)

    async def ending(self) -> Ending:
        """Return how it ended, as the history proves; the backend's slot is free by then. Raises `BackendLost`."""
        if self._watch.ended_at is None:
            self._watch.ended_at = time.monotonic()
        history = self._prompts.together(await self._follower.history())
        ending = read_ending(self._sent.told_in(history), self._folder_id)
        if ending.failure is None and self._sent.are_wanted and self._watch.ever_missed:
            raise BackendLost("Pictures that it sends through the event socket were lost with the connection.")
        return ending

    def made(self, ending: Ending) -> Run:
        """Return what is known of the run that left these outputs."""
        return Run(
            prompt_id=self._prompts.prompt_id,
            folder_id=self._folder_id,
            graph=self._graph,
            alone=self._alone,
            watched=self._from_the_start,
            began_ms=ending.began_ms,
            ended_ms=ending.ended_ms,
            cached=ending.cached,
        )

    def _expect(self, files: list[OutputFile]) -> None:
        """Files were saved while the run goes on; those of its own folder nobody else will touch."""
        self.outputs.downloads.expect(file for file in files if is_in_own_folder(file, self._folder_id))

    async def _found_again(self) -> bool:
        """Whether the backend knows the prompt of an attempt that was taken over; raises `BackendForgot` if it did."""
        place, self._follower.entry = await self.backend.comfyui.locate(self.ledger.prompt_id)
        if place is not Place.UNKNOWN:
            # Whoever sent it may have had no time to note it.
            self.ledger.sent = self._graph, None
            return True
        if not self.cancelling and self.job.phase is not Phase.ASSIGNED:
            raise BackendForgot("The backend has forgotten the run; it was probably restarted.")
        return False

    async def _submit(self, fenced_at: float) -> str:
        submission = Submission(self.job, self.claim, self.backend, self._store, fenced_at)
        if self.job.repeated:
            await after_the_last(self.claim, self.backend, self._store)
        sent_at = time.monotonic()
        self._watch.ever_missed = not self.backend.healthy
        self.backend.will_load(self.ledger.prompt_id, self._graph)
        accepted = await submission.send(self._graph, self.ledger.prompt_id)
        self.left_out = submission.left_out
        if not submission.noted:
            self.ledger.sent = self._graph, sent_at
        return accepted
