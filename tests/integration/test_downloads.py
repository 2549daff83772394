"""Files begin to come as soon as ComfyUI names them, while the run goes on; what nobody takes leaves nothing."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession
from integration.wire import BROKEN, PICTURE, Wire, ok
from PIL import Image
from samples import slow_graph

from app.domain.errors import BackendLost, OutputInvalid
from app.storage.files import HELD_BYTES, FileStore
from harness import GUARD_S, eventually
from worker.comfyui.answers import read_saved
from worker.comfyui.node_outputs import OutputFile
from worker.outputs.downloads import AHEAD, TIMES_AS_MUCH, TRIES, Downloads
from worker.standin.faults import Fault, FaultKind, ViewFault

if TYPE_CHECKING:
    from pathlib import Path

    from app.settings import Settings
    from harness import Service
    from worker.comfyui.client import ComfyUI

MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
AWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"
ERROR = b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def downloads(wire: tuple[Wire, ComfyUI], tmp_path: Path) -> Downloads:
    return Downloads(wire[1], FileStore(tmp_path), 2**30)


async def asked(served: Wire, count: int) -> None:
    """Wait until the server has been asked so often, and for any question that should not come."""

    async def enough() -> bool:
        return len(served.requests) >= count

    await eventually(enough)
    await asyncio.sleep(0.05)
    assert len(served.requests) == count


def left_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_what_is_expected_comes_before_it_is_asked_for_and_once(
    wire: tuple[Wire, ComfyUI],
    downloads: Downloads,
) -> None:
    served, _ = wire
    served.answers = [ok(b"picture")]
    downloads.expect([PICTURE])
    downloads.expect([PICTURE])
    await asked(served, 1)
    # Another node's name for the same file, as the history may have it.
    received = await downloads.take(OutputFile("node 2", PICTURE.filename))
    assert received.data == b"picture"
    assert len(served.requests) == 1
    served.answers = [ok(b"picture of now")]
    assert (await downloads.take(PICTURE)).data == b"picture of now"


async def test_only_a_few_come_unasked(wire: tuple[Wire, ComfyUI], downloads: Downloads) -> None:
    served, _ = wire
    files = [OutputFile("9", f"{number}.png") for number in range(3 * AHEAD)]
    served.answers = [ok(b"picture")] * len(files)
    downloads.expect(files)
    await asked(served, AHEAD)
    for number, file in enumerate(files):
        downloads.expect(files[number:])
        assert (await downloads.take(file)).data == b"picture"
    assert sorted(served.requests) == sorted(
        f"GET /view?filename={file.filename}&subfolder=&type=output" for file in files
    )


@pytest.mark.parametrize("answer", [MISSING, ERROR, ok(b"pict" + BROKEN, length=100)])
async def test_what_fails_before_it_is_asked_for_is_nobodys_failure(
    wire: tuple[Wire, ComfyUI],
    downloads: Downloads,
    answer: bytes,
) -> None:
    served, _ = wire
    served.answers = [answer, ok(b"picture")]
    downloads.expect([PICTURE])
    await asked(served, 1)
    assert (await downloads.take(PICTURE)).data == b"picture"


async def test_what_fails_when_it_is_asked_for_is_told(wire: tuple[Wire, ComfyUI], downloads: Downloads) -> None:
    served, _ = wire
    served.answers = [MISSING]
    with pytest.raises(OutputInvalid, match=r"a\.png"):
        await downloads.take(PICTURE)
    served.answers = [ERROR] * TRIES
    with pytest.raises(OutputInvalid, match="500 Oh"):
        await downloads.take(PICTURE)
    assert not served.answers
    served.answers = [AWAY] * TRIES
    with pytest.raises(BackendLost):
        await downloads.take(PICTURE)
    assert not served.answers


async def test_the_files_of_an_attempt_are_bounded_together(wire: tuple[Wire, ComfyUI], tmp_path: Path) -> None:
    served, comfyui = wire
    downloads = Downloads(comfyui, FileStore(tmp_path), 1000)
    served.answers = [ok(b"x" * 1000)] * (TIMES_AS_MUCH + 2)
    for number in range(TIMES_AS_MUCH):
        await downloads.take(OutputFile("9", f"{number}.png"))
    with pytest.raises(OutputInvalid, match="together"):
        await downloads.take(OutputFile("9", "last.png"))


async def test_a_file_that_comes_again_counts_once(wire: tuple[Wire, ComfyUI], tmp_path: Path) -> None:
    served, comfyui = wire
    downloads = Downloads(comfyui, FileStore(tmp_path), 1000)
    broken = ok(b"x" * 900 + BROKEN, length=1000)
    for number in range(TIMES_AS_MUCH):
        served.answers = [broken, ok(b"x" * 1000)]
        await downloads.take(OutputFile("9", f"{number}.png"))
    assert not served.answers


@pytest.mark.parametrize("whole", [True, False])
async def test_what_nobody_takes_leaves_nothing(
    wire: tuple[Wire, ComfyUI],
    downloads: Downloads,
    tmp_path: Path,
    whole: bool,
) -> None:
    served, _ = wire
    data = b"x" * 3 * HELD_BYTES
    # Half of it, and then silence.
    served.answers = [ok(data, length=None if whole else 2 * len(data))]
    downloads.expect([PICTURE])

    async def on_the_disk() -> bool:
        return sum(path.stat().st_size for path in left_in(tmp_path)) >= 2 * HELD_BYTES

    await eventually(on_the_disk)
    await downloads.drop()
    assert left_in(tmp_path) == []
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("download-")]


def test_only_what_a_node_saved_is_expected_of_it() -> None:
    """A preview may be written to by others, and a text is here already."""
    saved = {"filename": "a.png", "subfolder": "s", "type": "output"}
    shown = {"filename": "b.png", "subfolder": "", "type": "temp"}
    assert read_saved({"node": 9, "output": {"images": [shown, saved], "text": ["words"]}}) == [
        OutputFile("9", "a.png", "s", key="images")
    ]
    for data in ({}, {"node": "9", "output": None}, {"node": "9", "output": {"images": 3}}):
        assert read_saved(data) == []


async def test_a_picture_comes_while_the_run_goes_on(service: Service) -> None:
    # Whoever asks for a second one is told of an error once.
    views = Fault(kind=FaultKind.VIEW, how=ViewFault.ERROR, after=1)
    await service.standin.state.apply(views)
    graph = {
        "4": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "first"}},
        **slow_graph(2, steps=20),
    }
    job_id = (await service.submit(job_type="workflow", workflow=graph))["job_id"]
    await service.executing(job_id)

    async def asked_for() -> bool:
        return views.after == 0

    await eventually(asked_for)
    assert service.standin.state.queue.running
    job = await service.finished(job_id)
    assert (job["status"], job["attempt"], len(job["outputs"])) == ("completed", 1, 2)
    assert views.times == 0


async def test_pictures_of_a_run_that_is_cancelled_are_not_kept(service: Service, settings: Settings) -> None:
    noise = Image.frombytes("RGB", (1000, 1000), random.Random(1).randbytes(3_000_000))
    noise.save(service.standin.state.folders.inside("input", "") / "noise.png")
    graph = slow_graph() | {
        "1": {"class_type": "LoadImage", "inputs": {"image": "noise.png"}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "first"}},
    }
    job_id = (await service.submit(job_type="workflow", workflow=graph))["job_id"]
    await service.executing(job_id)

    async def on_the_disk() -> bool:
        return bool(left_in(settings.storage_path))

    await eventually(on_the_disk)
    answer = await service.client.post(f"/api/v1/generation-jobs/{job_id}/cancel")
    assert answer.status == 200
    assert (await service.finished(job_id))["status"] == "cancelled"

    async def nothing_left() -> bool:
        return not left_in(settings.storage_path)

    await eventually(nothing_left)


def several(count: int) -> dict[str, Any]:
    """A graph that leaves so many pictures, told apart by their widths."""
    graph: dict[str, Any] = {}
    for number in range(count):
        size = {"width": 64 + 8 * number, "height": 64, "batch_size": 1, "color": number}
        graph[f"e{number}"] = {"class_type": "EmptyImage", "inputs": size}
        save = {"images": [f"e{number}", 0], "filename_prefix": f"p{number}"}
        graph[f"s{number}"] = {"class_type": "SaveImage", "inputs": save}
    return graph


async def test_outputs_stand_in_the_order_of_their_nodes(service: Service) -> None:
    """Several are kept at once, the first is done last, and the history has them in another order."""
    graph = several(5)
    for number, node_id in enumerate(("2", "3", "10", "x", "12:4")):
        graph[node_id] = graph.pop(f"s{number}")
    graph["e0"]["inputs"] |= {"width": 3000, "height": 3000}
    job_id = (await service.submit(job_type="workflow", workflow=graph))["job_id"]
    async with asyncio.timeout(GUARD_S), service.client.ws_connect(f"/ws/jobs/{job_id}") as ws:
        frames = [message.json() async for message in ws]
    job = await service.job(job_id)
    prompt_id = job["comfyui_prompt_id"]
    async with ClientSession() as session, session.get(f"{service.standin.url}/history/{prompt_id}") as answer:
        told = list((await answer.json())[prompt_id]["outputs"])
    order = ["2", "3", "10", "x", "12:4"]
    assert [output["node_id"] for output in job["outputs"]] == order != told
    assert [output["width"] for output in job["outputs"]] == [3000, 72, 80, 88, 96]
    assert [output["index"] for output in job["outputs"]] == [0, 1, 2, 3, 4]
    assert frames[-1]["output_paths"] == job["output_paths"]
    assert len(job["output_paths"]) == 5


@pytest.mark.parametrize("whole", range(6))
async def test_of_outputs_that_cannot_all_be_kept_the_good_ones_are(
    service: Service, settings: Settings, whole: int
) -> None:
    broken = Fault(kind=FaultKind.VIEW, how=ViewFault.NOT_AN_IMAGE, after=whole, times=None)
    await service.standin.state.apply(broken)
    job = await service.run(job_type="workflow", workflow=several(6), max_attempts=1)
    if whole:
        assert (job["status"], job["error_code"], job["attempt"]) == ("completed", None, 1)
    else:
        assert (job["status"], job["error_code"]) == ("failed", "output_invalid")
    assert [output["index"] for output in job["outputs"]] == list(range(whole))
    kept = {output["source"]["filename"] for output in job["outputs"]}
    lost = {f"p{number}_00001_.png" for number in range(6)} - kept
    assert len(job["warnings"]) == (len(lost) if whole else 0)
    assert all(any(f", {name}: " in warning for name in lost) for warning in job["warnings"])
    await service.worker.thumbnails.done()
    assert len(left_in(settings.storage_path)) == 2 * whole


async def test_a_backend_that_is_lost_among_good_outputs_loses_none_of_them(
    service: Service, settings: Settings
) -> None:
    """What may be had yet is waited for: nothing is kept of this attempt, and the next one has all."""
    await service.standin.state.apply(Fault(kind=FaultKind.VIEW, how=ViewFault.TRUNCATED, after=2, times=4 * TRIES))
    job = await service.run(job_type="workflow", workflow=several(6))
    assert (job["status"], len(job["outputs"]), job["warnings"]) == ("completed", 6, [])
    assert [attempt["error_code"] for attempt in job["attempts"][:-1]] != []
    assert {attempt["error_code"] for attempt in job["attempts"][:-1]} == {"backend_lost"}
    await service.worker.thumbnails.done()
    assert len(left_in(settings.storage_path)) == 12
