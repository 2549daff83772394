"""Another seed, by REST and on the page: within what the node takes, and an honest no where a graph has none."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from integration.monitor_fixtures import act, flash, read

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient
    from integration.monitor_fixtures import Life

    from harness import Service

BASE = "/api/v1/generation-jobs"
IMAGE = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}}
SAVE: dict[str, Any] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}
SEEDLESS: dict[str, Any] = {"1": IMAGE, "2": SAVE}
SEEDED: dict[str, Any] = SEEDLESS | {"3": {"class_type": "Unknown", "inputs": {"seed": 4}}}


async def cancelled(client: TestClient[Any, Any], **asked: Any) -> int:
    """Return a job that was cancelled while it waited."""
    body = {"user_id": "u", "job_type": "image", "prompt": "p"} | asked
    if "workflow" in body:
        body["job_type"] = "workflow"
    answer = await client.post(BASE, json=body)
    assert answer.status == 201, await answer.text()
    job_id = int((await answer.json())["job_id"])
    await client.post(f"{BASE}/{job_id}/cancel")
    return job_id


async def job_of(client: TestClient[Any, Any], job_id: int) -> dict[str, Any]:
    return dict(await (await client.get(f"{BASE}/{job_id}")).json())


async def test_a_retry_with_a_new_seed_is_refused_where_there_is_none_and_nothing_changes(
    client: TestClient[Any, Any],
) -> None:
    job_id = await cancelled(client, workflow=SEEDLESS)
    before = await job_of(client, job_id)
    answer = await client.post(f"{BASE}/{job_id}/retry", json={"seed": "new"})
    problem = await answer.json()
    assert (answer.status, problem["code"], problem["errors"][0]["pointer"]) == (422, "no_seed", "/seed")
    after = await job_of(client, job_id)
    assert after == before | {"timings": after["timings"]}
    assert (await client.post(f"{BASE}/{job_id}/retry")).status == 200


async def test_of_many_that_are_retried_with_new_seeds_each_says_what_became_of_it(
    client: TestClient[Any, Any],
) -> None:
    without, having, simple = [
        await cancelled(client, **each) for each in ({"workflow": SEEDLESS}, {"workflow": SEEDED}, {})
    ]
    answer = await client.post(f"{BASE}/retry", json={"job_ids": [without, having, simple], "seed": "new"})
    results = (await answer.json())["results"]
    assert [(each["ok"], each["code"]) for each in results] == [(False, "no_seed"), (True, None), (True, None)]
    job = await job_of(client, having)
    assert job["workflow"]["3"]["inputs"]["seed"] == job["sampler_params"]["seed"] < 2**32


async def test_a_new_seed_is_within_what_the_live_backend_says(service: Service) -> None:
    slow = {"image": ["1", 0], "steps": 1, "seconds_per_step": 0, "seed": 5}
    graph: dict[str, Any] = {"1": IMAGE, "2": SAVE | {"inputs": SAVE["inputs"] | {"images": ["3", 0]}}}
    graph["3"] = {"class_type": "SlowProgress", "inputs": slow}
    await service.client.post("/api/v1/backends/standin/drain")
    job_id = await cancelled(service.client, workflow=graph)
    seeds = set()
    for _ in range(12):
        assert (await service.client.post(f"{BASE}/{job_id}/retry", json={"seed": "new"})).status == 200
        workflow = (await job_of(service.client, job_id))["workflow"]
        assert workflow | {"3": graph["3"]} == graph
        seeds.add(workflow["3"]["inputs"]["seed"])
        await service.client.post(f"{BASE}/{job_id}/cancel")
    assert len(seeds) == 12
    assert max(seeds) > 2**32


@pytest.mark.parametrize("graph", [SEEDLESS, SEEDED], ids=["without", "with a seed"])
async def test_the_page_offers_what_it_can_do(client: TestClient[Any, Any], life: Life, graph: dict[str, Any]) -> None:
    done = await life.complete(await life.execute(job_type="workflow", workflow=graph))
    page = await read(client, f"/monitor/jobs/{done.job_id}")
    assert ("Again, new seed" in page.text) is (graph is SEEDED)
    assert ("Again, as it was" in page.text) is (graph is SEEDLESS)
    said = await flash(client, await act(client, f"/monitor/jobs/{done.job_id}/again"))
    found = re.search(r"sent again as job (\d+), (with a new seed|as it was)", said)
    assert found is not None
    assert (found[2] == "with a new seed") is (graph is SEEDED)
    again = await life.store.whole(int(found[1]))
    assert (again.workflow == graph) is (graph is SEEDLESS)


async def test_the_page_offers_no_retry_with_a_new_seed_where_there_is_none(
    client: TestClient[Any, Any], life: Life
) -> None:
    job_id = await cancelled(client, workflow=SEEDLESS)
    page = await read(client, f"/monitor/jobs/{job_id}")
    assert "Retry, new seed" not in page.text
    assert page.all("form", action=f"/monitor/jobs/{job_id}/retry")
    said = await flash(client, await act(client, f"/monitor/jobs/{job_id}/retry", seed="new"))
    assert "was not retried: its workflow has no seed to change" in said
    assert (await life.store.get(job_id)).phase == "cancelled"
