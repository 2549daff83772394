"""One stand-in: everything it holds, and what can be done to it as a whole."""

import asyncio
import contextlib
import logging
from concurrent.futures import Executor as Threads
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from worker.standin.console import Console
from worker.standin.execution import Executor
from worker.standin.execution_log import ExecutionLog
from worker.standin.faults import IMMEDIATE, Fault, FaultKind, Faults, death_of
from worker.standin.files import Folders
from worker.standin.foreign_prompts import foreign_item
from worker.standin.options import StandinOptions
from worker.standin.prompt_queue import PromptQueue
from worker.standin.registry import model_folders, node_types
from worker.standin.sockets import Sockets, text_frame
from worker.standin.versions import GROWING_INPUTS, parse_version

log = logging.getLogger(__name__)


class Standin:
    """The state of one server and its two tasks: the execution and the sender of frames."""

    def __init__(self, options: StandinOptions, directory: Path, threads: Threads) -> None:
        self.options = options
        self.version = parse_version(options.version)
        self.faults = Faults(options.faults)
        self.log = ExecutionLog()
        self.folders = Folders(directory, closed=self.version >= GROWING_INPUTS)
        self.types = node_types(options, self.folders)
        self.models = model_folders(options)
        self.crashed = asyncio.Event()
        """Set when the process of a real server would have ended; nothing is answered any more."""
        self.down = False
        """Whether connections are cut at once, as while a server restarts."""
        self.storing = asyncio.Lock()
        """Held while an upload is stored: of two with one name the second sees the first, as in ComfyUI."""
        self._threads = threads
        self._tasks: list[asyncio.Task[None]] = []
        self._restarts: set[asyncio.Task[None]] = set()
        self._renew()

    def start(self) -> None:
        """Prepare the folders and start the tasks."""
        self.folders.prepare()
        self._tasks = [
            asyncio.create_task(self.executor.run(), name="stand-in execution"),
            asyncio.create_task(self.sockets.deliver(), name="stand-in sender"),
        ]

    async def stop(self) -> None:
        """Cut the sockets and end the tasks."""
        await self._end_tasks([*self._restarts, *self._tasks])

    async def restart(self, down_seconds: float = 0.0) -> None:
        """Forget queue, history, running prompt, models and numbers, as a restart does; output files stay."""
        self.down = True
        self.log.restarts += 1
        await self._end_tasks(self._tasks)
        if down_seconds > 0:
            await asyncio.sleep(down_seconds)
        self._renew()
        self.start()
        self.down = False

    def install(self, **changes: Any) -> None:
        """Have other files from now on, as when somebody copies them into the folders of a running server."""
        self.options = replace(self.options, **changes)
        self.models = model_folders(self.options)
        described = node_types(self.options, self.folders)
        self.types.update((name, described[name]) for name in self.types.keys() & described.keys())

    async def apply(self, fault: Fault) -> None:
        """Carry out a fault that happens at once, or arm one that waits."""
        if fault.kind not in IMMEDIATE:
            self.faults.add(fault)
        elif fault.kind is FaultKind.DEAD_THREAD:
            await self._end_thread(fault)
        elif fault.kind is FaultKind.FOREIGN_PROMPT:
            for _ in range(fault.times or 1):
                self.queue.put(foreign_item(fault, self.queue.next_number()))
        elif fault.kind is FaultKind.DEAF:
            self.sockets.make_deaf(fault.client_id)
        elif fault.kind is FaultKind.DROP_SOCKETS:
            self.sockets.abort(fault.client_id)
        elif fault.kind is FaultKind.SEND_FRAME:
            self.sockets.send(fault.body, fault.client_id)
        elif fault.kind is FaultKind.EMPTY_INPUT:
            await asyncio.to_thread(self.folders.empty, "input")
        elif fault.kind is FaultKind.CRASH:
            self.crash()
        else:
            task = asyncio.create_task(self.restart(fault.seconds), name="stand-in restart")
            self._restarts.add(task)
            task.add_done_callback(self._restarts.discard)
            if not fault.seconds:
                await asyncio.wait([task])

    def crash(self) -> None:
        """End as the process of a real server would."""
        log.warning("The stand-in has crashed, as it was asked to")
        self.sockets.abort()
        self.executor.lose_running()
        self.crashed.set()

    def tell_queue(self) -> None:
        """Send the length of the queue to everybody."""
        self.sockets.send(text_frame("status", self.status()), kind="status")

    def status(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return the data of a `status` frame."""
        return {"status": {"exec_info": {"queue_remaining": self.queue.remaining}}}

    async def _end_tasks(self, tasks: list[asyncio.Task[None]]) -> None:
        """Cut the sockets, and end these tasks and what they run."""
        self.sockets.abort()
        self.executor.lose_running()
        ended = [*tasks, *self.executor.afterwards]
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)

    async def _end_thread(self, fault: Fault) -> None:
        """Let the execution end here and now; what runs stays in the queue for ever."""
        self.executor.dead = True
        self.console.say_died(death_of(fault))
        self.executor.lose_running()
        execution = self._tasks[0]
        execution.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await execution

    def _renew(self) -> None:
        """Begin with an empty queue and nothing loaded."""
        self.console = Console(self.version)
        self.console.say("Starting server\n")
        self.sockets = Sockets(self.faults)
        self.queue = PromptQueue(self.tell_queue, self.options.max_history)
        self.executor = Executor(
            options=self.options,
            version=self.version,
            types=self.types,
            queue=self.queue,
            sockets=self.sockets,
            faults=self.faults,
            folders=self.folders,
            execution_log=self.log,
            threads=self._threads,
            console=self.console,
        )


STANDIN = web.AppKey("STANDIN", Standin)
