"""Thumbnails of stored outputs, made after the job is completed, while no other outputs are being saved."""

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
from worker.outputs.shrinking import thumbnail_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from app.domain.job import Output
    from app.storage.files import FileStore
    from app.storage.thumbnails import ThumbnailStore

log = logging.getLogger(__name__)

AT_ONCE: Final = 2
"""Maximum number of threads that decode pictures; more would slow down the event loop."""
MOST_WAITING: Final = 10_000
"""Maximum number of thumbnails waiting in memory; PostgreSQL knows all, and further ones are read from it later."""
BATCH: Final = 16
"""Maximum number of thumbnails of one job that are stored in one step, which costs as much as for one."""
REST_S: Final = 0.2
"""Seconds without saving before thumbnails are made; jobs in a row follow each other sooner than that."""
YIELD_S: Final = 2.0
"""Maximum seconds that thumbnails wait for the saving of other jobs."""
LATE_S: Final = 30.0
"""Seconds after which a due thumbnail is taken up by any worker: its own has stopped, or had too many."""
GIVEN_UP_S: Final = 7 * 86400.0
"""Seconds after which a due thumbnail is given up, because making it may crash the worker each time."""
TAKEN_UP: Final = 200
"""Maximum number of late thumbnails taken up at a time."""
_NICENESS: Final = 10


class Thumbnails:
    """Makes thumbnails, one job after the other, in threads of low priority."""

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
        """Have the due thumbnails of a job's new outputs made; does not wait."""
        self._add(Due(content_id, output.index, output.path) for output in outputs if output.thumbnail_due)

    async def take_up(self) -> int:
        """Have late thumbnails of any worker made, and return how many; raises `DatabaseUnavailable`."""
        if self._waiting:
            return 0
        await self._store.give_up(GIVEN_UP_S)
        found = [each for each in await self._store.due(LATE_S, TAKEN_UP) if each not in self._under_way]
        self._add(found)
        return len(found)

    @contextmanager
    def giving_way(self) -> Iterator[None]:
        """Delay thumbnails during the block, for at most `YIELD_S`."""
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
        """Wait until all waiting thumbnails were tried."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Stop; other workers make the remaining thumbnails. Running threads are not awaited."""
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
                log.exception("unexpected error while making thumbnails")
            finally:
                self._under_way.difference_update(batch)

    async def _is_quiet(self) -> bool:
        """Wait until nothing was saved for `REST_S`; False when that takes longer than the limit."""
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
        """Make and store thumbnails of one job; raises `StorageFailed`, `DatabaseUnavailable`."""
        loop = asyncio.get_running_loop()
        made = await loop.run_in_executor(self._threads, self._made, batch, at_once)
        self._waiting.extendleft(reversed([due for due in batch if due not in made]))
        paths = {due: thumbnail_path(due.path) if data is not None else None for due, data in made.items()}
        files = {path: data for due, data in made.items() if data is not None and (path := paths[due]) is not None}
        if files:
            await loop.run_in_executor(self._threads, self._files.write_now, files)
        gone = await self._store.made(paths)
        # The content was deleted in the meantime; these files are all that is left of it.
        await self._files.delete(path for due in gone if (path := paths[due]) is not None)

    def _made(self, batch: Sequence[Due], at_once: bool) -> dict[Due, bytes | None]:
        """Make thumbnails, at least one, until other outputs are to be saved."""
        made: dict[Due, bytes | None] = {}
        for due in batch:
            if made and self._saving and not at_once:
                break
            try:
                with self._files.absolute(due.path).open("rb") as file:
                    made[due] = thumbnail_of(file)
            except OSError as error:
                # Most likely deleted together with its job.
                log.info("output %s of content %s cannot be read: %s", due.index, due.content_id, error)
                made[due] = None
        return made


def _give_way() -> None:
    """Lower this thread's priority; only Linux can do this for a single thread."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
