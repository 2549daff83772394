"""Submitting an attempt's graph to its backend: checked, only while the claim is held, and only once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from app.domain.errors import (
    AttemptTimeout,
    BackendLacksModel,
    BackendLost,
    OutputNotOwn,
    WorkflowRefused,
    WorkflowUnread,
)
from app.domain.graph_check import check_without_offers, lacks_model_or_node
from app.domain.output_folders import Separated, own_folder, separated
from app.domain.replacements import check_as_executed, replaced, with_titles
from app.domain.stale_lists import classes_in_doubt
from app.domain.structure import check_structure
from app.domain.workflow import graph_of
from app.runtime.json_text import Written, as_sent
from app.services.graph_faults import CHECKPOINTS
from app.storage.outages import repeat_until_available
from worker.comfyui.client import MARK, Place, SubmissionFailed, UnclearSubmission

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.catalog import Catalog
    from app.domain.job import Job
    from app.domain.workflow import Graph
    from app.storage.attempts import AttemptStore, Claim
    from worker.comfyui.backend import Backend

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

TRIES: Final = 3
MOST_CHOOSING: Final = 20
"""Maximum number of node classes read again when ComfyUI refuses a choice that our list of it has."""
MOST_UNREAD: Final = 2
"""Server errors on submission before the graph is held to be the cause; the first may have another cause."""
ROUNDS: Final = 3
"""Rounds of reading node classes again: a newly found class may need a file that is new as well."""
FEW_NODES: Final = 300
"""Maximum number of nodes checked on the event loop, which takes a few milliseconds; more are checked in a thread."""
FRESH_S: Final = 1.0
"""Seconds for which a confirmed claim may be relied on without checking it again."""


async def prepared(job: Job, backend: Backend, prompt_id: str) -> Separated:
    """Return the result of `prepare`, which runs in a thread for a long graph.

    A file or node class missing from the backend's catalog is read again first. If the backend does not answer that,
    the graph is sent anyway, and ComfyUI decides.
    """
    long = job.workflow is not None and len(job.workflow) > FEW_NODES
    try:
        return await _in_turn(long, prepare, job, backend, prompt_id)
    except BackendLacksModel:
        sure = await _look_again(job, backend, long)
    return await _in_turn(long, prepare, job, backend, prompt_id, sure)


def prepare(job: Job, backend: Backend, prompt_id: str, sure: bool = True) -> Separated:
    """Return the graph to send, checked for what ends ComfyUI's thread, with an output folder of this attempt only.

    Without `sure`, missing files and node classes are no fault: the catalog may be out of date.

    Raises
    ------
    BackendLacksModel, WorkflowRefused
    """
    offered = backend.catalog
    graph = graph_of(job, offered)
    if graph is None:
        raise BackendLacksModel("The backend offers no checkpoint at all.")
    faults = check_structure(graph)
    if not faults:
        faults = check_as_executed(graph, offered).faults if offered.nodes else check_without_offers(graph)
    if not sure and lacks_model_or_node(faults):
        # With an unknown class in the graph, the other checks have not run yet.
        faults = check_without_offers(graph)
    if faults:
        details = "; ".join(f"{fault.pointer}: {fault.detail}" for fault in faults[:5])
        refused = BackendLacksModel if lacks_model_or_node(faults) else WorkflowRefused
        raise refused(f"The backend cannot run this workflow. {details}")
    executed = with_titles(replaced(graph, offered), offered)
    return separated(executed, offered, own_folder(job.job_id, prompt_id), prompt_id, backend.stray_savers)


async def after_the_last(claim: Claim, backend: Backend, store: AttemptStore) -> None:
    """Prepare the backend for a retry, depending on the last error; raises `AttemptTimeout`, `BackendLost`."""
    code, where = await store.last_error(claim)
    if code == OutputNotOwn.code:
        # With its cache the backend would name the same files again.
        await backend.comfyui.forget_results()
    elif code == AttemptTimeout.code and where == backend.name:
        raise AttemptTimeout("The run exceeded its time limit on this backend before, and no other one has run it.")


async def _look_again(job: Job, backend: Backend, long: bool) -> bool:
    """Read the node classes in doubt again; True when the catalog is up to date for the graph."""
    for _ in range(ROUNDS):
        classes = await _in_turn(long, _in_doubt, job, backend)
        if not classes:
            return True
        try:
            if not await backend.offering.read_stale(classes):
                return False
        except BackendLost:
            return False
    return True


def _in_doubt(job: Job, backend: Backend) -> frozenset[str]:
    graph = graph_of(job, backend.catalog)
    if graph is None:
        return frozenset({CHECKPOINTS})
    return classes_in_doubt(graph, backend.catalog, check_as_executed(graph, backend.catalog).faults)


def _choosing(graph: Graph, catalog: Catalog) -> list[str]:
    """Return up to `MOST_CHOOSING` node classes of the graph that have inputs with a list of choices."""
    known = (catalog.nodes.get(name) for name in dict.fromkeys(node["class_type"] for node in graph.values()))
    named = [each.name for each in known if each and any(spec.choices for spec in each.inputs.values())]
    return named[:MOST_CHOOSING]


async def _in_turn(long: bool, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    return await asyncio.to_thread(function, *args, **kwargs) if long else function(*args, **kwargs)


class Submission:
    """The submission of one prompt. `fenced_at`: when the claim was last confirmed, by the monotonic clock."""

    def __init__(self, job: Job, claim: Claim, backend: Backend, store: AttemptStore, fenced_at: float) -> None:
        self._job = job
        self._claim = claim
        self._backend = backend
        self._store = store
        self._fenced_at = fenced_at
        self.left_out: str | None = None
        """Nodes of the graph that the backend does not run, with the reason."""
        self.noted = False
        """Whether the graph is stored in PostgreSQL."""

    async def send(self, graph: Graph, prompt_id: str) -> str:
        """Submit the graph and return the backend's id of the prompt; after an unclear answer the prompt is looked up.

        The claim stores the prompt's id, so a recent claim needs no further check. A process that was suspended may
        have lost the claim: after `FRESH_S` it is checked again, lest two workers submit the same attempt.

        Raises
        ------
        LostClaim, WorkflowRefused, BackendLacksModel
        WorkflowUnread
            The backend answered each submission with a server error, and does not have the prompt.
        UnclearSubmission
            The prompt may be queued nevertheless.
        """
        comfyui = self._backend.comfyui
        mark = {"job_id": self._job.job_id, "attempt": self._job.attempt, "prompt_id": prompt_id}
        extra: dict[str, Any] = {MARK: mark}
        if self._job.extra_pnginfo is not None:
            extra["extra_pnginfo"] = Written(as_sent(self._job.extra_pnginfo))
        unread = 0
        for number in range(1, TRIES + 1):
            if time.monotonic() - self._fenced_at > FRESH_S:
                await self._pass_fence(graph, prompt_id)
            try:
                accepted = await comfyui.submit(
                    graph, prompt_id=prompt_id, client_id=self._backend.client_id, extra=extra
                )
            except BackendLacksModel:
                # The catalog lists a file that is gone: update it, so that the next such job is refused at once.
                with contextlib.suppress(BackendLost):
                    await self._backend.offering.read_stale(_choosing(graph, self._backend.catalog))
                raise
            except UnclearSubmission as error:
                log.warning("job %s: unclear whether it was submitted: %s", self._job.job_id, error)
                # Look twice: the server may still be processing the request.
                for _ in range(2):
                    await asyncio.sleep(0.3 * number)
                    if (await comfyui.locate(prompt_id))[0] is not Place.UNKNOWN:
                        return prompt_id
                if isinstance(error, SubmissionFailed) and (unread := unread + 1) == MOST_UNREAD:
                    raise WorkflowUnread(
                        "ComfyUI cannot read the workflow: it answered each submission with a server error, "
                        f"status {error.status}, and no reason."
                    ) from error
                if number == TRIES:
                    raise
            else:
                self.left_out = accepted.left_out
                if accepted.prompt_id != prompt_id:
                    # A server older than 0.3.45 assigns its own id.
                    await self._pass_fence(graph, accepted.prompt_id)
                return accepted.prompt_id
        raise AssertionError("unreachable")

    async def _pass_fence(self, graph: Graph, prompt_id: str) -> None:
        """Store the graph and the prompt's id, which also checks the claim; raises `LostClaim`."""

        async def store() -> float:
            asked_at = time.monotonic()
            await self._store.submitting(self._claim, prompt_id, graph)
            return asked_at

        for _ in range(TRIES):
            self._fenced_at = await repeat_until_available(store, f"job {self._job.job_id} waits to be submitted")
            self.noted = True
            if time.monotonic() - self._fenced_at < FRESH_S:
                return
