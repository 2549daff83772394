"""Accepting a job: the graph checked against what the backends offer, the row committed, its turn enqueued."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

from app.batching import Batcher
from app.domain.errors import Fault, InvalidGraph, InvalidRequest, QueueUnavailable
from app.domain.fitting import check_against
from app.domain.hints import nearest
from app.domain.job import NewJob
from app.domain.structure import check_structure
from app.domain.workflow import build_graph, with_overrides, with_seed
from app.encoding import kept_bytes, size_bytes
from app.messaging.events import news
from app.services.control import random_seed
from app.services.presence import Presence
from app.services.readiness import no_backend, why_idle
from app.sideline import SMALL_BYTES
from app.storage.job_views import snapshot_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.domain.catalog import Catalog
    from app.domain.job import Asked, Job
    from app.domain.workflow import Graph
    from app.messaging.queue import JobQueue
    from app.messaging.registry import Beat, Registry
    from app.services.presence import Present
    from app.sideline import Sideline
    from app.storage.idempotency import Once
    from app.storage.jobs import JobStore

NO_WORKER: Final = "No worker is alive at the moment: the job waits until one is."
NOT_OFFERED: Final = "Of the backends that offer what this job needs none can take work."

MOST_AT_ONCE: Final = 64
"""Jobs that one transaction accepts: with more the first of them would wait noticeably for the last."""
FLIGHTS: Final = 2
"""Transactions under way at once: while PostgreSQL commits one, the next is read, and Redis told of the last."""

_FIELD: Final = {
    r"^/workflow/checkpoint/inputs/ckpt_name$": "/checkpoint_model",
    r"^/workflow/lora_(\d+)/inputs/lora_name$": "/lora_models/{}/name",
    r"^/workflow/lora_(\d+)/inputs/(strength_\w+)$": "/lora_models/{}/{}",
    r"^/workflow/sampler/inputs/(\w+)$": "/sampler_params/{}",
    r"^/workflow/latent/inputs/(\w+)$": "/{}",
}
"""Where a fault of the graph that we built stands in the request that it was built from."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """The answer that the same request got before."""

    answer: str


class Submitting:
    """The use case "submit a job"."""

    def __init__(
        self,
        store: JobStore,
        queue: JobQueue,
        registry: Registry,
        sideline: Sideline,
        default_checkpoint: str,
        max_workflow_bytes: int,
    ) -> None:
        self._store = store
        self._queue = queue
        self._registry = registry
        self._sideline = sideline
        self._max_workflow_bytes = max_workflow_bytes
        self._presence = Presence(registry)
        self._accepting = Batcher(self._accept, most=MOST_AT_ONCE, flights=FLIGHTS)
        self._default_checkpoint = default_checkpoint or None

    async def submit(self, job: NewJob, overrides: Mapping[str, Any], once: Once | None = None) -> Job | Replayed:
        """Accept the job and give it its turn; or, when the same request came before, return what it was answered.

        Raises
        ------
        IdempotencyKeyReused
            It came before under the same key with another body.
        InvalidGraph, InvalidRequest
            No backend that may take the job would run it; every fault is named.
        DatabaseUnavailable, QueueUnavailable, Busy
            Nothing was accepted.
        """
        # First of all: a repetition gets its answer whatever has become of the backends.
        if once is not None and (answer := await self._store.replay(once)) is not None:
            return Replayed(answer)
        weight = 0
        if job.workflow is not None:
            weight = size_bytes(job.workflow) + size_bytes(overrides)
            do = self._sideline.do
            graph = await do(weight, checked_workflow, job.workflow, overrides, self._max_workflow_bytes)
            job = replace(job, workflow=graph)
        job = await self._check(job, weight)
        if once is None and weight > SMALL_BYTES:
            # Not with others: what is written for many large ones at once would hold up everybody.
            (accepted,) = await self._accept([job])
        elif once is None:
            accepted = await self._accepting.do(job)
        else:
            created = await self._store.create(job, once)
            if created is None:
                return await self._replayed(once)
            (accepted,) = await self._enqueue([created])
        if isinstance(accepted, QueueUnavailable):
            raise accepted
        return accepted

    async def again(self, job: Job, once: Once | None = None) -> Job | Replayed:
        """Accept a new job that asks for what this one did, from now on and with another seed; as `submit` does."""
        seed = random_seed()
        changed: dict[str, Any] = {
            "sampler_params": job.sampler_params | {"seed": seed},
            "not_before": None,
            "warnings": [],
        }
        asked = NewJob(**{field.name: getattr(job, field.name) for field in fields(NewJob)} | changed)
        if job.workflow is not None:
            asked = replace(asked, workflow=with_seed(job.workflow, seed)[0])
        return await self.submit(asked, {}, once)

    async def settle(self) -> None:
        """Return when no job is being accepted."""
        await self._accepting.settle()
        await self._presence.settle()

    async def _check(self, job: NewJob, weight: int) -> NewJob:
        """Return the job as it is accepted; what was true a moment ago is good enough for that, and not for a no.

        `weight` is the size of its graph, in bytes of JSON.
        """
        present = await self._presence.recently()
        try:
            checked, able = await self._check_offers(job, present, weight)
        except (InvalidGraph, InvalidRequest):
            able = False
        if not able:
            present = await self._presence.now()
            checked, able = await self._check_offers(job, present, weight)
        if able:
            return checked
        return replace(checked, warnings=[*checked.warnings, _why_it_waits(checked, present)])

    async def _accept(self, jobs: Sequence[NewJob]) -> list[Job | QueueUnavailable]:
        """Commit the rows of jobs that came at the same time, and give them their turns: one round trip for each."""
        return await self._enqueue(await self._store.create_all(jobs))

    async def _enqueue(self, jobs: list[Job]) -> list[Job | QueueUnavailable]:
        """Give jobs their turns; of those that cannot be had because Redis is away, return why instead of the job.

        Only those who watch everything are told: nobody watches a job yet whose number nobody knows.
        """
        try:
            turns = [(job.job_id, job.attempt, job.available_at) for job in jobs]
            await self._queue.enqueue_all(turns, [news(snapshot_of(job)) for job in jobs])
        except QueueUnavailable as error:
            withdrawn = await self._store.withdraw_unaccepted([job.job_id for job in jobs])
            # The others somebody has taken already; the reconciler sees to their turns.
            return [error if job.job_id in withdrawn else job for job in jobs]
        return list(jobs)

    async def _replayed(self, once: Once) -> Replayed:
        answer = await self._store.replay(once)
        if answer is None:
            # The first request was taken back a moment ago, because Redis was away.
            raise QueueUnavailable("The queue cannot be reached at the moment.")
        return Replayed(answer)

    async def _check_offers(self, job: NewJob, present: Present, weight: int) -> tuple[NewJob, bool]:
        """Check the graph against every backend that may take it.

        Return the job with its checkpoint settled, and whether one that would run it can take work at the moment.
        """
        _check_backend_name(job, present.backends)
        offers = await self._offers(job, present)
        if job.workflow is None and job.checkpoint_model is None:
            offered = next((catalog.checkpoints[0] for catalog, _ in offers if catalog.checkpoints), None)
            job = replace(job, checkpoint_model=self._default_checkpoint or offered)
        verdicts, taken = [], []
        for catalog, able in offers:
            graph = job.workflow if job.workflow is not None else graph_of(job, catalog)
            if graph is None:
                fault = Fault("/checkpoint_model", "no_checkpoint", "The backends offer no checkpoint at all.")
                verdicts.append([fault])
                continue
            found = await self._sideline.do(weight, check_against, graph, catalog)
            if found.faults:
                verdicts.append(found.faults)
                continue
            taken.append((able, found.warnings))
            if able and not found.warnings:
                break
        if taken:
            able, warnings = min(taken, key=lambda each: (not each[0], bool(each[1])))
            return replace(job, warnings=[*job.warnings, *warnings]), able
        if verdicts:
            faults = min(verdicts, key=len)
            if job.workflow is None:
                faults = [replace(fault, pointer=_field(fault.pointer)) for fault in faults]
            raise InvalidGraph("No backend that may take this job would run it.", faults)
        return job, False

    async def _offers(self, job: NewJob, present: Present) -> list[tuple[Catalog, bool]]:
        """Return what the eligible backends offer, and whether one of them can take work; those that can come first.

        Of the live ones, or, with none alive, as last seen.
        """
        eligible = [beat for beat in _eligible(job, present) if beat.state.get("catalog")]
        live = [beat for beat in eligible if beat.live] or eligible
        reasons = why_idle(live, present.workers)
        able = dict.fromkeys(str(beat.state["catalog"]) for beat in live if reasons[beat.name] is None)
        digests = able | dict.fromkeys(str(beat.state["catalog"]) for beat in live)
        found = [(await self._registry.catalog(digest), digest in able) for digest in digests]
        return [(catalog, can) for catalog, can in found if catalog is not None]


def checked_workflow(workflow: Any, overrides: Mapping[str, Any], max_bytes: int) -> Graph:
    """Return the client's graph with its overrides, or raise `InvalidGraph` with every fault of its structure."""
    changed: Graph = workflow
    faults = _size_faults(workflow, max_bytes) or check_structure(workflow)
    if overrides and not faults:
        changed, faults = with_overrides(workflow, overrides)
        faults = faults or _size_faults(changed, max_bytes) or check_structure(changed)
    if faults:
        raise InvalidGraph("The workflow cannot be run.", faults)
    return changed


def graph_of(job: Asked, catalog: Catalog) -> Graph | None:
    """Return the graph of a job's simple fields for a backend; None when it has no checkpoint to take."""
    checkpoint = job.checkpoint_model or next(iter(catalog.checkpoints), None)
    if checkpoint is None:
        return None
    return build_graph(
        checkpoint=checkpoint,
        loras=job.lora_models,
        prompt=job.prompt or "",
        negative_prompt=job.negative_prompt,
        width=job.width,
        height=job.height,
        batch_size=job.batch_size,
        sampler=job.sampler_params,
    )


def _size_faults(workflow: Any, max_bytes: int) -> list[Fault]:
    size = kept_bytes(workflow)
    if size <= max_bytes:
        return []
    detail = f"The workflow takes {size} bytes as JSON; at most {max_bytes} are taken (MAX_WORKFLOW_BYTES)."
    return [Fault("/workflow", "too_large", detail)]


def _eligible(job: NewJob, present: Present) -> list[Beat]:
    return [beat for beat in present.backends if job.backend in (None, beat.name)]


def _why_it_waits(job: NewJob, present: Present) -> str:
    """Return the warning for a job that no backend can take at the moment."""
    if not present.any_worker:
        return NO_WORKER
    reasons = why_idle(_eligible(job, present), present.workers)
    return f"{no_backend(reasons) or NOT_OFFERED} The job waits until one can."


def _check_backend_name(job: NewJob, backends: Sequence[Beat]) -> None:
    known = tuple(beat.name for beat in backends)
    if job.backend is not None and known and job.backend not in known:
        detail = f"There is no backend called {job.backend!r}."
        fault = Fault("/backend", "unknown_backend", detail, known, nearest(job.backend, known))
        raise InvalidRequest("The job names a backend that is not there.", [fault])


def _field(pointer: str) -> str:
    for pattern, field in _FIELD.items():
        if match := re.match(pattern, pointer):
            parts = list(match.groups())
            if "lora" in pattern:
                parts[0] = str(int(parts[0]) - 1)
            return field.format(*parts)
    return pointer
