"""The founding examples against real processes: curl, Python with websockets, JavaScript in a browser."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
import websockets
from acceptance.commands import ROOT, WAIT_S, Place, eventually, temporary_place
from aiohttp import web
from playwright.async_api import async_playwright

from harness import FOUNDING_BODY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from playwright.async_api import Page

pytestmark = pytest.mark.slow

FINAL = ("completed", "failed", "cancelled")
PAGE = ROOT / "tests" / "data" / "founding-client"
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
CURL_BODY = """{
    "user_id": "your-user-id", "job_type": "image",
    "prompt": "a beautiful sunset over mountains", "width": 832, "height": 1216 }"""


def tool(*names: str, package: str) -> str:
    """Return the path of the first of these programs; without any the test is skipped, and fails in CI."""
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        reason = f"None of {', '.join(names)} is installed: install the package {package}."
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """A server and a worker as processes, with embedded servers and stand-in of their own; nothing is left of them."""
    with temporary_place() as found:
        with (
            found.running("serve", GENONAUT_ENV="test", WS_LINGER_SECONDS="2") as server,
            found.running(module="worker", GENONAUT_ENV="test") as worker,
        ):
            server.says(f"http://127.0.0.1:{found.api_port}")
            eventually(lambda: _ready(found.api_port), "a worker and a backend")
            yield found
            assert worker.ends(signal.SIGTERM) == 0, worker.output
            assert server.ends(signal.SIGTERM) == 0, server.output
            assert "Traceback" not in server.output + worker.output
        eventually(found.is_quiet, "the end of everything that was started")


@pytest.fixture
async def page(place: Place) -> AsyncIterator[Page]:
    """A page in headless Chromium; errors on its console fail the test."""
    browser = tool("chromium", "chromium-browser", "google-chrome", package="chromium")
    faults: list[str] = []
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=browser, args=ARGUMENTS)
        found = await chromium.new_page()
        found.on("pageerror", lambda error: faults.append(str(error)))
        found.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
        yield found
        await chromium.close()
    assert faults == []


@pytest.fixture
async def site() -> AsyncIterator[str]:
    """The founding page on a server of its own, as a client's own site would have it."""
    app = web.Application()

    async def index(_: web.Request) -> web.StreamResponse:
        return web.FileResponse(PAGE / "index.html")

    async def no_icon(_: web.Request) -> web.StreamResponse:
        return web.Response(status=204)

    app.router.add_get("/", index)
    app.router.add_get("/favicon.ico", no_icon)
    runner = web.AppRunner(app)
    await runner.setup()
    listening = web.TCPSite(runner, "127.0.0.1", 0)
    await listening.start()
    port = runner.addresses[0][1]
    yield f"http://localhost:{port}/"
    await runner.cleanup()


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready") as answer:
            checks = json.load(answer)["checks"]
    except OSError:
        return False
    return all(checks[name]["status"] == "ok" for name in ("postgresql", "redis", "workers", "backends"))


def call(place: Place, path: str, body: Any = None) -> Any:
    """Call the API: a GET, or a POST with this body."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(
        f"http://localhost:{place.api_port}{path}", data, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        return json.load(answer)


def submit(place: Place, **changes: Any) -> int:
    """Submit the founding job with these fields changed, and return its id."""
    return int(call(place, "/api/v1/generation-jobs/", FOUNDING_BODY | changes)["job_id"])


async def follow(place: Place, path: str) -> list[dict[str, Any]]:
    """Collect what the server tells until it closes, and check that it does so properly."""
    frames = []
    async with asyncio.timeout(WAIT_S), websockets.connect(f"ws://localhost:{place.api_port}{path}") as websocket:
        async for message in websocket:
            assert isinstance(message, str)
            frames.append(json.loads(message))
    assert websocket.close_code == 1000
    return frames


def test_curl_submits_reads_and_cancels(place: Place) -> None:
    curl = tool("curl", package="curl")
    url = f"http://localhost:{place.api_port}/api/v1/generation-jobs"

    def run(*arguments: str) -> Any:
        done = subprocess.run([curl, "-sS", *arguments], capture_output=True, check=True, text=True, timeout=WAIT_S)
        return json.loads(done.stdout)

    job = run("-X", "POST", f"{url}/", "-H", "Content-Type: application/json", "-d", CURL_BODY)
    assert (job["status"], job["task_id"]) == ("pending", f"{job['job_id']}:1")
    job_url = f"{url}/{job['job_id']}"
    eventually(lambda: run(job_url)["status"] in FINAL, "the end of the job")
    done = run(job_url)
    assert (done["status"], done["error_message"]) == ("completed", None)
    (output,) = done["outputs"]
    assert (output["width"], output["height"], output["content_type"]) == (832, 1216, "image/png")
    other = run("-X", "POST", f"{url}/", "-H", "Content-Type: application/json", "-d", CURL_BODY)
    cancelled = run("-X", "POST", f"{url}/{other['job_id']}/cancel")
    assert cancelled["status"] in ("cancelled", "running")
    eventually(lambda: run(f"{url}/{other['job_id']}")["status"] == "cancelled", "the end of the cancelled job")


async def test_a_websockets_client_loops_until_it_is_completed(place: Place) -> None:
    job_id = submit(place)
    statuses = []
    uri = f"ws://localhost:{place.api_port}/ws/jobs/{job_id}"
    async with asyncio.timeout(WAIT_S), websockets.connect(uri) as websocket:
        while True:
            update = json.loads(await websocket.recv())
            assert update["job_id"] == job_id
            statuses.append((update["status"], update.get("progress")))
            if update["status"] in FINAL:
                break
    assert update["status"] == "completed", update
    assert list(dict.fromkeys(status for status, _ in statuses))[-2:] == ["processing", "completed"]
    percents = [progress for status, progress in statuses if status == "processing"]
    assert percents == sorted(percents)
    assert len(set(percents)) > 3
    stored = call(place, f"/api/v1/generation-jobs/{job_id}")
    assert update["output_paths"] == stored["output_paths"]
    assert update["content_id"] == stored["content_id"]


async def test_several_jobs_are_followed_on_one_socket(place: Place) -> None:
    job_ids = [submit(place, width=256, height=256, prompt=f"number {number}") for number in range(4)]
    frames = await follow(place, f"/ws/jobs?job_ids={','.join(map(str, job_ids))}")
    for job_id in job_ids:
        own = [frame["status"] for frame in frames if frame["job_id"] == job_id]
        assert own[-1] == "completed"
        assert own.count("completed") == 1


async def test_a_client_that_comes_after_the_end_is_told_it_at_once(place: Place) -> None:
    job_id = submit(place, width=64, height=64)
    await asyncio.to_thread(
        eventually, lambda: call(place, f"/api/v1/generation-jobs/{job_id}")["status"] == "completed", "the job's end"
    )
    async with asyncio.timeout(WAIT_S):
        async with websockets.connect(f"ws://localhost:{place.api_port}/ws/jobs/{job_id}") as websocket:
            frame = json.loads(await websocket.recv())
            assert (frame["job_id"], frame["status"]) == (job_id, "completed")
            await websocket.send(json.dumps({"type": "ping", "id": "late"}))
            assert json.loads(await websocket.recv()) == {"type": "pong", "id": "late"}


async def test_a_page_shows_status_and_progress_until_the_end(place: Place, page: Page, site: str) -> None:
    job_id = submit(place, sampler_params={"steps": 40})
    await page.goto(f"{site}?server=localhost:{place.api_port}&job={job_id}")
    # What the page itself says, whatever its script believes.
    await page.wait_for_function("document.getElementById('status').textContent === 'completed'", timeout=WAIT_S * 1000)
    frames = await page.evaluate("frames")
    told = [frame for frame in frames if "status" in frame]
    assert {frame["job_id"] for frame in told} == {job_id}
    percents = [frame["progress"] for frame in told if frame["status"] == "processing"]
    assert percents == sorted(percents)
    assert len(set(percents)) > 3
    assert await page.evaluate("document.getElementById('progress').value") == 100
    assert {"type": "pong", "id": 7} in frames
    assert await page.locator("#connection").text_content() == "open"


async def test_a_page_follows_several_jobs(place: Place, page: Page, site: str) -> None:
    job_ids = [submit(place, width=128, height=128, prompt=f"page {number}") for number in range(3)]
    await page.goto(f"{site}?server=localhost:{place.api_port}&jobs={','.join(map(str, job_ids))}")
    await page.wait_for_function(
        f"frames.filter(frame => frame.status === 'completed').length === {len(job_ids)}", timeout=WAIT_S * 1000
    )
    frames = await page.evaluate("frames")
    assert {frame["job_id"] for frame in frames if frame.get("status") == "completed"} == set(job_ids)
