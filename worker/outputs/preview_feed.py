"""Pictures of running jobs as they come into being: the newest wins, made small, and at most two a second of a job."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Final

from app.domain.errors import QueueUnavailable
from app.runtime.end_tasks import end_tasks
from worker.outputs.media import MOST_PREVIEW_BYTES, small_picture

if TYPE_CHECKING:
    from app.messaging.previews import Previews
    from worker.comfyui.answers import Picture

log = logging.getLogger(__name__)

AT_ONCE: Final = 2
"""So many are made small at the same time: the memory that it takes is theirs together."""
EVERY_S: Final = 0.5
KEEP_S: Final = 10.0
"""A picture that stays the newest for so long is kept from being forgotten."""


class PreviewFeeds:
    """Makes and publishes the pictures of all attempts of a worker, beside whatever the attempts do."""

    def __init__(self, previews: Previews) -> None:
        self._previews = previews
        self._tasks: set[asyncio.Task[None]] = set()
        self._making = asyncio.Semaphore(AT_ONCE)

    def of(self, job_id: int, attempt: int) -> PreviewFeed:
        """Return what takes the pictures of an attempt."""
        return PreviewFeed(self._previews, self._tasks, self._making, job_id, attempt)

    async def close(self) -> None:
        """End all; what is in Redis ends by itself."""
        await end_tasks(self._tasks)


class PreviewFeed:
    """Takes the pictures of one attempt; nothing here waits for anything, or holds up the attempt's end."""

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
        """Take a picture, in place of one that nobody has looked at yet."""
        if self._ended.is_set() or len(picture.image) > MOST_PREVIEW_BYTES:
            # Such a large one nobody would look at, and it is not to be held for that.
            return
        self._newest = picture.image
        self._woken.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"preview-{self._job_id}")
            self._tasks.add(self._task)
            self._task.add_done_callback(self._tasks.discard)

    def end(self) -> None:
        """The run is over, and so are its pictures."""
        self._ended.set()
        self._woken.set()

    async def _run(self) -> None:
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                await self._publish()
            except QueueUnavailable as error:
                # It costs the picture, and nothing else.
                log.info("job %s: %s", self._job_id, error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, EVERY_S - (time.monotonic() - began))):
                    await self._ended.wait()
        with contextlib.suppress(QueueUnavailable):
            await self._previews.remove(self._job_id)

    async def _publish(self) -> None:
        """Publish the next picture, or say after a while that there is none newer."""
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
            # Of the clock, so that those of a later attempt are newer.
            await self._previews.put(self._job_id, self._attempt, int(time.time() * 1000), small)
