"""One attempt on its backend: submit the graph and follow the prompt, or resume another worker's attempt."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, TypeVar

from app.domain.errors import (
    BackendForgot,
    BackendLacksModel,
    BackendLost,
    BackendStalled,
)
from app.domain.job import Phase
from app.runtime.end_tasks import end_tasks
from worker.attempts.input_files import names_urls, uploads_named_in
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
    from collections.abc import Coroutine, Iterable

    from app.domain.job import Job
    from app.domain.workflow import Graph
    from app.messaging.events import Events
    from app.storage.attempts import AttemptStore, Claim
    from worker.attempts.attempt_metrics import AttemptMetrics
    from worker.attempts.input_files import Given, InputFiles
    from worker.comfyui.backend import Backend
    from worker.comfyui.node_outputs import OutputFile
    from worker.outputs.collector import Collection
    from worker.outputs.preview_feed import PreviewFeeds

_T = TypeVar("_T")

_NEVER: Final = float("-inf")
_LOOK_S: Final = 0.25
"""Seconds between two looks whether cancellation was requested while files are fetched and sent."""


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
        inputs: InputFiles,
        outputs: Collection,
    ) -> None:
        self.backend = backend
        self._store = store
        self._metrics = metrics
        self._inputs = inputs
        self._given: Given | None = None
        self._graph: Graph = {}
        self._folder_id = job.prompt_id or ""
        self._alone = False
        self.left_out: str | None = None
        """Nodes of the graph that the backend does not run, with the reason; None when it runs all of them."""
        self._from_the_start = False
        """Whether this worker claimed the attempt itself, instead of taking it over."""
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
        """The job after the last committed step."""
        return self.ledger.job

    @property
    def claim(self) -> Claim:
        """The claim under which this worker runs the attempt."""
        return self.ledger.claim

    @property
    def graph(self) -> Graph:
        """The graph that runs; empty until it is prepared."""
        return self._graph

    @property
    def began(self) -> bool:
        """Whether the backend has begun to execute the prompt, as far as its frames told."""
        return self._watch.began_at is not None

    @property
    def run_s(self) -> float | None:
        """Seconds for which the prompt was executed; None if not both its begin and its end were seen."""
        began_at, ended_at = self._watch.began_at, self._watch.ended_at
        return ended_at - began_at if began_at is not None and ended_at is not None else None

    def seconds_of(self, node_ids: Iterable[str]) -> float | None:
        """Return for how many seconds these nodes ran, 0 for cached ones; None if frames were lost."""
        return None if self._watch.ever_missed else self._watch.spans.seconds_of(node_ids)

    @property
    def cancelling(self) -> bool:
        """Whether cancellation was requested."""
        return self._watch.cancelling

    def request_cancel(self) -> None:
        """Request that the prompt is stopped as soon as possible."""
        self._watch.request_cancel()

    async def run(self, *, claimed_at: float | None) -> bool:
        """Submit the prompt and follow it until it ends; return True when `ending` can be read.

        False means that the prompt was cancelled before it began. `claimed_at` is when the claim was requested, by the
        monotonic clock. It is None for an attempt that was taken over: its prompt is looked up first, and submitted
        only if the backend does not know it. Call `leave` once the files are downloaded or given up.

        Raises
        ------
        AttemptFailed
            The attempt failed; there is no ending to read.
        LostClaim
            Another worker holds the attempt now.
        """
        if names_urls(self.job):
            fetched = await self._unless_cancelled(self._inputs.fetched(self.job, self.claim))
            if fetched is None:
                return False
            self.ledger.job = fetched
        sent = await prepared(self.job, self.backend, self.ledger.prompt_id)
        self._graph = sent.graph
        self._alone = sent.alone or self.job.repeated
        self._from_the_start = claimed_at is not None
        self._watch.follow(self._graph)
        self._sent.follow(self._graph, self.backend.catalog)
        self._prompts.follow(self._graph)
        # The progress published by the previous holder of this attempt; published progress never falls.
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
            # While the run before this one still goes on.
            if not found and (places := await uploads_named_in(self._graph)):
                self._given = await self._unless_cancelled(self._inputs.given(self._graph, places, self.backend))
                if self._given is None:
                    return False
                self._graph = self._given.graph
            await self.backend.exclusive_run.enter(self._watch, alone=self._alone, at_once=found)
            if not found:
                if self.cancelling:
                    return False
                if self.backend.standstill is not None:
                    await self._follower.leave_standstill()
                # After a wait the claim may be out of date; `Submission` then checks it again.
                accepted = await self._submit(claimed_at if claimed_at is not None else _NEVER)
                if accepted != self.ledger.prompt_id:
                    self.ledger.prompt_id = accepted
                    self._prompts.rename(accepted)
                    self._listen(following)
            ended = await self._follower.follow()
            while ended and await self._prompts.go_on(self._follower.history):
                self._watch.again()
                self._listen(following)
                # A prompt that has already ended sends no more frames.
                self._follower.entry = await self.backend.comfyui.history(self._prompts.prompt_id)
                ended = await self._follower.follow()
        return ended

    async def _give_again(self) -> bool:
        """Have the backend asked for each file again; True when it has lost one, which it has again now."""
        if self._given is None:
            return False
        self.backend.comfyui.input_folder.forget()
        self._given = await self._inputs.given(self._given.asked, self._given.places, self.backend)
        self._graph = self._given.graph
        return self._given.any_sent

    async def _unless_cancelled(self, work: Coroutine[Any, Any, _T]) -> _T | None:
        """Return the result of `work`; None when cancellation was requested meanwhile."""
        task = asyncio.create_task(work, name="inputs")
        try:
            while not task.done() and not self.cancelling:
                await asyncio.wait({task}, timeout=_LOOK_S)
            return task.result() if task.done() else None
        finally:
            await end_tasks([task])

    def _listen(self, following: ExitStack) -> None:
        following.enter_context(self.backend.following(self._prompts.prompt_id, self._watch))

    def leave(self) -> None:
        """Let other prompts run on the backend: this attempt needs nothing more from it."""
        self.backend.exclusive_run.leave(self._watch)

    async def ending(self) -> Ending:
        """Return how the run ended, read from the history; the slot is free by then. Raises `BackendLost`."""
        if self._watch.ended_at is None:
            self._watch.ended_at = time.monotonic()
        history = self._prompts.together(await self._follower.history())
        ending = read_ending(self._sent.added_to(history), self._folder_id)
        if ending.failure is None and self._sent.are_wanted and self._watch.ever_missed:
            raise BackendLost("Images that the workflow sends through the event socket were lost with the connection.")
        return ending

    def made(self, ending: Ending) -> Run:
        """Return the facts about the run that decide which files belong to it."""
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
        """Start downloading files saved during the run; only those in its own folder cannot change any more."""
        self.outputs.downloads.expect(file for file in files if is_in_own_folder(file, self._folder_id))

    async def _found_again(self) -> bool:
        """Whether the backend knows the prompt of an attempt that was taken over.

        Raises `BackendForgot` when the backend had begun the prompt and no longer knows it.
        """
        place, self._follower.entry = await self.backend.comfyui.locate(self.ledger.prompt_id)
        if place is not Place.UNKNOWN:
            # The previous worker may have stopped before it stored the submitted graph.
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
        try:
            accepted = await submission.send(self._graph, self.ledger.prompt_id)
        except BackendLacksModel:
            if not await self._give_again():
                raise
            accepted = await submission.send(self._graph, self.ledger.prompt_id)
        self.left_out = submission.left_out
        if not submission.noted:
            self.ledger.sent = self._graph, sent_at
        return accepted
