"""Steering the fleet: drained backends, quiet and stopping workers, freed memory, periodic tasks run at once."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from arq.cron import cron
from redis.asyncio import Redis

from app import keys
from app.domain.errors import DatabaseUnavailable
from app.domain.worker_states import PERIODIC_TASKS
from app.messaging.channels import Names
from app.storage.backend_states import BackendStates
from app.storage.periodic_tasks import PeriodicRun, PeriodicTasks, Plan
from harness import GUARD_S, Service, StandinServer, Workers, eventually
from worker.main import WorkerProcess
from worker.queue import arq_tasks
from worker.queue.arq_tasks import periodic_tasks
from worker.standin.faults import Fault, FaultKind
from worker.upkeep.heartbeat import NEWS_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiohttp.test_utils import TestClient

    from app.services.fleet_control import Fleet
    from app.settings import Settings
    from app.storage.database import Database

SLOW_S = 60.0
"""A heartbeat that no test lives to see: what happens, happened because the worker was nudged."""


@pytest.fixture
async def two(
    client: TestClient[Any, Any],
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_worker: Workers,
) -> Service:
    """A worker that drives two backends, `a` and `b`."""
    a, b = await start_standin(), await start_standin()
    service = Service(client, a, await start_worker(f"a={a.url},b={b.url}"))
    await service.backend_online(2)
    return service


def fleet(service: Service) -> Fleet:
    return service.client.app[keys.FLEET]


async def told(service: Service, kind: str, name: str) -> dict[str, Any] | None:
    """Return the live heartbeat of a worker or backend."""
    registry = service.client.app[keys.REGISTRY]
    beats = await (registry.workers() if kind == "worker" else registry.backends())
    found = next((asdict(beat) for beat in beats if beat.name == name and beat.live), None)
    return found and {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


async def until_told(service: Service, kind: str, name: str, **wanted: Any) -> None:
    """Wait for a heartbeat that says this."""

    async def says() -> bool:
        state = await told(service, kind, name)
        return state is not None and wanted.items() <= state.items()

    await eventually(says)


async def rest(service: Service, path: str) -> dict[str, Any]:
    answer = await service.client.post(f"/api/v1/backends/{path}")
    assert answer.status == 200, await answer.text()
    return dict(await answer.json())


# Draining.


async def test_a_drained_backend_finishes_what_it_runs_and_is_given_no_more(two: Service) -> None:
    await two.standin.state.apply(Fault(kind=FaultKind.HANG))
    running = await two.submit(backend="a")
    await two.executing(running["job_id"])
    decided = await rest(two, "a/drain")
    assert (decided["name"], decided["drained"], decided["changed_by"]) == ("a", True, "api")
    await until_told(two, "backend", "a", drained=True, current=[running["job_id"]])
    assert (await rest(two, "a/drain"))["confirmed"]
    bound = await two.submit(backend="a")
    elsewhere = [await two.run() for _ in range(4)]
    assert {job["backend_name"] for job in elsewhere} == {"b"}
    two.standin.state.faults.clear()
    assert (await two.finished(running["job_id"]))["backend_name"] == "a"
    assert len(two.standin.state.log.executions) == 1
    assert (await two.job(bound["job_id"]))["status"] == "pending"
    assert not (await rest(two, "a/resume"))["drained"]
    assert (await two.finished(bound["job_id"]))["backend_name"] == "a"


async def test_a_drain_survives_an_emptied_redis_and_a_new_worker(
    two: Service, settings: Settings, start_worker: Workers
) -> None:
    await rest(two, "a/drain")
    await until_told(two, "backend", "a", drained=True)
    async with Redis.from_url(settings.redis_url_with_db) as redis:
        await redis.flushdb()
    await until_told(two, "backend", "a", drained=True)
    urls = two.worker.settings.comfyui_urls
    fresh = await two.exchange_worker(start_worker, urls)
    await until_told(two, "backend", "a", drained=True, driver=fresh.worker_id)
    assert {(await two.run())["backend_name"] for _ in range(3)} == {"b"}


async def test_both_decisions_are_heard_at_once(
    client: TestClient[Any, Any],
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_worker: Workers,
) -> None:
    standin = await start_standin()
    worker = await start_worker(f"a={standin.url}", heartbeat_seconds=SLOW_S, lease_seconds=2 * SLOW_S)
    service, backend = Service(client, standin, worker), worker.pool.backends["a"]
    await service.backend_online()
    await rest(service, "a/drain")

    async def is_drained() -> bool:
        return backend.drained and backend.load.free == 0

    await eventually(is_drained)
    job = await service.submit()
    await rest(service, "a/resume")
    assert (await service.finished(job["job_id"]))["status"] == "completed"


async def test_a_decision_that_nobody_was_told_of_is_found(two: Service, database: Database) -> None:
    await BackendStates(database).decide("b", drained=True, actor="ann")
    await until_told(two, "backend", "b", drained=True)
    await BackendStates(database).decide("b", drained=False, actor="ann")
    await until_told(two, "backend", "b", drained=False)


async def test_the_first_of_two_equal_decisions_stands(database: Database) -> None:
    states = BackendStates(database)
    first = await states.decide("a", drained=True, actor="ann")
    assert await states.decide("a", drained=True, actor="bob") == first
    assert (await states.drained(), first.changed_by) == ({"a"}, "ann")
    assert (await states.decide("a", drained=False, actor="bob")).changed_by == "bob"
    assert await states.drained() == set()


@pytest.mark.parametrize("action", ["drain", "resume"])
async def test_a_backend_that_is_not_there_is_404(client: TestClient[Any, Any], action: str) -> None:
    answer = await client.post(f"/api/v1/backends/nowhere/{action}")
    assert (answer.status, (await answer.json())["code"]) == (404, "backend_not_found")


# Quiet and stopping workers.


async def test_a_quiet_worker_finishes_what_it_has_and_leaves_the_rest_to_others(
    service: Service, start_worker: Workers
) -> None:
    first = service.worker.worker_id
    await service.standin.state.apply(Fault(kind=FaultKind.HANG))
    running = await service.submit()
    await service.executing(running["job_id"])
    await fleet(service).quiet(first, "ann")
    await until_told(service, "worker", first, state="quiet", running=[running["job_id"]], backends=["standin"])
    waiting = await service.submit()
    second = await start_worker(f"standin={service.standin.url}")
    service.standin.state.faults.clear()
    done = await service.finished(waiting["job_id"])
    assert done["attempts"][0]["worker"] == second.worker_id
    assert (await service.job(running["job_id"]))["attempts"][0]["worker"] == first
    assert (await service.job(running["job_id"]))["status"] == "completed"
    await until_told(service, "worker", first, state="quiet", running=[], backends=[])
    await fleet(service).quiet(second.worker_id, "ann")
    await fleet(service).resume_worker(first, "ann")
    await until_told(service, "worker", first, state="working", backends=["standin"])
    assert (await service.run())["attempts"][0]["worker"] == first


async def test_an_idle_backend_of_a_quiet_worker_is_said_to_have_no_driver(service: Service) -> None:
    await fleet(service).quiet(service.worker.worker_id, "ann")
    await until_told(service, "backend", "standin", driver=None, healthy=False)
    await until_told(service, "worker", service.worker.worker_id, state="quiet", backends=[])


async def test_a_worker_stops_after_what_it_runs_with_exit_code_0(
    client: TestClient[Any, Any], settings: Settings, start_standin: Callable[..., Awaitable[StandinServer]]
) -> None:
    standin = await start_standin()
    worker = WorkerProcess(settings.model_copy(update={"comfyui_urls": f"standin={standin.url}"}))
    working = asyncio.create_task(worker.work())
    service = Service(client, standin, worker)
    await service.backend_online()
    await standin.state.apply(Fault(kind=FaultKind.HANG))
    running = await service.submit()
    await service.executing(running["job_id"])
    await fleet(service).stop(worker.worker_id, "ann")
    await until_told(service, "worker", worker.worker_id, state="stopping")
    waiting = await service.submit()
    standin.state.faults.clear()
    assert await asyncio.wait_for(working, GUARD_S) == 0
    assert (await service.job(running["job_id"]))["status"] == "completed"
    assert (await service.job(waiting["job_id"]))["status"] == "pending"
    assert await told(service, "worker", worker.worker_id) is None


async def test_a_wish_that_nobody_was_told_of_is_found_and_outlives_redis(service: Service, settings: Settings) -> None:
    worker_id = service.worker.worker_id
    async with Redis.from_url(settings.redis_url_with_db) as redis:
        await redis.set(Names(settings.redis_namespace).asked(worker_id), "quiet")
        await until_told(service, "worker", worker_id, state="quiet")
        await redis.flushdb()
    await until_told(service, "worker", worker_id, state="quiet")


# Freed memory.


async def test_a_backend_is_told_to_free_its_memory(service: Service) -> None:
    await service.run(checkpoint_model="dreamshaper_8.safetensors")
    await until_told(service, "backend", "standin", warm=["checkpoints/dreamshaper_8.safetensors"])
    memory = service.standin.state.executor.models
    assert memory.checkpoint is not None
    await fleet(service).free("standin", "ann")

    async def freed() -> bool:
        state = await told(service, "backend", "standin")
        return bool(state and state["freed"]["at"])

    await eventually(freed)
    state = await told(service, "backend", "standin")
    assert state is not None
    assert (state["warm"], state["freed"]["fault"], memory.checkpoint) == ([], None, None)
    assert await fleet(service).asked_to_free(["standin"]) == set()


# Periodic tasks.


async def test_each_periodic_task_is_run_at_once_when_that_is_asked_for(service: Service, database: Database) -> None:
    runs = PeriodicTasks(database)
    for name in PERIODIC_TASKS:
        assert await fleet(service).run_now(name, "ann")

    async def have_run() -> bool:
        return {run.name for run in await runs.all()} == PERIODIC_TASKS.keys()

    await eventually(have_run)

    async def nothing_is_asked() -> bool:
        return not any(task.asked for task in await fleet(service).schedule())

    await eventually(nothing_is_asked)
    for run in await runs.all():
        assert (run.failed, run.worker_id) == (False, service.worker.worker_id)
        assert run.next_run > run.last_run


def test_the_clockwork_runs_what_the_page_tells_of() -> None:
    assert {task.name for task in periodic_tasks(15)} == PERIODIC_TASKS.keys()


async def test_a_worker_tells_when_it_starts_when_each_periodic_task_will_run(
    service: Service, database: Database
) -> None:
    """Also when one that runs every hour will, which has never run."""

    async def told() -> dict[str, Plan]:
        return {plan.name: plan for plan in await PeriodicTasks(database).plans()}

    plans = await eventually(told)
    assert {name: plan.schedule for name, plan in plans.items()} == {
        "reconcile": f"every {service.worker.settings.reconcile_seconds} s",
        "record_statistics": "every minute",
        "sweep": "every hour",
    }
    assert plans.keys() == PERIODIC_TASKS.keys()
    due = plans["sweep"].next_run
    assert (due.minute, due.second) == (7, 0)
    # A minute for this test, should it begin just then.
    assert timedelta(minutes=-1) < due - datetime.now(UTC) <= timedelta(hours=1)


@pytest.mark.parametrize(
    ("fault", "result"),
    [
        (RuntimeError("admin:secret@db is away"), "An unexpected error occurred in the worker; see its log."),
        (DatabaseUnavailable("The database is away."), "The database is away."),
        (None, "It took longer than 0 s and was cancelled."),
    ],
)
async def test_a_task_that_fails_is_noted_as_failed_in_words_for_everybody(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: Exception | None,
    result: str,
) -> None:
    async def work() -> str:
        if fault is None:
            await asyncio.Event().wait()
        raise fault or AssertionError

    monkeypatch.setattr(arq_tasks, "MOST_S", 0 if fault is None else 60)
    hourly = cron(arq_tasks.sweep, name="sweep", minute=7, second=0)
    runs = PeriodicTasks(database)
    ctx = {"clockwork": {"sweep": hourly}, "runs": runs, "worker_id": "w"}
    with caplog.at_level(logging.CRITICAL, "worker.queue.arq_tasks"):
        await arq_tasks.run_and_note(ctx, "sweep", "every hour", work)
    (run,) = await runs.all()
    assert isinstance(run, PeriodicRun)
    assert (run.failed, run.result, run.next_run.minute, run.next_run.second) == (True, result, 7, 0)


# News.


@pytest.fixture
async def news(settings: Settings) -> AsyncIterator[list[dict[str, Any]]]:
    """What is told of workers and backends to those who watch everything."""
    heard: list[dict[str, Any]] = []
    async with Redis.from_url(settings.redis_url_with_db) as redis, redis.pubsub() as pubsub:
        await pubsub.subscribe(Names(settings.redis_namespace).events)

        async def listen() -> None:
            async for message in pubsub.listen():
                event = json.loads(message["data"]) if message["type"] == "message" else {}
                if event.get("type") in ("worker", "backend"):
                    heard.append(event)

        listening = asyncio.create_task(listen())
        yield heard
        listening.cancel()


async def test_changes_are_told_as_they_happen_and_not_more_than_twice_a_second(
    news: list[dict[str, Any]], service: Service
) -> None:
    worker_id = service.worker.worker_id

    def heard(kind: str, **wanted: Any) -> Callable[[], Awaitable[bool]]:
        async def found() -> bool:
            return any(event["type"] == kind and wanted.items() <= event.items() for event in news)

        return found

    await eventually(heard("backend", backend="standin", healthy=True, drained=False))
    await service.standin.state.apply(Fault(kind=FaultKind.HANG))
    running = await service.submit()
    await eventually(heard("worker", worker=worker_id, running=[running["job_id"]], used=1))
    await eventually(heard("backend", backend="standin", current=[running["job_id"]]))
    service.standin.state.faults.clear()
    await service.finished(running["job_id"])
    await asyncio.gather(*(service.run() for _ in range(20)))
    await rest(service, "standin/drain")
    await eventually(heard("backend", backend="standin", drained=True))
    await fleet(service).quiet(worker_id, "ann")
    await eventually(heard("worker", worker=worker_id, state="quiet"))
    service.worker.stop()
    await eventually(heard("worker", worker=worker_id, state="gone"))
    for kind in ("worker", "backend"):
        numbers = [event["seq"] for event in news if event["type"] == kind and event.get("state") != "gone"]
        gaps_ms = [later - earlier for earlier, later in pairwise(numbers)]
        assert len(numbers) >= 3
        assert min(gaps_ms) >= NEWS_S * 1000 - 10
