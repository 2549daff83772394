"""What is found out about a job when it is accepted stands in its row, by whichever way it came."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from integration.monitor_fixtures import act
from samples import new_job, output, text_to_image
from sqlalchemy import text

from app.domain.job_cost import UNKNOWN_S, Comparable, ModelRunTime
from app.keys import RUN_TIMES
from app.runtime.side_thread import SMALL_BYTES
from app.storage.attempts import AttemptStore, Claim
from app.storage.run_times import RunTimes
from harness import SMALL_BODY, Service, eventually

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient

    from app.domain.job import Job
    from app.storage.database import Database

BASE = "/api/v1/generation-jobs"
CHECKPOINT = "dreamshaper_8.safetensors"
MODELS = [f"checkpoints/{CHECKPOINT}"]


@pytest.fixture(autouse=True)
def read_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be read behind those who ask before a test has made what there is to be read."""
    monkeypatch.setattr("app.storage.run_times.LATER_S", 3600.0)


async def submitted(client: TestClient[Any, Any], key: str | None = None, **changes: Any) -> int:
    headers = {"Idempotency-Key": key} if key is not None else {}
    answer = await client.post(f"{BASE}/", json=SMALL_BODY | changes, headers=headers)
    assert answer.status == 201, await answer.text()
    return int((await answer.json())["job_id"])


async def found(database: Database, *job_ids: int) -> list[tuple[list[str], str | None, float]]:
    """Return models, key and cost of jobs, in the order of their ids."""
    statement = text("SELECT models, model_key, cost_s FROM generation_jobs WHERE id = ANY(:ids) ORDER BY id")
    async with database.transaction() as session:
        return [tuple(row) for row in await session.execute(statement, {"ids": list(job_ids)})]  # type: ignore[misc]


async def test_a_row_says_what_its_job_needs_by_whichever_way_it_came(service: Service, database: Database) -> None:
    client = service.client
    alone = await submitted(client, checkpoint_model=CHECKPOINT)
    together = await asyncio.gather(*(submitted(client, checkpoint_model=CHECKPOINT) for _ in range(5)))
    once = await submitted(client, "key", checkpoint_model=CHECKPOINT)
    graph = text_to_image(checkpoint=CHECKPOINT)
    sent = await submitted(client, job_type="workflow", workflow=graph)
    large = await submitted(
        client, job_type="workflow", workflow=text_to_image(checkpoint=CHECKPOINT, prompt="a " * SMALL_BYTES)
    )
    rows = await found(database, alone, *together, once, sent, large)
    assert len(rows) == 9
    assert {tuple(models) for models, _, _ in rows} == {tuple(MODELS)}
    assert len({key for _, key, _ in rows}) == 1
    assert rows[0][1] is not None
    assert rows[0][2] == UNKNOWN_S


_OLD = text("UPDATE generation_jobs SET models = '{old}', model_key = 'old', cost_s = 77")


async def test_a_retry_keeps_it(service: Service, database: Database) -> None:
    client = service.client
    await client.post("/api/v1/backends/standin/drain")
    job_id = await submitted(client, checkpoint_model=CHECKPOINT)
    await client.post(f"{BASE}/{job_id}/cancel")
    async with database.transaction() as session:
        await session.execute(_OLD)
    assert (await client.post(f"{BASE}/{job_id}/retry")).status == 200
    assert await found(database, job_id) == [(["old"], "old", 77)]


async def test_a_job_sent_again_has_it_anew(service: Service, database: Database) -> None:
    job_id = (await service.run(checkpoint_model=CHECKPOINT))["job_id"]
    async with database.transaction() as session:
        await session.execute(_OLD)
    await act(service.client, f"/monitor/jobs/{job_id}/again")
    ((models, key, _),) = await found(database, *range(job_id + 1, job_id + 100))
    assert models == MODELS
    assert key not in (None, "old")


async def test_while_no_backend_is_known_nothing_is_said_of_models(
    client: TestClient[Any, Any], database: Database
) -> None:
    job_id = await submitted(client, checkpoint_model=CHECKPOINT)
    assert await found(database, job_id) == [([], None, UNKNOWN_S)]


async def test_a_job_costs_what_such_jobs_took(
    service: Service, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is read behind the jobs that are sent, but when it is said here.
    monkeypatch.setattr("app.storage.run_times.LATER_S", 3600.0)
    done = await service.run(checkpoint_model=CHECKPOINT)
    async with database.transaction() as session:
        await session.execute(text("UPDATE job_attempts SET executed_at = executing_at + interval '40 seconds'"))
    run_times = service.client.app[RUN_TIMES]
    assert run_times.at_hand("a", "b") == Comparable(), "what is not known is not waited for"
    await run_times.refresh()
    wide = await submitted(service.client, checkpoint_model=CHECKPOINT, width=2 * done["width"])
    ((_, _, cost_s),) = await found(database, wide)
    assert cost_s == pytest.approx(80), "with the same models, and twice the pixels"
    await run_times.refresh()
    same = await submitted(service.client, checkpoint_model=CHECKPOINT)
    await run_times.refresh()
    again = await submitted(service.client, checkpoint_model=CHECKPOINT)
    costs = [cost_s for _, _, cost_s in await found(database, same, again)]
    assert costs == pytest.approx([40, 40])


async def completed(store: AttemptStore, **changes: Any) -> Job:
    """Create a job, claim it, and complete it; its graph has no size."""
    await store.create(new_job(**changes))
    job = await store.claim("w", "b", "p", 60)
    assert job is not None
    claim = Claim(job.job_id, job.attempt, "w")
    await store.submitting(claim, "p", {})
    await store.executing(claim)
    await store.saving(claim)
    await store.complete(claim, [output()])
    return job


async def test_runs_of_the_same_models_are_compared(database: Database) -> None:
    store, run_times = AttemptStore(database), RunTimes(database)
    simple = {"model_key": "k", "models": ("loras/a.safetensors",), "width": 100, "height": 10, "cost_s": 2.5}
    jobs = [await completed(store, **simple) for _ in range(3)]
    assert (jobs[0].models, jobs[0].model_key, jobs[0].cost_s) == (("loras/a.safetensors",), "k", 2.5)
    await completed(store, **simple | {"model_key": None})
    await completed(store, model_key="theirs", workflow={"1": {"class_type": "A", "inputs": {}}})
    async with database.transaction() as session:
        await session.execute(text("UPDATE job_attempts SET executed_at = executing_at + interval '1 second' * job_id"))
    assert run_times.at_hand(None, "k") == Comparable()
    await run_times.refresh()
    middle, work = jobs[1].job_id, 100 * 10 * 28
    assert run_times.at_hand(None, "k").models == ModelRunTime(pytest.approx(middle), pytest.approx(middle / work))
    assert run_times.at_hand(None, "theirs").models == ModelRunTime(pytest.approx(jobs[2].job_id + 2), None)
    assert run_times.at_hand(None, "none").models is None
    assert run_times.at_hand(None, None).lately is not None
    await run_times.close()


async def test_what_is_at_hand_is_read_behind_those_who_ask(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.storage.run_times.LATER_S", 0.0)
    await completed(AttemptStore(database), model_key="k")
    run_times = RunTimes(database)
    assert run_times.at_hand(None, "k") == Comparable()

    async def known() -> bool:
        return run_times.at_hand(None, "k").models is not None

    await eventually(known)
    await run_times.close()
