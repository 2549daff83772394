"""The whole service in one process: jobs from POST to picture."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

from PIL import Image

from harness import FOUNDING_BODY

if TYPE_CHECKING:
    from harness import Service


async def test_the_founding_body_ends_in_an_image(service: Service) -> None:
    answer = await service.client.post("/api/v1/generation-jobs/", json=FOUNDING_BODY)
    assert answer.status == 201
    job = await answer.json()
    assert answer.headers["Location"] == f"/api/v1/generation-jobs/{job['job_id']}"
    assert (job["status"], job["task_id"], job["id"]) == ("pending", f"{job['job_id']}:1", job["job_id"])
    done = await service.finished(job["job_id"])
    assert (done["status"], done["error_message"]) == ("completed", None)
    assert done["checkpoint_model"] == "sd_xl_base_1.0.safetensors"
    bytes_ = await (await service.client.get(done["outputs"][0]["url"])).read()
    with Image.open(io.BytesIO(bytes_)) as image:
        assert image.size == (832, 1216)
    thumbnail = await service.client.get(done["outputs"][0]["thumbnail_url"])
    with Image.open(io.BytesIO(await thumbnail.read())) as image:
        assert max(image.size) == 512


async def test_ten_jobs_each_run_exactly_once(service: Service) -> None:
    jobs = [await service.submit(prompt=f"number {number}") for number in range(10)]
    done = await asyncio.gather(*(service.finished(job["job_id"]) for job in jobs))
    assert {job["status"] for job in done} == {"completed"}
    assert len({job["outputs"][0]["sha256"] for job in done}) == 10
