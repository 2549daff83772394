"""One attempt on its backend: submit the graph and follow the prompt, or take over where another worker left off."""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NoReturn

from app.domain.errors import (
    AttemptTimeout,
    BackendForgot,
    BackendLate,
    BackendLost,
    BackendStalled,
)
from app.domain.job import Phase
from app.runtime.end_tasks import end_tasks
from worker.attempts.ledger import Ledger
from worker.attempts.prompt_watch import PromptWatch
from worker.attempts.self_queued_prompts import SelfQueuedPrompts
from worker.attempts.stop_prompt import stop_prompt
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
    from worker.outputs.downloads import Downloads
    from worker.outputs.preview_feed import PreviewFeeds

SHORT_S: Final = 0.05
"""A prompt that has ended within this time was never said to be executing: one step less to commit and to tell."""
SAVING_S: Final = 0.25
"""The same for saving: of outputs that are durable so soon only that is said."""
NOTE_S: Final = 0.25
"""The graph as sent goes into PostgreSQL with the attempt's next step, or alone when there is none for so long."""
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
        measures: AttemptMetrics,
        pictures: PreviewFeeds,
        downloads: Downloads,
    ) -> None:
        self.backend = backend
        self._store = store
        self._poll_s = poll_s
        self._stall_s = stall_s
        self._measures = measures
        self._graph: Graph = {}
        self._folder_id = job.prompt_id or ""
        self._deadline: float | None = None
        """Once it has begun: of all its prompts together."""
        self._alone = False
        self.left_out: str | None = None
        """What the backend would not run of the graph, and why."""
        self._from_the_start = False
        """Whether this worker has had it ever since it was claimed."""
        self._watch = PromptWatch(backend.name, measures)
        self._watch.cancelling = job.phase is Phase.CANCELLING
        self.ledger = Ledger(job, claim, backend.name, store, events, measures, self._watch)
        self._passes = SelfQueuedPrompts(backend, self._watch, self._folder_id)
        self._feed = pictures.of(job.job_id, job.attempt)
        self._watch.on_picture = self._feed.show
        self.downloads = downloads
        self._sent = WebSocketPictures(downloads)
        self._watch.on_sent = self._sent.take
        self._watch.on_saved = self._expect
        self._entry: dict[str, Any] | None = None

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
        self._passes.follow(self._graph)
        # What was told of this attempt by whoever had it before: it never falls.
        self._watch.fold.percent = self.job.progress
        if claimed_at is not None:
            self._watch.due_at = self._measures.due_at(self.job)
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
            following.callback(self._feed.end)
            self._listen(following)
            found = claimed_at is None and await self._found_again()
            await self.backend.sole_use.enter(self._watch, alone=self._alone, at_once=found)
            if not found:
                if self.cancelling:
                    return False
                if self.backend.standstill is not None:
                    await self._leave_standstill()
                # An answer asked for before a wait is too old, and the fence is passed anew.
                accepted = await self._submit(claimed_at if claimed_at is not None else _NEVER)
                if accepted != self.ledger.prompt_id:
                    self.ledger.prompt_id = accepted
                    self._passes.rename(accepted)
                    self._listen(following)
            ended = self._entry is not None or await self._follow()
            while ended and await self._passes.go_on(self._told):
                self._watch.again()
                self._listen(following)
                # One that has ended already is not heard of any more.
                self._entry = await self.backend.comfyui.history(self._passes.prompt_id)
                ended = self._entry is not None or await self._follow()
        return ended

    def _listen(self, following: ExitStack) -> None:
        following.enter_context(self.backend.following(self._passes.prompt_id, self._watch))

    def leave(self) -> None:
        """Nothing more is wanted of the backend."""
        self.backend.sole_use.leave(self._watch)

    async def ending(self) -> Ending:
        """Return how it ended, as the history proves; the backend's slot is free by then. Raises `BackendLost`."""
        if self._watch.ended_at is None:
            self._watch.ended_at = time.monotonic()
        self._entry = await self._told()
        ending = read_ending(self._sent.told_in(self._passes.together(self._entry)), self._folder_id)
        if ending.failure is None and self._sent.are_wanted and self._watch.ever_missed:
            raise BackendLost("Pictures that it sends through the event socket were lost with the connection.")
        return ending

    def made(self, ending: Ending) -> Run:
        """Return what is known of the run that left these outputs."""
        return Run(
            prompt_id=self._passes.prompt_id,
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
        self.downloads.expect(file for file in files if is_in_own_folder(file, self._folder_id))

    async def _found_again(self) -> bool:
        """Whether the backend knows the prompt of an attempt that was taken over; raises `BackendForgot` if it did."""
        place, self._entry = await self.backend.comfyui.locate(self.ledger.prompt_id)
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

    async def _follow(self) -> bool:
        """Return once the prompt has ended; False when it was stopped and left nothing to be read."""
        watch, now = self._watch, time.monotonic()
        # Time in ComfyUI's own queue does not count, unless it lasts as long again.
        deadline = self._deadline or now + 2 * self.job.timeout_seconds + 60
        looked_at = now
        telling: asyncio.Task[None] | None = None
        began = self._deadline is not None
        try:
            while not watch.ended.is_set():
                watch.seen()
                if watch.cancelling:
                    self._entry = await self._stop()
                    return self._entry is not None
                if self.backend.standstill is not None:
                    await self._leave_standstill()
                if watch.began_at is not None and not began:
                    began, deadline = True, time.monotonic() + self.job.timeout_seconds
                    self._deadline = deadline
                if began and telling is None:
                    if await watch.news_within(SHORT_S):
                        continue
                    if self.job.phase is Phase.ASSIGNED:
                        await self.ledger.mark_executing()
                    telling = asyncio.create_task(self.ledger.tell_progress(), name=f"progress-{self.job.job_id}")
                    continue
                now = time.monotonic()
                if now >= deadline:
                    await self._stop_late()
                    return True
                poll_s = self._poll_s if self.backend.healthy else 1.0
                look_in_s = poll_s - (now - max(watch.heard_at, looked_at))
                if look_in_s <= 0:
                    self._entry = await self._look_up()
                    if self._entry is not None:
                        return True
                    looked_at = time.monotonic()
                elif not await watch.news_within(
                    min(look_in_s, deadline - now, NOTE_S if self.ledger.sent else look_in_s)
                ):
                    await self.ledger.note_sent()
            return True
        finally:
            if telling is not None:
                # Who waits for the end waits for this.
                await end_tasks([telling], again_s=0.02)

    async def _look_up(self) -> dict[str, Any] | None:
        """Ask where the prompt is, because no frame told; raises `BackendLost` when it is nowhere."""
        patience = 3
        while True:
            try:
                place, entry = await self.backend.comfyui.locate(self._passes.prompt_id)
            except BackendLost:
                patience -= 1
                if not patience:
                    raise
                await asyncio.sleep(1)
                continue
            if place is Place.UNKNOWN:
                raise BackendForgot("The backend has forgotten the run; it was probably restarted.")
            if place is Place.RUNNING:
                self._watch.begin()
                # A node that is at work may be silent for as long as its job may take: that has a limit of its own.
                if self._watch.at_work is False and self._is_silent():
                    self.backend.stand_still(self._passes.prompt_id)
            elif place is Place.PENDING:
                with contextlib.suppress(BackendLost):
                    self.backend.saw_running((await self.backend.comfyui.at_hand())[0], self._stall_s)
            return entry

    def _is_silent(self) -> bool:
        """Whether nothing was heard of the run for longer than any step takes."""
        return time.monotonic() - self._watch.heard_at > self._stall_s

    async def _leave_standstill(self) -> NoReturn:
        """Leave a backend that stands still; what waits in its queue is taken out, for the day on which it goes on."""
        still = self.backend.standstill
        with contextlib.suppress(BackendLost):
            await self.backend.comfyui.stop(self._passes.prompt_id)
        stalled = BackendStalled("The backend stopped making progress; the job moves on.")
        if still is not None and still.prompt_id == self._passes.prompt_id:
            stalled = BackendStalled("The backend stopped for good while it executed this job.")
            stalled.under_it, stalled.certain = True, still.certain
        raise stalled

    async def _told(self) -> dict[str, Any]:
        """Return the history of the prompt that has ended, which is there when `executing null` has come."""
        if self._entry is not None:
            return self._entry
        for number in range(20):
            entry = await self.backend.comfyui.history(self._passes.prompt_id)
            if entry is not None:
                return entry
            await asyncio.sleep(0.02 * (number + 1))
        raise BackendLost("The backend announced the end of the run, and has no history of it.")

    async def _stop_late(self) -> None:
        """Stop a run that takes too long; raises `AttemptTimeout` unless it ended well meanwhile."""
        began = self._watch.began_at is not None
        took = f"The run took longer than {self.job.timeout_seconds} s"
        try:
            self._entry = await self._stop(late=True)
        except BackendLost as error:
            if began and self._is_silent():
                self.backend.stand_still(self._passes.prompt_id)
                await self._leave_standstill()
            late = BackendLate(f"{took}, and the backend did not confirm that it was stopped.")
            late.under_it = True
            raise late from error
        if self.backend.standstill is not None:
            await self._leave_standstill()
        if self._entry is None or read_ending(self._entry).failure is not None:
            if not began:
                raise BackendLate("The run did not begin in time: the backend was at work on others.")
            raise AttemptTimeout(f"{took}, and was stopped.")

    async def _stop(self, *, late: bool = False) -> dict[str, Any] | None:
        entry = await stop_prompt(self.backend, self._passes.prompt_id, self._watch, self._stall_s, late=late)
        await self._passes.stop_others()
        return entry
