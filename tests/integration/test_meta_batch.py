"""A run whose node queues it again and again is one attempt: followed, cancelled and timed as a whole."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession

from harness import eventually

if TYPE_CHECKING:
    from harness import Service, Workers


def film(frames: int, of: int = 2, seconds_per_frame: float = 0.0, then: str | None = None) -> dict[str, Any]:
    """A film of so many frames, made piece by piece; what `then` names is told of each piece."""
    size = {"width": 16, "height": 16, "color": 0x102030}
    nodes: dict[str, Any] = {
        "1": {"class_type": "VHS_BatchManager", "inputs": {"frames_per_batch": of}},
        "2": {
            "class_type": "BatchFrames",
            "inputs": {"frames": frames, "meta_batch": ["1", 0], "seconds_per_frame": seconds_per_frame, **size},
        },
        "3": {
            "class_type": "VHS_VideoCombine",
            "inputs": {
                "images": ["2", 0],
                "meta_batch": ["1", 0],
                "frame_rate": 8,
                "loop_count": 0,
                "filename_prefix": "film",
                "format": "image/gif",
                "pingpong": False,
                "save_output": True,
            },
        },
    }
    if then is not None:
        nodes["4"] = {"class_type": then, "inputs": {"images": ["2", 0], "filename_prefix": "piece"}}
    return nodes


async def submitted(service: Service, graph: dict[str, Any], **fields: Any) -> int:
    return int((await service.submit(job_type="workflow", workflow=graph, **fields))["job_id"])


def prompts_of(service: Service) -> list[str]:
    """What has been executed, or is."""
    return list(dict.fromkeys(each.prompt_id for each in service.standin.state.log.executions))


async def nothing_queued(service: Service) -> bool:
    async with ClientSession(service.standin.url) as comfyui, comfyui.get("/queue") as answer:
        return bool(await answer.json() == {"queue_running": [], "queue_pending": []})


async def pieces_begun(service: Service, count: int) -> None:
    async def begun() -> bool:
        return len(prompts_of(service)) >= count

    await eventually(begun)


async def test_a_film_is_the_output_of_the_last_prompt_in_one_attempt(service: Service) -> None:
    job = await service.finished(await submitted(service, film(7)))
    assert job["status"] == "completed", (job["error_code"], job["error_message"])
    assert [(output["node_id"], output["content_type"]) for output in job["outputs"]] == [("3", "image/gif")]
    assert len(prompts_of(service)) == 4
    assert job["attempt"] == 1
    assert job["warnings"] == []


async def test_what_each_prompt_saved_is_kept_once(service: Service) -> None:
    job = await service.finished(await submitted(service, film(5, then="SaveImage")))
    assert sorted(output["node_id"] for output in job["outputs"]) == ["3", "4", "4", "4", "4", "4"]
    assert len({output["sha256"] for output in job["outputs"]}) == 6


async def test_a_film_whose_pieces_are_done_before_anybody_looks_is_followed_all_the_same(service: Service) -> None:
    """Its pieces take no time at all; which of them is still in the queue when the worker looks is left to chance."""
    jobs = [await submitted(service, film(40, of=1)) for _ in range(3)]
    for job_id in jobs:
        job = await service.finished(job_id)
        assert (job["status"], job["attempt"], len(job["outputs"])) == ("completed", 1, 1), job["error_message"]


async def test_a_cancel_stops_the_prompt_at_work_and_what_it_has_queued(service: Service) -> None:
    job_id = await submitted(service, film(200, seconds_per_frame=0.1))
    await pieces_begun(service, 2)
    answer = await service.client.post(f"/api/v1/generation-jobs/{job_id}/cancel")
    assert answer.status in (200, 202)
    assert (await service.finished(job_id))["status"] == "cancelled"
    assert await nothing_queued(service)


async def test_a_cancel_stops_what_was_queued_before_it_came(service: Service) -> None:
    """The next piece waits already while another node of this one is at work."""
    graph = film(200, of=1)
    graph["4"] = {"class_type": "SlowProgress", "inputs": {"image": ["2", 0], "steps": 600, "seconds_per_step": 0.1}}
    graph["5"] = {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}}
    job_id = await submitted(service, graph)

    async def waits() -> bool:
        return bool(service.standin.state.queue.pending)

    await eventually(waits)
    await service.client.post(f"/api/v1/generation-jobs/{job_id}/cancel")
    assert (await service.finished(job_id))["status"] == "cancelled"
    assert await nothing_queued(service)
    # Interrupting the first piece alone would begin the second.
    assert len(prompts_of(service)) == 1


async def test_the_time_limit_is_that_of_all_prompts_together(service: Service) -> None:
    job_id = await submitted(service, film(200, seconds_per_frame=0.2), timeout_seconds=1, max_attempts=1)
    job = await service.finished(job_id)
    assert (job["status"], job["error_code"]) == ("failed", "timeout")
    assert 2 <= len(prompts_of(service)) <= 5
    assert await nothing_queued(service)


async def test_what_waits_when_the_time_is_over_is_stopped_as_well(service: Service) -> None:
    graph = film(200, of=1)
    graph["4"] = {"class_type": "SlowProgress", "inputs": {"image": ["2", 0], "steps": 100, "seconds_per_step": 0.1}}
    graph["5"] = {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}}
    job = await service.finished(await submitted(service, graph, timeout_seconds=1, max_attempts=1))
    assert (job["status"], job["error_code"]) == ("failed", "timeout")
    assert await nothing_queued(service)


async def test_a_piece_that_fails_ends_the_job_as_what_it_is(service: Service) -> None:
    graph = film(200, of=1, seconds_per_frame=0.5)
    graph["4"] = {
        "class_type": "RaiseError",
        "inputs": {"image": ["2", 0], "kind": "RuntimeError", "message": "no more"},
    }
    graph["5"] = {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}}
    job = await service.finished(await submitted(service, graph))
    assert (job["status"], job["error_code"]) == ("failed", "node_failed")
    await eventually(partial(nothing_queued, service))
    assert len(prompts_of(service)) <= 5


async def test_another_worker_goes_on_with_it(service: Service, start_worker: Workers) -> None:
    job_id = await submitted(service, film(12, seconds_per_frame=0.25))
    await pieces_begun(service, 2)
    await service.exchange_worker(start_worker)
    job = await service.finished(job_id)
    assert (job["status"], job["attempt"], len(job["outputs"])) == ("completed", 1, 1), job["error_message"]
    assert len(prompts_of(service)) == 6


@pytest.mark.parametrize("of", [1, 3])
async def test_jobs_beside_it_get_their_own_pictures(service: Service, of: int) -> None:
    film_id = await submitted(service, film(6, of=of))
    others = [await service.submit() for _ in range(3)]
    for other in others:
        assert (await service.finished(other["job_id"]))["status"] == "completed"
    assert len((await service.finished(film_id))["outputs"]) == 1


async def test_what_a_run_that_has_ended_left_in_the_queue_is_stopped(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody saw that it was queued: its mark alone says that it is of that run."""
    run = (await service.run())["attempts"][0]["prompt_id"]
    # Some minutes, if nobody stopped it.
    graph = film(4000, seconds_per_frame=0.1)
    body = {"prompt": graph, "client_id": "else", "extra_data": {"genonaut": {"prompt_id": run}}}
    async with ClientSession(service.standin.url) as comfyui:
        assert (await comfyui.post("/prompt", json=body)).status == 200
    await eventually(partial(nothing_queued, service))
    assert len(prompts_of(service)) < 2000
    # What waits is stopped before what runs: otherwise piece after piece would begin, and have to be stopped.
    assert 1 <= caplog.text.count("is over: stopping it") <= 4
