"""What would become of a job is told without accepting it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from app.domain.workflow_key import workflow_key
from harness import SMALL_BODY, Service

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from app.settings import Settings
    from harness import StandinServer, Workers

CHECK = "/api/v1/generation-jobs/check"


async def checked(service: Service, **changes: Any) -> dict[str, Any]:
    answer = await service.client.post(CHECK, json=SMALL_BODY | changes)
    assert answer.status == 200, await answer.text()
    return dict(await answer.json())


async def test_a_job_that_would_be_taken_is_not_taken(service: Service, plain: asyncpg.Connection) -> None:
    told = await checked(service)
    assert (told["accepted"], told["faults"], told["warnings"]) == (True, [], [])
    assert (told["eligible_backends"], told["position"]) == (["standin"], 1)
    assert told["checkpoint_model"] == (await service.run())["checkpoint_model"]
    assert await plain.fetchval("SELECT count(*) FROM generation_jobs") == 1


async def test_what_is_known_of_times_is_told(service: Service) -> None:
    assert (await checked(service))["run_seconds"] is None
    await service.run()
    told = await checked(service)
    assert told["run_seconds"]["likely"] >= 0
    assert told["wait_seconds"]["likely"] >= 0
    await service.submit(not_before="2100-01-01T00:00:00Z", priority=5)
    await service.submit(not_before="2100-01-01T00:00:00Z")
    # What is not due is in nobody's way.
    assert (await checked(service))["position"] == 1
    assert (await checked(service, not_before="2100-01-02T00:00:00Z"))["position"] == 3


async def test_times_of_a_graph_are_those_of_what_a_backend_makes_of_it(
    service: Service, plain: asyncpg.Connection
) -> None:
    first = (await service.run())["job_id"]
    await service.run(prompt="another")
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 1}},
        "2": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "batch"}},
    }
    batched = {"class_type": "BatchImagesNode", "inputs": {"images.image0": ["1", 0], "images.image1": ["1", 0]}}
    await plain.execute(
        """UPDATE job_attempts SET workflow_key = $1, executing_at = submitted_at,
            executed_at = submitted_at + interval '100 s' WHERE job_id = $2""",
        workflow_key(graph | {"2": batched}),
        first,
    )
    # Of all runs together the one in the middle is half as long.
    assert (await checked(service, job_type="workflow", workflow=graph))["run_seconds"]["likely"] == 100


async def test_faults_are_told_by_backend(
    service: Service, start_standin: Callable[..., Awaitable[StandinServer]], start_worker: Workers
) -> None:
    other = await start_standin(checkpoints=("only_there.safetensors",))
    await start_worker(f"other={other.url}")
    await service.backend_online(2)
    told = await checked(service, checkpoint_model="only_there.safetensors")
    assert (told["accepted"], told["eligible_backends"]) == (True, ["other"])
    here, there = sorted(told["backends"], key=lambda each: each["eligible"])
    assert (here["backend"], there["backend"], there["faults"]) == ("standin", "other", [])
    assert [(each["pointer"], each["code"]) for each in here["faults"]] == [("/checkpoint_model", "value_not_in_list")]


async def test_a_job_that_nobody_would_run_is_told_as_its_refusal_would_be(service: Service) -> None:
    wrong = {"checkpoint_model": "dreamshaper_9.safetensors"}
    told = await checked(service, **wrong)
    refused = await (await service.client.post("/api/v1/generation-jobs/", json=SMALL_BODY | wrong)).json()
    assert (told["accepted"], told["eligible_backends"]) == (False, [])
    without_none = [{name: value for name, value in each.items() if value is not None} for each in told["faults"]]
    assert without_none == refused["errors"]


async def test_nothing_is_stored_of_files_that_a_checked_job_brings(
    service: Service, settings: Settings, plain: asyncpg.Connection
) -> None:
    done = await service.run()
    await service.worker.thumbnails.done()
    files = {path for path in settings.storage_path.rglob("*") if path.is_file()}
    bitmap = await (await service.client.get(done["outputs"][0]["url"])).read()
    for reference in (
        {"data": "data:image/png;base64," + base64.b64encode(bitmap).decode()},
        {"content": done["content_id"], "output": 0},
    ):
        body = {name: value for name, value in SMALL_BODY.items() if name not in ("width", "height")}
        answer = await service.client.post(CHECK, json=body | {"image": reference})
        told = await answer.json()
        assert (answer.status, told["accepted"], told["width"], told["height"]) == (200, True, 64, 64), told
    assert {path for path in settings.storage_path.rglob("*") if path.is_file()} - files == set()
    assert await plain.fetchval("SELECT count(*) FROM uploads") == 0


async def test_what_is_wrong_with_the_request_itself_is_refused(service: Service) -> None:
    for body in ({"width": 1}, {"workflow": {}, "job_type": "workflow"}, {"image": {"upload": "nowhere"}}):
        answer = await service.client.post(CHECK, json=SMALL_BODY | body)
        assert answer.status == 422, await answer.text()
