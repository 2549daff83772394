"""One job as a client of ours would run it: submitted over REST, followed over WebSocket, its image fetched."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
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
    "user_id": "demo",
    "job_type": "image",
    "prompt": "a lighthouse on a cliff at sunset, oil painting",
    "width": 832,
    "height": 1216,
}
READY_S: Final = 60.0
"""How long the server, and then the worker, may take to come up."""
TAKEN_S: Final = 120.0
"""How long nothing at all may be heard of the job."""
FINISHED_S: Final = 1800.0
"""How long the job may take; a real ComfyUI may have to load a model first."""
POLL_S: Final = 0.1
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
        # Not by way of a proxy: that is aiohttp's default.
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            await self._wait_until_ready(session)
            job = await self._submit(session)
            self._terminal.line(
                f"Job {job['job_id']}: “{job['prompt']}”, {job['width']} × {job['height']}, as any client would ask for it"
            )
            frame = await self._follow(session, job["job_id"])
            return await self._look_at_image(session, job, frame)
