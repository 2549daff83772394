"""What goes with a graph for nodes and into files: kept with the job, sent as ComfyUI's own page sends it."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from app.keys import SUBMITTING, VIEWS
from app.runtime.json_text import loads
from app.storage.attempts import AttemptStore
from worker.standin.faults import Fault, FaultKind

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient

    from app.storage.database import Database
    from harness import Service

BASE = "/api/v1/generation-jobs"
EXTRA = {
    "workflow": {"nodes": [{"id": 1, "widgets_values": [2**64 - 1, "ü", None, "\0", "half \ud83d"]}]},
    "seed": 10**30,
}
GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "mine"}},
}
BODY = {"user_id": "u", "job_type": "workflow", "workflow": GRAPH}


async def chunks(service: Service, job: dict[str, Any]) -> dict[str, Any]:
    """Return the text chunks of the job's picture, read as JSON."""
    answer = await service.client.get(job["outputs"][0]["url"])
    with Image.open(io.BytesIO(await answer.read())) as picture:
        return {name: json.loads(text) for name, text in picture.info.items() if isinstance(text, str)}


@pytest.mark.parametrize(
    "given", [{"extra_pnginfo": EXTRA}, {"extra_data": {"extra_pnginfo": EXTRA}}], ids=["field", "as ComfyUI has it"]
)
async def test_it_goes_into_the_picture_and_comes_back_with_the_job(service: Service, given: dict[str, Any]) -> None:
    answer = await service.client.post(BASE, json=BODY | given)
    assert answer.status == 201
    assert (await answer.json())["extra_pnginfo"] == EXTRA
    job = await service.finished((await answer.json())["job_id"])
    assert (job["status"], job["extra_pnginfo"], job["workflow"]) == ("completed", EXTRA, GRAPH)
    found = await chunks(service, job)
    assert {name: found[name] for name in EXTRA} == EXTRA
    assert found["prompt"]["1"] == GRAPH["1"]
    listed = await (await service.client.get(BASE)).json()
    assert [each["extra_pnginfo"] for each in listed["items"]] == [None]


async def test_a_job_of_simple_fields_may_have_it_and_none_has_it_unasked(service: Service) -> None:
    job = await service.run(extra_pnginfo=EXTRA)
    assert (job["extra_pnginfo"], job["workflow"]) == (EXTRA, None)
    assert (await chunks(service, job))["workflow"] == EXTRA["workflow"]
    bare = await service.run()
    assert bare["extra_pnginfo"] is None
    assert "workflow" not in await chunks(service, bare)


async def test_a_retry_and_a_job_sent_again_keep_it(service: Service) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.NODE_ERROR, node="EmptyImage"))
    failed = await service.run(**BODY, extra_pnginfo=EXTRA)
    assert failed["status"] == "failed"
    assert (await service.client.post(f"{BASE}/{failed['job_id']}/retry")).status == 200
    done = await service.finished(failed["job_id"])
    assert (await chunks(service, done))["workflow"] == EXTRA["workflow"]
    app = service.client.app
    assert app is not None
    sent, _ = await app[SUBMITTING].again(await app[VIEWS].whole(done["job_id"]))
    again = await service.finished(sent.job_id)
    assert again["extra_pnginfo"] == EXTRA
    assert (await chunks(service, again))["workflow"] == EXTRA["workflow"]


async def test_a_repetition_with_another_one_is_another_request(client: TestClient[Any, Any]) -> None:
    key = {"Idempotency-Key": "one"}
    first = await client.post(BASE, json=BODY | {"extra_pnginfo": EXTRA}, headers=key)
    same = await client.post(BASE, json=BODY | {"extra_pnginfo": EXTRA}, headers=key)
    other = await client.post(BASE, json=BODY | {"extra_pnginfo": EXTRA | {"a": 1}}, headers=key)
    assert (first.status, same.status, other.status) == (201, 201, 422)
    assert await first.json() == await same.json()
    assert (await other.json())["code"] == "idempotency_key_reused"


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("given", "status", "pointer"),
    [
        ({"extra_pnginfo": "x"}, 422, "/extra_pnginfo"),
        ({"extra_pnginfo": [1]}, 422, "/extra_pnginfo"),
        ({"extra_pnginfo": {"a\0": 1}}, 422, "/extra_pnginfo/a?"),
        ({"extra_data": {"extra_pnginfo": {"\ud800": 1}}}, 422, "/extra_data/extra_pnginfo/?"),
        ({"extra_pnginfo": {"a": [1e300] * 40_000}}, 422, "/extra_pnginfo"),
        ({"extra_pnginfo": nested(70)}, 400, None),
        ({"extra_pnginfo": {}, "extra_data": {"extra_pnginfo": {}}}, 422, "/extra_data"),
        ({"extra_data": {"client_id": "x"}}, 422, "/extra_data/client_id"),
        ({"extra_data": {"extra_pnginfo": 5}}, 422, "/extra_data/extra_pnginfo"),
    ],
)
async def test_what_cannot_be_kept_or_sent_is_refused_by_its_place(
    client: TestClient[Any, Any], given: dict[str, Any], status: int, pointer: str | None
) -> None:
    answer = await client.post(BASE, data=json.dumps(BODY | given), headers={"Content-Type": "application/json"})
    assert answer.status == status
    assert [each["pointer"] for each in (await answer.json())["errors"]] == ([pointer] if pointer is not None else [])


async def test_one_of_megabytes_is_taken_and_kept_to_the_letter(
    client: TestClient[Any, Any], database: Database
) -> None:
    extra = {"workflow": {"nodes": ["x" * 1000] * 7_000, "numbers": [0.1, 2**64, -1, 1.5e15, True, None]}}
    body = io.BytesIO(json.dumps(BODY | {"extra_pnginfo": extra}).encode())
    answer = await client.post(BASE, data=body, headers={"Content-Type": "application/json"})
    assert answer.status == 201
    job_id = (await answer.json())["job_id"]
    assert (await (await client.get(f"{BASE}/{job_id}")).json())["extra_pnginfo"] == extra
    job = await AttemptStore(database).claim("w", "b", "p", 60)
    assert job is not None
    assert loads(job.extra_pnginfo or "") == extra
