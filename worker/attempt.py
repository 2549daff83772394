"""One attempt on its backend: submit the graph and follow the prompt, or take over where another worker left off."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn

from app.cancellation import end_tasks
from app.domain.errors import (
    AttemptTimeout,
    BackendForgot,
    BackendLacksModel,
    BackendLost,
    BackendStalled,
    DatabaseUnavailable,
    InvalidTransition,
    WorkflowRefused,
)
from app.domain.job import Phase
from app.domain.progress import ProgressFold
from app.domain.workflow import check_against, check_structure, lacks_model_or_node, with_own_prefix
from app.services.submit import graph_of
from app.storage.attempts import Ran
from app.storage.job_views import snapshot_of
from worker.comfyui import Ending, Place, UnclearSubmission, read_ending

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from app.domain.job import Job, Output
    from app.domain.message import Snapshot
    from app.domain.workflow import Graph
    from app.messaging.events import Events
    from app.storage.attempts import AttemptStore, Claim
    from worker.backends import Backend
    from worker.measures import Measures

log = logging.getLogger(__name__)

MARK: Final = "genonaut"
"""Key in a prompt's `extra_data` by which we know our own."""
PROGRESS_S: Final = 0.125
"""Between two frames of progress. With the frames of the steps to `executing` and `saving` that makes ten a second."""
SHORT_S: Final = 0.05
"""A prompt that has ended within this time was never said to be executing: one step less to commit and to tell."""
SAVING_S: Final = 0.25
"""The same for saving: of outputs that are durable so soon only that is said."""
SUBMIT_TRIES: Final = 3
FRESH_S: Final = 1.0
"""An answer that took longer says nothing any more about whose the attempt is."""
STOP_AGAIN_S: Final = 1.0
"""An interrupt that came in a gap is lost; it is sent again until ComfyUI confirms the end."""
STOP_LIMIT_S: Final = 120.0
_RUNNING: Final = (Phase.ASSIGNED, Phase.EXECUTING, Phase.CANCELLING)


class Attempt:
    """The part of an attempt that needs the backend. Frames come in by `feed`, which only touches memory."""

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
        measures: Measures,
    ) -> None:
        self.job = job
        self.claim = claim
        self.backend = backend
        self._store = store
        self._events = events
        self._poll_s = poll_s
        self._stall_s = stall_s
        self._measures = measures
        self._due_at: float | None = None
        """When it could have begun; None of one that was taken over, whose beginning nobody here has seen."""
        self._heard_at = time.monotonic()
        self._prompt_id = job.prompt_id or ""
        self._fold = ProgressFold({})
        self._tick = 0
        self._began_at: float | None = None
        self._ended_at: float | None = None
        self._entry: dict[str, Any] | None = None
        self._began = asyncio.Event()
        self._ended = asyncio.Event()
        self._changed = asyncio.Event()
        self._news = asyncio.Event()
        self._cancel = asyncio.Event()
        if job.phase is Phase.CANCELLING:
            self._cancel.set()

    @property
    def percent(self) -> int:
        """How far it is."""
        return self._fold.percent

    @property
    def cancelling(self) -> bool:
        """Whether its cancellation was asked for."""
        return self._cancel.is_set()

    def request_cancel(self) -> None:
        """Stop the prompt and confirm it, as soon as possible."""
        self._cancel.set()
        self._news.set()

    def feed(self, kind: str, data: Mapping[str, Any]) -> None:
        """Take a frame of this prompt."""
        rose = False
        self._heard_at = time.monotonic()
        match kind:
            case "execution_cached":
                rose = self._fold.cached(map(str, data.get("nodes") or ()))
            case "executing" if data.get("node") is None:
                # Only now is the history readable (COMFYUI, section 0, point 1).
                self._ended_at = self._heard_at
                seen = self._began_at if self._due_at is not None else None
                self._measures.ended(self.backend.name, seen, self._ended_at)
                self._ended.set()
                self._news.set()
            case "executing":
                rose = self._fold.began(str(data.get("display_node") or data.get("node")))
            case "progress":
                value, maximum = data.get("value"), data.get("max")
                if isinstance(value, int | float) and isinstance(maximum, int | float):
                    rose = self._fold.stepped(str(data.get("node")), value, maximum)
            case "progress_state":
                nodes = data.get("nodes")
                if isinstance(nodes, dict):
                    rose = self._fold.state({key: node for key, node in nodes.items() if isinstance(node, dict)})
        if self._began_at is None and kind != "execution_success":
            self._begin()
        if rose:
            self._changed.set()

    def look(self) -> None:
        """Frames may have been lost."""
        self._news.set()

    @property
    def ran(self) -> Ran:
        """When the backend began and ended it, for the record."""
        now = time.monotonic()
        return Ran(*(now - at if at is not None else None for at in (self._began_at, self._ended_at)))

    async def run(self, *, taken_over: bool) -> bool:
        """Submit and follow, until the backend has done with it; whether it ended, so that `ending` can say how.

        Taken over, the prompt is looked up first, and submitted only if it probably never was. False: it was stopped,
        because its cancellation was asked for, before it began.

        Raises
        ------
        AttemptFailed
            There will be no ending, or none worth waiting for.
        LostClaim
            The attempt is somebody else's now.
        """
        graph = await self._graph()
        self._fold = ProgressFold(graph)
        # What was told of this attempt by whoever had it before: it never falls.
        self._fold.percent = self.job.progress
        if not taken_over:
            self._due_at = self._measures.due_at(self.job)
        with self.backend.following(self._prompt_id, self):
            if taken_over:
                place, self._entry = await self.backend.comfyui.locate(self._prompt_id)
                if place is Place.UNKNOWN and self._cancel.is_set():
                    return False
                if place is Place.UNKNOWN and self.job.phase is not Phase.ASSIGNED:
                    raise BackendForgot("The backend has forgotten the run; it was probably restarted.")
            if self._entry is None and not (taken_over and place is not Place.UNKNOWN):
                if self._cancel.is_set():
                    return False
                await self._submit(graph)
            if self._entry is None:
                return await self._follow()
        return True

    async def ending(self) -> Ending:
        """Return how it ended, as the history proves; the backend's slot is free by then. Raises `BackendLost`."""
        if self._ended_at is None:
            self._ended_at = time.monotonic()
        if self._entry is None:
            self._entry = await self._history()
        return read_ending(self._entry)

    async def persist(self, write: Callable[[], Awaitable[Job]], reached: Phase, outputs: Sequence[Output] = ()) -> Job:
        """Make a step to the phase `reached`, waiting while the database is away, and tell the watchers."""
        delay_s = 0.1
        while True:
            try:
                # A commit whose answer was lost has happened all the same.
                done = await self._store.get(self.job.job_id) if delay_s > 0.1 else None
                ours = done is not None and done.phase is reached and done.attempt - self.job.attempt in (0, 1)
                self.job = done if done is not None and ours else await write()
            except DatabaseUnavailable as error:
                log.warning("job %s: waiting for the database: %s", self.job.job_id, error)
                delay_s = min(delay_s * 2, 2.0)
                await asyncio.sleep(delay_s)
            else:
                self._tick = 0
                self._measures.reached(self.job.status, self.backend.name, self._ended_at)
                paths = [output.path for output in outputs]
                self._events.tell(replace(self._snapshot(), output_paths=paths))
                return self.job

    def announce(self) -> None:
        """Tell the watchers that it was claimed."""
        self._events.tell(self._snapshot())

    async def mark_saving(self) -> None:
        """ComfyUI is done with the prompt, and its outputs are on their way."""
        await self.persist(lambda: self._store.saving(self.claim, self.ran, self.job), Phase.SAVING)

    async def complete(self, outputs: list[Output], notes: list[str]) -> None:
        """Everything is durable: say so."""
        await self.persist(
            lambda: self._store.complete(self.claim, outputs, notes, self.ran, self.job), Phase.COMPLETED, outputs
        )

    async def mark_cancelled(self) -> None:
        """ComfyUI confirmed that the prompt runs no more."""
        await self.persist(lambda: self._store.cancelled(self.claim), Phase.CANCELLED)

    async def _graph(self) -> Graph:
        """Return the graph to be sent, checked as COMFYUI section 9 demands, with a folder of this attempt's own."""
        offered = self.backend.catalog
        graph = self.job.workflow if self.job.workflow is not None else graph_of(self.job, offered)
        if graph is None:
            raise BackendLacksModel("The backend offers no checkpoint at all.")
        faults = check_structure(graph)
        if not faults and offered.nodes:
            faults = check_against(graph, offered)
        if faults:
            said = "; ".join(f"{fault.pointer}: {fault.detail}" for fault in faults[:5])
            refused = BackendLacksModel if lacks_model_or_node(faults) else WorkflowRefused
            raise refused(f"The backend cannot run this workflow. {said}")
        return with_own_prefix(graph, f"genonaut/{self.job.job_id}/{self._prompt_id}")

    async def _submit(self, graph: Graph) -> None:
        """Send the prompt, its id and graph committed before; an unclear answer is resolved by looking it up."""
        comfyui, prompt_id = self.backend.comfyui, self._prompt_id
        await self._committed(graph, prompt_id)
        extra = {MARK: {"job_id": self.job.job_id, "attempt": self.job.attempt}}
        for number in range(1, SUBMIT_TRIES + 1):
            try:
                accepted = await comfyui.submit(
                    graph, prompt_id=prompt_id, client_id=self.backend.client_id, extra=extra
                )
            except UnclearSubmission as error:
                log.warning("job %s: unclear whether it was submitted: %s", self.job.job_id, error)
                # Two looks: the server may still be busy with what it received.
                for _ in range(2):
                    await asyncio.sleep(0.3 * number)
                    if (await comfyui.locate(prompt_id))[0] is not Place.UNKNOWN:
                        return
                if number == SUBMIT_TRIES:
                    raise
            else:
                if accepted != prompt_id:
                    # A server older than 0.3.45 gives an id of its own.
                    self._prompt_id = accepted
                    await self._committed(graph, accepted)
                return

    async def _committed(self, graph: Graph, prompt_id: str) -> None:
        """Commit what is about to be sent, and so pass the fence; raises `LostClaim`.

        A process that was stopped, or starved, before it heard the answer may have lost the attempt since: it asks
        again, or it would submit what another worker has submitted already.
        """
        slow = 0
        while True:
            asked_at = time.monotonic()
            try:
                await self._store.submitting(self.claim, prompt_id, graph)
            except DatabaseUnavailable as error:
                log.warning("job %s: waiting for the database: %s", self.job.job_id, error)
                await asyncio.sleep(0.5)
            else:
                slow += 1
                if time.monotonic() - asked_at < FRESH_S or slow == SUBMIT_TRIES:
                    return

    async def _follow(self) -> bool:
        """Return once the prompt has ended; False when it was stopped and left nothing to be read."""
        loop = asyncio.get_running_loop()
        # Time in ComfyUI's own queue does not count, unless it lasts as long again.
        deadline = loop.time() + 2 * self.job.timeout_seconds + 60
        looked_at = time.monotonic()
        telling: asyncio.Task[None] | None = None
        began = False
        try:
            while not self._ended.is_set():
                self._news.clear()
                if self._cancel.is_set():
                    self._entry = await self._stop()
                    return self._entry is not None
                if self.backend.stuck_prompt is not None:
                    await self._leave_stuck()
                if self._began.is_set() and not began:
                    began, deadline = True, loop.time() + self.job.timeout_seconds
                if began and telling is None:
                    if await self._news_within(SHORT_S):
                        continue
                    if self.job.phase is Phase.ASSIGNED:
                        await self._mark_executing()
                    telling = asyncio.create_task(self._tell_progress(), name=f"progress-{self.job.job_id}")
                    continue
                if loop.time() >= deadline:
                    self._entry = await self._stop()
                    if self._entry is not None and read_ending(self._entry).failure is None:
                        return True
                    raise AttemptTimeout(f"The run took longer than {self.job.timeout_seconds} s, and was stopped.")
                poll_s = self._poll_s if self.backend.healthy else 1.0
                silent_s = time.monotonic() - max(self._heard_at, looked_at)
                if silent_s < poll_s:
                    await self._news_within(min(poll_s - silent_s, deadline - loop.time()))
                    continue
                self._entry = await self._look_up()
                if self._entry is not None:
                    return True
                looked_at = time.monotonic()
            return True
        finally:
            if telling is not None:
                # Who waits for the end waits for this.
                await end_tasks([telling], again_s=0.02)

    async def _news_within(self, seconds: float) -> bool:
        """Whether something came that `_follow` must look at."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                return await self._news.wait()
        return False

    def _begin(self) -> None:
        """The backend executes it."""
        self._began_at = time.monotonic()
        self._measures.began(self.backend.name, self._due_at, self._began_at)
        self._began.set()
        self._news.set()

    async def _look_up(self) -> dict[str, Any] | None:
        """Ask where the prompt is, because no frame told; raises `BackendLost` when it is nowhere."""
        patience = 3
        while True:
            try:
                place, entry = await self.backend.comfyui.locate(self._prompt_id)
            except BackendLost:
                patience -= 1
                if not patience:
                    raise
                await asyncio.sleep(1)
                continue
            if place is Place.UNKNOWN:
                raise BackendForgot("The backend has forgotten the run; it was probably restarted.")
            if place is Place.RUNNING:
                if self._began_at is None:
                    self._begin()
                if time.monotonic() - self._heard_at > self._stall_s:
                    self.backend.set_stuck(self._prompt_id)
            elif place is Place.PENDING:
                with contextlib.suppress(BackendLost):
                    self.backend.saw_running(await self.backend.comfyui.running_prompt(), self._stall_s)
            return entry

    async def _leave_stuck(self) -> NoReturn:
        """Leave a backend that stands still; what waits in its queue is taken out, for the day on which it goes on."""
        with contextlib.suppress(BackendLost):
            await self.backend.comfyui.stop(self._prompt_id)
        raise BackendStalled("The backend stopped making progress; the job moves on.")

    async def _history(self) -> dict[str, Any]:
        """Read the history, which is there when `executing null` has come."""
        for number in range(20):
            entry = await self.backend.comfyui.history(self._prompt_id)
            if entry is not None:
                return entry
            await asyncio.sleep(0.02 * (number + 1))
        raise BackendLost("The backend announced the end of the run, and has no history of it.")

    async def _stop(self) -> dict[str, Any] | None:
        """Delete or interrupt the prompt, again and again, until ComfyUI's own word says that it does not run.

        Returns its history entry, or None if it was deleted before it began.
        """
        loop = asyncio.get_running_loop()
        limit = loop.time() + STOP_LIMIT_S
        while loop.time() < limit:
            try:
                await self.backend.comfyui.stop(self._prompt_id)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(STOP_AGAIN_S if self._began.is_set() else 0.1):
                        await self._ended.wait()
                place, entry = await self.backend.comfyui.locate(self._prompt_id)
            except BackendLost as error:
                log.warning("job %s: cannot be stopped yet: %s", self.job.job_id, error)
                await asyncio.sleep(1)
                continue
            if place in (Place.FINISHED, Place.UNKNOWN):
                return entry
            if place is Place.RUNNING:
                if self._began_at is None:
                    self._begin()
                self.backend.saw_running(self._prompt_id, self._stall_s)
        raise BackendLost("The backend did not confirm that the run was stopped.")

    async def _mark_executing(self) -> None:
        try:
            await self.persist(lambda: self._store.executing(self.claim, self.job), Phase.EXECUTING)
        except InvalidTransition as error:
            if error.phase != Phase.CANCELLING:
                raise
            # Its cancellation was asked for a moment ago, and the message about it is still on its way.
            self._cancel.set()

    async def _tell_progress(self) -> None:
        """Publish the percentage when it rises, at most ten times a second."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self.job.phase is Phase.EXECUTING:
                self._tick += 1
                self._events.tell(replace(self._snapshot(), tick=self._tick, at=datetime.now(UTC)))
            await asyncio.sleep(PROGRESS_S)

    def _snapshot(self) -> Snapshot:
        told = snapshot_of(self.job)
        return replace(told, progress=max(told.progress, self._fold.percent)) if told.phase in _RUNNING else told
