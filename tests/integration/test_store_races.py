"""Racing transitions: of several callers one wins, and the log of events tells one consistent story."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import new_job, output

from app.domain.errors import (
    GenonautError,
    InvalidTransition,
    JobAlreadyFinished,
    JobNotRetryable,
    LostClaim,
    StorageFailed,
)
from app.domain.job import STATUS_OF, TRANSITIONS, JobEvent, JobStatus, Phase, Repair, Steering, apply
from app.storage.attempts import AttemptStore, Claim
from app.storage.job_views import JobViews

if TYPE_CHECKING:
    from app.domain.job import Job
    from app.storage.database import Database

ERROR = StorageFailed("The disk is full.")


async def log_of(database: Database, job_id: int) -> list[str]:
    """Return the job's events, after checking that they are gapless and lead by the table to where the job is."""
    views = JobViews(database)
    job, events = (await views.view(job_id)).job, await views.events(job_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[0].event == "submitted"
    phase, attempt = Phase.QUEUED, 1
    for event in events[1:]:
        if event.event not in {*Repair, *Steering}:
            phase = apply(phase, JobEvent(event.event))
        attempt += event.event in ("requeued", "retried")
        assert (event.phase, event.attempt) == (phase, attempt)
    assert (job.phase, job.seq, job.attempt) == (phase, len(events), attempt)
    claims = [event.attempt for event in events if event.event == "claimed"]
    assert [each.number for each in await views.attempts(job_id)] == claims
    assert len(set(claims)) == len(claims)
    return [event.event for event in events[1:]]


async def test_of_many_claims_at_once_each_job_goes_to_one(database: Database) -> None:
    store = AttemptStore(database)
    jobs = {(await store.create(new_job())).job_id for _ in range(20)}
    found = await asyncio.gather(*(store.claim(f"w{number}", "b", "p", 60) for number in range(40)))
    taken = [job for job in found if job is not None]
    assert Counter(job.job_id for job in taken) == Counter(jobs)
    assert len({job.worker_id for job in taken}) == 20
    for job_id in jobs:
        assert await log_of(database, job_id) == ["claimed"]


async def test_of_a_cancel_and_a_claim_both_say_what_became_of_the_job(database: Database) -> None:
    store = AttemptStore(database)
    for round_ in range(15):
        job = await store.create(new_job(backend=f"b{round_}"))
        claim = [store.claim(f"w{number}", f"b{round_}", "p", 60) for number in range(2)]
        cancel = [store.cancel(job.job_id, "x", f"user{number}") for number in range(2)]
        results = await asyncio.gather(*(claim + cancel if round_ % 2 else cancel + claim))  # type: ignore[operator]
        log = await log_of(database, job.job_id)
        assert log in (["withdrawn"], ["claimed", "cancel_requested"])
        cancels = results[2:] if round_ % 2 else results[:2]
        claims = results[:2] if round_ % 2 else results[2:]
        assert sum(each is not None for each in claims) == log.count("claimed")
        end = Phase.CANCELLED if log == ["withdrawn"] else Phase.CANCELLING
        assert {told.phase for told, _ in cancels} == {end}  # type: ignore[misc]
        assert sum(changed for _, changed in cancels) == 1  # type: ignore[misc]


async def test_racing_ends_of_an_attempt_end_it_once(database: Database) -> None:
    store = AttemptStore(database)
    ends = {
        "completed": lambda claim: store.complete(claim, [output()]),
        "failed": lambda claim: store.fail(claim, ERROR),
        "requeued": lambda claim: store.requeue(claim, ERROR, 60),
    }
    seen = set()
    for order in itertools.permutations(ends):
        job = await store.create(new_job())
        assert await store.claim("w", "b", "p", 60) is not None
        claim = Claim(job.job_id, 1, "w")
        await store.saving(claim)
        results = await asyncio.gather(*(ends[name](claim) for name in order), return_exceptions=True)
        won = [name for name, result in zip(order, results, strict=True) if not isinstance(result, Exception)]
        assert len(won) == 1
        assert all(isinstance(each, LostClaim) for each in results if isinstance(each, Exception))
        assert (await log_of(database, job.job_id))[-1] == won[0]
        seen.add(won[0])
    assert len(seen) >= 2


async def test_cancels_claims_and_retries_in_a_heap_leave_a_consistent_log(database: Database) -> None:
    store = AttemptStore(database)
    job = await store.create(new_job())
    wins: Counter[str] = Counter()

    async def retry() -> None:
        with contextlib.suppress(JobNotRetryable):
            await store.retry(job.job_id, None, "user")
            wins["retried"] += 1

    async def cancel() -> None:
        await store.cancel(job.job_id, "x", "user")

    async def work(name: str, claimed: Claim | None = None) -> None:
        claim = claimed or await take(name)
        if claim is None:
            return
        try:
            await store.executing(claim)
            wins["executing"] += 1
            await store.fail(claim, ERROR)
            wins["failed"] += 1
        except InvalidTransition as refused:
            wins[f"refused because {refused.phase}"] += 1
            await store.cancelled(claim)
            wins["cancelled"] += 1

    async def take(name: str) -> Claim | None:
        found = await store.claim(name, "b", "p", 60)
        if found is None:
            return None
        wins["claimed"] += 1
        return Claim(found.job_id, found.attempt, name)

    for round_ in range(12):
        claimed = None
        if round_ % 2:
            # Cancels are so quick that no worker might ever come before one.
            await retry()
            claimed = await take(f"a{round_}")
        tasks = [retry(), cancel(), work(f"a{round_}", claimed), retry(), work(f"b{round_}"), cancel(), retry()]
        results = await asyncio.gather(*tasks[round_ % 7 :], *tasks[: round_ % 7], return_exceptions=True)
        assert all(each is None or isinstance(each, JobAlreadyFinished) for each in results), results
    counted = Counter(await log_of(database, job.job_id))
    assert wins.pop("refused because cancelling", 0) == wins["cancelled"]
    assert {name: counted[name] for name in wins} == dict(wins)
    assert wins["retried"] >= 3
    assert wins["claimed"] >= 1


async def test_renewing_taking_over_and_ending_at_once_never_lose_a_job(database: Database) -> None:
    store = AttemptStore(database)
    for round_ in range(10):
        job = await store.create(new_job(backend=f"b{round_}"))
        await store.claim("w1", f"b{round_}", "p", 60)
        old, new = Claim(job.job_id, 1, "w1"), Claim(job.job_id, 1, "w2")
        await store.release(old)
        results: list[Any] = await asyncio.gather(
            store.renew_leases("w1", {old: 5}, 60),
            store.take_over("w2", [f"b{round_}"], 60, 10),
            store.fail(old, ERROR),
            return_exceptions=True,
        )
        log = await log_of(database, job.job_id)
        now = await store.get(job.job_id)
        if log[-1] == "failed":
            assert isinstance(results[2], type(now))
        else:
            assert isinstance(results[2], LostClaim)
            assert now.worker_id == "w2"
            await store.fail(new, ERROR)


# Any sequence: the store agrees with the table at each step.

OPERATIONS = st.sampled_from(
    ["claim", "executing", "saving", "complete", "fail", "requeue", "cancelled", "cancel", "retry"]
)
EVENT_OF = {"complete": JobEvent.COMPLETED, "fail": JobEvent.FAILED, "requeue": JobEvent.REQUEUED}
_numbers = itertools.count()


def expected(phase: Phase, operation: str, *, held: bool) -> Phase | type[GenonautError] | None:
    """Return the phase that the operation leads to, the error that it raises, or None: there is nothing to claim."""
    waiting = STATUS_OF[phase] is JobStatus.PENDING
    match operation:
        case "claim":
            return apply(phase, JobEvent.CLAIMED) if waiting else None
        case "retry":
            return Phase.QUEUED if phase in TRANSITIONS[JobEvent.RETRIED].sources else JobNotRetryable
        case "cancel":
            for event in (JobEvent.WITHDRAWN, JobEvent.CANCEL_REQUESTED):
                with contextlib.suppress(InvalidTransition):
                    return apply(phase, event)
            return phase if phase in (Phase.SAVING, Phase.CANCELLING, Phase.CANCELLED) else JobAlreadyFinished
        case _:
            if not held:
                return LostClaim
            try:
                return apply(phase, EVENT_OF.get(operation) or JobEvent(operation))
            except InvalidTransition:
                return InvalidTransition


async def do(store: AttemptStore, job: Job, claim: Claim, backend: str, operation: str) -> Job | None:
    match operation:
        case "claim":
            return await store.claim("w", backend, "p", 60)
        case "retry":
            return await store.retry(job.job_id, None, "user")
        case "cancel":
            return (await store.cancel(job.job_id, None, "user"))[0]
        case "complete":
            return await store.complete(claim, [output()])
        case "fail":
            return await store.fail(claim, ERROR)
        case "requeue":
            return await store.requeue(claim, ERROR, 0)
        case _:
            found: Job = await getattr(store, operation)(claim)
            return found


@settings(max_examples=35, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.lists(OPERATIONS, min_size=3, max_size=25))
async def test_the_store_agrees_with_the_table_at_each_step(database: Database, operations: list[str]) -> None:
    store, backend = AttemptStore(database), f"b{next(_numbers)}"
    job = await store.create(new_job(backend=backend))
    claim, held = Claim(job.job_id, 1, "w"), False
    for operation in operations:
        wanted = expected(job.phase, operation, held=held)
        if isinstance(wanted, type):
            with pytest.raises(wanted):
                await do(store, job, claim, backend, operation)
        else:
            result = await do(store, job, claim, backend, operation)
            assert (result.phase if result else None) == wanted
        job = await store.get(job.job_id)
        held = STATUS_OF[job.phase] is JobStatus.RUNNING
        claim = Claim(job.job_id, job.attempt, "w") if held else claim
    await log_of(database, job.job_id)
