"""Previews of running jobs: only the newest is published, scaled down, at most two a second for each job."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Final

from app.domain.errors import QueueUnavailable
from app.runtime.end_tasks import end_tasks
from worker.outputs.shrinking import MOST_PREVIEW_BYTES, small_picture

if TYPE_CHECKING:
    from app.messaging.previews import Previews
    from worker.comfyui.answers import Picture

log = logging.getLogger(__name__)

AT_ONCE: Final = 2
"""Maximum number of previews scaled at the same time, which limits the memory used."""
EVERY_S: Final = 0.5
KEEP_S: Final = 10.0
"""Seconds after which the expiry of an unchanged preview in Redis is renewed."""


class PreviewFeeds:
    """Scales and publishes the previews of all attempts of a worker, in tasks of their own."""

    def __init__(self, previews: Previews) -> None:
        self._previews = previews
        self._tasks: set[asyncio.Task[None]] = set()
        self._making = asyncio.Semaphore(AT_ONCE)

    @property
    def idle(self) -> bool:
        """Whether no picture is being made or sent."""
        return not self._tasks

    def of(self, job_id: int, attempt: int) -> PreviewFeed:
        """Return the feed for an attempt's previews."""
        return PreviewFeed(self._previews, self._tasks, self._making, job_id, attempt)

    async def close(self) -> None:
        """Cancel all feeds; previews in Redis expire."""
        await end_tasks(self._tasks)


class PreviewFeed:
    """Takes the previews of one attempt; its methods never wait, so they do not delay the attempt."""

    def __init__(
        self,
        previews: Previews,
        tasks: set[asyncio.Task[None]],
        making: asyncio.Semaphore,
        job_id: int,
        attempt: int,
    ) -> None:
        self._previews = previews
        self._tasks = tasks
        self._making = making
        self._job_id = job_id
        self._attempt = attempt
        self._newest: memoryview | None = None
        self._woken = asyncio.Event()
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def show(self, picture: Picture) -> None:
        """Take a preview; it replaces one that is not published yet."""
        if self._ended.is_set() or len(picture.image) > MOST_PREVIEW_BYTES:
            # One that large is never published, so it is not held in memory.
            return
        self._newest = picture.image
        self._woken.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"preview-{self._job_id}")
            self._tasks.add(self._task)
            self._task.add_done_callback(self._tasks.discard)

    def end(self) -> None:
        """End the feed and remove its preview, because the run is over."""
        self._ended.set()
        self._woken.set()

    async def _run(self) -> None:
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                await self._publish()
            except QueueUnavailable as error:
                # Only this preview is lost.
                log.info("job %s: %s", self._job_id, error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, EVERY_S - (time.monotonic() - began))):
                    await self._ended.wait()
        with contextlib.suppress(QueueUnavailable):
            await self._previews.remove(self._job_id)

    async def _publish(self) -> None:
        """Publish the next preview, or renew the last one after `KEEP_S`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KEEP_S):
                await self._woken.wait()
        self._woken.clear()
        image, self._newest = self._newest, None
        if image is None:
            await self._previews.keep(self._job_id)
            return
        async with self._making:
            small = await asyncio.to_thread(small_picture, image)
        if small is not None and not self._ended.is_set():
            # Numbered by the wall clock, so that those of a later attempt count as newer.
            await self._previews.put(self._job_id, self._attempt, int(time.time() * 1000), small)
