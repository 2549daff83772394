"""Each job gets its own picture, whatever its savers do to the files of others: told by colour."""

from __future__ import annotations

import io
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession
from PIL import Image

from harness import Workers, eventually
from worker.standin.faults import Fault, FaultKind, ViewFault

if TYPE_CHECKING:
    from harness import Service

pytestmark = pytest.mark.slow

SAVERS: dict[str, dict[str, Any]] = {
    "FixedNameSaver": {"name": "fixed"},
    "NoNameSaver": {},
    "PathSaver": {"path": "mine"},
    "OutputFileSaver": {"output_file": "renders/picture.png"},
    "CounterSaver": {"path": "counter"},
    "PrefixIgnoringSaver": {"filename_prefix": "mine"},
    "LateWriter": {"name": "late", "seconds": 0.2},
    "SaveImage": {"filename_prefix": ["5", 0]},
}


def picture(color: int, saver: str = "FixedNameSaver", **middle: Any) -> dict[str, Any]:
    """A picture of one colour, which goes through this node if one is given, saved by this saver."""
    size = {"width": 64, "height": 64, "batch_size": 1}
    graph: dict[str, Any] = {
        "1": {"class_type": "EmptyImage", "inputs": {**size, "color": color}},
        "2": {"class_type": saver, "inputs": {"images": ["3" if middle else "1", 0], **SAVERS[saver]}},
        "5": {"class_type": "PrimitiveString", "inputs": {"value": "linked/name"}},
    }
    if middle:
        (class_type,) = middle
        graph["3"] = {"class_type": class_type, "inputs": {"image": ["1", 0], **middle[class_type]}}
    return graph


async def colors(service: Service, job: dict[str, Any]) -> list[int]:
    """The colours of a job's pictures."""
    assert job["status"] == "completed", job
    found = []
    for output in job["outputs"]:
        data = await (await service.client.get(output["url"])).read()
        red, green, blue = Image.open(io.BytesIO(data)).convert("RGB").getpixel((3, 3))  # type: ignore[misc]
        found.append(int(red) << 16 | int(green) << 8 | int(blue))
    return found


async def submitted(service: Service, graph: dict[str, Any]) -> int:
    return int((await service.submit(job_type="workflow", workflow=graph))["job_id"])


@pytest.mark.parametrize("saver", SAVERS)
async def test_ten_at_once_each_get_their_own_picture(service: Service, saver: str) -> None:
    wanted = {await submitted(service, picture(color, saver)): color for color in range(0x102030, 0x10203A)}
    for job_id, color in wanted.items():
        assert await colors(service, await service.finished(job_id)) == [color]


@pytest.mark.parametrize("saver", ["FixedNameSaver", "CounterSaver", "SaveImage"])
@pytest.mark.parametrize("deleted", [False, True])
async def test_the_same_graph_again_gets_its_picture_in_one_run(service: Service, saver: str, deleted: bool) -> None:
    for color in (7, 7, 8, 7):
        job = await service.finished(await submitted(service, picture(color, saver)))
        assert (await colors(service, job), job["attempt"]) == ([color], 1)
        if deleted:
            for path in service.standin.state.folders.inside("output", "").rglob("*.png"):
                path.unlink()


async def test_nothing_runs_behind_a_saver_without_a_folder_before_its_files_are_here(service: Service) -> None:
    """The download of its file is held up, and another job waits meanwhile."""
    await service.standin.state.apply(Fault(kind=FaultKind.SLOW_HTTP, route="/view", seconds=1.0, times=1))
    first = await submitted(service, picture(1))
    second = await submitted(service, picture(2))
    jobs = [await service.finished(job_id) for job_id in (first, second)]
    assert [await colors(service, job) for job in jobs] == [[1], [2]]
    began, saved = one_after_the_other(service, jobs)
    assert began > saved - 0.002


async def test_a_job_with_a_folder_of_its_own_does_not_wait_for_anothers_files(service: Service) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.SLOW_HTTP, route="/view", seconds=1.0, times=1))
    first = await submitted(service, picture(1, "SaveImage"))
    second = await submitted(service, picture(2, "SaveImage"))
    jobs = [await service.finished(job_id) for job_id in (first, second)]
    assert [await colors(service, job) for job in jobs] == [[1], [2]]
    began, saved = one_after_the_other(service, jobs)
    assert began < saved


async def test_a_saver_that_ignores_its_prefix_is_found_out_once_and_runs_alone(service: Service) -> None:
    job = await service.finished(await submitted(service, picture(9, "PrefixIgnoringSaver")))
    assert (await colors(service, job), job["attempt"]) == ([9], 2)
    assert job["attempts"][0]["error_code"] == "output_not_own"
    again = await service.finished(await submitted(service, picture(10, "PrefixIgnoringSaver")))
    assert (await colors(service, again), again["attempt"]) == ([10], 1)


async def test_such_a_saver_beside_a_good_one_costs_no_run_and_is_found_out_all_the_same(service: Service) -> None:
    graph = picture(9, "PrefixIgnoringSaver")
    graph["4"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "good"}}
    job = await service.finished(await submitted(service, graph))
    assert (await colors(service, job), job["attempt"]) == ([9], 1)
    assert [output["node_id"] for output in job["outputs"]] == ["4"]
    (warning,) = job["warnings"]
    assert "node 2" in warning
    assert "submit this workflow again" in warning
    again = await service.finished(await submitted(service, graph))
    assert (await colors(service, again), again["attempt"], again["warnings"]) == ([9, 9], 1, [])


async def test_a_file_that_somebody_else_overwrites_is_not_kept_as_the_runs_own(service: Service) -> None:
    """Somebody else's prompt waits in ComfyUI's queue, and saves under the same name before our file is fetched."""
    await service.standin.state.apply(Fault(kind=FaultKind.HANG))
    # The other prompt begins half a second after the end of ours, and our worker reads the history two seconds later.
    await service.standin.state.apply(Fault(kind=FaultKind.HISTORY_LATE, seconds=0.5, times=1))
    await service.standin.state.apply(Fault(kind=FaultKind.SLOW_HTTP, route="/history", seconds=2, times=None))
    job_id = await submitted(service, picture(1))

    async def begun() -> bool:
        return bool(service.standin.state.log.executions)

    await eventually(begun)
    async with ClientSession(service.standin.url) as foreign:
        assert (await foreign.post("/prompt", json={"prompt": picture(2), "client_id": "else"})).status == 200
    service.standin.state.faults.clear(FaultKind.HANG)
    job = await service.finished(job_id)
    assert await colors(service, job) == [1]
    assert [each["error_code"] for each in job["attempts"]] == ["output_not_own", None]


async def test_a_file_that_is_never_there_fails_the_job_and_says_so(service: Service) -> None:
    graph = picture(1)
    graph["2"] = {"class_type": "VanishingSaver", "inputs": {"images": ["1", 0], "name": "gone"}}
    job = await service.run(job_type="workflow", workflow=graph, max_attempts=1)
    assert (job["status"], job["error_code"]) == ("failed", "output_invalid")


@pytest.mark.parametrize("before", range(3))
async def test_a_request_about_a_shared_file_that_fails_is_made_again(service: Service, before: int) -> None:
    """What it is before and after, and the file itself: none of them costs the run."""
    await service.standin.state.apply(Fault(kind=FaultKind.VIEW, how=ViewFault.UNAVAILABLE, after=before))
    job = await service.run(job_type="workflow", workflow=picture(0x336699))
    assert (job["status"], job["attempt"]) == ("completed", 1)
    assert await colors(service, job) == [0x336699]


async def test_a_run_taken_over_keeps_its_file_if_nothing_ran_since(service: Service, start_worker: Workers) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.HANG))
    job_id = await submitted(service, picture(3))

    async def executing() -> bool:
        return bool((await service.job(job_id))["phase"] == "executing")

    await eventually(executing)
    await service.exchange_worker(start_worker)
    service.standin.state.faults.clear()
    job = await service.finished(job_id)
    assert (await colors(service, job), job["attempt"]) == ([3], 1)


def one_after_the_other(service: Service, jobs: list[dict[str, Any]]) -> tuple[float, float]:
    """Of two jobs, of which either may have come first: when the later one began, and when the other was completed."""
    starts = {run.prompt_id: run.started for run in service.standin.state.log.executions}
    first, second = sorted(jobs, key=lambda job: starts[job["comfyui_prompt_id"]])
    return starts[second["comfyui_prompt_id"]], seconds(first["attempts"][-1]["ended_at"])


def seconds(timestamp: str) -> float:
    """The moment that the API tells, Unix seconds."""
    return datetime.fromisoformat(timestamp).timestamp()
