"""Jobs whose models no backend has wait and say so, hold up nobody, and fail after a time if that is asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from integration.offers import loader
from samples import new_job

from app.domain.errors import ModelsMissing
from app.domain.job import JobStatus, Phase, Turn
from app.messaging.events import Events
from app.messaging.missing_models import MissingModels
from app.messaging.registry import Registry
from app.metrics import JOBS_FINISHED
from app.storage.attempts import AttemptStore
from app.storage.job_views import JobViews
from app.storage.waiting_jobs import WaitingJobs
from harness import Service, eventually
from worker.attempts.attempt_metrics import AttemptMetrics
from worker.upkeep.model_wait import ModelWait

if TYPE_CHECKING:
    import asyncpg
    from arq.connections import ArqRedis

    from app.messaging.channels import Names
    from app.storage.database import Database
    from harness import Workers

A, B = ("checkpoints/a.safetensors",), ("checkpoints/b.safetensors",)
WAIT_S = 60.0
XL, FLUX = "sd_xl_base_1.0.safetensors", "flux1-schnell.safetensors"


class World:
    """A queue, what backends offer by their heartbeats, and what looks for jobs that have waited for too long."""

    def __init__(self, database: Database, plain: asyncpg.Connection, redis: ArqRedis, names: Names) -> None:
        self.store = AttemptStore(database)
        self.views = JobViews(database)
        self.metrics = AttemptMetrics()
        self.registry = Registry(redis, names, stale_s=30)
        self._database, self._plain, self._redis, self._names = database, plain, redis, names

    def waiting(self, wait_s: float = WAIT_S) -> ModelWait:
        told = Events(self._redis, self._names)
        noted = MissingModels(self._redis, self._names)
        waiting = WaitingJobs(self._database)
        return ModelWait(waiting, self.store, self.registry, noted, told, self.metrics, wait_s)

    async def offer(self, *checkpoints: str, name: str = "gpu", **beat: Any) -> None:
        digest = await self.registry.put_catalog(loader(*checkpoints))
        await self.registry.beat("w", {"backends": [name]}, {name: {"catalog": digest, "healthy": True} | beat})

    async def send(self, models: tuple[str, ...], waited_s: float = 2 * WAIT_S, **changes: Any) -> int:
        job = await self.store.create(new_job(models=models, **changes))
        assert job is not None
        since = datetime.now(UTC) - timedelta(seconds=waited_s)
        await self._plain.execute("UPDATE generation_jobs SET available_at = $2 WHERE id = $1", job.job_id, since)
        return job.job_id

    async def pass_by(self, seconds: float) -> None:
        """Let what is noted to be missing be so for so much longer."""
        for model, since in (await self._redis.hgetall(self._names.missing_models)).items():
            await self._redis.hset(self._names.missing_models, model, float(since) - seconds)

    async def phases(self) -> list[str]:
        return [row["phase"] for row in await self._plain.fetch("SELECT phase FROM generation_jobs ORDER BY id")]


@pytest.fixture
def world(database: Database, plain: asyncpg.Connection, redis: ArqRedis, names: Names) -> World:
    return World(database, plain, redis, names)


async def test_a_job_fails_whose_model_has_been_missing_for_so_long_and_no_other(world: World) -> None:
    await world.offer("b.safetensors")
    lost, _ = await world.send(A), await world.send(B)
    waiting = world.waiting()
    assert await waiting.end_overdue("reconciler") == 0, "it may have been there a moment ago"
    await world.pass_by(WAIT_S + 1)
    late = await world.send(A, waited_s=1.0)
    assert await waiting.end_overdue("reconciler") == 1
    assert await world.phases() == ["failed", "queued", "queued"]
    job = await world.store.get(lost)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "models_missing")
    assert job.error_message == "No live backend has a.safetensors, for which the job has waited 60 s."
    *_, event = await world.views.events(lost)
    assert (event.event, event.phase, event.actor, event.attempt) == ("given_up", Phase.FAILED, "reconciler", 1)
    assert event.data == {"error_code": ModelsMissing.code, "error": job.error_message}
    assert await world.views.attempts(lost) == []
    assert world.metrics.tally.take() == {f"{JOBS_FINISHED.name}|failed|total": 1}
    assert (await world.store.get(late)).phase is Phase.QUEUED


async def test_a_model_that_comes_back_is_missing_anew_when_it_goes_again(world: World) -> None:
    await world.offer("b.safetensors")
    await world.send(A)
    waiting = world.waiting()
    await waiting.end_overdue("reconciler")
    await world.pass_by(WAIT_S + 1)
    await world.offer("a.safetensors")
    assert await waiting.end_overdue("reconciler") == 0
    await world.offer("b.safetensors")
    assert await waiting.end_overdue("reconciler") == 0
    assert await world.phases() == ["queued"]


@pytest.mark.parametrize(
    ("beat", "ended"), [({}, 1), ({"healthy": False}, 0), ({"drained": True}, 0), ({"catalog": None}, 0)]
)
async def test_a_backend_that_is_ill_or_drained_or_not_known_yet_may_have_it(
    world: World, beat: dict[str, Any], ended: int
) -> None:
    await world.offer("b.safetensors")
    if beat:
        await world.offer("a.safetensors", name="other", **beat)
    await world.send(A)
    waiting = world.waiting()
    await waiting.end_overdue("reconciler")
    await world.pass_by(WAIT_S + 1)
    assert await waiting.end_overdue("reconciler") == ended


async def test_a_job_for_one_backend_fails_for_what_that_one_lacks(world: World) -> None:
    await world.offer("b.safetensors", name="one")
    await world.offer("a.safetensors", name="other")
    lost, _ = await world.send(A, backend="one"), await world.send(A)
    waiting = world.waiting()
    await waiting.end_overdue("reconciler")
    await world.pass_by(WAIT_S + 1)
    assert await waiting.end_overdue("reconciler") == 1
    said = "No live backend called one has a.safetensors, for which the job has waited 60 s."
    assert (await world.store.get(lost)).error_message == said


async def test_while_no_backend_lives_nothing_is_missing_and_by_default_jobs_wait_for_ever(
    world: World, redis: ArqRedis, names: Names
) -> None:
    await world.send(A)
    assert await world.waiting().end_overdue("reconciler") == 0
    assert not await redis.exists(names.missing_models)
    await world.offer("b.safetensors")
    assert await world.waiting(0).end_overdue("reconciler") == 0
    assert not await redis.exists(names.missing_models)
    await world.waiting().end_overdue("reconciler")
    assert 0 < await redis.ttl(names.missing_models) <= 600, "what nobody looks at is forgotten"


async def test_a_job_that_is_taken_in_this_moment_is_left_alone(world: World, plain: asyncpg.Connection) -> None:
    await world.offer("b.safetensors")
    lost = await world.send(A)
    waiting = world.waiting()
    await waiting.end_overdue("reconciler")
    await world.pass_by(WAIT_S + 1)
    async with plain.transaction():
        await plain.execute("SELECT FROM generation_jobs WHERE id = $1 FOR UPDATE", lost)
        assert await waiting.end_overdue("reconciler") == 0
    # Tried again meanwhile: it waits for another turn.
    await plain.execute("UPDATE generation_jobs SET attempt = 2 WHERE id = $1", lost)
    turn = Turn(lost, 1, datetime.now(UTC))
    assert await world.store.give_up({turn: "x"}, "models_missing", WAIT_S, "test") == []


async def test_jobs_of_a_model_that_is_removed_wait_and_say_so_and_run_when_it_is_back(
    service: Service, start_worker: Workers, plain: asyncpg.Connection
) -> None:
    standin = service.standin.state
    usual = standin.options.checkpoints
    await service.drain("standin")
    stuck = [(await service.submit(checkpoint_model=FLUX))["job_id"] for _ in range(2)]
    others = [(await service.submit(checkpoint_model=XL))["job_id"] for _ in range(3)]
    standin.install(checkpoints=tuple(each for each in usual if each != FLUX))
    # It reads what there is when it begins.
    await service.exchange_worker(start_worker)
    assert (await service.client.post("/api/v1/backends/standin/resume")).status == 200
    for job_id in others:
        assert (await service.finished(job_id))["status"] == "completed"
    said = f"It cannot run now, because no live backend has {FLUX}."

    async def told() -> bool:
        return (await service.job(stuck[0]))["waits_because"] == said  # type: ignore[no-any-return]

    await eventually(told)
    job = await service.job(stuck[1])
    assert (job["status"], job["eta_seconds"], job["begin_range"]) == ("pending", None, None)
    assert said in await (await service.client.get(f"/monitor/jobs/{stuck[0]}")).text()
    # They were not overtaken: nobody could have taken them.
    assert await plain.fetchval("SELECT max(overtaken) FROM generation_jobs") == 0
    assert (await service.job(others[0]))["waits_because"] is None
    standin.install(checkpoints=usual)
    await service.exchange_worker(start_worker)
    for job_id in stuck:
        assert (await service.finished(job_id))["status"] == "completed"
