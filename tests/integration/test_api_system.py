"""Health, figures of the queue, and what the document promises of every JSON answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import jsonschema
import pytest
from integration.closed_ports import closed

from app.keys import FLEET
from app.main import create_app
from harness import SMALL_BODY, eventually
from worker.standin.faults import Fault, FaultKind

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient

    from app.settings import Settings
    from harness import Service, Workers

BASE = "/api/v1/generation-jobs"


async def stats(client: TestClient[Any, Any]) -> dict[str, Any]:
    """Read the figures of the queue."""
    answer = await client.get(f"{BASE}/queue/stats")
    assert answer.status == 200
    return dict(await answer.json())


async def test_live_says_that_the_process_serves(client: TestClient[Any, Any]) -> None:
    for path in ("/health/live", "/health/live/"):
        assert await (await client.get(path)).json() == {"status": "live"}


async def test_ready_lists_everything_with_its_age(service: Service) -> None:
    async def ready() -> dict[str, Any] | None:
        answer = await service.client.get("/health/ready")
        told = await answer.json()
        return told if answer.status == 200 and told["checks"]["events"]["status"] == "ok" else None

    told = await eventually(ready)
    assert told["status"] == "ready"
    assert {name: check["status"] for name, check in told["checks"].items()} == dict.fromkeys(
        ("postgresql", "redis", "events", "workers", "backends"), "ok"
    )
    for name in ("workers", "backends"):
        assert 0 <= told["checks"][name]["age_seconds"] < 5
        (one,) = told[name]
        assert one["live"] is True
        assert one["age_seconds"] >= 0
    assert told["backends"][0]["name"] == "standin"


async def not_ready(client: TestClient[Any, Any], words: str) -> dict[str, Any]:
    """Wait until the service says with these words why no backend can take work, and return all that it says."""

    async def said() -> dict[str, Any] | None:
        answer = await client.get("/health/ready")
        told = dict(await answer.json())
        if answer.status == 200 or words not in str(told["checks"]["backends"]["detail"]):
            return None
        assert (answer.status, told["status"]) == (503, "not_ready")
        assert answer.headers["Retry-After"].isdecimal()
        return told

    return dict(await eventually(said))


async def is_ready(client: TestClient[Any, Any]) -> bool:
    return (await client.get("/health/ready")).status == 200


async def test_without_a_worker_the_server_is_not_ready_and_accepts_jobs(client: TestClient[Any, Any]) -> None:
    told = await not_ready(client, "no worker drives any")
    assert (told["checks"]["workers"]["status"], told["checks"]["backends"]["status"]) == ("none", "none")
    assert (told["workers"], told["backends"]) == ([], [])
    assert (await client.post(f"{BASE}/", json=SMALL_BODY)).status == 201


async def test_when_its_worker_has_left_the_service_is_not_ready(service: Service) -> None:
    await eventually(lambda: is_ready(service.client))
    service.worker.stop()
    await not_ready(service.client, "standin: No worker drives it")


async def test_a_fleet_of_drained_backends_is_not_ready_and_says_so(service: Service) -> None:
    await eventually(lambda: is_ready(service.client))
    await service.client.post("/api/v1/backends/standin/drain")
    told = await not_ready(service.client, "standin: It is drained.")
    assert [(each["healthy"], each["drained"], each["able"], each["reason"]) for each in told["backends"]] == [
        (True, True, False, "It is drained.")
    ]
    await service.client.post("/api/v1/backends/standin/resume")
    await eventually(lambda: is_ready(service.client))


async def test_one_backend_that_can_take_work_is_enough(
    client: TestClient[Any, Any], start_standin: Any, start_worker: Any
) -> None:
    standin = await start_standin()
    await start_worker(f"good={standin.url},gone=http://127.0.0.1:9")

    async def both() -> dict[str, Any] | None:
        told = await (await client.get("/health/ready")).json()
        return (
            told if {each["name"]: each["able"] for each in told["backends"]} == {"good": True, "gone": False} else None
        )

    told = await eventually(both)
    assert told["status"] == "ready"
    assert "cannot be reached" in next(each["reason"] for each in told["backends"] if each["name"] == "gone")
    await client.post("/api/v1/backends/good/drain")
    told = await not_ready(client, "good: It is drained.")
    assert "gone: " in told["checks"]["backends"]["detail"]


async def test_with_all_backends_down_it_is_not_ready(client: TestClient[Any, Any], start_worker: Any) -> None:
    await start_worker("gone=http://127.0.0.1:9")
    await not_ready(client, "cannot be reached")


async def test_a_backend_whose_worker_is_quiet_cannot_take_work(service: Service) -> None:
    await service.client.app[FLEET].quiet(service.worker.worker_id, "ann")
    await not_ready(service.client, "standin: ")
    await service.client.app[FLEET].resume_worker(service.worker.worker_id, "ann")
    await eventually(lambda: is_ready(service.client))


async def test_a_backend_that_stands_still_cannot_take_work(service: Service, start_worker: Workers) -> None:
    await service.exchange_worker(start_worker, f"dead={service.standin.url}", comfyui_stall_seconds=1)
    await service.standin.state.apply(Fault(kind=FaultKind.DEAD_THREAD_AT_START))
    for _ in range(2):
        await service.submit()
    await not_ready(service.client, "dead: ")


@pytest.mark.parametrize(
    ("away", "names"),
    [
        ({"postgresql"}, ["database_url"]),
        ({"redis"}, ["redis_url"]),
        ({"postgresql", "redis"}, ["database_url", "redis_url"]),
    ],
)
async def test_without_postgresql_or_redis_the_server_lives_and_is_not_ready(
    settings: Settings, aiohttp_client: Any, away: set[str], names: list[str]
) -> None:
    client = await aiohttp_client(create_app(closed(settings, *names)))
    assert (await client.get("/health/live")).status == 200
    answer = await client.get("/health/ready")
    told = await answer.json()
    assert (answer.status, told["status"]) == (503, "not_ready")
    assert answer.headers["Retry-After"].isdecimal()
    assert {name for name in ("postgresql", "redis") if told["checks"][name]["status"] != "ok"} == away
    text = await answer.text()
    for url in (settings.database_url, settings.redis_url):
        assert str(urlsplit(url.get_secret_value()).password) not in text


async def test_the_figures_of_an_empty_queue(client: TestClient[Any, Any]) -> None:
    assert await stats(client) == {
        "pending_jobs": 0,
        "running_jobs": 0,
        "oldest_wait_seconds": None,
        "by_priority": {},
        "by_model": {},
        "workers_online": 0,
        "backends_online": 0,
        "paused": None,
    }


async def test_the_figures_tell_what_waits_and_what_runs(service: Service) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.SLOW_STEPS, times=None, seconds=0.5))
    running = await service.submit(sampler_params={"steps": 150})

    async def runs() -> bool:
        return (await stats(service.client))["running_jobs"] == 1

    await eventually(runs)
    far = "2100-01-01T00:00:00Z"
    model = "dreamshaper_8.safetensors"
    for changes in ({"priority": 5}, {"priority": 5, "checkpoint_model": model}, {"priority": -1}):
        await service.submit(not_before=far, **changes)
    found = await stats(service.client)
    assert (found["pending_jobs"], found["running_jobs"]) == (3, 1)
    assert found["by_priority"] == {"5": 2, "-1": 1}
    assert found["by_model"] == {"sd_xl_base_1.0.safetensors": 2, model: 1}
    assert found["oldest_wait_seconds"] >= 0
    assert (found["workers_online"], found["backends_online"]) == (1, 1)
    assert (await service.client.post(f"{BASE}/{running['job_id']}/cancel")).status == 200


async def test_every_answer_is_as_the_document_says(service: Service) -> None:
    client = service.client
    document = await (await client.get("/openapi.json")).json()
    await service.standin.state.apply(Fault(kind=FaultKind.NODE_ERROR, node="KSampler"))
    failed = await service.run(max_attempts=1)
    done = await service.run(metadata={"a": "b"}, params={"c": [1]}, lora_models=[{"name": "add_detail.safetensors"}])
    job, content = f"{BASE}/{done['job_id']}", f"/api/v1/contents/{done['content_id']}"
    waiting = await service.submit(not_before="2100-01-01T00:00:00Z")
    seen = 0
    for method, path, template, status in (
        ("get", f"{BASE}/", f"{BASE}/", 200),
        ("get", f"{BASE}/?limit=0", f"{BASE}/", 422),
        ("get", f"{BASE}/queue/stats", f"{BASE}/queue/stats", 200),
        ("get", job, BASE + "/{job_id}", 200),
        ("get", f"{BASE}/{failed['job_id']}", BASE + "/{job_id}", 200),
        ("get", f"{BASE}/{waiting['job_id']}", BASE + "/{job_id}", 200),
        ("get", f"{BASE}/999999", BASE + "/{job_id}", 404),
        ("get", f"{job}/attempts", BASE + "/{job_id}/attempts", 200),
        ("get", f"{job}/events", BASE + "/{job_id}/events", 200),
        ("get", f"{job}/workflow", BASE + "/{job_id}/workflow", 200),
        ("post", f"{job}/cancel", BASE + "/{job_id}/cancel", 409),
        ("post", f"{job}/retry", BASE + "/{job_id}/retry", 409),
        ("post", f"{BASE}/{failed['job_id']}/retry", BASE + "/{job_id}/retry", 200),
        ("post", f"{BASE}/{waiting['job_id']}/cancel", BASE + "/{job_id}/cancel", 200),
        ("get", content, "/api/v1/contents/{content_id}", 200),
        ("get", f"{content}/outputs/7", "/api/v1/contents/{content_id}/outputs/{index}", 404),
        ("get", "/api/v1/models", "/api/v1/models", 200),
        ("get", "/api/v1/models?kind=x", "/api/v1/models", 422),
        ("get", "/api/v1/nodes?limit=3", "/api/v1/nodes", 200),
        ("get", "/api/v1/nodes/SaveImageAdvanced", "/api/v1/nodes/{node_class}", 200),
        ("get", "/api/v1/nodes/Nowhere", "/api/v1/nodes/{node_class}", 404),
        ("get", "/api/v1/backends", "/api/v1/backends", 200),
        ("get", "/api/v1/workers", "/api/v1/workers", 200),
        ("get", "/health/live", "/health/live", 200),
        ("get", "/health/ready", "/health/ready", 200),
        ("get", "/openapi.json", "/openapi.json", 200),
    ):
        answer = await client.request(method, path)
        assert answer.status == status, (path, await answer.text())
        _validate(document, template, method, status, answer.content_type, await answer.json())
        seen += 1
    for body, status in ((SMALL_BODY, 201), ({}, 422), ([], 400)):
        answer = await client.post(f"{BASE}/", json=body)
        assert answer.status == status
        _validate(document, f"{BASE}/", "post", status, answer.content_type, await answer.json())
    deleted = await client.delete(job)
    assert str(deleted.status) in document["paths"][BASE + "/{job_id}"]["delete"]["responses"]
    assert seen


def _validate(document: dict[str, Any], path: str, method: str, status: int, kind: str, value: Any) -> None:
    content = document["paths"][path][method]["responses"][str(status)]["content"]
    schema = content[kind]["schema"] | {"components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)
    if "$ref" in schema and kind == "application/json":
        # Nothing is answered that the document does not name.
        named = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"]
        assert set(value) == set(named), path
