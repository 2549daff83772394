"""A worker whose PostgreSQL or Redis goes away in the middle, a full disk, lost turns and lost backends."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from integration.tcp_proxy import TcpProxy
from pydantic import SecretStr
from samples import running_for
from sqlalchemy import func, select, text, update
from sweeping import sweeper_of

from app.domain.failure_policy import Backoff
from app.messaging.channels import Names
from app.messaging.events import Events
from app.messaging.queue import JobQueue
from app.messaging.redis_connection import close, make_redis
from app.messaging.registry import Registry
from app.storage.attempts import AttemptStore
from app.storage.job_views import JobViews
from app.storage.schema import EventRow, JobRow
from harness import eventually
from worker.attempts.attempt_metrics import AttemptMetrics
from worker.standin.faults import Fault, FaultKind
from worker.upkeep.reconciler import Reconciler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from app.settings import Settings
    from app.storage.database import Database
    from harness import Service, StandinServer, Workers

pytestmark = pytest.mark.slow


@pytest.fixture
async def reconciler(settings: Settings, database: Database) -> AsyncIterator[Reconciler]:
    """The reconciler, to be run by hand."""
    redis, names = make_redis(settings, patient=False), Names(settings.redis_namespace)
    yield Reconciler(
        database,
        AttemptStore(database),
        JobViews(database),
        JobQueue(redis, names),
        Events(redis, names),
        Registry(redis, names, settings.stale_seconds),
        backoff=Backoff(0.05, 1),
        metrics=AttemptMetrics(),
        lease_s=settings.lease_seconds,
    )
    await close(redis)


async def history(database: Database, job_id: int) -> list[str]:
    """The names of the events of a job."""
    async with database.transaction() as session:
        return list(
            await session.scalars(select(EventRow.event).where(EventRow.job_id == job_id).order_by(EventRow.seq))
        )


@pytest.mark.parametrize("away_s", [0.5, 3.0])
async def test_postgresql_away_during_a_run_costs_a_delay_and_no_second_run(
    service: Service,
    settings: Settings,
    start_worker: Workers,
    away_s: float,
) -> None:
    proxy, url = await TcpProxy.before(settings.database_url.get_secret_value())
    await service.exchange_worker(start_worker, database_url=SecretStr(url))
    job = await service.submit(**running_for(2))
    await service.executing(job["job_id"])
    await proxy.cut()
    # Longer than a lease in one case: the worker gives the job up, and takes it over when it can.
    await asyncio.sleep(away_s)
    await proxy.restore()
    done = await service.finished(job["job_id"])
    assert (done["status"], done["attempt"]) == ("completed", 1)
    assert service.executions() == {done["comfyui_prompt_id"]: 1}
    await proxy.cut()


async def test_redis_away_during_a_run_costs_nothing(
    service: Service, settings: Settings, start_worker: Workers
) -> None:
    proxy, url = await TcpProxy.before(settings.redis_url.get_secret_value())
    await service.exchange_worker(start_worker, redis_url=SecretStr(url))
    first = await service.submit(**running_for(1.5))
    await service.executing(first["job_id"])
    await proxy.cut()
    second = await service.submit()
    await asyncio.sleep(2)
    await proxy.restore()
    done = [await service.finished(job["job_id"]) for job in (first, second)]
    assert [(job["status"], job["attempt"]) for job in done] == [("completed", 1)] * 2
    assert set(service.executions().values()) == {1}
    await proxy.cut()


async def test_an_emptied_redis_loses_no_waiting_job(
    service: Service, settings: Settings, database: Database, reconciler: Reconciler
) -> None:
    running = await service.submit(**running_for(1.5))
    await service.executing(running["job_id"])
    jobs = [await service.submit(priority=-1) for _ in range(5)]
    redis = make_redis(settings, patient=False)
    await redis.flushdb()
    await close(redis)
    assert "enqueued" in await reconciler.run()
    done = [await service.finished(job["job_id"]) for job in (running, *jobs)]
    assert {(job["status"], job["attempt"]) for job in done} == {("completed", 1)}
    assert set(service.executions().values()) == {1}
    assert "turn_renewed" in await history(database, jobs[-1]["job_id"])


async def test_a_takeover_stands_in_the_history(service: Service, database: Database, start_worker: Workers) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.HANG))
    job = await service.submit()
    await service.executing(job["job_id"])
    await service.exchange_worker(start_worker)
    service.standin.state.faults.clear()
    done = await service.finished(job["job_id"])
    assert done["status"] == "completed"
    assert await history(database, job["job_id"]) == [
        *("submitted", "claimed", "executing", "taken_over", "saving", "completed")
    ]


async def test_a_worker_that_stops_takes_nothing_over_and_fails_nothing(service: Service, database: Database) -> None:
    job_id = (await service.submit(**running_for(30)))["job_id"]
    await service.executing(job_id)
    runner = service.worker.runner
    await runner.drain(0)
    # What it has just let go is nobody's, on a backend that it still drives.
    await runner.take_over()
    assert runner.running == []
    assert (await service.job(job_id))["status"] == "running"
    assert not {"taken_over", "failed"} & set(await history(database, job_id))


async def test_a_job_whose_worker_and_backend_are_gone_runs_elsewhere(
    service: Service,
    database: Database,
    reconciler: Reconciler,
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_worker: Workers,
) -> None:
    job = await service.submit(**running_for(30))
    await service.executing(job["job_id"])
    service.worker.stop()

    async def let_go() -> bool:
        return (await service.job(job["job_id"]))["phase"] == "executing" and not await _workers(service)

    await eventually(let_go)
    async with database.transaction() as session:
        await session.execute(
            update(JobRow).values(backend_name="gone", lease_expires_at=func.now() - text("interval '1 minute'"))
        )
    other = await start_standin()
    await start_worker(f"other={other.url}")
    # By hand, if the worker that has just started was not quicker.
    await reconciler.run()
    await service.client.post(f"/api/v1/generation-jobs/{job['job_id']}/cancel")
    told = await service.job(job["job_id"])
    assert (told["attempts"][0]["outcome"], told["attempts"][0]["error_code"]) == ("retried", "backend_lost")


async def test_a_prompt_that_nobody_waits_for_is_stopped(service: Service, database: Database) -> None:
    job = await service.submit(**running_for(30))
    begun = await service.executing(job["job_id"])
    # As if the attempt had been given up and the job run elsewhere, while the backend could not be reached.
    async with database.transaction() as session:
        await session.execute(
            update(JobRow).values(status="failed", phase="failed", worker_id=None, completed_at=func.now())
        )

    async def stopped() -> bool:
        (execution,) = service.standin.state.log.executions
        return execution.prompt_id == begun["comfyui_prompt_id"] and str(execution.outcome) == "interrupted"

    await eventually(stopped)


async def test_orphaned_files_are_swept_and_others_kept(
    service: Service, settings: Settings, database: Database
) -> None:
    job = await service.run()
    await service.worker.thumbnails.done()
    root = settings.storage_path
    orphan = (root / job["output_paths"][0]).with_name("9_9.png")
    orphan.write_bytes(b"left by a worker that died")
    broken_off = root / ".tmp" / "broken-off"
    broken_off.parent.mkdir(exist_ok=True)
    broken_off.write_bytes(b"half")
    kept = {path for path in root.rglob("*") if path.is_file()} - {orphan, broken_off}
    for path in (*kept, orphan, broken_off):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - settings.orphan_seconds - 60))
    assert "deleted 1 orphaned files" in await sweeper_of(database, settings).sweep()
    assert {path for path in root.rglob("*") if path.is_file()} == kept
    assert (await service.client.get(job["outputs"][0]["url"])).status == 200


async def test_a_young_file_is_no_orphan(service: Service, settings: Settings, database: Database) -> None:
    job = await service.run()
    young = (settings.storage_path / job["output_paths"][0]).with_name("9_9.png")
    young.write_bytes(b"its job is about to be completed")
    assert "deleted 0 orphaned files" in await sweeper_of(database, settings).sweep()
    assert young.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 100 kB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", folder], check=False)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


async def test_a_full_disk_fails_the_job_clearly_and_heals(
    service: Service, start_worker: Workers, small_disk: Path
) -> None:
    await service.exchange_worker(start_worker, storage_dir=small_disk)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 95_000)
    job = await service.run(width=256, height=256, max_attempts=2)
    assert (job["status"], job["error_code"], job["attempt"]) == ("failed", "storage_failed", 2)
    assert "No space left" in job["error_message"]
    assert [path.name for path in small_disk.rglob("*") if path.is_file()] == ["filler"]
    filler.unlink()
    small = await service.run(width=64, height=64)
    assert small["status"] == "completed"


async def test_a_thumbnail_that_cannot_be_stored_costs_nothing_but_itself(service: Service, settings: Settings) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.HANG))
    job = await service.submit()
    folder = settings.storage_path / f"{datetime.fromisoformat(job['created_at']):%Y/%m/%d}" / str(job["job_id"])
    # A folder where the thumbnail is to be: it cannot be written, whoever one is.
    (folder / "1_0.thumb.webp" / "in-the-way").mkdir(parents=True)
    service.standin.state.faults.clear()
    done = await service.finished(job["job_id"])
    await service.worker.thumbnails.done()
    assert (done["status"], done["warnings"]) == ("completed", [])
    for url in (done["outputs"][0]["url"], done["outputs"][0]["thumbnail_url"]):
        answer = await service.client.get(url)
        assert (answer.status, answer.content_type) == (200, "image/png")


async def test_a_cancel_while_the_backend_is_away_is_confirmed_when_it_is_back(service: Service) -> None:
    job = await service.submit(**running_for(30))
    await service.executing(job["job_id"])
    for route in ("/queue", "/interrupt", "/history"):
        await service.standin.state.apply(Fault(kind=FaultKind.REFUSE, route=route, status=503, times=None))
    answer = await service.client.post(f"/api/v1/generation-jobs/{job['job_id']}/cancel")
    assert (answer.status, (await answer.json())["phase"]) == (202, "cancelling")
    service.standin.state.faults.clear()
    done = await service.finished(job["job_id"])
    assert done["status"] == "cancelled"
    assert [str(each.outcome) for each in service.standin.state.log.executions] == ["interrupted"]


async def _workers(service: Service) -> list[Any]:
    ready = await (await service.client.get("/health/ready")).json()
    return [worker for worker in ready["workers"] if worker["live"]]
