"""The job store against real PostgreSQL: each method, the fence, and that what belongs together happens together."""

from __future__ import annotations

import asyncio
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from samples import SAMPLER, new_job, output, text_to_image
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from app.domain.errors import (
    InvalidTransition,
    JobAlreadyFinished,
    JobNotFinished,
    JobNotFound,
    JobNotRetryable,
    LostClaim,
    NodeFailed,
    NoSeedToChange,
    OutOfMemory,
)
from app.domain.job import ASKED_AGAIN, ListedJob, Phase
from app.domain.seeds import Drawing
from app.runtime.json_text import loads
from app.storage.attempts import AttemptStore, Claim, Noted
from app.storage.job_views import JobViews
from app.storage.schema import Base
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.domain.job import Job
    from app.storage.database import Database

ERROR = NodeFailed("It broke.", node_id="7", node_type="KSampler")


@pytest.fixture
def store(database: Database) -> AttemptStore:
    return AttemptStore(database)


@pytest.fixture
def views(database: Database) -> JobViews:
    return JobViews(database)


async def claimed(
    store: AttemptStore, worker_id: str = "w1", *, backend: str = "b1", **changes: Any
) -> tuple[Job, Claim]:
    """Create a job and claim it."""
    await store.create(new_job(**changes))
    job = await store.claim(worker_id, backend, "prompt-1", 60)
    assert job is not None
    return job, Claim(job.job_id, job.attempt, worker_id)


def without_graph(job: Job | None) -> ListedJob:
    assert job is not None
    return ListedJob(**{field.name: getattr(job, field.name) for field in fields(ListedJob)})


async def everything(database: Database) -> dict[str, list[Any]]:
    """Return all rows of all tables."""
    async with database.transaction() as session:
        return {
            table.name: sorted(map(repr, await session.execute(select(table)))) for table in Base.metadata.sorted_tables
        }


async def expire_leases(database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(text("UPDATE generation_jobs SET lease_expires_at = now() - interval '1 second'"))


# Create, read, withdraw.


async def test_what_was_asked_for_comes_back_exactly(store: AttemptStore) -> None:
    tricky = {"a": [1, 1.5, None, True, {"ü": "🎨\\u0000 as text"}], "big": 2**64 - 1, "deep": {"x": {"y": []}}}
    asked = new_job(
        sampler_params=SAMPLER | {"seed": 2**64 - 1},
        lora_models=[{"name": "a.safetensors", "strength_model": -0.1, "strength_clip": 100.0}],
        workflow=text_to_image() | {"note": {"class_type": "Note", "inputs": tricky}},
        params=tricky,
        metadata={"k": "v"},
        warnings=["one", "two, with comma", 'and "quotes"'],
        prompt="日本語 🎨 '; DROP TABLE generation_jobs; --",
        backend="b1",
        priority=-100,
        not_before=datetime(2031, 1, 2, 3, 4, 5, 678_901, UTC),
    )
    made = await store.create(asked)
    found = await store.whole(made.job_id)
    assert found == made
    assert {name: getattr(found, name) for name in ASKED_AGAIN} == {name: getattr(asked, name) for name in ASKED_AGAIN}
    assert (found.phase, found.seq, found.attempt, found.attempt_limit) == (Phase.QUEUED, 1, 1, 4)
    assert found.sampler_params["seed"] == 2**64 - 1
    assert type(found.sampler_params["denoise"]) is float


async def test_a_job_is_available_at_once_or_at_its_time(store: AttemptStore) -> None:
    now, later = await store.create(new_job()), datetime.now(UTC) + timedelta(hours=1)
    assert now.available_at == now.created_at == now.updated_at
    assert (await store.create(new_job(not_before=later))).available_at == later
    past = await store.create(new_job(not_before=later - timedelta(days=1)))
    assert past.available_at == past.created_at


async def test_jobs_that_come_together_are_each_what_was_asked_for(store: AttemptStore, views: JobViews) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    asked = [
        new_job(prompt=f"number {number}", not_before=later if number % 3 else None, params={"n": 10**30 + number})
        for number in range(40)
    ]
    made = await store.create_all(asked)
    assert [job.prompt for job in made] == [job.prompt for job in asked]
    assert [job.job_id for job in made] == sorted({job.job_id for job in made})
    read = await asyncio.gather(*(views.view(job.job_id) for job in reversed(made)))
    assert [view.job for view in reversed(read)] == [without_graph(job) for job in made]
    for job in made:
        (event,) = await views.events(job.job_id)
        assert (event.seq, event.event, event.actor) == (1, "submitted", job.user_id)


async def test_of_jobs_that_come_together_all_are_accepted_or_none(store: AttemptStore, database: Database) -> None:
    with pytest.raises(asyncpg.PostgresError):
        await store.create_all([new_job(), new_job(width="wide")])
    assert not any((await everything(database)).values())


async def test_of_many_reads_at_once_each_gets_its_own_job_or_none(store: AttemptStore, views: JobViews) -> None:
    job, claim = await claimed(store)
    await store.executing(claim)
    await store.saving(claim)
    await store.complete(claim, [output(0), output(1)])
    waiting = [await store.create(new_job(priority=priority)) for priority in (0, 5)]
    ids = [waiting[0].job_id, 10**6, job.job_id, waiting[1].job_id, job.job_id]
    found = await asyncio.gather(*(views.view(job_id) for job_id in ids), return_exceptions=True)
    assert isinstance(found[1], JobNotFound)
    assert [each.job.job_id for each in found if not isinstance(each, BaseException)] == [ids[0], *ids[2:]]
    assert [each.position for each in found if not isinstance(each, BaseException)] == [2, None, 1, None]
    assert found[2] == found[4]
    assert [each.index for each in found[2].outputs] == [0, 1]
    assert [each.outcome for each in found[2].attempts] == ["completed"]


async def test_a_job_that_is_not_there_is_not_found(store: AttemptStore) -> None:
    for call in (store.get(99), store.cancel(99, None, "x"), store.retry(99, None, "x"), store.delete(99)):
        with pytest.raises(JobNotFound) as missed:
            await call
        assert missed.value.job_ids == (99,)


async def test_only_an_untouched_job_can_be_withdrawn(store: AttemptStore, database: Database) -> None:
    job = await store.create(new_job())
    assert await store.withdraw_unaccepted([job.job_id])
    assert not await store.withdraw_unaccepted([job.job_id])
    assert not any((await everything(database)).values())
    taken, _ = await claimed(store)
    assert not await store.withdraw_unaccepted([taken.job_id])
    again = await store.create(new_job())
    await store.cancel(again.job_id, None, "x")
    await store.retry(again.job_id, None, "x")
    assert not await store.withdraw_unaccepted([again.job_id])


# Whose turn it is.


async def test_priority_goes_first_then_first_come_first_served(store: AttemptStore) -> None:
    made = [(await store.create(new_job(priority=priority))).job_id for priority in (0, 5, -5, 5, 0)]
    order = [job.job_id for _ in made if (job := await store.claim("w", "b", "p", 60))]
    assert order == [made[1], made[3], made[0], made[4], made[2]]
    assert await store.claim("w", "b", "p", 60) is None


async def test_a_claim_commits_who_where_and_under_which_prompt(store: AttemptStore, views: JobViews) -> None:
    job, claim = await claimed(store, "w1")
    assert (job.phase, job.worker_id, job.backend_name, job.prompt_id) == (Phase.ASSIGNED, "w1", "b1", "prompt-1")
    assert job.started_at is not None
    (attempt,) = await views.attempts(job.job_id)
    assert (attempt.number, attempt.worker_id, attempt.backend_name, attempt.prompt_id) == (1, "w1", "b1", "prompt-1")
    assert claim == Claim(job.job_id, 1, "w1")


async def test_a_job_waits_for_its_time(store: AttemptStore) -> None:
    await store.create(new_job(not_before=datetime.now(UTC) + timedelta(hours=1), priority=100))
    due = await store.create(new_job())
    job = await store.claim("w", "b", "p", 60)
    assert job is not None
    assert job.job_id == due.job_id
    assert await store.claim("w", "b", "p", 60) is None
    soon = await store.create(new_job(not_before=datetime.now(UTC) + timedelta(milliseconds=200)))
    job = await eventually(lambda: store.claim("w", "b", "p", 60))
    assert job.job_id == soon.job_id
    assert datetime.now(UTC) >= soon.available_at - timedelta(milliseconds=50)


async def test_a_job_for_one_backend_is_not_given_to_another(store: AttemptStore) -> None:
    await store.create(new_job(backend="b2", priority=100))
    anywhere = await store.create(new_job())
    assert (await store.claim("w", "b1", "p", 60)).job_id == anywhere.job_id  # type: ignore[union-attr]
    assert await store.claim("w", "b1", "p", 60) is None
    assert await store.claim("w", "b2", "p", 60) is not None


async def test_a_retry_avoids_the_backends_that_failed_it_for_five_minutes(
    store: AttemptStore, database: Database
) -> None:
    _, claim = await claimed(store)
    waiting = await store.requeue(claim, ERROR, 0, avoid=["b1", "b3"])
    assert waiting.refused_by == ["b1", "b3"]
    for avoided in ("b1", "b3"):
        assert await store.claim("w", avoided, "p", 60) is None
    async with database.transaction() as session:
        await session.execute(text("UPDATE generation_jobs SET available_at = now() - interval '301 seconds'"))
    assert await store.claim("w", "b1", "p", 60) is not None


async def test_another_backend_takes_it_at_once(store: AttemptStore) -> None:
    _, claim = await claimed(store)
    await store.requeue(claim, ERROR, 0, avoid=["b1"])
    assert await store.claim("w", "b2", "p", 60) is not None


# The way of an attempt.


async def test_an_attempt_goes_through_its_phases_to_the_end(store: AttemptStore, views: JobViews) -> None:
    job, claim = await claimed(store)
    graph = text_to_image()
    await store.submitting(claim, "prompt-2", graph)
    assert loads(await views.sent_graph(job.job_id) or "") == graph
    assert (await store.get(job.job_id)).prompt_id == "prompt-2"
    assert (await store.executing(claim)).phase is Phase.EXECUTING
    assert (await store.saving(claim)).progress == 100
    done = await store.complete(claim, [output(0), output(1, thumbnail_path=None, width=None)], ["a note"])
    assert (done.phase, done.progress, done.worker_id) == (Phase.COMPLETED, 100, None)
    assert done.completed_at is not None
    view = await views.view(job.job_id)
    assert view.job.warnings == ["a note"]
    assert view.outputs == [output(0), output(1, thumbnail_path=None, width=None)]
    attempt = view.attempts[0]
    assert attempt.outcome == "completed"
    times = [attempt.claimed_at, attempt.submitted_at, attempt.executing_at, attempt.executed_at, attempt.ended_at]
    assert None not in times
    assert times == sorted(times)  # type: ignore[type-var]


async def test_what_was_saved_at_once_goes_through_saving_in_the_same_step(
    store: AttemptStore, views: JobViews
) -> None:
    job, claim = await claimed(store)
    done = await store.complete(claim, [output(0)], ["a note"], noted=Noted(began_s=3.0, ended_s=1.0))
    assert (done.phase, done.seq, done.progress) == (Phase.COMPLETED, job.seq + 2, 100)
    assert job.now(done) == replace(await store.whole(job.job_id), warnings=job.warnings)
    assert (await views.view(job.job_id)).job.warnings == ["a note"]
    events = await views.events(job.job_id)
    assert [(each.event, each.phase, each.seq) for each in events[-2:]] == [
        ("saving", Phase.SAVING, job.seq + 1),
        ("completed", Phase.COMPLETED, job.seq + 2),
    ]
    (attempt,) = await views.attempts(job.job_id)
    assert attempt.executing_at is not None
    assert attempt.executed_at is not None
    assert attempt.ended_at is not None
    assert (attempt.executed_at - attempt.executing_at).total_seconds() == pytest.approx(2.0)
    assert (attempt.ended_at - attempt.executed_at).total_seconds() == pytest.approx(1.0)


async def test_a_failure_is_kept_with_its_node(store: AttemptStore, views: JobViews) -> None:
    _, claim = await claimed(store)
    failed = await store.fail(claim, ERROR)
    assert (failed.phase, failed.error_code, failed.error_message) == (Phase.FAILED, "node_failed", "It broke.")
    (attempt,) = await views.attempts(failed.job_id)
    assert (attempt.outcome, attempt.node_id, attempt.node_type) == ("failed", "7", "KSampler")
    assert (attempt.error_code, attempt.error_message) == ("node_failed", "It broke.")


@pytest.mark.parametrize("end", ["complete", "fail", "requeue", "cancelled"])
async def test_whoever_ended_an_attempt_holds_neither_the_job_nor_a_lease(
    store: AttemptStore, database: Database, end: str
) -> None:
    _, claim = await claimed(store)
    match end:
        case "complete":
            await store.saving(claim)
            await store.complete(claim, [output()])
        case "fail":
            await store.fail(claim, ERROR)
        case "requeue":
            await store.requeue(claim, ERROR, 60)
        case _:
            await store.cancel(claim.job_id, None, "user")
            await store.cancelled(claim)
    async with database.transaction() as session:
        held = await session.execute(text("SELECT worker_id, lease_expires_at FROM generation_jobs"))
        assert [tuple(row) for row in held] == [(None, None)]


async def test_a_requeued_job_waits_with_a_new_attempt_and_its_delay(store: AttemptStore, views: JobViews) -> None:
    _, claim = await claimed(store)
    waiting = await store.requeue(claim, OutOfMemory("Too big."), 60)
    assert (waiting.phase, waiting.attempt, waiting.worker_id) == (Phase.RETRYING, 2, None)
    assert waiting.available_at == waiting.updated_at + timedelta(seconds=60)
    assert waiting.error_code == "out_of_memory"
    assert await store.claim("w", "b", "p", 60) is None
    assert [attempt.outcome for attempt in await views.attempts(claim.job_id)] == ["retried"]


async def test_a_new_claim_forgets_the_old_error_and_keeps_the_first_start(store: AttemptStore) -> None:
    first, claim = await claimed(store)
    await store.requeue(claim, ERROR, 0)
    again = await store.claim("w2", "b2", "prompt-2", 60)
    assert again is not None
    assert (again.attempt, again.error_code, again.error_message, again.progress) == (2, None, None, 0)
    assert again.started_at == first.started_at


# Completing is one thing.


async def test_if_an_output_cannot_be_kept_nothing_is(store: AttemptStore, database: Database) -> None:
    _, claim = await claimed(store)
    await store.saving(claim)
    before = await everything(database)
    for outputs in ([output(0), output(0)], [output(0, sha256="x" * 65)], [output(0, size_bytes=2**63)]):
        with pytest.raises(asyncpg.PostgresError):
            await store.complete(claim, outputs)
        assert await everything(database) == before
    assert (await store.complete(claim, [output(0)])).phase is Phase.COMPLETED


async def test_a_job_may_be_completed_by_nothing_and_has_a_content_of_nothing(
    store: AttemptStore, views: JobViews
) -> None:
    _, claim = await claimed(store)
    await store.saving(claim)
    done = await store.complete(claim, [], ["It left nothing."])
    assert done.phase is Phase.COMPLETED
    assert done.content_id is not None
    found = await views.content(done.content_id)
    assert found is not None
    assert found[-1] == []
    view = await views.view(claim.job_id)
    assert (view.outputs, view.job.warnings) == ([], ["It left nothing."])


async def test_nothing_is_completed_that_is_not_being_saved(store: AttemptStore, database: Database) -> None:
    _, claim = await claimed(store)
    before = await everything(database)
    with pytest.raises(InvalidTransition):
        await store.complete(claim, [output()])
    assert await everything(database) == before


# The fence.

WRITES: dict[str, Callable[[AttemptStore, Claim], Awaitable[Any]]] = {
    "submitting": lambda store, claim: store.submitting(claim, "p", {}),
    "executing": lambda store, claim: store.executing(claim),
    "saving": lambda store, claim: store.saving(claim),
    "complete": lambda store, claim: store.complete(claim, [output()]),
    "fail": lambda store, claim: store.fail(claim, ERROR),
    "requeue": lambda store, claim: store.requeue(claim, ERROR, 0),
    "cancelled": lambda store, claim: store.cancelled(claim),
}


async def _requeued(store: AttemptStore, database: Database, claim: Claim) -> None:
    await store.requeue(claim, ERROR, 0)


async def _claimed_again_by_itself(store: AttemptStore, database: Database, claim: Claim) -> None:
    await store.requeue(claim, ERROR, 0)
    assert await store.claim(claim.worker_id, "b1", "prompt-2", 60) is not None


async def _taken_over(store: AttemptStore, database: Database, claim: Claim) -> None:
    await expire_leases(database)
    assert len(await store.take_over("w2", ["b1"], 60, 10)) == 1


async def _taken_over_and_completed(store: AttemptStore, database: Database, claim: Claim) -> None:
    await _taken_over(store, database, claim)
    theirs = Claim(claim.job_id, claim.attempt, "w2")
    await store.saving(theirs)
    await store.complete(theirs, [output()])


async def _failed(store: AttemptStore, database: Database, claim: Claim) -> None:
    await store.fail(claim, ERROR)


async def _cancelled(store: AttemptStore, database: Database, claim: Claim) -> None:
    await store.cancel(claim.job_id, None, "x")
    await store.cancelled(claim)


@pytest.mark.parametrize(
    "lose", [_requeued, _claimed_again_by_itself, _taken_over, _taken_over_and_completed, _failed, _cancelled]
)
async def test_a_worker_that_was_given_up_on_can_change_nothing(
    store: AttemptStore, database: Database, lose: Callable[..., Awaitable[None]]
) -> None:
    _, claim = await claimed(store)
    await lose(store, database, claim)
    before = await everything(database)
    for name, write in WRITES.items():
        with pytest.raises(LostClaim):
            await write(store, claim)
        assert await everything(database) == before, name
    assert await store.renew_leases(claim.worker_id, {claim: 50}, 60) == {}
    await store.release(claim)
    assert await everything(database) == before


async def test_a_job_that_was_deleted_meanwhile_is_gone(store: AttemptStore, database: Database) -> None:
    _, claim = await claimed(store)
    await store.fail(claim, ERROR)
    await store.delete(claim.job_id)
    for write in WRITES.values():
        with pytest.raises((JobNotFound, LostClaim)):
            await write(store, claim)
    left = await everything(database)
    del left["queue_clocks"]
    assert not any(left.values())


# Leases.


async def test_take_over_waits_for_the_end_of_the_lease_and_takes_each_job_once(
    store: AttemptStore, database: Database
) -> None:
    for number in range(6):
        await claimed(store, backend=f"b{number % 2}")
    assert await store.take_over("w2", ["b0", "b1"], 60, 10) == []
    await expire_leases(database)
    assert await store.take_over("w2", [], 60, 10) == []
    taken = await asyncio.gather(*(store.take_over(f"w{number}", ["b0"], 60, 2) for number in range(2, 8)))
    assert sorted(len(jobs) for jobs in taken) in ([0, 0, 0, 0, 1, 2], [0, 0, 0, 1, 1, 1])
    jobs = [job for each in taken for job in each]
    assert len({job.job_id for job in jobs}) == 3
    assert {(job.backend_name, job.attempt, job.prompt_id, job.phase) for job in jobs} == {
        ("b0", 1, "prompt-1", Phase.ASSIGNED)
    }
    assert await store.take_over("w9", ["b0"], 60, 10) == []


async def test_a_lease_that_is_let_go_can_be_taken_at_once(store: AttemptStore) -> None:
    job, claim = await claimed(store)
    await store.release(claim)
    (taken,) = await store.take_over("w2", ["b1"], 60, 10)
    assert (taken.job_id, taken.worker_id) == (job.job_id, "w2")


async def test_one_statement_renews_all_leases_and_keeps_progress_that_only_rises(
    store: AttemptStore, database: Database
) -> None:
    mine = [(await claimed(store))[1] for _ in range(3)]
    _, theirs = await claimed(store, "w2")
    await store.cancel(mine[1].job_id, None, "x")
    await store.fail(mine[2], ERROR)
    await expire_leases(database)
    found = await store.renew_leases("w1", {**dict.fromkeys(mine, 40), theirs: 90}, 60)
    assert found == {mine[0].job_id: Phase.ASSIGNED, mine[1].job_id: Phase.CANCELLING}
    await store.renew_leases("w1", {mine[0]: 30}, 60)
    assert (await store.get(mine[0].job_id)).progress == 40
    assert (await store.get(theirs.job_id)).progress == 0
    assert [job.job_id for job in await store.take_over("w3", ["b1"], 60, 10)] == [theirs.job_id]
    assert await store.renew_leases("w1", {}, 60) == {}


# Cancel, retry, delete.


async def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_when_confirmed(store: AttemptStore) -> None:
    waiting = await store.create(new_job())
    gone, changed = await store.cancel(waiting.job_id, "not needed", "someone")
    assert changed
    assert (gone.phase, gone.cancel_reason, gone.completed_at is not None) == (Phase.CANCELLED, "not needed", True)
    job, claim = await claimed(store)
    asked, changed = await store.cancel(job.job_id, "why not", "someone")
    assert changed
    assert (asked.phase, asked.completed_at) == (Phase.CANCELLING, None)
    ended = await store.cancelled(claim)
    assert (ended.phase, ended.cancel_reason, ended.worker_id) == (Phase.CANCELLED, "why not", None)
    assert ended.completed_at is not None


async def test_asked_again_a_cancel_changes_nothing(store: AttemptStore, database: Database) -> None:
    job, claim = await claimed(store)
    first, _ = await store.cancel(job.job_id, "first", "a")
    before = await everything(database)
    assert await store.cancel(job.job_id, "second", "b") == (first, False)
    assert await everything(database) == before
    ended = await store.cancelled(claim)
    assert await store.cancel(job.job_id, "third", "c") == (ended, False)


async def test_a_job_that_is_being_saved_is_past_cancelling_and_a_finished_one_says_so(store: AttemptStore) -> None:
    _, claim = await claimed(store)
    saving = await store.saving(claim)
    assert await store.cancel(claim.job_id, None, "x") == (saving, False)
    await store.complete(claim, [output()])
    with pytest.raises(JobAlreadyFinished, match="completed"):
        await store.cancel(claim.job_id, None, "x")


async def test_a_retry_is_a_new_attempt_of_the_same_job_with_attempts_of_its_own(store: AttemptStore) -> None:
    job, claim = await claimed(store, max_attempts=2)
    await store.fail(claim, ERROR)
    again = await store.retry(job.job_id, None, "someone")
    assert (again.phase, again.attempt, again.attempt_limit) == (Phase.QUEUED, 2, 3)
    assert (again.error_code, again.completed_at, again.started_at, again.progress) == (None, None, None, 0)
    assert (await store.whole(job.job_id)).sampler_params == job.sampler_params


async def test_a_wait_is_of_the_round_in_which_the_job_is(store: AttemptStore, database: Database) -> None:
    """A job that somebody retries a week later has not waited for a week, nor does a further attempt begin anew."""
    job, claim = await claimed(store)
    assert job.queued_at == job.created_at
    await store.fail(claim, ERROR)
    week = """UPDATE generation_jobs SET created_at = created_at - interval '7 days',
        queued_at = queued_at - interval '7 days', started_at = started_at - interval '7 days',
        completed_at = completed_at - interval '7 days'"""
    async with database.transaction() as session:
        await session.execute(text(week))
    retried = await store.retry(job.job_id, None, "someone")
    assert retried.queued_at == retried.updated_at
    taken = await store.claim("w1", "b1", "prompt-2", 60)
    assert taken is not None
    assert taken.waited_s(taken.updated_at) == (taken.updated_at - retried.updated_at).total_seconds() < 60
    await store.requeue(Claim(job.job_id, 2, "w1"), ERROR, 0)
    further = await store.claim("w1", "b1", "prompt-3", 60)
    assert further is not None
    assert (further.queued_at, further.started_at) == (taken.queued_at, taken.started_at)


async def test_a_job_waits_from_when_its_time_has_come(store: AttemptStore) -> None:
    due = datetime.now(UTC) + timedelta(hours=1)
    later = await store.create(new_job(not_before=due))
    assert later is not None
    assert (later.queued_at, later.waited_s(datetime.now(UTC))) == (due, 0)
    assert (await store.get(later.job_id)).queued_at == due
    cancelled, _ = await store.cancel(later.job_id, None, "someone")
    assert cancelled.waited_s(datetime.now(UTC)) == 0
    past = await store.create(new_job(not_before=due - timedelta(days=1)))
    assert past is not None
    assert past.queued_at == past.created_at


async def test_a_retry_with_a_new_seed_has_it_in_fields_and_graph(store: AttemptStore) -> None:
    job = await store.create(new_job(workflow=text_to_image()))
    await store.cancel(job.job_id, "x", "x")
    await store.retry(job.job_id, Drawing(), "someone")
    again = await store.whole(job.job_id)
    seed = again.sampler_params["seed"]
    assert again.sampler_params == SAMPLER | {"seed": seed}
    assert seed != SAMPLER["seed"]
    assert again.workflow is not None
    assert again.workflow["sampler"]["inputs"]["seed"] == seed
    assert again.cancel_reason is None


async def test_a_retry_with_a_new_seed_of_a_graph_without_one_changes_nothing(store: AttemptStore) -> None:
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}}
    job = await store.create(new_job(workflow=graph))
    await store.cancel(job.job_id, "x", "x")
    before = await store.whole(job.job_id)
    with pytest.raises(NoSeedToChange):
        await store.retry(job.job_id, Drawing(), "someone")
    assert await store.whole(job.job_id) == before


async def test_only_a_failed_or_cancelled_job_is_retried(store: AttemptStore) -> None:
    waiting = await store.create(new_job(backend="nowhere"))
    running, claim = await claimed(store)
    for job_id, status in ((waiting.job_id, "pending"), (running.job_id, "running")):
        with pytest.raises(JobNotRetryable, match=status):
            await store.retry(job_id, None, "x")
    await store.saving(claim)
    await store.complete(claim, [output()])
    with pytest.raises(JobNotRetryable, match="completed"):
        await store.retry(running.job_id, None, "x")


async def test_of_two_racing_retries_the_loser_is_told_how_it_is_now(store: AttemptStore) -> None:
    job, claim = await claimed(store)
    await store.fail(claim, ERROR)
    results = await asyncio.gather(*(store.retry(job.job_id, None, "x") for _ in range(5)), return_exceptions=True)
    lost = [str(each) for each in results if isinstance(each, JobNotRetryable)]
    assert len(lost) == 4
    assert all("pending" in each for each in lost)


async def test_deleting_takes_all_rows_along_and_names_the_files(store: AttemptStore, database: Database) -> None:
    _, kept = await claimed(store)
    before = await everything(database)
    _, claim = await claimed(store)
    await store.saving(claim)
    await store.complete(claim, [output(0), output(1, thumbnail_path=None)])
    files = await store.delete(claim.job_id)
    assert sorted(files) == sorted([output(0).path, output(0).thumbnail_path, output(1).path])  # type: ignore[type-var]
    assert await everything(database) == before
    with pytest.raises(JobNotFinished, match="running"):
        await store.delete(kept.job_id)


async def test_events_tell_who_did_what_and_when(store: AttemptStore, views: JobViews) -> None:
    job, claim = await claimed(store, user_id="alice")
    await store.cancel(job.job_id, "enough", "operator:bob")
    await store.cancelled(claim)
    events = await views.events(job.job_id)
    assert [(event.seq, event.event, event.phase.value, event.actor) for event in events] == [
        (1, "submitted", "queued", "alice"),
        (2, "claimed", "assigned", "w1"),
        (3, "cancel_requested", "cancelling", "operator:bob"),
        (4, "cancelled", "cancelled", "w1"),
    ]
    assert events[1].data == {"backend": "b1", "prompt_id": "prompt-1"}
    assert events[2].data == {"reason": "enough"}
    assert [event.at for event in events] == sorted(event.at for event in events)


async def test_the_database_itself_refuses_a_phase_that_does_not_fit_the_status(database: Database) -> None:
    await AttemptStore(database).create(new_job())
    with pytest.raises(DBAPIError, match="phase_of_status"):
        async with database.transaction() as session:
            await session.execute(text("UPDATE generation_jobs SET status = 'completed'"))
