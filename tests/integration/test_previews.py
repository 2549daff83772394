"""Pictures that come into being, and the spans and tracebacks that attempts leave, with a real worker and stand-in."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import WSMsgType
from PIL import Image

from app import keys
from app.storage.run_times import RunTimes
from harness import GUARD_S, Service, eventually
from worker.comfyui.answers import Picture, read_frame
from worker.outputs.preview_feed import PreviewFeeds
from worker.outputs.shrinking import PREVIEW_PX, small_picture

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.test_utils import TestClient

CAPTURES = Path(__file__).parents[1] / "data" / "comfyui-captures"
SAMPLED: dict[str, Any] = {"width": 256, "height": 256, "sampler_params": {"steps": 12, "seed": 5}}
BROKEN = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 3}},
    "2": {"class_type": "RaiseError", "inputs": {"image": ["1", 0], "message": "it broke", "kind": "ValueError"}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}


@pytest.fixture
async def slow(client: Any, start_standin: Any, start_worker: Callable[..., Awaitable[Any]]) -> Service:
    """The whole service with a stand-in that takes its time for each step, and shows what it does."""
    standin = await start_standin(step_seconds=3.0)
    found = Service(client, standin, await start_worker(f"standin={standin.url}"))
    await found.backend_online()
    return found


def encoded(kind: str = "JPEG", size: tuple[int, int] = (640, 480)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 90)).save(buffer, kind)
    return buffer.getvalue()


def binary(data: bytes) -> Any:
    return SimpleNamespace(type=WSMsgType.BINARY, data=data)


async def attempt_of(client: TestClient[Any, Any], job_id: int) -> Any:
    """Return the last attempt, whole."""
    return (await client.app[keys.VIEWS].detailed(job_id)).attempts[-1]


async def test_a_picture_comes_while_it_runs_and_goes_at_the_end(slow):
    previews = slow.client.app[keys.PREVIEWS]
    async with slow.client.ws_connect("/ws/events") as events:
        job_id = (await slow.submit(**SAMPLED))["job_id"]

        async def shown() -> Any:
            return await previews.get(job_id)

        first = await eventually(shown)
        with Image.open(io.BytesIO(first.image)) as picture:
            assert (picture.format, max(picture.size) <= PREVIEW_PX) == ("WEBP", True)
        answer = await slow.client.get(f"/monitor/jobs/{job_id}/preview?n={first.number}")
        assert (answer.status, answer.content_type) == (200, "image/webp")
        await slow.finished(job_id)

        async def gone() -> bool:
            return await previews.get(job_id) is None

        await eventually(gone)
        told = []
        async with asyncio.timeout(GUARD_S):
            while not told or told[-1].get("status") != "completed":
                told.append(json.loads((await events.receive()).data))
    numbers = [event["number"] for event in told if event["type"] == "preview"]
    assert numbers
    assert numbers == sorted(set(numbers))
    nodes = {event["node"]["type"] for event in told if event.get("node")}
    assert "KSampler" in nodes
    assert (await previews.numbers([job_id])) == {}


async def test_a_completed_run_leaves_the_spans_of_its_nodes(service):
    done = await service.run(**SAMPLED)
    attempt = await attempt_of(service.client, done["job_id"])
    ran = {span["type"] for span in attempt.spans if "cached" not in span}
    assert {"KSampler", "VAEDecode", "SaveImage"} <= ran
    assert all(0 <= span["start_ms"] <= span["end_ms"] for span in attempt.spans if "cached" not in span)
    again = await service.run(**SAMPLED | {"sampler_params": {"steps": 12, "seed": 6}})
    later = await attempt_of(service.client, again["job_id"])
    assert "CheckpointLoaderSimple" in {span["type"] for span in later.spans if span.get("cached")}
    assert later.workflow_key == attempt.workflow_key is not None
    # The server's own may have read it before the second run had ended.
    usual = await RunTimes(service.client.app[keys.DATABASE]).usual([attempt.workflow_key])
    assert usual[attempt.workflow_key].count == 2


async def test_a_failed_run_leaves_its_spans_and_a_traceback_that_no_client_sees(service):
    done = await service.run(job_type="workflow", workflow=BROKEN)
    attempt = await attempt_of(service.client, done["job_id"])
    assert [span["type"] for span in attempt.spans] == ["EmptyImage", "RaiseError"]
    assert attempt.traceback
    for path in (f"/api/v1/generation-jobs/{done['job_id']}", f"/api/v1/generation-jobs/{done['job_id']}/attempts"):
        assert "traceback" not in (await (await service.client.get(path)).text()).lower()


async def test_a_cancelled_run_leaves_its_spans_and_no_picture(slow):
    job_id = (await slow.submit(**SAMPLED))["job_id"]
    previews = slow.client.app[keys.PREVIEWS]

    async def shown() -> Any:
        return await previews.get(job_id)

    await eventually(shown)
    await slow.client.post(f"/api/v1/generation-jobs/{job_id}/cancel")
    assert (await slow.finished(job_id))["status"] == "cancelled"
    attempt = await attempt_of(slow.client, job_id)
    assert "KSampler" in {span["type"] for span in attempt.spans}

    async def gone() -> bool:
        return await previews.get(job_id) is None

    await eventually(gone)


async def test_pictures_are_handed_to_whose_they_are_and_to_nobody_else(slow):
    first, second = (await slow.submit(**SAMPLED | {"width": 512}))["job_id"], (await slow.submit(**SAMPLED))["job_id"]
    backend = slow.worker.pool.backends["standin"]

    async def both() -> bool:
        return len(backend.followers) == 2 and any(each.executing for each in backend.followers.values())

    await eventually(both)
    shown: list[tuple[str, Picture]] = []
    for prompt_id, follower in backend.followers.items():
        follower.on_picture = lambda picture, whose=prompt_id: shown.append((whose, picture))
    (running,) = [prompt_id for prompt_id, follower in backend.followers.items() if follower.executing]
    (waiting,) = backend.followers.keys() - {running}
    image = memoryview(encoded())
    for prompt_id, whose in ((running, running), (waiting, waiting), ("somebody-elses", None), (None, running)):
        shown.clear()
        backend.show(Picture(image, prompt_id))
        assert [each for each, _ in shown] == ([whose] if whose else [])
    for job_id in (first, second):
        await slow.client.post(f"/api/v1/generation-jobs/{job_id}/cancel")
    backend.show(Picture(image, None))


@pytest.mark.parametrize(
    ("capture", "named"),
    [("success-text-to-image-legacy-previews", False), ("success-text-to-image-preview-metadata", True)],
)
def test_both_forms_of_real_previews_are_read(capture, named):
    rows = json.loads((CAPTURES / f"{capture}.json").read_text())
    frames = [row["data"] for row in rows if row["kind"] == "ws_binary"]
    # Of each frame the first 200 bytes were recorded, and how many there were.
    whole = [base64.b64decode(frame["base64_first_200"]).ljust(frame["length"], b"\0") for frame in frames]
    read = [read_frame(binary(frame)) for frame in whole]
    pictures = [each for each in read if isinstance(each, Picture)]
    assert pictures
    assert all((each.prompt_id is not None) is named for each in pictures)
    assert all(bytes(each.image[:3]) == b"\xff\xd8\xff" for each in pictures)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0\0\0\1",
        struct.pack(">II", 3, 5) + b"text",
        struct.pack(">II", 4, 9999) + b"{}",
        struct.pack(">II", 4, 2) + b"{}x",
        struct.pack(">II", 4, 3) + b"\xff{}x",
    ],
)
def test_other_binary_frames_show_nothing(frame):
    assert read_frame(binary(frame)) is None


def test_a_picture_is_made_small_and_nonsense_is_none():
    small = small_picture(memoryview(encoded(size=(1024, 512))))
    assert small is not None
    with Image.open(io.BytesIO(small)) as opened:
        assert (opened.format, opened.size) == ("WEBP", (PREVIEW_PX, PREVIEW_PX // 2))
    assert small_picture(memoryview(encoded("PNG"))) is not None
    for nonsense in (b"", b"\xff\xd8\xff nothing", encoded()[:300]):
        assert small_picture(memoryview(nonsense)) is None


async def test_the_newest_picture_wins_and_a_late_one_is_not_shown(client):
    previews = client.app[keys.PREVIEWS]
    pictures = PreviewFeeds(previews)
    feed = pictures.of(7, 1)
    colours = [encoded(size=(n, 8)) for n in (8, 16, 24)]
    for each in colours:
        feed.show(Picture(memoryview(each), None))

    async def shown() -> Any:
        return await previews.get(7)

    kept = await eventually(shown)
    with Image.open(io.BytesIO(kept.image)) as opened:
        assert opened.width == 24
    feed.end()
    feed.show(Picture(memoryview(colours[0]), None))

    async def gone() -> bool:
        return await previews.get(7) is None and pictures.idle

    await eventually(gone)
    await pictures.close()
