"""What a running node can do: report progress, take time, draw in a thread, save files."""

import asyncio
import functools
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from PIL import Image

from worker.standin.faults import FaultKind, Faults
from worker.standin.files import Folders
from worker.standin.options import StandinOptions
from worker.standin.sockets import progress_text_frame
from worker.standin.versions import GROWING_INPUTS, parse_version

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from worker.standin.execution_log import Execution
    from worker.standin.model_memory import ModelMemory
    from worker.standin.prompt_queue import PromptQueue

T = TypeVar("T")

_PREVIEW_METHODS = ("none", "auto", "latent2rgb", "taesd")
"""What a prompt may say; anything else leaves it as the server has it."""

PREVIEW_SIDE = 512
"""Previews fit a square of this side."""


class Reporter(Protocol):
    """Where progress goes: the execution of the prompt."""

    def progress(self, node_id: str, value: int, maximum: int, preview: bytes | None, image_format: str) -> None:
        """Send the frames of one step."""

    def count_as(self, node_id: str, value: int) -> None:
        """Set the value that the node's last state shows."""

    def send_binary(self, frame: bytes) -> None:
        """Send a binary frame to whom the prompt belongs."""

    def stop_if_interrupted(self) -> None:
        """Raise if the prompt was interrupted."""


class NodeRun:
    """One run of one node."""

    def __init__(
        self,
        *,
        node_id: str,
        graph: dict[str, Any],
        extra_data: Any,
        reporter: Reporter,
        options: StandinOptions,
        faults: Faults,
        folders: Folders,
        models: "ModelMemory",
        threads: "Executor",
        execution: "Execution",
        tasks: set[asyncio.Task[None]],
        queue: "PromptQueue",
        objects: dict[str, Any],
    ) -> None:
        self.node_id = node_id
        self.graph = graph
        self.extra_data = extra_data
        self.options = options
        self.folders = folders
        self.models = models
        self.execution = execution
        self.queue = queue
        self.objects = objects
        """What nodes have made that outlives their prompt, by node id."""
        self._reporter = reporter
        self._faults = faults
        self._threads = threads
        self._tasks = tasks

    async def progress(
        self, value: int, maximum: int, preview: bytes | None = None, image_format: str = "JPEG"
    ) -> None:
        """Report a step; an interrupt takes effect here."""
        if slow := self._faults.take(FaultKind.SLOW_STEPS, **self.occasion):
            await asyncio.sleep(slow.seconds)
        self._reporter.stop_if_interrupted()
        self._reporter.progress(self.node_id, value, maximum, preview, image_format)

    def count_as(self, value: int) -> None:
        """Let the node end at this value, without frames of its own."""
        self._reporter.count_as(self.node_id, value)

    def text(self, text: str) -> None:
        """Send a progress text."""
        self._reporter.send_binary(progress_text_frame(self.node_id, text))

    async def take_time(self, seconds: float) -> None:
        """Let time pass, as the speed of the server has it."""
        if seconds > 0:
            await asyncio.sleep(seconds / self.options.speed)

    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Call `function` in the execution's thread, so that the server keeps answering."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, functools.partial(function, *args))

    def afterwards(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        """Call `function` when this time has passed, whatever runs then; the end of the server comes before it."""

        async def call() -> None:
            await self.take_time(seconds)
            await asyncio.to_thread(function, *args)

        task = asyncio.create_task(call(), name="stand-in node afterwards")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def newer(self) -> bool:
        """Whether the server is of the newer of the two ages that node types tell apart."""
        return parse_version(self.options.version) >= GROWING_INPUTS

    @property
    def previews(self) -> bool:
        """Whether samplers send previews: from 0.33 on a prompt may say so itself."""
        method = self.extra_data.get("preview_method") if isinstance(self.extra_data, dict) else None
        if not self.newer or method not in _PREVIEW_METHODS:
            return self.options.previews
        return bool(method != "none")

    @property
    def occasion(self) -> dict[str, str]:
        """Return what faults may be limited to."""
        node_type = str(self.graph[self.node_id]["class_type"])
        return {"node": self.node_id, "node_type": node_type, "prompt_id": self.execution.prompt_id}

    def text_chunks(self) -> dict[str, Any]:
        """Return what a PNG is told about its origin.

        Raises
        ------
        AttributeError
            If `extra_data` is no object: the job fails, as in ComfyUI.
        """
        if not self.options.metadata:
            return {}
        extra = self.extra_data.get("extra_pnginfo") or {}
        return {"prompt": self.graph, **{key: extra[key] for key in extra}}

    def saved(self, subfolder: str, name: str) -> None:
        """Note a written file."""
        self.execution.files.append(f"{subfolder}/{name}" if subfolder else name)


def preview_of(picture: Image.Image) -> bytes:
    """Return a JPEG that fits the preview's square, scaled up if it is smaller."""
    scale = PREVIEW_SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
