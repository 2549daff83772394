"""Accepting a job: the graph checked against what the backends offer, the row committed, its turn enqueued."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from app.domain.access import ANYBODY
from app.domain.errors import Fault, InvalidGraph, InvalidRequest, NoSeedToChange, QueueUnavailable, TooMany
from app.domain.graph_check import Checked
from app.domain.hints import nearest, shown
from app.domain.job import ASKED_AGAIN, Job, NewJob
from app.domain.job_cost import cost_s
from app.domain.limits import check_priority
from app.domain.message import snapshot_of
from app.domain.workflow import graph_of
from app.messaging.events import news
from app.runtime.batching import Batcher
from app.runtime.json_text import size_bytes
from app.runtime.side_thread import SMALL_BYTES
from app.services.graph_faults import as_asked, checked_workflow, has_uploads, held_against
from app.services.offer_refresh import WAIT_S
from app.services.readiness import no_backend, why_idle
from app.services.simple_forms import SimpleForms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.domain.access import Caller
    from app.domain.catalog import Catalog
    from app.domain.heartbeats import BackendBeat
    from app.domain.job_facts import JobFacts
    from app.domain.limits import Limits
    from app.domain.uploads import Upload
    from app.domain.workflow import Graph
    from app.messaging.queue import JobQueue
    from app.messaging.registry import Registry
    from app.runtime.side_thread import SideThread
    from app.services.graph_faults import HeldAgainst
    from app.services.live_fleet import FleetMembers, LiveFleet
    from app.services.offer_refresh import OfferRefresh
    from app.services.references import References
    from app.services.seeds import Seeds
    from app.storage.idempotency import Once
    from app.storage.jobs import JobStore
    from app.storage.run_times import RunTimes

NO_WORKER: Final = "No worker is alive at the moment: the job waits until one is."
NOT_OFFERED: Final = "Of the backends that offer what this job needs none can take work."

MOST_AT_ONCE: Final = 64
"""Jobs that one transaction accepts: with more the first of them would wait noticeably for the last."""
FLIGHTS: Final = 2
"""Transactions under way at once: while PostgreSQL commits one, the next is read, and Redis told of the last."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """The answer that the same request got before."""

    answer: str


@dataclass(frozen=True, slots=True)
class _Offered:
    """What one or several backends offer."""

    catalog: Catalog | None
    """None when it cannot be told at the moment."""
    able: bool
    """Whether one of them can take work."""
    drivers: list[str]
    """Those of them that a worker drives."""
    names: list[str]
    """All of them."""


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What one backend would do with a job."""

    backend: str
    idle_reason: str | None
    """Why it can be given no job at the moment; None of one that can."""
    is_known: bool
    """Whether it is known what the backend offers."""
    faults: list[Fault]
    """Why it would not run the job; none of one that would."""
    warnings: list[str]
    graph: Graph | None
    """The graph that it would run; None if there is none."""
    workflow_key: str | None
    """That of the graph as it would execute it; None of one that would not."""


@dataclass(frozen=True, slots=True)
class DryRun:
    """What would become of a job that was submitted now."""

    job: NewJob
    """As it would be accepted, warnings included."""
    refusal: InvalidRequest | None
    """Why it would not be accepted; None of one that would."""
    backends: list[Foreseen]


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What the check says of a job."""

    job: NewJob
    """With its checkpoint settled."""
    able: bool
    """Whether a backend that would run it can take work at the moment."""
    refusal: InvalidGraph | None = None
    doubts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Backend → node classes to be read again before the refusal is believed."""


class Held:
    """How a job was found for catalogs that it was held against: for a large graph that takes most of the time."""

    def __init__(
        self, uploads: Mapping[str, Upload], weight: int, sideline: SideThread, simple_forms: SimpleForms
    ) -> None:
        self._uploads = uploads
        self._simple_forms = simple_forms
        self._weight = weight
        self._sideline = sideline
        # The catalog is kept, so that no other gets its identity.
        self._found: dict[tuple[int, str | None], tuple[Catalog, HeldAgainst]] = {}

    async def against(self, job: NewJob, catalog: Catalog) -> HeldAgainst:
        """Return what `held_against` does; `job` is always the same but for its checkpoint."""
        key = id(catalog), job.checkpoint_model
        if key not in self._found:
            held = self._simple_forms.find(job, catalog)
            if held is None:
                held = await self._sideline.do(self._weight, held_against, job, catalog, self._uploads)
                self._simple_forms.keep(job, catalog, held)
            self._found[key] = catalog, held
        return self._found[key][1]


class Submitting:
    """The use case "submit a job"."""

    def __init__(
        self,
        store: JobStore,
        queue: JobQueue,
        registry: Registry,
        fleet: LiveFleet,
        seeds: Seeds,
        references: References,
        afresh: OfferRefresh,
        sideline: SideThread,
        run_times: RunTimes,
        default_checkpoint: str,
        max_workflow_bytes: int,
    ) -> None:
        self._store = store
        self._queue = queue
        self._registry = registry
        self._seeds = seeds
        self.references = references
        self._afresh = afresh
        self._sideline = sideline
        self._run_times = run_times
        self._max_workflow_bytes = max_workflow_bytes
        self._fleet = fleet
        self._simple_forms = SimpleForms()
        self._accepting = Batcher(self._accept, most=MOST_AT_ONCE, flights=FLIGHTS)
        self._default_checkpoint = default_checkpoint or None

    async def submit(
        self,
        job: NewJob,
        overrides: Mapping[str, Any],
        once: Once | None = None,
        *,
        sender: Caller = ANYBODY,
    ) -> Job | Replayed:
        """Accept the job and give it its turn; or, when the same request came before, return what it was answered.

        Raises
        ------
        IdempotencyKeyReused
            It came before under the same key with another body.
        InvalidGraph, InvalidRequest
            No backend that may take the job would run it; every fault is named.
        TooManyWaiting, TooManyToday, UploadLimit
            By the limits of the sender, of a job of its own.
        DatabaseUnavailable, QueueUnavailable, Busy
            Nothing was accepted.
        """
        # First of all: a repetition gets its answer whatever has become of the backends.
        if once is not None and (answer := await self._store.replay(once)) is not None:
            return Replayed(answer)
        limits = sender.limits_for(job.user_id)
        check_priority(limits, job.priority)
        job, weight = await self._with_overrides(job, overrides)
        job, uploads = await self._with_uploads(job, weight, most_bytes=limits.upload_bytes)
        job = await self._check(job, Held(uploads, weight, self._sideline, self._simple_forms))
        weight += len(job.extra_pnginfo or "")
        if once is None and weight > SMALL_BYTES:
            # Not with others: what is written for many large ones at once would hold up everybody.
            (accepted,) = await self._accept([(job, limits)])
        elif once is None:
            accepted = await self._accepting.do((job, limits))
        else:
            created = await self._store.create(job, once, limits)
            if created is None:
                return await self._replayed(once)
            (accepted,) = await self._enqueue([created])
        if isinstance(accepted, QueueUnavailable | TooMany):
            raise accepted
        return accepted

    async def check(self, job: NewJob, overrides: Mapping[str, Any], *, sender: Caller = ANYBODY) -> DryRun:
        """Return what would become of a job that was submitted now; nothing is accepted or stored.

        Raises
        ------
        InvalidGraph, InvalidRequest
            What is wrong with the job itself, whatever backends offer.
        DatabaseUnavailable, QueueUnavailable, Busy
        """
        check_priority(sender.limits_for(job.user_id), job.priority)
        job, weight = await self._with_overrides(job, overrides)
        job, uploads = await self._with_uploads(job, weight, keep=False)
        held, refusal = Held(uploads, weight, self._sideline, self._simple_forms), None
        try:
            job = await self._check(job, held)
        except InvalidRequest as error:
            refusal = error
        present = await self._fleet.recently()
        reasons = why_idle(present.backends, present.workers)
        foreseen = []
        for offer in await self._offers(job, present):
            found, facts, runs = Checked(), None, None
            if offer.catalog is not None:
                found, _, facts = await held.against(job, offer.catalog)
                runs = graph_of(job, offer.catalog)
            key = facts.workflow_key if facts is not None else None
            faults = as_asked(job, found.faults)
            foreseen += [
                Foreseen(name, reasons.get(name), offer.catalog is not None, faults, found.warnings, runs, key)
                for name in offer.names
            ]
        return DryRun(job, refusal, sorted(foreseen, key=lambda each: each.backend))

    async def again(
        self, job: Job, once: Once | None = None, *, sender: Caller = ANYBODY
    ) -> tuple[Job | Replayed, bool]:
        """Accept a new job that asks for what this one did, from now on; as `submit` does.

        Return with it whether it has another seed; a workflow that has none of its own is sent as it was.
        """
        drawing, seed = await self._seeds.drawing(), job.sampler_params["seed"]
        most = sender.limits_for(job.user_id).priority
        try:
            graph, seed = await self._sideline.do(size_bytes(job.workflow), drawing.anew, job.workflow, seed)
            reseeded = True
        except NoSeedToChange:
            graph, reseeded = job.workflow, False
        changed: dict[str, Any] = {
            "sampler_params": job.sampler_params | {"seed": seed},
            "workflow": graph,
            "not_before": None,
            # Somebody else may have raised it.
            "priority": job.priority if most is None else min(job.priority, most),
            "warnings": [],
        }
        asked = NewJob(**{name: getattr(job, name) for name in ASKED_AGAIN} | changed)
        return await self.submit(asked, {}, once, sender=sender), reseeded

    async def settle(self) -> None:
        """Wait for no more answers about what backends offer, and return when no job is being accepted."""
        await self._accepting.settle()
        await self._fleet.settle()
        await self._afresh.close()

    async def _with_overrides(self, job: NewJob, overrides: Mapping[str, Any]) -> tuple[NewJob, int]:
        """Return the job with its overrides in its graph, and the size of both, in bytes; raises `InvalidGraph`."""
        if job.workflow is None:
            return job, 0
        weight = size_bytes(job.workflow) + size_bytes(overrides)
        do = self._sideline.do
        graph = await do(weight, checked_workflow, job.workflow, overrides, job.inputs, self._max_workflow_bytes)
        return (replace(job, workflow=graph) if graph is not job.workflow else job), weight

    async def _with_uploads(
        self, job: NewJob, weight: int, *, keep: bool = True, most_bytes: int | None = None
    ) -> tuple[NewJob, Mapping[str, Upload]]:
        """Return the job with the uploads that it needs; raises as `References.resolve`."""
        named = job.image is not None or job.mask is not None or bool(job.inputs)
        if not named and job.workflow:
            named = await self._sideline.do(weight, has_uploads, job.workflow)
        if not named:
            return job, {}
        resolved = await self.references.resolve(job, keep=keep, most_bytes=most_bytes)
        return resolved.job, resolved.uploads

    async def _check(self, job: NewJob, held: Held) -> NewJob:
        """Return the job as it is accepted. Data of a moment ago is enough to accept a job, but not to refuse it."""
        present = await self._fleet.recently()
        try:
            verdict = await self._judge(job, present, held)
        except InvalidRequest:
            verdict = None
        if verdict is None or not verdict.able:
            present = await self._fleet.now()
            verdict = await self._judge(job, present, held)
        if verdict.refusal is not None:
            present, verdict = await self._judge_afresh(job, present, verdict, held)
        if verdict.refusal is not None:
            raise verdict.refusal
        warnings = [*verdict.job.warnings, *_unknown_preference(job, present)]
        warnings += [] if verdict.able else [_why_it_waits(verdict.job, present)]
        return replace(verdict.job, warnings=warnings) if warnings else verdict.job

    async def _judge_afresh(
        self, job: NewJob, present: FleetMembers, verdict: _Verdict, held: Held
    ) -> tuple[FleetMembers, _Verdict]:
        """Have read again what may be there by now, and judge the job by that, as soon as one backend has it.

        Again and again, because a new node class may want a new file; what is not answered in time stays as it was.
        """
        until, asked = time.monotonic() + WAIT_S, dict[str, frozenset[str]]()
        while verdict.refusal is not None and time.monotonic() < until:
            wanted = {
                name: new for name, classes in verdict.doubts.items() if (new := classes - asked.get(name, frozenset()))
            }
            if not wanted:
                break
            asked |= {name: asked.get(name, frozenset()) | classes for name, classes in wanted.items()}
            async with aclosing(self._afresh.read(wanted, until)) as answered:
                async for _ in answered:
                    present = await self._fleet.afresh()
                    verdict = await self._judge(job, present, held)
                    if verdict.refusal is None:
                        break
        return present, verdict

    async def _accept(self, asked: Sequence[tuple[NewJob, Limits]]) -> list[Job | TooMany | QueueUnavailable]:
        """Commit the rows of jobs that came at the same time, and give them their turns: one round trip for each."""
        created = await self._store.create_limited(asked)
        jobs = [each for each in created if isinstance(each, Job)]
        enqueued = iter(await self._enqueue(jobs) if jobs else ())
        return [next(enqueued) if isinstance(each, Job) else each for each in created]

    async def _enqueue(self, jobs: list[Job]) -> list[Job | QueueUnavailable]:
        """Give jobs their turns; of those that cannot be had because Redis is away, return why instead of the job.

        Only clients that watch all events are told: no one can watch the job before its id is known.
        """
        try:
            turns = [(job.job_id, job.attempt, job.available_at) for job in jobs]
            await self._queue.enqueue_all(turns, [news(snapshot_of(job)) for job in jobs])
        except QueueUnavailable as error:
            withdrawn = await self._store.withdraw_unaccepted([job.job_id for job in jobs])
            # Workers have taken the others already; the reconciler restores their turns.
            return [error if job.job_id in withdrawn else job for job in jobs]
        return list(jobs)

    async def _replayed(self, once: Once) -> Replayed:
        answer = await self._store.replay(once)
        if answer is None:
            # The first request was taken back a moment ago, because Redis was away.
            raise QueueUnavailable("The queue cannot be reached at the moment.")
        return Replayed(answer)

    async def _judge(self, job: NewJob, present: FleetMembers, held: Held) -> _Verdict:
        """Check the graph against every backend that may take it."""
        _check_backend_name(job, present.backends)
        offers = await self._offers(job, present)
        if job.workflow is None and job.upscale_model is None and job.checkpoint_model is None:
            known = (offer.catalog.checkpoints for offer in offers if offer.catalog is not None)
            offered = next((names[0] for names in known if names), None)
            job = replace(job, checkpoint_model=self._default_checkpoint or offered)
        verdicts: list[list[Fault]] = []
        taken: list[tuple[bool, list[str], JobFacts | None]] = []
        doubts: dict[str, frozenset[str]] = {}
        for offer in offers:
            if offer.catalog is None:
                continue
            found, classes, facts = await held.against(job, offer.catalog)
            if found.faults:
                verdicts.append(found.faults)
                doubts |= dict.fromkeys(offer.drivers, classes)
                continue
            taken.append((offer.able, found.warnings, facts))
            if offer.able and not found.warnings:
                break
        if taken:
            able, warnings, facts = min(taken, key=lambda each: (not each[0], bool(each[1])))
            return _Verdict(replace(job, warnings=[*job.warnings, *warnings], **self._found_out(facts)), able)
        unknown = [offer for offer in offers if offer.catalog is None and offer.drivers]
        if not verdicts or unknown:
            # What one of them offers is not known at the moment: it may be able to run it.
            return _Verdict(replace(job, **self._found_out(None)), any(offer.able for offer in unknown))
        faults = min(verdicts, key=len)
        faults = as_asked(job, faults)
        refusal = InvalidGraph("No backend that may take this job would run it.", faults)
        return _Verdict(job, able=False, refusal=refusal, doubts=doubts)

    def _found_out(self, facts: JobFacts | None) -> dict[str, Any]:
        """Return what is known of a job: of what it loads nothing, when no backend that takes it is known."""
        if facts is None:
            return {"cost_s": cost_s(self._run_times.at_hand(None, None), None)}
        models, key, _ = facts.loaded
        likely_s = cost_s(self._run_times.at_hand(facts.workflow_key, key), facts.work)
        return {"models": models, "model_key": key, "cost_s": likely_s}

    async def _offers(self, job: NewJob, present: FleetMembers) -> list[_Offered]:
        """Return what the eligible backends offer; what is offered by one that can take work comes first.

        Of the live ones, or, with none alive, as last seen.
        """
        eligible = [beat for beat in _eligible(job, present) if beat.catalog]
        live = [beat for beat in eligible if beat.live] or eligible
        reasons = why_idle(live, present.workers)
        able = dict.fromkeys(beat.catalog for beat in live if beat.catalog and reasons[beat.name] is None)
        digests = able | dict.fromkeys(beat.catalog for beat in live if beat.catalog)
        return [
            _Offered(
                await self._registry.catalog(digest),
                digest in able,
                [each.name for each in live if each.catalog == digest and _is_driven(each)],
                [each.name for each in live if each.catalog == digest],
            )
            for digest in digests
        ]


def _is_driven(beat: BackendBeat) -> bool:
    """Whether a worker would answer for it."""
    return beat.live and beat.driver is not None


def _eligible(job: NewJob, present: FleetMembers) -> list[BackendBeat]:
    return [beat for beat in present.backends if job.backend in (None, beat.name)]


def _why_it_waits(job: NewJob, present: FleetMembers) -> str:
    """Return the warning for a job that no backend can take at the moment."""
    if not present.any_worker:
        return NO_WORKER
    reasons = why_idle(_eligible(job, present), present.workers)
    return f"{no_backend(reasons) or NOT_OFFERED} The job waits until one can."


def _check_backend_name(job: NewJob, backends: Sequence[BackendBeat]) -> None:
    known = tuple(beat.name for beat in backends)
    if job.backend is not None and known and job.backend not in known:
        detail = f"There is no backend called {job.backend!r}."
        fault = Fault("/backend", "unknown_backend", detail, known, nearest(job.backend, known))
        raise InvalidRequest("The job names a backend that is not there.", [fault])


def _unknown_preference(job: NewJob, present: FleetMembers) -> list[str]:
    """Return the warning for a job that prefers a backend that is not there: it runs on any all the same."""
    known = [beat.name for beat in present.backends]
    if job.prefer is None or not known or job.prefer in known:
        return []
    meant = nearest(job.prefer, known)
    hint = f" Did you mean {meant!r}?" if meant is not None else ""
    return [f"There is no backend called {shown(job.prefer)!r} that could be preferred: any may run the job.{hint}"]
