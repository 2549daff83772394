"""What is heard of a prompt: its frames are folded into memory, and whoever follows it is woken."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from app.domain.progress import ProgressFold

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.measures import Measures


class Watch:
    """The memory of one prompt. Frames come in by `feed`, which waits for nothing. Moments are of the monotonic clock.

    `due_at` is when it could have begun, None of one whose beginning nobody here has seen.
    """

    def __init__(self, backend: str, measures: Measures) -> None:
        self._backend = backend
        self._measures = measures
        self.fold = ProgressFold({})
        self.due_at: float | None = None
        self.heard_at = time.monotonic()
        self.began_at: float | None = None
        self.ended_at: float | None = None
        self.cancelling = False
        self.changed = asyncio.Event()
        """The progress rose."""
        self.ended = asyncio.Event()
        self._news = asyncio.Event()

    def request_cancel(self) -> None:
        """Note that it is to be stopped."""
        self.cancelling = True
        self._news.set()

    def feed(self, kind: str, data: Mapping[str, Any]) -> None:
        """Take a frame of this prompt."""
        rose = False
        self.heard_at = time.monotonic()
        match kind:
            case "execution_cached":
                rose = self.fold.cached(map(str, data.get("nodes") or ()))
            case "executing" if data.get("node") is None:
                # Only now is the history readable (COMFYUI, section 0, point 1).
                self.ended_at = self.heard_at
                seen = self.began_at if self.due_at is not None else None
                self._measures.ended(self._backend, seen, self.ended_at)
                self.ended.set()
                self._news.set()
            case "executing":
                rose = self.fold.began(str(data.get("display_node") or data.get("node")))
            case "progress":
                value, maximum = data.get("value"), data.get("max")
                if isinstance(value, int | float) and isinstance(maximum, int | float):
                    rose = self.fold.stepped(str(data.get("node")), value, maximum)
            case "progress_state":
                nodes = data.get("nodes")
                if isinstance(nodes, dict):
                    rose = self.fold.state({key: node for key, node in nodes.items() if isinstance(node, dict)})
        if kind != "execution_success":
            self.begin()
        if rose:
            self.changed.set()

    def begin(self) -> None:
        """Note that the backend executes it, if that is news."""
        if self.began_at is None:
            self.began_at = time.monotonic()
            self._measures.began(self._backend, self.due_at, self.began_at)
            self._news.set()

    def look(self) -> None:
        """Frames may have been lost."""
        self._news.set()

    def seen(self) -> None:
        """Everything up to now has been looked at: what wakes the follower is what comes from here on."""
        self._news.clear()

    async def news_within(self, seconds: float) -> bool:
        """Whether something came that the follower must look at."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                return await self._news.wait()
        return False
