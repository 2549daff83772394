"""The whole service in one process: jobs from POST to picture."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

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
    await service.worker.thumbnails.done()
    thumbnail = await service.client.get(done["outputs"][0]["thumbnail_url"])
    with Image.open(io.BytesIO(await thumbnail.read())) as image:
        assert max(image.size) == 512


async def test_ten_jobs_each_run_exactly_once(service: Service) -> None:
    jobs = [await service.submit(prompt=f"number {number}") for number in range(10)]
    done = await asyncio.gather(*(service.finished(job["job_id"]) for job in jobs))
    assert {job["status"] for job in done} == {"completed"}
    assert len({job["outputs"][0]["sha256"] for job in done}) == 10


def _drawn_twice(**changes: Any) -> dict[str, Any]:
    """Return a graph of two outputs; `changes` are inputs of what the second one saves."""
    empty = {"width": 64, "height": 64, "batch_size": 1, "color": 0}
    return {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "good"}},
        "3": {"class_type": "EmptyImage", "inputs": empty | changes},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "other"}},
    }


async def test_an_output_that_comfyui_leaves_out_is_told_and_the_others_are_kept(service: Service) -> None:
    await service.backend_online()
    done = await service.run(job_type="workflow", prompt=None, workflow=_drawn_twice(width=-1))
    assert (done["status"], [each["node_id"] for each in done["outputs"]]) == ("completed", ["2"])
    assert any("Node '4' (SaveImage) is left out" in each and "'width' is -1" in each for each in done["warnings"])


async def test_what_no_output_needs_may_lead_nowhere_and_in_circles(service: Service) -> None:
    await service.backend_online()
    loose = {
        "7": {"class_type": "ImageInvert", "inputs": {"image": ["8", 0]}},
        "8": {"class_type": "ImageInvert", "inputs": {"image": ["7", 0], "tags": ["a", "b"]}},
        "9": {"class_type": "ImageInvert", "inputs": {"image": ["99", 0]}},
    }
    done = await service.run(job_type="workflow", prompt=None, workflow=_drawn_twice(color=7) | loose)
    assert (done["status"], len(done["outputs"]), done["warnings"]) == ("completed", 2, [])


async def test_texts_that_postgresql_cannot_hold_reach_comfyui_and_come_back_to_the_letter(service: Service) -> None:
    await service.backend_online()
    graph = _drawn_twice(color=9)
    for number, text in enumerate(("a\0b", "half \ud83d of it", "\U0010ffff", "\\u0000")):
        graph["1"]["_meta"] = {"title": text}
        graph["2"]["inputs"]["note"] = text
        graph["1"]["inputs"]["color"] = number
        done = await service.run(job_type="workflow", prompt=None, workflow=graph)
        assert (done["status"], done["workflow"]) == ("completed", graph)
        sent = await (await service.client.get(f"/api/v1/generation-jobs/{done['job_id']}/workflow")).json()
        assert (sent["1"]["_meta"]["title"], sent["2"]["inputs"]["note"]) == (text, text)
        page = await service.client.get(f"/monitor/jobs/{done['job_id']}")
        assert page.status == 200
        # From its cache as well.
        again = await service.run(job_type="workflow", prompt=None, workflow=graph)
        assert (again["status"], again["attempt"]) == ("completed", 1)


async def test_what_cannot_be_known_of_a_custom_class_is_taken_with_a_warning_and_fails_at_once(
    service: Service,
) -> None:
    await service.backend_online()
    graph = _drawn_twice()
    graph["5"] = {"class_type": "SlowProgress", "inputs": {"image": ["1", 0], "steps": -1, "seconds_per_step": 0}}
    graph["2"]["inputs"]["images"] = graph["4"]["inputs"]["images"] = ["5", 0]
    accepted = await service.submit(job_type="workflow", prompt=None, workflow=graph)
    (warning,) = accepted["warnings"]
    assert "'steps' is -1; the least is" in warning
    assert "not ComfyUI's own" in warning
    done = await service.finished(accepted["job_id"])
    assert (done["status"], done["error_code"], done["attempt"]) == ("failed", "invalid_workflow", 1)
    assert "SlowProgress (node 5)" in done["error_message"]
