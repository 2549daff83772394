"""Turns in arq's own keys: written as arq writes them, enqueued once, mended, deferred, taken back."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from arq.constants import in_progress_key_prefix, job_key_prefix, result_key_prefix, retry_key_prefix
from pydantic import SecretStr
from samples import settings_of_redis

from app.domain.errors import QueueUnavailable
from app.messaging.channels import Names
from app.messaging.queue import TURN_FUNCTION, JobQueue
from app.messaging.redis_connection import EXPIRES_MS, MOST_CONNECTIONS, Line, close, make_listener, make_redis
from harness import GUARD_S

if TYPE_CHECKING:
    from arq.connections import ArqRedis

    from app.embedded.services import Running
    from app.settings import Settings


@pytest.fixture
def settings(servers: Running) -> Settings:
    """Settings of Redis alone: what is tested here needs no database."""
    return settings_of_redis(servers)


@pytest.fixture
def queue(redis: ArqRedis, names: Names) -> JobQueue:
    return JobQueue(redis, names)


async def keys(redis: ArqRedis) -> set[str]:
    return {key.decode() async for key in redis.scan_iter()}


async def test_a_turn_is_written_exactly_as_arq_itself_writes_it(
    queue: JobQueue, redis: ArqRedis, names: Names
) -> None:
    assert await queue.enqueue(1, 1)
    ours = await keys(redis)
    await redis.enqueue_job(TURN_FUNCTION, 2, _job_id="2:1", _queue_name=names.queue)
    theirs = {key.replace("2:1", "1:1") for key in await keys(redis) if "2:1" in key} | {names.queue}
    assert ours == theirs == {f"{job_key_prefix}1:1", names.queue}
    jobs = [json.loads(await redis.get(f"{job_key_prefix}{number}:1")) for number in (1, 2)]
    assert jobs[0] | {"a": [2], "et": 0} == jobs[1] | {"et": 0}
    assert jobs[0]["a"] == [1]
    assert jobs[0]["et"] == pytest.approx(jobs[1]["et"], abs=5000)
    lives = [await redis.pttl(f"{job_key_prefix}{number}:1") for number in (1, 2)]
    assert lives[0] == pytest.approx(lives[1], abs=5000)
    scores = await redis.zmscore(names.queue, ["1:1", "2:1"])
    assert scores[0] == pytest.approx(scores[1], abs=5000)
    assert scores[0] == int(scores[0])


async def test_the_same_turn_is_enqueued_once_and_keeps_its_place(
    queue: JobQueue, redis: ArqRedis, names: Names
) -> None:
    later = datetime.now(UTC) + timedelta(minutes=5)
    assert await queue.enqueue(1, 1)
    score = await redis.zscore(names.queue, "1:1")
    assert not await queue.enqueue(1, 1, later)
    assert await redis.zscore(names.queue, "1:1") == score
    assert await queue.enqueue(1, 2)
    assert await redis.zcard(names.queue) == 2


@pytest.mark.parametrize("lost", ["job", "queue"])
async def test_a_turn_of_which_only_half_is_there_is_mended(
    queue: JobQueue, redis: ArqRedis, names: Names, lost: str
) -> None:
    await queue.enqueue(1, 1)
    await (redis.delete(f"{job_key_prefix}1:1") if lost == "job" else redis.zrem(names.queue, "1:1"))
    assert await queue.enqueue(1, 1) == (lost == "queue")
    assert await redis.exists(f"{job_key_prefix}1:1")
    assert await redis.zscore(names.queue, "1:1") is not None


async def test_a_deferred_turn_is_due_at_its_time_never_before_and_lives_as_much_longer(
    queue: JobQueue, redis: ArqRedis, names: Names
) -> None:
    due = datetime.now(UTC) + timedelta(hours=1, microseconds=1)
    due = due.replace(microsecond=123_001)
    await queue.enqueue(1, 1, due)
    score = await redis.zscore(names.queue, "1:1")
    assert score is not None
    assert score == int(due.timestamp() * 1000) + 1
    assert await redis.pttl(f"{job_key_prefix}1:1") == pytest.approx(EXPIRES_MS + 3_600_000, abs=60_000)


async def test_a_time_that_has_passed_means_now_and_no_better_place(
    queue: JobQueue, redis: ArqRedis, names: Names
) -> None:
    before = time.time() * 1000
    await queue.enqueue(1, 1, datetime.now(UTC) - timedelta(days=1))
    assert int(before) <= (await redis.zscore(names.queue, "1:1") or 0) <= time.time() * 1000


async def test_enqueueing_tells_the_workers_when_the_turn_is_due(
    queue: JobQueue, settings: Settings, redis: ArqRedis, names: Names
) -> None:
    listener = make_listener(settings)
    async with listener.pubsub() as pubsub:
        await pubsub.subscribe(names.wake)
        await pubsub.get_message(timeout=GUARD_S)
        await queue.enqueue(1, 1)
        message: Any = await pubsub.get_message(ignore_subscribe_messages=True, timeout=GUARD_S)
        assert float(message["data"]) == await redis.zscore(names.queue, "1:1")
    await close(listener)


async def test_workers_are_told_of_backends_that_are_to_look_for_jobs(settings: Settings, names: Names) -> None:
    # As a worker has it: one connection, of which nothing can be had but commands.
    line, listener = Line(settings), make_listener(settings)
    async with listener.pubsub() as pubsub:
        await pubsub.subscribe(names.looks)
        await pubsub.get_message(timeout=GUARD_S)
        # A command makes the connection; from then on it is taken.
        await line.ping()
        async with asyncio.timeout(GUARD_S):
            await JobQueue(line, names).have_looked(["a", "b"])
        told: list[Any] = [await pubsub.get_message(ignore_subscribe_messages=True, timeout=GUARD_S) for _ in range(2)]
    assert [each["data"] for each in told] == [b"a", b"b"]
    await close(line)
    await close(listener)


async def test_a_turn_that_nobody_began_can_be_taken_back_without_a_trace(queue: JobQueue, redis: ArqRedis) -> None:
    await queue.enqueue(1, 1)
    await redis.set(f"{retry_key_prefix}1:1", 3)
    await queue.take_back(1, 1)
    assert await keys(redis) == set()
    await queue.take_back(2, 1)
    assert await keys(redis) == set()
    assert await queue.enqueue(1, 1)


async def test_a_turn_that_has_begun_is_left_alone(queue: JobQueue, redis: ArqRedis) -> None:
    await queue.enqueue(1, 1)
    await redis.set(f"{in_progress_key_prefix}1:1", 1)
    before = await keys(redis)
    await queue.take_back(1, 1)
    assert await keys(redis) == before


async def test_missing_names_the_turns_that_are_not_in_the_queue(queue: JobQueue) -> None:
    await queue.enqueue(1, 1)
    await queue.enqueue(3, 2)
    assert await queue.missing(["1:1", "2:1", "3:1", "3:2"]) == ["2:1", "3:1"]
    assert await queue.missing([]) == []
    many = [f"{number}:1" for number in range(2000)]
    assert len(await queue.missing(many)) == 1999


async def test_a_kept_result_of_arq_does_not_block_a_turn(queue: JobQueue, redis: ArqRedis) -> None:
    await redis.set(f"{result_key_prefix}1:1", "x")
    assert await queue.enqueue(1, 1)


async def test_two_environments_on_one_server_do_not_meet(redis: ArqRedis) -> None:
    await JobQueue(redis, Names("one")).enqueue(1, 1)
    assert await JobQueue(redis, Names("two")).missing(["1:1"]) == ["1:1"]


async def test_while_redis_is_away_nobody_waits_for_the_others(settings: Settings, names: Names) -> None:
    away = settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1"), "redis_timeout_seconds": 1})
    client = make_redis(away, patient=False)
    queue = JobQueue(client, names)
    async with asyncio.timeout(GUARD_S):
        results = await asyncio.gather(*(queue.ping() for _ in range(200)), return_exceptions=True)
    assert {type(each) for each in results} == {QueueUnavailable}
    await close(client)


async def test_more_callers_than_connections_take_their_turns(settings: Settings, names: Names) -> None:
    client = make_redis(settings, patient=False)
    queue = JobQueue(client, names)
    await asyncio.gather(*(queue.enqueue(number, 1) for number in range(3 * MOST_CONNECTIONS)))
    assert await client.zcard(names.queue) == 3 * MOST_CONNECTIONS
    await close(client)


async def test_while_redis_is_away_everything_says_so_in_bounded_time(settings: Settings, names: Names) -> None:
    away = settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1"), "redis_timeout_seconds": 1})
    client = make_redis(away, patient=False)
    queue = JobQueue(client, names)
    for call in (queue.enqueue(1, 1), queue.take_back(1, 1), queue.missing(["1:1"]), queue.ping()):
        with pytest.raises(QueueUnavailable):
            await call
    await close(client)
