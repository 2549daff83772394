"""What a worker makes of a ComfyUI that fails: retries, re-attachment, clear ends, and never two runs of one prompt."""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession
from samples import running_for, slow_graph

from harness import BOTH_AGES, LIVES, eventually
from worker.attempts import stop_prompt
from worker.standin.faults import Fault, FaultKind, ViewFault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.settings import Settings
    from harness import Service, StandinServer, Workers


@BOTH_AGES
async def test_a_node_that_raises_fails_the_job_at_once_and_names_the_node(service: Service) -> None:
    fault = Fault(kind=FaultKind.NODE_ERROR, node="KSampler", message="boom in /srv/models/secret/file.py\n")
    await service.standin.state.apply(fault)
    job = await service.run()
    assert (job["status"], job["error_code"], job["attempt"]) == ("failed", "node_failed", 1)
    assert job["error_message"].startswith("KSampler (node sampler): boom in …/file.py")
    assert "/srv/models" not in str(job)


@BOTH_AGES
async def test_out_of_memory_gets_one_more_try(service: Service) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.OUT_OF_MEMORY, times=1))
    job = await service.run()
    assert (job["status"], job["attempt"]) == ("completed", 2)
    assert [each["outcome"] for each in job["attempts"]] == ["retried", "completed"]
    assert job["attempts"][0]["error_code"] == "out_of_memory"


async def test_out_of_memory_twice_fails(service: Service) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.OUT_OF_MEMORY, times=None))
    job = await service.run()
    assert (job["status"], job["error_code"], job["attempt"]) == ("failed", "out_of_memory", 2)


@pytest.mark.parametrize("status", [500, 503])
async def test_an_unclear_refusal_is_looked_up_and_sent_again(service: Service, status: int) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.REFUSE_PROMPT, status=status, times=1))
    job = await service.run()
    assert (job["status"], job["attempt"]) == ("completed", 1)
    assert set(service.executions().values()) == {1}


@BOTH_AGES
async def test_a_lost_answer_to_the_submission_runs_the_prompt_once(service: Service) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.LOSE_ANSWER, times=1))
    job = await service.run(**running_for(0.5))
    assert (job["status"], job["attempt"]) == ("completed", 1)
    assert service.executions() == {job["comfyui_prompt_id"]: 1}


async def test_nonsense_for_an_answer_is_survived(service: Service) -> None:
    fault = Fault(kind=FaultKind.NONSENSE, route="/prompt", method="POST", body="<h1>welcome</h1>", status=200, times=1)
    await service.standin.state.apply(fault)
    job = await service.run()
    assert job["status"] == "completed"
    assert set(service.executions().values()) == {1}


async def test_a_backend_that_refuses_every_prompt_uses_up_the_attempts(service: Service) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.REFUSE_PROMPT, status=503, times=None))
    job = await service.run(max_attempts=2)
    assert (job["status"], job["error_code"], job["attempt"]) == ("failed", "backend_unclear", 2)


async def test_a_picture_that_is_none_fails_the_job_and_leaves_no_file(service: Service, settings: Settings) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.VIEW, how=ViewFault.NOT_AN_IMAGE, times=None))
    job = await service.run(max_attempts=2)
    assert (job["status"], job["error_code"], job["attempt"]) == ("failed", "output_invalid", 1)
    assert job["output_paths"] == []
    assert [path for path in settings.storage_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("how", [ViewFault.ERROR, ViewFault.TRUNCATED])
async def test_a_disturbed_download_is_repeated_and_not_the_run(service: Service, how: ViewFault) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.VIEW, how=how, times=2))
    job = await service.run()
    assert (job["status"], job["attempt"]) == ("completed", 1)
    assert set(service.executions().values()) == {1}


@BOTH_AGES
async def test_history_that_comes_late_is_waited_for(service: Service) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.HISTORY_LATE, seconds=0.4, times=1))
    job = await service.run()
    assert (job["status"], job["attempt"]) == ("completed", 1)


@BOTH_AGES
async def test_a_deaf_socket_is_made_up_for_by_polling(service: Service) -> None:
    job = await service.submit(**running_for(1.0))
    await service.executing(job["job_id"])
    await service.standin.state.apply(Fault(kind=FaultKind.DEAF))
    done = await service.finished(job["job_id"])
    assert (done["status"], done["attempt"]) == ("completed", 1)


@BOTH_AGES
async def test_dropped_sockets_come_back_and_the_run_goes_on(service: Service) -> None:
    job = await service.submit(**running_for(1.5))
    await service.executing(job["job_id"])
    await service.standin.state.apply(Fault(kind=FaultKind.DROP_SOCKETS))
    done = await service.finished(job["job_id"])
    assert (done["status"], done["attempt"]) == ("completed", 1)
    assert service.executions() == {done["comfyui_prompt_id"]: 1}


@BOTH_AGES
async def test_a_restarted_backend_gets_the_job_again(service: Service) -> None:
    job = await service.submit(**running_for(1.5))
    await service.executing(job["job_id"])
    await service.standin.state.apply(Fault(kind=FaultKind.RESTART))
    done = await service.finished(job["job_id"])
    assert (done["status"], done["attempt"]) == ("completed", 2)
    assert [each["error_code"] for each in done["attempts"]] == ["backend_lost", None]


async def test_a_job_waits_for_a_backend_that_is_away(service: Service, start_worker: Workers) -> None:
    await service.exchange_worker(start_worker, "gone=http://127.0.0.1:9", ready=())
    job = await service.submit()

    async def told() -> bool:
        ready = await (await service.client.get("/health/ready")).json()
        return any(each["name"] == "gone" and "cannot be reached" in str(each["reason"]) for each in ready["backends"])

    await eventually(told)
    assert (await service.job(job["job_id"]))["status"] == "pending"


@BOTH_AGES
async def test_a_job_longer_than_its_limit_is_stopped_at_the_backend(service: Service) -> None:
    job = await service.run(**running_for(30), timeout_seconds=1, max_attempts=1)
    assert (job["status"], job["error_code"]) == ("failed", "timeout")
    assert [str(each.outcome) for each in service.standin.state.log.executions] == ["interrupted"]


@BOTH_AGES
async def test_a_running_job_is_cancelled_on_the_backends_own_word(service: Service) -> None:
    job = await service.submit(**running_for(30))
    await service.executing(job["job_id"])
    answer = await service.client.post(f"/api/v1/generation-jobs/{job['job_id']}/cancel", json={"reason": "enough"})
    told = await answer.json()
    assert (answer.status, told["status"], told["cancel_reason"]) == (200, "cancelled", "enough")
    assert [str(each.outcome) for each in service.standin.state.log.executions] == ["interrupted"]


@BOTH_AGES
async def test_a_cancelled_job_behind_the_running_one_never_runs(service: Service) -> None:
    first = await service.submit(**running_for(1.5))
    await service.executing(first["job_id"])
    second = await service.submit(**running_for(30))

    async def assigned() -> bool:
        return bool((await service.job(second["job_id"]))["comfyui_prompt_id"])

    await eventually(assigned)
    answer = await service.client.post(f"/api/v1/generation-jobs/{second['job_id']}/cancel")
    assert (answer.status, (await answer.json())["status"]) == (200, "cancelled")
    done = await service.finished(first["job_id"])
    assert done["status"] == "completed"
    assert service.executions() == {done["comfyui_prompt_id"]: 1}


@BOTH_AGES
async def test_a_worker_that_stops_hands_its_run_over(service: Service, start_worker: Workers) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.HANG))
    job = await service.submit()
    await service.executing(job["job_id"])
    await service.exchange_worker(start_worker)
    service.standin.state.faults.clear()
    done = await service.finished(job["job_id"])
    assert (done["status"], done["attempt"]) == ("completed", 1)
    assert service.executions() == {done["comfyui_prompt_id"]: 1}


async def test_a_missing_model_is_looked_for_on_another_backend(
    service: Service,
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_worker: Workers,
) -> None:
    other = await start_standin(checkpoints=("rare.safetensors",))
    await start_worker(f"other={other.url}")
    await service.backend_online(2)
    job = await service.run(checkpoint_model="rare.safetensors")
    assert (job["status"], job["backend_name"]) == ("completed", "other")


@BOTH_AGES
async def test_the_graph_of_a_client_is_run_with_its_overrides_under_a_folder_of_its_own(service: Service) -> None:
    overrides = {"1.width": 128, "3.steps": 2}
    job = await service.run(job_type="workflow", workflow=slow_graph(0.1, 1), overrides=overrides)
    assert (job["status"], job["outputs"][0]["width"]) == ("completed", 128)
    graph = await (await service.client.get(f"/api/v1/generation-jobs/{job['job_id']}/workflow")).json()
    assert graph["3"]["inputs"]["steps"] == 2
    prefix = graph["2"]["inputs"]["filename_prefix"]
    assert prefix == f"genonaut/{job['job_id']}/{job['comfyui_prompt_id']}/mine"


IMAGE = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 4, "color": 255}}
WEBM = {"images": ["1", 0], "filename_prefix": "film", "codec": "vp9", "fps": 8.0, "crf": 32.0}
FILM = {"images": ["1", 0], "fps": 8.0}
KINDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "webm": ({"1": IMAGE, "2": {"class_type": "SaveWEBM", "inputs": WEBM}}, "video", "video/webm"),
    "video": (
        {
            "1": IMAGE,
            "2": {"class_type": "CreateVideo", "inputs": FILM},
            "3": {
                "class_type": "SaveVideo",
                "inputs": {"video": ["2", 0], "filename_prefix": "film", "format": "mp4", "codec": "h264"},
            },
        },
        "video",
        "video/webm",  # the stand-in has no H.264 encoder
    ),
    "flac": (
        {
            "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd_xl_base_1.0.safetensors"}},
            "2": {"class_type": "EmptyLatentAudio", "inputs": {"seconds": 1.0, "batch_size": 1}},
            "3": {"class_type": "VAEDecodeAudio", "inputs": {"samples": ["2", 0], "vae": ["1", 2]}},
            "4": {"class_type": "SaveAudio", "inputs": {"audio": ["3", 0], "filename_prefix": "sound"}},
        },
        "audio",
        "audio/x-flac",
    ),
    "text": (
        {
            "1": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "a text – ünï"}},
            "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
        },
        "text",
        "text/plain",
    ),
    "animation": (
        {
            "1": IMAGE,
            "2": {
                "class_type": "SaveAnimatedWEBP",
                "inputs": {
                    "images": ["1", 0],
                    "filename_prefix": "film",
                    "fps": 6.0,
                    "lossless": True,
                    "quality": 80,
                    "method": "default",
                },
            },
        },
        "image",
        "image/webp",
    ),
}


@BOTH_AGES
@pytest.mark.parametrize("name", KINDS)
async def test_outputs_of_every_kind_are_kept_and_served(service: Service, name: str) -> None:
    graph, kind, content_type = KINDS[name]
    job = await service.run(job_type="workflow", workflow=graph)
    assert job["status"] == "completed", job["error_message"]
    (output,) = job["outputs"]
    assert (output["kind"], output["content_type"]) == (kind, content_type)
    answer = await service.client.get(output["url"])
    data = await answer.read()
    assert (answer.status, answer.content_type, len(data)) == (200, content_type, output["size_bytes"])
    assert hashlib.sha256(data).hexdigest() == output["sha256"]


async def test_a_backend_that_stands_still_is_left_and_said_to_be_sick(
    service: Service,
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_worker: Workers,
) -> None:
    await service.exchange_worker(start_worker, f"dead={service.standin.url}", comfyui_stall_seconds=1)
    await service.standin.state.apply(Fault(kind=FaultKind.DEAD_THREAD_AT_START))
    jobs = [await service.submit() for _ in range(2)]

    async def said() -> bool:
        ready = await (await service.client.get("/health/ready")).json()
        return any("stands still" in str(each.get("reason")) for each in ready["backends"])

    await eventually(said)
    other = await start_standin()
    await start_worker(f"other={other.url}")
    done = [await service.finished(job["job_id"]) for job in jobs]
    assert [(job["status"], job["backend_name"]) for job in done] == [("completed", "other")] * 2
    assert done[0]["attempts"][0]["error_code"] == "backend_stalled"


async def test_a_stuck_backend_is_used_again_when_it_was_restarted(service: Service, start_worker: Workers) -> None:
    await service.exchange_worker(start_worker, f"dead={service.standin.url}", comfyui_stall_seconds=1)
    await service.standin.state.apply(Fault(kind=FaultKind.DEAD_THREAD_AT_START))
    job = await service.submit()

    async def moved() -> bool:
        return bool((await service.job(job["job_id"]))["attempt"] == 2)

    await eventually(moved)
    await service.standin.state.apply(Fault(kind=FaultKind.RESTART))
    done = await service.finished(job["job_id"])
    assert (done["status"], done["attempt"]) == ("completed", 2)


@pytest.mark.slow
@pytest.mark.parametrize("behind", [0, 1])
async def test_a_backend_that_stands_still_at_a_job_being_cancelled_is_said_to_be_sick(
    service: Service, start_worker: Workers, behind: int
) -> None:
    await service.exchange_worker(start_worker, f"dead={service.standin.url}", comfyui_stall_seconds=1)
    await service.standin.state.apply(Fault(kind=FaultKind.DEAD_THREAD_AT_START))
    stuck = (await service.submit())["job_id"]

    async def taken() -> bool:
        return bool(service.standin.state.log.executions)

    await eventually(taken)
    # Only now: of two that are sent at once either may be the first.
    others = [(await service.submit())["job_id"] for _ in range(behind)]
    await service.client.post(f"/api/v1/generation-jobs/{stuck}/cancel")

    async def said() -> bool:
        ready = await (await service.client.get("/health/ready")).json()
        return any("stands still" in str(each.get("reason")) for each in ready["backends"])

    await eventually(said)
    assert (await service.job(stuck))["phase"] == "cancelling"
    await service.standin.state.apply(Fault(kind=FaultKind.RESTART))
    assert (await service.finished(stuck))["status"] == "cancelled"
    for job_id in others:
        assert (await service.finished(job_id))["status"] == "completed"


async def test_a_job_behind_a_foreign_prompt_that_stands_still_moves_on(
    service: Service,
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_worker: Workers,
) -> None:
    await service.exchange_worker(start_worker, f"dead={service.standin.url}", comfyui_stall_seconds=1)
    async with ClientSession(service.standin.url) as foreign:
        body = {"prompt": slow_graph(), "client_id": "somebody-else"}
        assert (await foreign.post("/prompt", json=body)).status == 200
    job = await service.submit()

    async def is_behind_it() -> bool:
        return bool((await service.job(job["job_id"]))["comfyui_prompt_id"])

    # Only then it stops: a backend that is known to stand still is given no job.
    await eventually(is_behind_it)
    await service.standin.state.apply(Fault(kind=FaultKind.DEAD_THREAD))

    async def moved() -> bool:
        return bool((await service.job(job["job_id"]))["attempt"] == 2)

    await eventually(moved)
    other = await start_standin()
    await start_worker(f"other={other.url}")
    done = await service.finished(job["job_id"])
    assert (done["status"], done["backend_name"]) == ("completed", "other")
    assert done["attempts"][0]["error_code"] == "backend_stalled"


@LIVES
async def test_a_job_that_failed_on_a_backend_is_tried_on_another_one(
    service: Service,
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_worker: Workers,
) -> None:
    other = await start_standin()
    await start_worker(f"other={other.url}")
    await service.backend_online(2)
    await service.drain("other")
    await service.standin.state.apply(Fault(kind=FaultKind.OUT_OF_MEMORY, times=None))
    first = await service.submit()

    async def failed() -> bool:
        return bool((await service.job(first["job_id"]))["attempt"] == 2)

    await eventually(failed)
    assert (await service.client.post("/api/v1/backends/other/resume")).status == 200
    jobs = [first, *[await service.submit() for _ in range(9)]]
    done = [await service.finished(job["job_id"]) for job in jobs]
    assert {(job["status"], job["backend_name"]) for job in done} == {("completed", "other")}
    assert done[0]["attempt"] == 2


async def test_a_cancel_that_its_backend_does_not_confirm_stays_asked_for(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that gave up asking lets the job go; whoever takes it over asks again."""
    monkeypatch.setattr(stop_prompt, "LIMIT_S", 0.5)
    job_id = (await service.submit(**running_for(30)))["job_id"]
    await service.executing(job_id)
    await service.standin.state.apply(Fault(kind=FaultKind.REFUSE, route="/queue", status=503, times=None))
    cancelling = asyncio.create_task(service.client.post(f"/api/v1/generation-jobs/{job_id}/cancel"))

    async def taken_over() -> bool:
        events = await (await service.client.get(f"/api/v1/generation-jobs/{job_id}/events")).json()
        return any(event["event"] == "taken_over" for event in events["items"])

    await eventually(taken_over)
    assert (await service.job(job_id))["phase"] == "cancelling"
    service.standin.state.faults.clear()
    assert (await service.finished(job_id))["status"] == "cancelled"
    assert (await cancelling).status in (200, 202)
    assert [str(each.outcome) for each in service.standin.state.log.executions] == ["interrupted"]


async def test_a_worker_tells_how_many_jobs_it_has_done_and_how_many_failed(service: Service) -> None:
    await service.run()
    await service.standin.state.apply(Fault(kind=FaultKind.NODE_ERROR))
    await service.run()

    async def told() -> bool:
        page = await (await service.client.get("/monitor/workers")).text()
        return bool(re.search(r"Done</dt>\s*<dd[^>]*>1</dd>.*Failed</dt>\s*<dd[^>]*>1</dd>", page, re.DOTALL))

    await eventually(told)
