"""Cancelling at every moment of a job's life: it is said only when it is true, and costs no GPU time afterwards."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from samples import new_job, running_for

from app.domain.job import Phase
from app.domain.message import snapshot_of
from app.messaging.channels import Names
from app.messaging.events import Events
from app.messaging.figures import Figures
from app.messaging.hub import Hub
from app.messaging.queue import JobQueue
from app.messaging.redis_connection import close, make_listener, make_redis
from app.messaging.registry import Registry
from app.metrics import ServerMetrics
from app.runtime.end_tasks import end_tasks
from app.services.control import Control
from app.services.seeds import Seeds
from app.services.snapshots import Snapshots
from app.storage.attempts import AttemptStore, Claim
from app.storage.files import FileStore
from app.storage.job_views import JobViews
from harness import BOTH_AGES, GUARD_S, eventually
from worker.standin.faults import Fault, FaultKind

if TYPE_CHECKING:
    from app.settings import Settings
    from app.storage.database import Database
    from harness import Service, Workers


async def cancel(service: Service, job_id: int) -> tuple[int, dict[str, Any]]:
    """Cancel a job; returns the status and the body."""
    answer = await service.client.post(f"/api/v1/generation-jobs/{job_id}/cancel")
    return answer.status, dict(await answer.json())


async def in_phase(service: Service, job_id: int, phase: str) -> None:
    """Wait until the job is in this phase."""

    async def reached() -> bool:
        return bool((await service.job(job_id))["phase"] == phase)

    await eventually(reached)


def outcomes(service: Service) -> list[str]:
    """How the executions ended."""
    return [str(each.outcome) for each in service.standin.state.log.executions]


@pytest.mark.parametrize("told", [True, False])
async def test_the_end_of_a_job_is_heard_of_or_if_that_is_lost_looked_for(
    settings: Settings, database: Database, told: bool
) -> None:
    store, names = AttemptStore(database), Names(settings.redis_namespace)
    listener, redis = make_listener(settings), make_redis(settings, patient=False)
    queue, events, figures = JobQueue(redis, names), Events(redis, names), Figures(redis, names)
    hub = Hub(listener, names, Snapshots(JobViews(database), events).read, bytes.strip, ServerMetrics())
    # What is not heard is not healed either.
    listening = [asyncio.create_task(hub.run(), name="hub")] if told else []
    files, look_again_s = FileStore(settings.storage_path), 3600 if told else 0.1
    seeds = Seeds(Registry(redis, names, settings.stale_seconds))
    control = Control(store, queue, events, hub, figures, files, seeds, cancel_wait_s=3600, look_again_s=look_again_s)

    async def connected() -> bool:
        return hub.connected is told

    try:
        await eventually(connected)
        await store.create(new_job())
        job = await store.claim("w", "b", "p", 60)
        assert job is not None
        cancelling = asyncio.create_task(control.cancel(job.job_id, None, "x"))

        async def asked() -> bool:
            return (await store.get(job.job_id)).phase is Phase.CANCELLING

        await eventually(asked)
        assert hub.watched_jobs == {job.job_id}
        done = await store.cancelled(Claim(job.job_id, job.attempt, "w"))
        if told:
            await events.publish(snapshot_of(done))
        async with asyncio.timeout(GUARD_S):
            assert (await cancelling).phase is Phase.CANCELLED
        assert hub.watched_jobs == set()
    finally:
        await end_tasks(listening)
        await close(listener)
        await close(redis)


@BOTH_AGES
async def test_two_clients_that_cancel_at_once_get_the_same_answer(service: Service) -> None:
    job = await service.submit(**running_for(30))
    await service.executing(job["job_id"])
    first, second = await asyncio.gather(cancel(service, job["job_id"]), cancel(service, job["job_id"]))
    assert [status for status, _ in (first, second)] == [200, 200]
    assert [told["status"] for _, told in (first, second)] == ["cancelled", "cancelled"]
    assert outcomes(service) == ["interrupted"]


async def test_a_job_that_waits_for_its_next_attempt_is_cancelled_at_once(
    service: Service, start_worker: Workers
) -> None:
    await service.exchange_worker(start_worker, retry_base_seconds=60)
    await service.standin.state.apply(Fault(kind=FaultKind.OUT_OF_MEMORY))
    job = await service.submit()
    await in_phase(service, job["job_id"], "retrying")
    status, told = await cancel(service, job["job_id"])
    assert (status, told["status"], told["attempt"]) == (200, "cancelled", 2)
    assert outcomes(service) == ["error"]


@BOTH_AGES
async def test_a_job_that_is_being_saved_is_past_cancelling_and_completes(service: Service) -> None:
    # A download that is slow to begin keeps it in that phase for a while.
    await service.standin.state.apply(Fault(kind=FaultKind.SLOW_HTTP, route="/view", seconds=3))
    job = await service.submit()
    await in_phase(service, job["job_id"], "saving")
    status, told = await cancel(service, job["job_id"])
    assert (status, told["code"], told["job"]["status"]) == (409, "job_already_finished", "completed")


async def test_a_cancel_while_no_worker_lives_is_carried_out_by_the_next_one(
    service: Service, start_worker: Workers
) -> None:
    job = await service.submit(**running_for(30))
    await service.executing(job["job_id"])
    service.worker.stop()

    async def gone() -> bool:
        ready = await (await service.client.get("/health/ready")).json()
        return not any(worker["live"] for worker in ready["workers"])

    await eventually(gone)
    status, told = await cancel(service, job["job_id"])
    assert (status, told["phase"]) == (202, "cancelling")
    assert outcomes(service) == ["running"]
    await start_worker(f"standin={service.standin.url}")
    done = await service.finished(job["job_id"])
    assert done["status"] == "cancelled"
    assert outcomes(service) == ["interrupted"]


@BOTH_AGES
async def test_a_job_that_ended_before_the_interrupt_took_effect_stays_completed(service: Service) -> None:
    graph = running_for(0.5)
    graph["workflow"]["3"]["inputs"]["interruptible"] = False
    job = await service.submit(**graph)
    await service.executing(job["job_id"])
    status, told = await cancel(service, job["job_id"])
    done = await service.finished(job["job_id"])
    if status == 409:
        assert (told["code"], done["status"]) == ("job_already_finished", "completed")
    else:
        # ComfyUI looks at the flag before the next node begins.
        assert (status, done["status"]) == (200, "cancelled")
        assert outcomes(service) == ["interrupted"]


@BOTH_AGES
async def test_a_prompt_is_cancelled_in_one_step_where_comfyui_can(service: Service, comfyui_version: str) -> None:
    """An older server is asked for that once, and then told in the two steps that it knows."""
    for _ in range(2):
        job = await service.submit(**running_for(30))
        await in_phase(service, job["job_id"], "executing")
        assert (await cancel(service, job["job_id"]))[1]["status"] == "cancelled"
    asked = service.standin.state.log.requests
    in_one_step = sum(count for name, count in asked.items() if name.startswith("POST /jobs/"))
    interrupts, deletes = asked["POST /interrupt"], asked["POST /queue"]
    if comfyui_version == "0.3.64":
        assert (min(interrupts, deletes) >= 2, in_one_step) == (True, 1)
    else:
        assert in_one_step >= 2
        assert interrupts == deletes == 0
