"""One job as a client of ours would run it: submitted over REST, followed over WebSocket, its image fetched."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from PIL import Image

from app.domain.errors import GenonautError
from app.storage.files import FileStore

if TYPE_CHECKING:
    from pathlib import Path

    from app.commands.terminal import Terminal
    from app.commands.whole_service import WholeService

BODY: Final = {
    "job_type": "image",
    "prompt": "a lighthouse on a cliff at sunset, oil painting",
    "width": 832,
    "height": 1216,
}
READY_S: Final = 60.0
"""How long the server, and then the worker, may take to come up."""
TAKEN_S: Final = 120.0
"""Maximum seconds without a frame while the job waits to be started."""
FINISHED_S: Final = 1800.0
"""How long the job may take; a real ComfyUI may have to load a model first."""
POLL_S: Final = 0.1
KEY: Final = "GENONAUT_KEY"
"""Environment variable with the key that the job is sent with, for a service that asks for one."""
ENDS: Final = frozenset({"completed", "failed", "cancelled"})


class SampleJobFailed(GenonautError):
    """The sample job did not end in an image; the message says where it stopped."""

    code = "sample_job_failed"


@dataclass(frozen=True, slots=True)
class StoredImage:
    """The image, as seen in the store and over HTTP."""

    path: Path
    url: str
    width: int
    height: int
    size_bytes: int


class SampleJob:
    """The sample job of the demo."""

    def __init__(self, service: WholeService, terminal: Terminal) -> None:
        self._service = service
        self._terminal = terminal
        self._url = service.url

    async def run(self) -> StoredImage:
        """Run it and return its image, or raise `SampleJobFailed`."""
        key = os.environ.get(KEY)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # Not by way of a proxy: that is aiohttp's default.
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30), headers=headers) as session:
            await self._wait_until_ready(session)
            job = await self._submit(session)
            self._terminal.line(f'Job {job["job_id"]}: "{job["prompt"]}", {job["width"]} × {job["height"]}')
            frame = await self._follow(session, job["job_id"])
            return await self._look_at_image(session, job, frame)

    async def _wait_until_ready(self, session: aiohttp.ClientSession) -> None:
        """Wait until the server answers, a worker lives, and it has a ComfyUI that can be used."""
        deadline = time.monotonic() + READY_S
        told: dict[str, Any] = {}
        while not _all_there(told):
            if time.monotonic() > deadline:
                raise SampleJobFailed(self._what_is_missing(told))
            await asyncio.sleep(POLL_S)
            try:
                async with session.get(f"{self._url}/health/ready") as answer:
                    told = await answer.json()
                if answer.status == HTTPStatus.UNAUTHORIZED:
                    raise SampleJobFailed(f"{told.get('detail')} Set {KEY} to one of a user: {KEY}=gno_… make demo")
            except (aiohttp.ClientError, TimeoutError, ValueError):
                told = {}

    def _what_is_missing(self, told: dict[str, Any]) -> str:
        states = {name: check.get("status") for name, check in told.get("checks", {}).items()}
        if not states:
            name, what = "app", f"The server does not answer at {self._url}"
        elif states.get("workers") != "ok":
            name, what = "worker", "The worker did not come up"
        elif states.get("backends") != "ok":
            reasons = [each["reason"] for each in told.get("backends", []) if each.get("reason")]
            faults = "".join(f"; {reason}" for reason in reasons)
            where = self._service.settings.comfyui_urls
            name, what = "worker", f"The worker found no ComfyUI that can be used (COMFYUI_URLS: {where}{faults})"
        else:
            name, what = "app", f"The server is not ready ({states})"
        lines = "\n".join(f"  {line}" for line in self._service.children.last_lines(name)) or "  (nothing)"
        return f"{what} within {READY_S:.0f} s. The last that the {name} said:\n{lines}"

    async def _submit(self, session: aiohttp.ClientSession) -> dict[str, Any]:
        # With a key the job is its owner's.
        body = BODY if os.environ.get(KEY) else {"user_id": "demo"} | BODY
        try:
            async with session.post(f"{self._url}/api/v1/generation-jobs/", json=body) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise SampleJobFailed(f"The sample job could not be submitted: {error}") from error
        if answer.status != 201:
            raise SampleJobFailed(f"The server refused the sample job with {answer.status}: {text}")
        job: dict[str, Any] = json.loads(text)
        return job

    async def _follow(self, session: aiohttp.ClientSession, job_id: int) -> dict[str, Any]:
        """Show the job's progress, and return the frame that told of its end in `completed`.

        A connection that breaks is made anew: it begins with the job's present state.
        """
        frame: dict[str, Any] = {}
        try:
            async with asyncio.timeout(FINISHED_S):
                while frame.get("status") not in ENDS:
                    try:
                        frame = await self._follow_once(session, job_id)
                    except aiohttp.ClientError:
                        await asyncio.sleep(POLL_S)
        except TimeoutError as error:
            raise SampleJobFailed(f"Job {job_id} has not finished in {FINISHED_S / 60:.0f} min") from error
        finally:
            self._terminal.end_progress()
        if frame["status"] != "completed":
            raise SampleJobFailed(f"Job {job_id} has {frame['status']}: {frame.get('error')}")
        return frame

    async def _follow_once(self, session: aiohttp.ClientSession, job_id: int) -> dict[str, Any]:
        """Follow the job by one connection, to its end or that of the connection; return the last frame."""
        frame: dict[str, Any] = {}
        async with session.ws_connect(f"{self._url}/ws/jobs/{job_id}", heartbeat=30) as ws:
            while frame.get("status") not in ENDS:
                # Once it runs it may be silent for long: a model is being loaded.
                waits = frame.get("status", "pending") == "pending"
                try:
                    message = await ws.receive(timeout=TAKEN_S if waits else None)
                except TimeoutError as error:
                    raise SampleJobFailed(
                        f"No worker took job {job_id} within {TAKEN_S:.0f} s; others may be before it: "
                        f"{self._url}/api/v1/generation-jobs/queue/stats"
                    ) from error
                if message.type is not aiohttp.WSMsgType.TEXT:
                    break
                frame = json.loads(message.data)
                self._show(frame)
        return frame

    def _show(self, frame: dict[str, Any]) -> None:
        match frame["status"]:
            case "pending" if frame.get("reason"):
                self._terminal.line(f"Attempt {frame['attempt']} is needed: {frame['reason']}")
            case "pending":
                self._terminal.progress(0, "waiting")
            case "started":
                self._terminal.progress(0, f"started on {frame.get('backend')}")
            case status:
                self._terminal.progress(int(frame.get("progress") or 0), str(status))

    async def _look_at_image(
        self, session: aiohttp.ClientSession, job: dict[str, Any], frame: dict[str, Any]
    ) -> StoredImage:
        """Return the image that a completed job left, or raise if it is not what was asked for."""
        paths = frame.get("output_paths") or []
        if not paths:
            raise SampleJobFailed(f"Job {job['job_id']} has completed, but left no file")
        path = FileStore(self._service.settings.storage_path).absolute(paths[0])
        url = f"{self._url}/api/v1/contents/{frame['content_id']}/outputs/0"
        try:
            stored = await asyncio.to_thread(path.read_bytes)
            width, height = await asyncio.to_thread(_size, stored)
        except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for some broken PNG files
            raise SampleJobFailed(f"The file {path} is no image that can be read: {error}") from error
        wanted = job["width"], job["height"]
        if (width, height) != wanted:
            raise SampleJobFailed(f"The image {path} is {width} × {height} pixels, not {wanted[0]} × {wanted[1]}")
        try:
            async with session.get(url) as answer:
                served = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise SampleJobFailed(f"The image could not be fetched from {url}: {error}") from error
        if served != stored:
            raise SampleJobFailed(f"{url} answers {answer.status} with other bytes than those of {path}")
        return StoredImage(path, url, width, height, len(stored))


def _all_there(told: dict[str, Any]) -> bool:
    """Whether the answer of /health/ready says that a job can run now, and that its frames will come."""
    checks, wanted = told.get("checks", {}), ("postgresql", "redis", "events", "workers", "backends")
    return all(checks.get(name, {}).get("status") == "ok" for name in wanted)


def _size(image: bytes) -> tuple[int, int]:
    """Decode the whole image, and return its width and height."""
    with Image.open(BytesIO(image)) as opened:
        opened.load()
        return opened.size
