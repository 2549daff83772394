"""The execution of prompts, one at a time: order of nodes, frames, interrupts, results and history entries."""

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import Executor as Threads

from worker.standin.assets import Assets
from worker.standin.caching import ResultCache
from worker.standin.console import Console
from worker.standin.execution_log import Execution, ExecutionLog, Outcome
from worker.standin.execution_state import ExecutionState
from worker.standin.faults import FaultKind, Faults
from worker.standin.files import Folders
from worker.standin.nodes import (
    NodeType,
    ThreadDiedError,
)
from worker.standin.options import StandinOptions
from worker.standin.prompt_queue import PromptQueue, QueueItem
from worker.standin.prompt_run import PromptRun
from worker.standin.sockets import Sockets, text_frame
from worker.standin.tracebacks import Place
from worker.standin.versions import Version

log = logging.getLogger(__name__)


class Executor(ExecutionState):
    """The execution thread of ComfyUI, here a task; what it needs longer for runs in a thread."""

    def __init__(
        self,
        *,
        options: StandinOptions,
        version: Version,
        types: Mapping[str, NodeType],
        queue: PromptQueue,
        sockets: Sockets,
        faults: Faults,
        folders: Folders,
        execution_log: ExecutionLog,
        threads: Threads,
        console: Console,
    ) -> None:
        super().__init__(
            options=options,
            version=version,
            types=types,
            queue=queue,
            sockets=sockets,
            faults=faults,
            folders=folders,
            threads=threads,
            console=console,
            cache=ResultCache(options.cache),
            assets=Assets(folders, enabled=options.assets),
        )
        self._log = execution_log
        self._execution: Execution | None = None

    async def run(self) -> None:
        """Execute prompts for ever, or until the thread dies."""
        while not self.dead:
            self.apply_free()
            item = await self.queue.take()
            try:
                await self._execute(item)
            except ThreadDiedError as error:
                self.dead = True
                log.warning("The execution thread has ended: %s", error)
                self.console.say_died(error)
                self.lose_running()
            except Exception:
                self.dead = True
                log.exception("The execution has failed on prompt %s", item[1])
                self.lose_running()

    def interrupt(self) -> None:
        """Ask the running prompt to stop at its next step."""
        self.interrupted = True

    def lose_running(self) -> None:
        """Record in the execution log that the running prompt is lost."""
        if self._execution is not None:
            self._execution.end(Outcome.LOST)

    def apply_free(self) -> None:
        """Do what `/free` asked for, which waits until nothing runs."""
        if self.unload_models or self.free_memory:
            self.models.unload()
        if self.free_memory:
            self.cache.clear()
        self.unload_models = self.free_memory = False

    async def _execute(self, item: QueueItem) -> None:
        """Run one prompt and move it to the history."""
        number, prompt_id, _, extra, _ = item
        client_id = extra.get("client_id") if isinstance(extra, dict) else None
        self.client_id = client_id
        self._execution = self._log.start(prompt_id, number, client_id)
        if not isinstance(extra, dict | list | str):
            error = f"TypeError: argument of type '{type(extra).__name__}' is not iterable"
            raise ThreadDiedError("extra_data is no object", Place.EXTRA_DATA, error)
        began = time.perf_counter()
        self.interrupted = False
        run = PromptRun(self, item, client_id, self._execution)
        self._tell_assets("paused")
        outcome = await run.execute()
        late = self.faults.take(FaultKind.HISTORY_LATE, prompt_id=prompt_id)
        await asyncio.sleep(self.options.history_delay_seconds + (late.seconds if late else 0))
        lost = self.faults.take(FaultKind.HISTORY_LOST, prompt_id=prompt_id)
        self._execution.end(outcome)
        self.current_node = None
        self.queue.finish(None if lost else run.history_entry(outcome))
        if client_id is not None:
            frame = text_frame("executing", {"node": None, "prompt_id": prompt_id})
            self.sockets.send(frame, client_id, "executing")
        self.console.say_executed(time.perf_counter() - began)
        self._tell_assets("resumed")

    def _tell_assets(self, what: str) -> None:
        """Send all clients a frame that the search for files is paused or resumed, if assets are enabled."""
        if self.options.assets:
            self.sockets.send(text_frame(f"assets.seed.{what}", {}))
