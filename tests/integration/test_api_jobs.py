"""One job over REST: created, shown, cancelled, retried, deleted."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from app.keys import QUEUE, REGISTRY
from app.main import create_app
from harness import FOUNDING_BODY, LIVES, SMALL_BODY, Service, eventually
from worker.standin.faults import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.test_utils import TestClient
    from integration.monitor_fixtures import Life

    from app.settings import Settings
    from app.storage.database import Database
    from harness import StandinServer
    from worker.main import WorkerProcess

BASE = "/api/v1/generation-jobs"
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
SLOW = Fault(kind=FaultKind.SLOW_STEPS, times=None, seconds=0.05)
DEAF = Fault(kind=FaultKind.HANG, times=None, node="KSampler")
"""A node that hangs hears no interrupt, as in ComfyUI."""


async def create(client: TestClient[Any, Any], **changes: Any) -> dict[str, Any]:
    """Create a job that waits, because there is no worker."""
    answer = await client.post(f"{BASE}/", json=SMALL_BODY | changes)
    assert answer.status == 201, await answer.text()
    return dict(await answer.json())


async def post(client: TestClient[Any, Any], path: str, status: int, body: Any = None) -> dict[str, Any]:
    """POST, expect a status, and return the body."""
    answer = await client.post(f"{BASE}/{path}", json=body) if body is not None else await client.post(f"{BASE}/{path}")
    assert answer.status == status, await answer.text()
    return dict(await answer.json())


async def rows(database: Database, table: str = "generation_jobs") -> int:
    """Count the rows of a table."""
    async with database.transaction() as session:
        connection = await session.connection()
        return int((await connection.exec_driver_sql(f"SELECT count(*) FROM {table}")).scalar_one())  # noqa: S608


async def running(service: Service, fault: Fault = SLOW) -> dict[str, Any]:
    """Submit a job that runs long, and return it when ComfyUI executes it."""
    await service.standin.state.apply(replace(fault))
    job = await service.submit(sampler_params={"steps": 150})

    async def executing() -> dict[str, Any] | None:
        found = await service.job(job["job_id"])
        return found if found["phase"] == "executing" else None

    return dict(await eventually(executing))


# Create.


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_job_is_created_with_and_without_a_trailing_slash(client: TestClient[Any, Any], slash: str) -> None:
    answer = await client.post(BASE + slash, json=FOUNDING_BODY, allow_redirects=False)
    assert (answer.status, answer.content_type) == (201, "application/json")
    job = await answer.json()
    assert isinstance(job["job_id"], int)
    assert job["id"] == job["job_id"]
    assert job["task_id"] == job["celery_task_id"] == f"{job['job_id']}:1"
    assert answer.headers["Location"] == f"{BASE}/{job['job_id']}"
    assert answer.headers["X-Request-Id"]
    for where in (answer.headers["Location"], f"{BASE}/{job['job_id']}/"):
        assert (await (await client.get(where)).json())["job_id"] == job["job_id"]


async def test_what_is_not_said_has_the_documented_defaults(client: TestClient[Any, Any]) -> None:
    job = await (await client.post(f"{BASE}/", json=FOUNDING_BODY)).json()
    seed = job["sampler_params"].pop("seed")
    assert 0 <= seed < 2**64
    defaults = {
        "negative_prompt": "",
        "lora_models": [],
        "batch_size": 1,
        "sampler_params": {
            "steps": 28,
            "cfg": 5.5,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1.0,
        },
        "workflow": None,
        "backend": None,
        "priority": 0,
        "not_before": None,
        "max_attempts": 4,
        "timeout_seconds": 900,
        "metadata": {},
        "params": {},
        "status": "pending",
        "phase": "queued",
        "progress": 0,
        "attempt": 1,
        "attempts": [],
        "outputs": [],
        "output_paths": [],
        "content_id": None,
        "error_message": None,
        "error_code": None,
        "started_at": None,
        "completed_at": None,
    }
    assert {name: job[name] for name in defaults} == defaults
    assert {name: job[name] for name in FOUNDING_BODY} == FOUNDING_BODY
    assert TIME.match(job["created_at"])
    small = await (await client.post(f"{BASE}/", json={"user_id": "u", "job_type": "image", "prompt": "p"})).json()
    assert (small["width"], small["height"]) == (832, 1216)


async def test_without_a_worker_the_job_waits_and_the_answer_says_so(client: TestClient[Any, Any]) -> None:
    job = await create(client)
    assert [warning for warning in job["warnings"] if "worker" in warning]


async def test_with_a_worker_there_is_nothing_to_warn_of(service: Service) -> None:
    assert (await service.submit())["warnings"] == []


@pytest.mark.parametrize("given", [None, -1, "absent"])
async def test_a_seed_that_is_not_given_is_drawn_anew_each_time(client: TestClient[Any, Any], given: Any) -> None:
    params = {} if given == "absent" else {"seed": given}
    seeds = {(await create(client, sampler_params=params))["sampler_params"]["seed"] for _ in range(4)}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**64 for seed in seeds)


@pytest.mark.parametrize("seed", [0, 1, 2**53 + 1, 2**63, 2**64 - 1])
async def test_a_seed_comes_back_digit_for_digit(client: TestClient[Any, Any], seed: int) -> None:
    created = await client.post(f"{BASE}/", json=SMALL_BODY | {"sampler_params": {"seed": seed}})
    job_id = (await created.json())["job_id"]
    listed = await client.get(f"{BASE}/", params={"limit": 1})
    shown = await client.get(f"{BASE}/{job_id}")
    for answer in (created, shown, listed):
        assert re.search(r'"seed":\s*(\d+)\s*[,}]', await answer.text()).group(1) == str(seed)  # type: ignore[union-attr]


async def test_the_greatest_seed_reaches_the_backend_exactly(service: Service) -> None:
    done = await service.run(sampler_params={"seed": 2**64 - 1, "steps": 1})
    assert done["status"] == "completed", done["error_message"]
    graph = await (await service.client.get(f"{BASE}/{done['job_id']}/workflow")).text()
    assert re.search(r'"seed":\s*18446744073709551615\b', graph)
    prompt_id = done["comfyui_prompt_id"]
    assert json.loads(graph)["sampler"]["inputs"]["seed"] == 2**64 - 1
    assert service.standin.state.log.starts(prompt_id) == 1


@pytest.mark.parametrize("seed", [2**64, 10**40, -2])
async def test_a_seed_beyond_64_bits_is_refused(client: TestClient[Any, Any], database: Database, seed: int) -> None:
    problem = await post(client, "", 422, SMALL_BODY | {"sampler_params": {"seed": seed}})
    assert [fault["pointer"] for fault in problem["errors"]] == ["/sampler_params/seed"]
    assert await rows(database) == 0


async def test_sizes_are_rounded_down_with_a_warning(client: TestClient[Any, Any]) -> None:
    job = await create(client, width=71, height=2047)
    assert (job["width"], job["height"]) == (64, 2040)
    assert any("71" in warning and "2040" in warning for warning in job["warnings"])
    exact = await create(client, width=2048, height=64)
    assert (exact["width"], exact["height"]) == (2048, 64)
    assert not any("round" in warning for warning in exact["warnings"])


async def test_metadata_and_params_are_kept_and_returned(client: TestClient[Any, Any]) -> None:
    params = {"deep": [{"a": [1, 2.5, None, True, "ü💡"]}], "big": 2**70, "": "empty key", "~/": "pointer"}
    metadata = {f"key {number}": "Ωß" * number for number in range(16)}
    job = await create(client, metadata=metadata, params=params)
    shown = await (await client.get(f"{BASE}/{job['job_id']}")).json()
    for each in (job, shown):
        assert each["metadata"] == metadata
        assert each["params"] == params


async def test_texts_of_the_greatest_length_are_taken(client: TestClient[Any, Any]) -> None:
    texts = {"user_id": "ü" * 255, "prompt": "💡" * 10_000, "negative_prompt": "n" * 20_000}
    job = await create(client, **texts)
    assert {name: job[name] for name in texts} == texts


async def test_a_user_id_is_any_text(client: TestClient[Any, Any]) -> None:
    for user_id in (" ", "0", "\t", "' OR 1=1 --", "💡"):
        job = await create(client, user_id=user_id)
        assert job["user_id"] == user_id


async def test_a_job_waits_for_its_time(service: Service) -> None:
    due = datetime.now(UTC) + timedelta(seconds=1.5)
    job = await service.submit(not_before=due.isoformat())
    assert job["not_before"] == due.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    early = await service.submit(not_before="2020-01-01T00:00:00+02:00")
    assert early["not_before"] == "2019-12-31T22:00:00.000Z"
    done = await service.finished(job["job_id"])
    assert done["status"] == "completed"
    assert datetime.fromisoformat(done["started_at"]) >= due
    assert (await service.finished(early["job_id"]))["status"] == "completed"


async def test_the_larger_priority_runs_first_and_equal_ones_in_order(
    client: TestClient[Any, Any],
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_worker: Callable[..., Awaitable[WorkerProcess]],
) -> None:
    priorities = [0, -100, 5, 100, 0, 5]
    jobs = [await create(client, priority=priority) for priority in priorities]
    positions = [(await (await client.get(f"{BASE}/{job['job_id']}")).json())["queue_position"] for job in jobs]
    assert positions == [4, 6, 2, 1, 5, 3]
    standin = await start_standin()
    await start_worker(f"standin={standin.url}", backend_slots=1)

    async def all_completed() -> list[dict[str, Any]] | None:
        page = await (await client.get(f"{BASE}/", params={"status": "completed"})).json()
        return page["items"] if page["total"] == len(jobs) else None

    done = await eventually(all_completed)
    prompts = {job["comfyui_prompt_id"]: job["job_id"] for job in done}
    executed = [prompts[execution.prompt_id] for execution in standin.state.log.executions]
    expected = sorted(zip(priorities, jobs, strict=True), key=lambda pair: (-pair[0], pair[1]["job_id"]))
    assert executed == [job["job_id"] for _, job in expected]


# Show.


async def test_a_completed_job_shows_all_of_its_life(service: Service) -> None:
    # Of a run under 50 ms it is never said that it executes.
    await service.standin.state.apply(SLOW)
    done = await service.run(batch_size=2)
    assert (done["status"], done["phase"], done["progress"]) == ("completed", "completed", 100)
    assert (done["backend_name"], done["attempt"], done["queue_position"]) == ("standin", 1, None)
    assert [output["index"] for output in done["outputs"]] == [0, 1]
    assert {output["content_type"] for output in done["outputs"]} == {"image/png"}
    assert len(done["output_paths"]) == 2
    assert {(output["width"], output["height"]) for output in done["outputs"]} == {(64, 64)}
    times = [done[name] for name in ("created_at", "started_at", "completed_at", "updated_at")]
    assert all(TIME.match(time) for time in times)
    assert times[:3] == sorted(times[:3])
    timings = done["timings"]
    assert all(timings[name] >= 0 for name in ("queued_ms", "execution_ms", "saving_ms", "total_ms"))
    assert timings["total_ms"] >= timings["execution_ms"]
    job_url = f"{BASE}/{done['job_id']}"
    (attempt,) = (await (await service.client.get(f"{job_url}/attempts")).json())["items"]
    assert attempt == done["attempts"][0]
    assert (attempt["number"], attempt["backend"], attempt["outcome"]) == (1, "standin", "completed")
    assert attempt["prompt_id"] == done["comfyui_prompt_id"] == service.standin.state.log.accepted[0]
    events = (await (await service.client.get(f"{job_url}/events")).json())["items"]
    assert [event["event"] for event in events] == ["submitted", "claimed", "executing", "saving", "completed"]
    assert [event["seq"] for event in events] == [1, 2, 3, 4, 5]
    graph = await (await service.client.get(f"{job_url}/workflow")).json()
    assert {node["class_type"] for node in graph.values()} >= {"CheckpointLoaderSimple", "KSampler", "SaveImage"}
    for link in ("self", "events", "workflow", "content"):
        assert (await service.client.get(done["links"][link])).status == 200
    assert "cancel" not in done["links"]


async def test_the_workflow_of_a_waiting_job_is_not_there_yet(client: TestClient[Any, Any]) -> None:
    job = await create(client)
    answer = await client.get(f"{BASE}/{job['job_id']}/workflow")
    assert (answer.status, (await answer.json())["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["", "/attempts", "/events", "/workflow"])
async def test_an_unknown_job_is_404_on_every_route(client: TestClient[Any, Any], path: str) -> None:
    answer = await client.get(f"{BASE}/123456{path}")
    assert (answer.status, (await answer.json())["code"]) == (404, "job_not_found")


async def test_a_workflow_of_the_clients_own_runs_with_its_overrides(service: Service) -> None:
    workflow = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "mine"}},
    }
    job = await service.submit(job_type="workflow", prompt=None, workflow=workflow, overrides={"1.width": 128})
    done = await service.finished(job["job_id"])
    assert done["status"] == "completed", done["error_message"]
    assert done["outputs"][0]["width"] == 128
    assert done["workflow"]["1"]["inputs"]["width"] == 128


# Cancel.


async def test_a_waiting_job_is_cancelled_at_once_and_never_runs(
    client: TestClient[Any, Any],
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_worker: Callable[..., Awaitable[WorkerProcess]],
) -> None:
    job, other = await create(client), await create(client)
    body = await post(client, f"{job['job_id']}/cancel", 200, {"reason": "not wanted"})
    assert (body["status"], body["phase"], body["cancel_reason"]) == ("cancelled", "cancelled", "not wanted")
    assert body["completed_at"]
    assert (await post(client, f"{other['job_id']}/cancel/", 200))["cancel_reason"] is None
    turns = [job["task_id"], other["task_id"]]
    assert await client.server.app[QUEUE].missing(turns) == turns
    standin = await start_standin()
    worker = await start_worker(f"standin={standin.url}")
    last = await create(client)
    async with client.ws_connect(f"/ws/jobs/{last['job_id']}") as ws:
        frames = [message.json() async for message in ws]
    assert frames[-1]["status"] == "completed"
    assert len(standin.state.log.executions) == 1
    assert worker is not None


async def test_cancelled_again_answers_the_same_body(client: TestClient[Any, Any]) -> None:
    job = await create(client)
    first = await post(client, f"{job['job_id']}/cancel", 200, {"reason": "first"})
    assert await post(client, f"{job['job_id']}/cancel", 200, {"reason": "second"}) == first
    events = (await (await client.get(f"{BASE}/{job['job_id']}/events")).json())["items"]
    assert [event["event"] for event in events] == ["submitted", "withdrawn"]


async def test_a_finished_job_cannot_be_cancelled(service: Service) -> None:
    done = await service.run()
    problem = await post(service.client, f"{done['job_id']}/cancel", 409)
    assert (problem["code"], problem["job"]) == ("job_already_finished", done)
    assert (await service.job(done["job_id"]))["status"] == "completed"


@pytest.mark.parametrize("action", ["cancel", "retry"])
async def test_an_unknown_job_cannot_be_acted_on(client: TestClient[Any, Any], action: str) -> None:
    assert (await post(client, f"77/{action}", 404))["code"] == "job_not_found"
    assert (await client.delete(f"{BASE}/77")).status == 404


async def test_a_running_job_is_cancelled_by_comfyuis_own_word(service: Service) -> None:
    job = await running(service)
    body = await post(service.client, f"{job['job_id']}/cancel", 200, {"reason": "enough"})
    assert (body["status"], body["cancel_reason"]) == ("cancelled", "enough")
    async with service.client.session.get(f"{service.standin.url}/standin/log") as answer:
        log = await answer.json()
    (execution,) = log["executions"]
    assert (execution["prompt_id"], execution["outcome"]) == (job["comfyui_prompt_id"], "interrupted")
    events = (await (await service.client.get(f"{BASE}/{job['job_id']}/events")).json())["items"]
    assert [event["event"] for event in events][-2:] == ["cancel_requested", "cancelled"]


async def test_a_cancel_that_is_not_confirmed_is_never_called_cancelled(
    settings: Settings,
    aiohttp_client: Any,
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_worker: Callable[..., Awaitable[WorkerProcess]],
) -> None:
    client = await aiohttp_client(create_app(settings.model_copy(update={"cancel_wait_seconds": 0.3})))
    standin = await start_standin()
    service = Service(client, standin, await start_worker(f"standin={standin.url}"))
    await service.backend_online()
    job = await running(service, DEAF)
    for _ in range(2):
        body = await post(client, f"{job['job_id']}/cancel", 202)
        assert (body["status"], body["phase"]) == ("running", "cancelling")
    assert standin.state.log.executions[0].outcome == "running"
    standin.state.faults.clear()

    async def cancelled() -> bool:
        return bool((await service.job(job["job_id"]))["status"] == "cancelled")

    await eventually(cancelled)
    assert standin.state.log.executions[0].outcome == "interrupted"


# Retry.


async def test_a_failed_job_is_retried_with_its_own_seed(service: Service) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.NODE_ERROR, node="KSampler", message="no luck"))
    failed = await service.run(max_attempts=1)
    assert (failed["status"], failed["error_code"]) == ("failed", "node_failed")
    assert "no luck" in failed["error_message"]
    retried = await post(service.client, f"{failed['job_id']}/retry", 200)
    assert (retried["attempt"], retried["task_id"]) == (2, f"{failed['job_id']}:2")
    assert retried["celery_task_id"] == retried["task_id"]
    assert retried["status"] in ("pending", "running", "completed")
    done = await service.finished(failed["job_id"])
    assert (done["status"], done["error_message"], done["error_code"]) == ("completed", None, None)
    assert done["sampler_params"] == failed["sampler_params"]
    assert [attempt["outcome"] for attempt in done["attempts"]] == ["failed", "completed"]


async def test_a_cancelled_job_is_retried_with_a_new_seed(client: TestClient[Any, Any]) -> None:
    job = await create(client, sampler_params={"seed": 7})
    await post(client, f"{job['job_id']}/cancel", 200, {"reason": "wait"})
    retried = await post(client, f"{job['job_id']}/retry", 200, {"seed": "new"})
    assert (retried["status"], retried["phase"], retried["attempt"]) == ("pending", "queued", 2)
    assert (retried["cancel_reason"], retried["completed_at"]) == (None, None)
    assert retried["sampler_params"]["seed"] != 7
    assert retried["queue_position"] == 1


@pytest.mark.parametrize("state", ["pending", "running", "completed"])
async def test_only_a_failed_or_cancelled_job_can_be_retried(service: Service, state: str) -> None:
    match state:
        case "pending":
            job = await service.submit(not_before="2100-01-01T00:00:00Z")
        case "running":
            job = await running(service)
        case _:
            job = await service.run()
    problem = await post(service.client, f"{job['job_id']}/retry", 409)
    assert problem["code"] == "job_not_retryable"
    assert state in problem["detail"]
    after = await service.job(job["job_id"])
    assert (after["status"], after["attempt"]) == (state, 1)
    if state == "running":
        await post(service.client, f"{job['job_id']}/cancel", 200)


# Delete.


async def test_a_deleted_job_leaves_neither_rows_nor_files(
    service: Service, settings: Settings, database: Database
) -> None:
    done = await service.run(batch_size=2)
    await service.worker.thumbnails.done()
    assert len([path for path in settings.storage_path.rglob("*") if path.is_file()]) == 4
    answer = await service.client.delete(f"{BASE}/{done['job_id']}")
    assert (answer.status, await answer.read()) == (204, b"")
    assert (await service.client.get(f"{BASE}/{done['job_id']}")).status == 404
    assert (await service.client.get(done["outputs"][0]["url"])).status == 404
    for table in ("generation_jobs", "job_attempts", "job_events", "contents", "outputs"):
        assert await rows(database, table) == 0
    assert [path for path in settings.storage_path.rglob("*") if path.is_file()] == []
    assert (await service.client.delete(f"{BASE}/{done['job_id']}")).status == 404


async def test_an_unfinished_job_is_not_deleted(service: Service) -> None:
    job = await running(service)
    waiting = await service.submit(not_before="2100-01-01T00:00:00Z")
    for each in (job, waiting):
        answer = await service.client.delete(f"{BASE}/{each['job_id']}/")
        assert (answer.status, (await answer.json())["code"]) == (409, "job_not_finished")
        assert (await service.client.get(f"{BASE}/{each['job_id']}")).status == 200
    await post(service.client, f"{job['job_id']}/cancel", 200)
    assert (await service.client.delete(f"{BASE}/{job['job_id']}")).status == 204


@LIVES
async def test_the_time_that_is_left_is_said_where_there_is_something_to_go_by(
    client: TestClient[Any, Any], database: Database, life: Life
) -> None:
    async def eta_s(job_id: int) -> float | None:
        return (await (await client.get(f"/api/v1/generation-jobs/{job_id}")).json())["eta_seconds"]  # type: ignore[no-any-return]

    claim = await life.execute()
    assert await eta_s(claim.job_id) is None, "there is no run to go by"
    done = await life.complete(claim)
    running = await life.execute()
    async with database.transaction() as session:
        await session.execute(
            text("UPDATE job_attempts SET executing_at = executed_at - interval '20 hours' WHERE outcome = 'completed'")
        )
        await session.execute(text("UPDATE job_attempts SET workflow_key = 'the same graph'"))
    # Both had the same graph, so the first says how long the second will take.
    assert 71_000 < (await eta_s(running.job_id) or 0) <= 72_000
    await life.progress(running, 40)
    left_s = await eta_s(running.job_id)
    assert left_s == pytest.approx(0.6 * 72_000, rel=0.02)
    assert left_s == round(left_s or 0, 1)
    # What ComfyUI has not begun with may wait in its queue for any time.
    taken = await life.claim()
    assert await eta_s(taken.job_id) is None
    waiting = [await life.submit() for _ in range(3)]
    assert await eta_s(waiting[0]) is None, "without a backend nobody knows"
    one = {"healthy": True, "slots": 1}
    beats = {"gpu-a": one, "gpu-b": one, "drained": one | {"drained": True}, "ill": {"healthy": False, "slots": 4}}
    await client.app[REGISTRY].beat("w1", {"slots": 7}, beats)

    async def told() -> bool:
        return [await eta_s(job_id) for job_id in waiting] == [72_000.0, 72_000.0, 144_000.0]

    await eventually(told)
    page = await (await client.get(f"/monitor/jobs/{waiting[2]}")).text()
    assert "≈ 14–29 h until it begins" in page, "two runs share two backends"
    await life.store.cancel(running.job_id, None, "test")
    assert await eta_s(running.job_id) is None
    assert await eta_s(done.job_id) is None
