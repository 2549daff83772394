"""Thumbnails of what is stored: made after `completed`, which they never delay, while nothing else is to be done."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from app.domain.errors import DatabaseUnavailable, StorageFailed
from app.runtime.end_tasks import end_tasks
from app.storage.files import thumbnail_path
from app.storage.thumbnails import Due
from worker.outputs.media import thumbnail_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from app.domain.job import Output
    from app.storage.files import FileStore
    from app.storage.thumbnails import ThumbnailStore

log = logging.getLogger(__name__)

AT_ONCE: Final = 2
"""Decoding pictures is processor work; more threads than this would take the loop's share."""
MOST_WAITING: Final = 10_000
"""So many are remembered here. PostgreSQL remembers all, and what was too much here is taken up when this is done."""
BATCH: Final = 16
"""So many of one job are stored and noted in one step, which costs as much as that of one."""
REST_S: Final = 0.2
"""For so long nothing was saved before one is made: of jobs in a row the next one comes sooner."""
YIELD_S: Final = 2.0
"""So long the saving of other jobs goes first."""
LATE_S: Final = 30.0
"""What is due for longer has been forgotten: its worker has stopped or died, or had too many."""
GIVEN_UP_S: Final = 7 * 86400.0
"""What is due for longer than this has no thumbnail: whoever tried it may have died of it each time."""
TAKEN_UP: Final = 200
"""So many that were forgotten are taken up at a time."""
_NICENESS: Final = 10


class Thumbnails:
    """Makes thumbnails, one job after the other, in threads that give way to all others."""

    def __init__(self, files: FileStore, store: ThumbnailStore, yield_s: float = YIELD_S) -> None:
        self._yield_s = yield_s
        self._files = files
        self._store = store
        self._waiting: deque[Due] = deque()
        self._under_way: set[Due] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._saving = self._saved = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="thumbnails", initializer=_give_way)

    def want(self, content_id: int, outputs: Iterable[Output]) -> None:
        """Make those that are due of what a job has just left, soon; waits for nothing."""
        self._add(Due(content_id, output.index, output.path) for output in outputs if output.thumbnail_due)

    async def take_up(self) -> int:
        """Make those that were forgotten, whoever's they were, and return how many; raises `DatabaseUnavailable`."""
        if self._waiting:
            return 0
        await self._store.give_up(GIVEN_UP_S)
        found = [each for each in await self._store.due(LATE_S, TAKEN_UP) if each not in self._under_way]
        self._add(found)
        return len(found)

    @contextmanager
    def giving_way(self) -> Iterator[None]:
        """Let what is done in the block go first, unless it lasts."""
        self._saving += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._saving -= 1
            self._saved += 1
            if not self._saving:
                self._quiet.set()

    async def done(self) -> None:
        """Return when all that are remembered here were tried."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Leave the rest to others; what a thread is at is not waited for."""
        self._waiting.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)
        await end_tasks(self._tasks)

    def _add(self, found: Iterable[Due]) -> None:
        for due in found:
            if len(self._waiting) < MOST_WAITING:
                self._waiting.append(due)
        while len(self._tasks) < min(AT_ONCE, len(self._waiting)):
            task = asyncio.create_task(self._work(), name="thumbnails")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        while self._waiting:
            waited = not await self._is_quiet()
            batch = self._batch()
            self._under_way.update(batch)
            try:
                await self._make(batch, at_once=waited)
            except (DatabaseUnavailable, StorageFailed) as error:
                log.warning("thumbnails are made later: %s", error)
            except Exception:
                log.exception("thumbnails stumbled over a bug")
            finally:
                self._under_way.difference_update(batch)

    async def _is_quiet(self) -> bool:
        """Wait until nothing is being saved and nothing was a moment ago, but not for long; whether that is so."""
        try:
            async with asyncio.timeout(self._yield_s):
                count = None
                while self._saving or count != self._saved:
                    await self._quiet.wait()
                    count = self._saved
                    await asyncio.sleep(REST_S)
        except TimeoutError:
            return False
        return True

    def _batch(self) -> list[Due]:
        batch: list[Due] = []
        while self._waiting and len(batch) < BATCH:
            if batch and self._waiting[0].content_id != batch[0].content_id:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _make(self, batch: Sequence[Due], *, at_once: bool) -> None:
        """Make, store and note thumbnails of one job; raises `StorageFailed`, `DatabaseUnavailable`."""
        loop = asyncio.get_running_loop()
        made = await loop.run_in_executor(self._threads, self._made, batch, at_once)
        self._waiting.extendleft(reversed([due for due in batch if due not in made]))
        paths = {due: thumbnail_path(due.path) if data is not None else None for due, data in made.items()}
        files = {path: data for due, data in made.items() if data is not None and (path := paths[due]) is not None}
        if files:
            await loop.run_in_executor(self._threads, self._files.write_now, files)
        gone = await self._store.made(paths)
        # Deleted meanwhile, with all its files but these.
        await self._files.delete(path for due in gone if (path := paths[due]) is not None)

    def _made(self, batch: Sequence[Due], at_once: bool) -> dict[Due, bytes | None]:
        """Make them, one at least, until something else is to be saved."""
        made: dict[Due, bytes | None] = {}
        for due in batch:
            if made and self._saving and not at_once:
                break
            try:
                with self._files.absolute(due.path).open("rb") as file:
                    made[due] = thumbnail_of(file)
            except OSError as error:
                # Deleted, most likely, and the job with it.
                log.info("output %s of content %s cannot be read: %s", due.index, due.content_id, error)
                made[due] = None
        return made


def _give_way() -> None:
    """Let this thread have the processor when nobody else wants it. Only Linux knows threads by such numbers."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
