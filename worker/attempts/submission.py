"""Sending an attempt's graph to its backend: checked, past the fence, and once."""

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
    DatabaseUnavailable,
    OutputNotOwn,
    WorkflowRefused,
    WorkflowUnread,
)
from app.domain.graph_check import check_without_offers, lacks_model_or_node
from app.domain.output_folders import Separated, own_folder, separated
from app.domain.replacements import check_as_executed, replaced, with_titles
from app.domain.stale_lists import classes_in_doubt
from app.domain.structure import check_structure
from app.runtime.json_text import Written, as_sent
from app.services.submit import CHECKPOINTS, graph_of
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
"""Node classes that are read again when ComfyUI has refused a choice that stands in its list."""
MOST_UNREAD: Final = 2
"""So often a backend may stumble over a submission: the first time something else may have been the matter."""
ROUNDS: Final = 3
"""A node class that was not there before may want a file that was not there either."""
FEW_NODES: Final = 300
"""Looking through so many takes a few milliseconds."""
FRESH_S: Final = 1.0
"""An answer that was asked for longer ago says nothing any more about whose the attempt is."""


async def prepared(job: Job, backend: Backend, prompt_id: str) -> Separated:
    """Return what `prepare` does, which of a long graph takes a while: others have the loop meanwhile.

    A file or node class that the backend did not have when it was last asked is looked for again; should the backend
    not say, the graph is sent: its own refusal is the last word, and costs no more than ours.
    """
    long = job.workflow is not None and len(job.workflow) > FEW_NODES
    try:
        return await _in_turn(long, prepare, job, backend, prompt_id)
    except BackendLacksModel:
        sure = await _look_again(job, backend, long)
    return await _in_turn(long, prepare, job, backend, prompt_id, sure)


def prepare(job: Job, backend: Backend, prompt_id: str, sure: bool = True) -> Separated:
    """Return the graph to be sent, checked for what would end ComfyUI's thread, with a folder of this attempt's own.

    Not `sure`: what the backend lacks by its list it may have.

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
        faults = check_as_executed(graph, offered).faults if offered.nodes else check_without_offers(graph)
    if not sure and lacks_model_or_node(faults):
        # Nothing else was looked at in a graph with a class that is not known.
        faults = check_without_offers(graph)
    if faults:
        said = "; ".join(f"{fault.pointer}: {fault.detail}" for fault in faults[:5])
        refused = BackendLacksModel if lacks_model_or_node(faults) else WorkflowRefused
        raise refused(f"The backend cannot run this workflow. {said}")
    executed = with_titles(replaced(graph, offered), offered)
    return separated(executed, offered, own_folder(job.job_id, prompt_id), prompt_id, backend.careless)


async def after_the_last(claim: Claim, backend: Backend, store: AttemptStore) -> None:
    """Do what the attempt before this one asks for; raises `AttemptTimeout`, `BackendLost`."""
    code, where = await store.last_error(claim)
    if code == OutputNotOwn.code:
        # From its cache the backend would name the same files again.
        await backend.comfyui.forget_results()
    elif code == AttemptTimeout.code and where == backend.name:
        raise AttemptTimeout("The run took its whole time here before, and no other backend took it since.")


async def _look_again(job: Job, backend: Backend, long: bool) -> bool:
    """Read again the node classes that the graph misses something in; whether what is known of them is sure now."""
    for _ in range(ROUNDS):
        classes = await _in_turn(long, _in_doubt, job, backend)
        if not classes:
            return True
        try:
            if not await backend.offering.look_again(classes):
                return False
        except BackendLost:
            return False
    return True


def _in_doubt(job: Job, backend: Backend) -> frozenset[str]:
    graph = job.workflow if job.workflow is not None else graph_of(job, backend.catalog)
    if graph is None:
        return frozenset({CHECKPOINTS})
    return classes_in_doubt(graph, backend.catalog, check_as_executed(graph, backend.catalog).faults)


def _choosing(graph: Graph, catalog: Catalog) -> list[str]:
    """Return some node classes of the graph that choose from lists."""
    known = (catalog.nodes.get(name) for name in dict.fromkeys(node["class_type"] for node in graph.values()))
    named = [each.name for each in known if each and any(spec.choices for spec in each.inputs.values())]
    return named[:MOST_CHOOSING]


async def _in_turn(long: bool, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    return await asyncio.to_thread(function, *args, **kwargs) if long else function(*args, **kwargs)


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
        WorkflowUnread
            The backend stumbled over it each time, and does not have it.
        UnclearSubmission
            It may be queued all the same.
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
                # A file of the list is gone: the next job that names it is to hear so before it is accepted.
                with contextlib.suppress(BackendLost):
                    await self._backend.offering.look_again(_choosing(graph, self._backend.catalog))
                raise
            except UnclearSubmission as error:
                log.warning("job %s: unclear whether it was submitted: %s", self._job.job_id, error)
                # Two looks: the server may still be busy with what it received.
                for _ in range(2):
                    await asyncio.sleep(0.3 * number)
                    if (await comfyui.locate(prompt_id))[0] is not Place.UNKNOWN:
                        return prompt_id
                if isinstance(error, SubmissionFailed) and (unread := unread + 1) == MOST_UNREAD:
                    raise WorkflowUnread(
                        "ComfyUI cannot read the workflow: it stumbled over it each time that it was sent, and said "
                        f"no more than status {error.status}."
                    ) from error
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
