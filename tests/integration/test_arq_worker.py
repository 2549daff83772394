"""The worker that takes turns: woken and not polling, never more than it has slots for, and nothing lost."""

from __future__ import annotations

import asyncio
import inspect
import json
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import arq.constants
import pytest
from arq.worker import Retry, Worker, func, get_kwargs
from samples import settings_of_redis
from turn_workers import NEVER_S, Slots, at_work, idle, turn_worker, until, until_gone

from app.domain.job import task_id
from app.messaging.queue import TURN_FUNCTION, JobQueue
from app.messaging.redis_connection import close, make_redis
from app.settings import ROOT
from harness import GUARD_S
from worker.queue.arq_tasks import WorkerSettings
from worker.queue.turn_worker import HeldBack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from arq.connections import ArqRedis

    from app.embedded.services import Running
    from app.messaging.channels import Names
    from app.settings import Settings


@pytest.fixture
def settings(servers: Running) -> Settings:
    """Settings of Redis alone: what is tested here needs no database."""
    return settings_of_redis(servers)


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[ArqRedis]:
    client = make_redis(settings, patient=True)
    yield client
    await close(client)


@pytest.fixture
def queue(redis: ArqRedis, names: Names) -> JobQueue:
    return JobQueue(redis, names)


# Taking turns.


async def test_a_wake_up_is_what_makes_it_look(redis: ArqRedis, names: Names, queue: JobQueue) -> None:
    slots = Slots(5)
    slots.go_on.set()
    worker = turn_worker(redis, names, slots.take_turn, slots.free)
    async with at_work(worker):
        await idle(worker)
        await queue.enqueue(1, 1)
        worker.wake()
        await until(lambda: slots.ended == [1])
        await idle(worker)
        assert await redis.zcard(names.queue) == 0


async def test_a_turn_that_was_there_before_the_worker_needs_no_wake_up(
    redis: ArqRedis, names: Names, queue: JobQueue
) -> None:
    slots = Slots(5)
    await queue.enqueue(1, 1)
    async with at_work(turn_worker(redis, names, slots.take_turn, slots.free)):
        await until(lambda: slots.began)


async def test_a_lost_wake_up_is_healed_by_the_slow_poll(redis: ArqRedis, names: Names, queue: JobQueue) -> None:
    slots = Slots(5)
    worker = turn_worker(redis, names, slots.take_turn, slots.free, idle_poll_s=0.2)
    async with at_work(worker):
        await idle(worker)
        await queue.enqueue(1, 1)
        await until(lambda: slots.began)


async def test_when_all_is_held_back_it_rests_until_it_is_woken(redis: ArqRedis, names: Names, queue: JobQueue) -> None:
    tried: list[int] = []

    async def take_turn(_ctx: dict[str, Any], job_id: int) -> None:
        tried.append(job_id)
        raise HeldBack(NEVER_S)

    for number in range(3):
        await queue.enqueue(number, 1)
    worker = turn_worker(redis, names, take_turn, lambda: 1)
    async with at_work(worker):
        for times in (1, 2):
            await until(lambda times=times: len(tried) == times)
            await until(lambda: not worker.woken)
            await idle(worker)
            assert len(tried) == times
            worker.wake()
        await until(lambda: len(tried) == 3)
        await idle(worker)
    # Each turn kept its place.
    assert await redis.zcard(names.queue) == 3


async def test_other_workers_are_told_of_jobs_when_the_turn_can_be_taken(
    redis: ArqRedis, names: Names, queue: JobQueue
) -> None:
    told: list[tuple[set[str], list[bytes]]] = []

    async def take_turn(_ctx: dict[str, Any], _job_id: int) -> None:
        raise HeldBack(NEVER_S, {"far"})

    async def tell(left_to: Collection[str]) -> None:
        told.append((set(left_to), await redis.keys("arq:in-progress:*")))

    await queue.enqueue(1, 1)
    async with at_work(turn_worker(redis, names, take_turn, lambda: 1, tell=tell)):
        await until(lambda: told)
    assert told == [({"far"}, [])]
    assert await redis.zcard(names.queue) == 1


async def test_a_job_that_ends_ends_the_rest(redis: ArqRedis, names: Names, queue: JobQueue) -> None:
    slots, held = Slots(2), asyncio.Event()

    async def take_turn(ctx: dict[str, Any], job_id: int) -> None:
        if slots.used and not slots.go_on.is_set():
            held.set()
            raise HeldBack(NEVER_S)
        await slots.take_turn(ctx, job_id)

    for number in range(2):
        await queue.enqueue(number, 1)
    worker = turn_worker(redis, names, take_turn, slots.free)
    async with at_work(worker):
        await held.wait()
        await until(lambda: not worker.woken)
        await idle(worker)
        slots.go_on.set()
        await until(lambda: len(slots.ended) == 2)


async def test_no_more_turns_are_taken_than_there_are_slots(redis: ArqRedis, names: Names, queue: JobQueue) -> None:
    slots = Slots(3)
    for number in range(20):
        await queue.enqueue(number, 1)
    worker = turn_worker(redis, names, slots.take_turn, slots.free)
    async with at_work(worker):
        await until(lambda: len(slots.began) == 3)
        for _ in range(5):
            worker.wake()
            await until(lambda: not worker.woken)
            await idle(worker)
        assert len(slots.began) == 3
        assert len([key async for key in redis.scan_iter(f"{arq.constants.in_progress_key_prefix}*")]) == 3
        slots.go_on.set()
        await until(lambda: len(slots.ended) == 20)
    assert slots.most == 3


async def test_a_turn_that_ends_during_a_look_does_not_count_as_a_second_free_slot(
    redis: ArqRedis, names: Names, queue: JobQueue
) -> None:
    slots, saved = Slots(1), asyncio.Event()
    first_ends = asyncio.Event()

    async def take_turn(ctx: dict[str, Any], job_id: int) -> None:
        if job_id != 0:
            await slots.take_turn(ctx, job_id)
            return
        # As a real turn does: its slot is free a little before it ends.
        saved.set()
        await first_ends.wait()

    def free() -> int:
        if saved.is_set():
            first_ends.set()
        return slots.free()

    worker = turn_worker(redis, names, take_turn, free)
    await queue.enqueue(0, 1)
    async with at_work(worker):
        await saved.wait()
        await idle(worker)
        for number in range(1, 5):
            await queue.enqueue(number, 1)
        worker.wake()
        await until(lambda: slots.began and "0:1" not in worker.tasks)
        await idle(worker)
        assert slots.most == 1


async def test_a_slot_is_filled_again_at_once_in_the_order_of_the_queue(
    redis: ArqRedis, names: Names, queue: JobQueue
) -> None:
    slots = Slots(1)
    slots.go_on.set()
    for number in range(10):
        await queue.enqueue(number, 1)
        await redis.zadd(names.queue, {task_id(number, 1): 1000 + number})
    async with at_work(turn_worker(redis, names, slots.take_turn, slots.free)):
        await until(lambda: len(slots.ended) == 10)
    assert slots.ended == list(range(10))


async def test_without_slots_nothing_is_taken_until_one_comes(redis: ArqRedis, names: Names, queue: JobQueue) -> None:
    slots = Slots(0)
    await queue.enqueue(1, 1)
    worker = turn_worker(redis, names, slots.take_turn, slots.free)
    async with at_work(worker):
        await idle(worker)
        assert slots.began == []
        slots.total = 1
        worker.wake()
        await until(lambda: slots.began)


async def test_deferred_turns_come_on_time_however_many_and_none_early(
    redis: ArqRedis, names: Names, queue: JobQueue
) -> None:
    slots = Slots(10)
    worker = turn_worker(redis, names, slots.take_turn, slots.free)
    async with at_work(worker):
        await idle(worker)
        start = datetime.now(UTC)
        due = {number: start + timedelta(milliseconds=250 * number, microseconds=900) for number in (4, 2, 3, 1)}
        for number, at in due.items():
            await queue.enqueue(number, 1, at)
            worker.wake(int(at.timestamp() * 1000))
        await until(lambda: len(slots.began) == 4)
    for number, at in slots.began:
        assert at >= due[number].timestamp()


async def test_a_turn_that_puts_itself_off_comes_back_on_time(redis: ArqRedis, names: Names, queue: JobQueue) -> None:
    tried: list[float] = []

    async def put_off(_ctx: dict[str, Any], _job_id: int) -> None:
        tried.append(time.time())
        if len(tried) < 4:
            raise Retry(defer=0.2 if len(tried) < 3 else 0)

    await queue.enqueue(1, 1)
    async with at_work(turn_worker(redis, names, put_off)):
        await until(lambda: len(tried) == 4)
        await until_gone(redis, names)
    assert tried[1] - tried[0] >= 0.15
    assert tried[2] - tried[1] >= 0.15


async def test_a_cancelled_turn_goes_back_into_the_queue_and_is_taken_again_at_once(
    redis: ArqRedis, names: Names, queue: JobQueue
) -> None:
    slots = Slots(1)
    await queue.enqueue(1, 1)
    worker = turn_worker(redis, names, slots.take_turn, slots.free)
    async with at_work(worker):
        await until(lambda: len(slots.began) == 1)
        worker.job_tasks["1:1"].cancel("taken away")
        await until(lambda: len(slots.began) == 2)
        slots.go_on.set()
        await until_gone(redis, names)
    assert slots.ended == [1]


async def test_a_turn_that_fails_ends_and_leaves_nothing_behind(redis: ArqRedis, names: Names, queue: JobQueue) -> None:
    async def fail(_ctx: dict[str, Any], job_id: int) -> None:
        raise ValueError(job_id)

    slots = Slots(1)
    slots.go_on.set()
    await queue.enqueue(1, 1)
    worker = turn_worker(redis, names, fail)
    async with at_work(worker):
        await until_gone(redis, names)
        worker.functions[TURN_FUNCTION].coroutine = slots.take_turn  # type: ignore[assignment]
        await queue.enqueue(2, 1)
        worker.wake()
        await until(lambda: slots.ended == [2])
        await until_gone(redis, names)
        assert {key async for key in redis.scan_iter()} == {f"{names.worker('w')}:arq".encode()}


async def test_two_workers_share_the_turns_and_each_runs_once(redis: ArqRedis, names: Names, queue: JobQueue) -> None:
    slots = [Slots(2), Slots(2)]
    for number in range(30):
        await queue.enqueue(number, 1)
    for each in slots:
        each.go_on.set()
    workers = [turn_worker(redis, names, each.take_turn, each.free) for each in slots]
    async with at_work(workers[0]), at_work(workers[1]):
        await until(lambda: sum(len(each.ended) for each in slots) == 30)
    assert sorted(slots[0].ended + slots[1].ended) == list(range(30))
    assert max(each.most for each in slots) <= 2


# Beside arq's own.


async def test_arqs_own_worker_runs_a_turn_of_ours(redis: ArqRedis, names: Names, queue: JobQueue) -> None:
    slots = Slots(1)
    slots.go_on.set()
    await queue.enqueue(7, 2)
    settings = get_kwargs(WorkerSettings) | {"functions": [func(slots.take_turn, name=TURN_FUNCTION, keep_result=0)]}  # type: ignore[arg-type]
    worker = Worker(
        **settings, queue_name=names.queue, redis_pool=redis, burst=True, poll_delay=0.01, handle_signals=False  # type: ignore[arg-type]
    )  # fmt: skip
    await worker.async_run()
    assert (slots.ended, worker.jobs_complete) == ([7], 1)
    assert await queue.missing(["7:2"]) == ["7:2"]


async def test_our_worker_runs_what_arqs_own_producer_enqueued(redis: ArqRedis, names: Names) -> None:
    slots = Slots(1)
    slots.go_on.set()
    await redis.enqueue_job(TURN_FUNCTION, 7, _job_id="7:1", _queue_name=names.queue)
    async with at_work(turn_worker(redis, names, slots.take_turn, slots.free)):
        await until(lambda: slots.ended == [7])


async def test_what_we_override_of_arq_is_still_as_we_know_it() -> None:
    assert version("arq") == "0.28.0"
    assert "\n    arq ==0.28.0\n" in (ROOT / "setup.cfg").read_text()
    assert str(inspect.signature(Worker._poll_iteration)) == "(self) -> None"  # noqa: SLF001 - that it is there is tested
    worker = Worker([func(Slots(1).take_turn, name="x")], handle_signals=False)  # type: ignore[arg-type]
    for name in (
        "tasks",
        "job_tasks",
        "functions",
        "allow_pick_jobs",
        "burst",
        "job_deserializer",
        "ctx",
        "heart_beat",
    ):
        assert hasattr(worker, name), name
    assert worker.in_progress_timeout_s == 310
    # Not `inspect.getsource`: it parses, which a collection of garbage can break in Python 3.11 (gh-106905).
    used = Path(inspect.getsourcefile(Worker) or "").read_text()
    for line in (
        "await self._poll_iteration()",
        "pipe.psetex(in_progress_key, int(self.in_progress_timeout_s * 1000), b'1')",
        "pipe.expire(retry_key_prefix + job_id, 88400)",
        "incr_score = e.defer_score + (timestamp_ms() - score)",
        "delete_keys += [retry_key_prefix + job_id, job_key_prefix + job_id]",
        "'job_id': job_id,",
        "'job_try': job_try,",
        "'enqueue_time': ms_to_datetime(enqueue_time_ms),",
        "'score': score,",
    ):
        assert line in used, line
    prefixes = {
        name: getattr(arq.constants, f"{name}_key_prefix") for name in ("job", "in_progress", "retry", "result")
    }
    assert prefixes == {
        "job": "arq:job:",
        "in_progress": "arq:in-progress:",
        "retry": "arq:retry:",
        "result": "arq:result:",
    }


# A worker that is killed.

LOCK_S = 1.5
KILLED = f"""
import asyncio, sys
from pydantic import SecretStr
from app.messaging.redis_connection import make_redis
from app.settings import load_settings
from app.messaging.channels import Names
from turn_workers import turn_worker

async def main():
    settings = load_settings("test", redis_url=SecretStr(sys.argv[1]), redis_namespace=sys.argv[2])
    redis = make_redis(settings, patient=True)
    async def take_turn(ctx, job_id):
        print("took", job_id, flush=True)
        await asyncio.Event().wait()
    worker = turn_worker(redis, Names(sys.argv[2]), take_turn, lock_s={LOCK_S})
    async def beat():
        while True:
            await asyncio.sleep({LOCK_S / 5})
            await worker.renew_locks()
    await asyncio.gather(worker.async_run(), beat())

asyncio.run(main())
"""


@pytest.mark.slow
async def test_the_turn_of_a_killed_worker_is_free_after_its_lock_and_not_before(
    settings: Settings, redis: ArqRedis, names: Names, queue: JobQueue
) -> None:
    await queue.enqueue(1, 1)
    lock = f"{arq.constants.in_progress_key_prefix}1:1"
    url = settings.redis_url.get_secret_value()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", f"import sys; sys.path[:0] = ['tests']\n{KILLED}", url, names.namespace,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    slots = Slots(1)
    worker = turn_worker(redis, names, slots.take_turn, slots.free, idle_poll_s=0.2, lock_s=LOCK_S)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(GUARD_S):
            assert await process.stdout.readline() == b"took 1\n"
        async with at_work(worker):
            taken = time.monotonic()
            # Renewed: the turn stays locked for longer than one lock lasts.
            await until(lambda: time.monotonic() - taken > LOCK_S * 1.5)
            assert slots.began == []
            assert 0 < await redis.pttl(lock) <= LOCK_S * 1000
            process.send_signal(signal.SIGKILL)
            await until(lambda: slots.began)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_locks_of_turns_that_are_not_ours_are_not_renewed(redis: ArqRedis, names: Names, queue: JobQueue) -> None:
    slots = Slots(1)
    await queue.enqueue(1, 1)
    worker = turn_worker(redis, names, slots.take_turn, slots.free, lock_s=60)
    await worker.renew_locks()
    async with at_work(worker):
        await until(lambda: slots.began)
        mine, theirs = (f"{arq.constants.in_progress_key_prefix}{turn}" for turn in ("1:1", "2:1"))
        await redis.set(theirs, 1, px=5000)
        await redis.pexpire(mine, 5000)
        await worker.renew_locks()
        assert await redis.pttl(mine) > 30_000
        assert await redis.pttl(theirs) <= 5000


async def test_the_payload_of_a_turn_that_makes_no_sense_ends_that_turn_only(
    redis: ArqRedis, names: Names, queue: JobQueue
) -> None:
    slots = Slots(3)
    slots.go_on.set()
    await redis.set(f"{arq.constants.job_key_prefix}x", b"\x80\x04no json")
    await redis.set(
        f"{arq.constants.job_key_prefix}y", json.dumps({"t": None, "f": "no_such", "a": [], "k": {}, "et": 1})
    )
    await redis.zadd(names.queue, {"x": 1, "y": 2, "z": 3})
    await queue.enqueue(1, 1)
    async with at_work(turn_worker(redis, names, slots.take_turn, slots.free)):
        await until(lambda: slots.ended == [1])
        await until_gone(redis, names)
