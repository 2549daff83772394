"""Redis goes away and comes back: the worker lives on, what ran is done, and the next turn is taken."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from integration.tcp_proxy import TcpProxy
from pydantic import SecretStr
from samples import settings_of_redis
from turn_workers import Slots, at_work, idle, turn_worker, until, until_gone

from app.embedded.services import Wanted, start
from app.embedded.temporary import temporary_data_dir
from app.messaging.queue import JobQueue
from app.messaging.redis_connection import Line, close, make_redis
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from arq.connections import ArqRedis

    from app.embedded.services import Running
    from app.messaging.channels import Names
    from app.settings import Settings


@pytest.fixture
def settings(servers: Running) -> Settings:
    """Settings of Redis alone: what is tested here needs no database."""
    return settings_of_redis(servers)


@pytest.fixture
async def proxy(settings: Settings) -> AsyncIterator[tuple[TcpProxy, ArqRedis, Line]]:
    """The way to Redis that can be cut, and a patient client and a line that go it."""
    made, url = await TcpProxy.before(settings.redis_url.get_secret_value())
    client, line = clients(settings, url)
    yield made, client, line
    await close(line)
    await close(client)
    await made.cut()


def clients(settings: Settings, url: str) -> tuple[ArqRedis, Line]:
    there = settings.model_copy(update={"redis_url": SecretStr(url)})
    return make_redis(there, patient=True), Line(there)


async def test_cut_while_idle_and_back_it_takes_the_next_turn(
    proxy: tuple[TcpProxy, ArqRedis, Line], redis: ArqRedis, names: Names
) -> None:
    way, client, line = proxy
    slots = Slots(2)
    slots.go_on.set()
    worker = turn_worker(client, names, slots.take_turn, slots.free, idle_poll_s=0.1, line=line)
    async with at_work(worker) as task:
        await idle(worker)
        for number in range(3):
            await way.cut()
            await JobQueue(redis, names).enqueue(number, 1)
            worker.wake()
            await way.restore()
            await until(lambda number=number: slots.ended == list(range(number + 1)))  # type: ignore[misc]
        assert not task.done()


async def test_cut_while_a_turn_runs_and_back_it_ends_and_the_next_one_begins(
    proxy: tuple[TcpProxy, ArqRedis, Line], redis: ArqRedis, names: Names
) -> None:
    way, client, line = proxy
    slots, queue = Slots(1), JobQueue(redis, names)
    worker = turn_worker(client, names, slots.take_turn, slots.free, idle_poll_s=0.1, line=line)
    await queue.enqueue(1, 1)
    async with at_work(worker) as task:
        await until(lambda: slots.began)
        await way.cut()
        slots.go_on.set()
        await until(lambda: slots.ended == [1])
        await queue.enqueue(2, 1)
        await way.restore()
        await until(lambda: slots.ended[-1] == 2)
        await until_gone(redis, names)
        assert slots.ended == [1, 2]
        assert not task.done()


async def test_an_emptied_redis_does_not_stop_the_worker(redis: ArqRedis, names: Names) -> None:
    slots, queue = Slots(2), JobQueue(redis, names)
    worker = turn_worker(redis, names, slots.take_turn, slots.free)
    await queue.enqueue(1, 1)
    async with at_work(worker) as task:
        await until(lambda: slots.began)
        await redis.flushdb()
        await worker.renew_locks()
        slots.go_on.set()
        await until(lambda: slots.ended == [1])
        await queue.enqueue(2, 1)
        worker.wake()
        await until(lambda: slots.ended == [1, 2])
        assert not task.done()


async def test_a_real_restart_while_a_turn_runs_loses_nothing(settings: Settings, names: Names) -> None:
    with temporary_data_dir() as folder:
        services = await asyncio.to_thread(start, Wanted(data_dir=folder, redis=True, redis_port=0))
        try:
            url = services.running.redis_url or ""
            client, line = clients(settings, url)
            slots, queue = Slots(1), JobQueue(client, names)
            worker = turn_worker(client, names, slots.take_turn, slots.free, idle_poll_s=0.1, line=line)
            await queue.enqueue(1, 1)
            await queue.enqueue(2, 1)
            async with at_work(worker) as task:
                await until(lambda: slots.began)
                await asyncio.to_thread(services.stop)
                slots.go_on.set()
                port = int(url.rpartition(":")[2])
                services = await asyncio.to_thread(start, Wanted(data_dir=folder, redis=True, redis_port=port))
                assert services.running.redis_url == url
                await until(lambda: slots.ended == [1, 2])
                await until_gone(client, names)
                assert not task.done()
            await close(line)
            await close(client)
        finally:
            await asyncio.to_thread(services.stop)


async def test_a_worker_that_starts_while_redis_is_away_begins_when_it_is_there(
    proxy: tuple[TcpProxy, ArqRedis, Line], redis: ArqRedis, names: Names
) -> None:
    way, client, line = proxy
    await way.cut()
    slots = Slots(1)
    await JobQueue(redis, names).enqueue(1, 1)
    worker = turn_worker(client, names, slots.take_turn, slots.free, idle_poll_s=0.1, line=line)
    async with at_work(worker):

        async def tried() -> Any:
            return worker.main_task is not None

        await eventually(tried)
        await way.restore()
        await until(lambda: slots.began)
