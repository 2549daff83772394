"""Sending an attempt's graph to its backend: checked, past the fence, and once."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from app.domain.errors import BackendLacksModel, DatabaseUnavailable, WorkflowRefused
from app.domain.fitting import check_against, check_without_offers, lacks_model_or_node
from app.domain.own_outputs import Separated, separated
from app.domain.structure import check_structure
from app.services.submit import graph_of
from worker.comfyui import MARK, Place, UnclearSubmission

if TYPE_CHECKING:
    from app.domain.job import Job
    from app.domain.workflow import Graph
    from app.storage.attempts import AttemptStore, Claim
    from worker.backend import Backend

log = logging.getLogger(__name__)

TRIES: Final = 3
FEW_NODES: Final = 300
"""Looking through so many takes a few milliseconds."""
FRESH_S: Final = 1.0
"""An answer that was asked for longer ago says nothing any more about whose the attempt is."""


async def prepared(job: Job, backend: Backend, prompt_id: str) -> Separated:
    """Return what `prepare` does, which of a long graph takes a while: others have the loop meanwhile."""
    if job.workflow is not None and len(job.workflow) > FEW_NODES:
        return await asyncio.to_thread(prepare, job, backend, prompt_id)
    return prepare(job, backend, prompt_id)


def prepare(job: Job, backend: Backend, prompt_id: str) -> Separated:
    """Return the graph to be sent, checked as COMFYUI section 9 demands, with a folder of this attempt's own.

    Raises
    ------
    BackendLacksModel, WorkflowRefused
    """
    offered = backend.catalog
    graph = job.workflow if job.workflow is not None else graph_of(job, offered)
    if graph is None:
        raise BackendLacksModel("The backend offers no checkpoint at all.")
    faults = check_structure(graph)
    if not faults:
        faults = check_against(graph, offered).faults if offered.nodes else check_without_offers(graph)
    if faults:
        said = "; ".join(f"{fault.pointer}: {fault.detail}" for fault in faults[:5])
        refused = BackendLacksModel if lacks_model_or_node(faults) else WorkflowRefused
        raise refused(f"The backend cannot run this workflow. {said}")
    return separated(graph, offered, f"genonaut/{job.job_id}/{prompt_id}", prompt_id, backend.careless)


class Submission:
    """The sending of one prompt. `fenced_at`: when PostgreSQL was last asked whose the attempt is, monotonic clock."""

    def __init__(self, job: Job, claim: Claim, backend: Backend, store: AttemptStore, fenced_at: float) -> None:
        self._job = job
        self._claim = claim
        self._backend = backend
        self._store = store
        self._fenced_at = fenced_at
        self.left_out: str | None = None
        """What the backend will not run of the graph, and why."""
        self.noted = False
        """Whether the graph stands in PostgreSQL already."""

    async def send(self, graph: Graph, prompt_id: str) -> str:
        """Send the graph, and return the id under which the backend has it; an unclear answer is looked up.

        A claim commits the prompt's id, so a fresh one needs no other word of PostgreSQL's before the prompt is sent. A
        process that was stopped, or starved, may have lost the attempt since: it asks again, or it would submit what
        another worker has submitted already.

        Raises
        ------
        LostClaim, WorkflowRefused, BackendLacksModel
        UnclearSubmission
            It may be queued all the same.
        """
        comfyui = self._backend.comfyui
        extra = {MARK: {"job_id": self._job.job_id, "attempt": self._job.attempt, "prompt_id": prompt_id}}
        for number in range(1, TRIES + 1):
            if time.monotonic() - self._fenced_at > FRESH_S:
                await self._pass_fence(graph, prompt_id)
            try:
                accepted = await comfyui.submit(
                    graph, prompt_id=prompt_id, client_id=self._backend.client_id, extra=extra
                )
            except UnclearSubmission as error:
                log.warning("job %s: unclear whether it was submitted: %s", self._job.job_id, error)
                # Two looks: the server may still be busy with what it received.
                for _ in range(2):
                    await asyncio.sleep(0.3 * number)
                    if (await comfyui.locate(prompt_id))[0] is not Place.UNKNOWN:
                        return prompt_id
                if number == TRIES:
                    raise
            else:
                self.left_out = accepted.left_out
                if accepted.prompt_id != prompt_id:
                    # A server older than 0.3.45 gives an id of its own.
                    await self._pass_fence(graph, accepted.prompt_id)
                return accepted.prompt_id
        raise AssertionError("unreachable")

    async def _pass_fence(self, graph: Graph, prompt_id: str) -> None:
        """Commit what is about to be sent; raises `LostClaim`."""
        slow = 0
        while True:
            asked_at = time.monotonic()
            try:
                await self._store.submitting(self._claim, prompt_id, graph)
            except DatabaseUnavailable as error:
                log.warning("job %s: waiting for the database: %s", self._job.job_id, error)
                await asyncio.sleep(0.5)
            else:
                self._fenced_at, self.noted = asked_at, True
                slow += 1
                if time.monotonic() - asked_at < FRESH_S or slow == TRIES:
                    return
