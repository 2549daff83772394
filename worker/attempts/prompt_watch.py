"""The state of a prompt as its event frames tell it; new frames wake the follower."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from app.domain.node_times import Spans
from app.domain.progress import ProgressFold, node_name
from worker.comfyui.answers import read_saved

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from app.domain.workflow import Graph
    from worker.attempts.attempt_metrics import AttemptMetrics
    from worker.comfyui.answers import Picture
    from worker.comfyui.node_outputs import OutputFile


class PromptWatch:
    """The state of one prompt, updated by `feed`, which never waits. Times are of the monotonic clock.

    `due_at` is when the prompt could have begun; None when this worker did not claim the attempt.
    """

    def __init__(self, backend: str, metrics: AttemptMetrics) -> None:
        self._backend = backend
        self._metrics = metrics
        self.fold = ProgressFold({})
        self.spans = Spans({})
        self.due_at: float | None = None
        self.heard_at = time.monotonic()
        self.began_at: float | None = None
        self.ended_at: float | None = None
        self.cancelling = False
        self._works = False
        self._missed = False
        """Frames were lost, and no frame since then shows whether a node is running."""
        self.node_id = ""
        """The running node, from the last frame that names one."""
        self.ever_missed = False
        """Whether frames were lost at any time."""
        self.on_sent: Callable[[Picture, str], None] | None = None
        """Called with each picture of the prompt and its node; must not wait."""
        self.on_picture: Callable[[Picture], None] | None = None
        """Called with each picture of the prompt; must not wait."""
        self.on_saved: Callable[[list[OutputFile]], None] | None = None
        """Called with the files that a node has saved; must not wait."""
        self.changed = asyncio.Event()
        """Set when progress rose or another node began."""
        self.ended = asyncio.Event()
        self._news = asyncio.Event()

    @property
    def executing(self) -> bool:
        """Whether the backend executes the prompt, according to the frames received."""
        return self.began_at is not None and self.ended_at is None

    @property
    def at_work(self) -> bool | None:
        """Whether a node is running; None when frames were lost and it is unknown."""
        return None if self._missed else self._works

    def request_cancel(self) -> None:
        """Note that the prompt is to be stopped, and wake the follower."""
        self.cancelling = True
        self._news.set()

    def follow(self, graph: Graph) -> None:
        """Start tracking progress and times of this graph's nodes."""
        self.fold, self.spans = ProgressFold(graph), Spans(graph)

    def feed(self, kind: str, data: Mapping[str, Any]) -> None:
        """Take a frame of this prompt."""
        rose = False
        now = self.heard_at = time.monotonic()
        match kind:
            case "execution_start":
                self._at_work(False)
            case "execution_cached":
                self._at_work(False)
                nodes = data.get("nodes")
                cached = [node_name(node_id) for node_id in nodes] if isinstance(nodes, list) else []
                self.spans.cached(cached)
                rose = self.fold.cached(cached)
            case "execution_success":
                self.spans.succeeded(now)
            case "executing" if data.get("node") is None:
                # Only now is the history readable (manual, comfyui.md, "End of a run").
                self.ended_at = now
                seen = self.began_at if self.due_at is not None else None
                self._metrics.ended(self._backend, seen, self.ended_at)
                self.ended.set()
                self._news.set()
            case "executed" if self.on_saved is not None:
                self.on_saved(read_saved(data))
            case "executing":
                self._at_work(True)
                node_id, shown = node_name(data["node"]), node_name(data.get("display_node"), data["node"])
                self.node_id = node_id
                self.spans.began(node_id, shown, now)
                self.fold.began(shown)
                rose = True
            case "progress":
                node_id, value, maximum = node_name(data.get("node")), data.get("value"), data.get("max")
                self.spans.stepped(node_id, value, maximum)
                if isinstance(value, int | float) and isinstance(maximum, int | float):
                    rose = self.fold.stepped(node_id, value, maximum)
            case "progress_state":
                nodes = data.get("nodes")
                if isinstance(nodes, dict):
                    known = {key: node for key, node in nodes.items() if isinstance(node, dict) and node_name(key)}
                    self._at_work(any(node.get("state") == "running" for node in known.values()))
                    self.spans.state(known, now)
                    rose = self.fold.state(known)
        if kind != "execution_success":
            self.begin()
        if rose:
            self.changed.set()

    def show(self, picture: Picture) -> None:
        """Take a picture of this prompt."""
        if self.on_sent is not None:
            self.on_sent(picture, picture.node_id or self.node_id)
        if self.on_picture is not None:
            self.on_picture(picture)

    def begin(self) -> None:
        """Note that execution has begun, unless that is known."""
        if self.began_at is None:
            self.began_at = time.monotonic()
            self._metrics.began(self._backend, self.due_at, self.began_at)
            self._news.set()

    def again(self) -> None:
        """Start watching the next prompt of the run, which a node has queued."""
        self.ended.clear()
        self.ended_at = None
        self.heard_at = time.monotonic()
        self._missed = True

    def wake(self) -> None:
        """Wake the follower, which then checks the backend's state."""
        self._news.set()

    def miss(self) -> None:
        """Note that frames may have been lost, and wake the follower."""
        self._missed = self.ever_missed = True
        self._news.set()

    def _at_work(self, works: bool) -> None:
        self._works, self._missed = works, False

    def clear_news(self) -> None:
        """Mark all news as handled: `news_within` waits for later news only."""
        self._news.clear()

    async def news_within(self, seconds: float) -> bool:
        """Wait up to `seconds` for news; False when none came."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                return await self._news.wait()
        return False
