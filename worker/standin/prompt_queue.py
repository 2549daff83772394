"""The queue and the history of prompts, all in memory: gone with the server, as in the real one."""

import asyncio
import heapq
from collections.abc import Callable
from typing import Any

QueueItem = tuple[float, str, dict[str, Any], Any, list[str]]
"""number, prompt_id, prompt, extra_data and the output nodes to run: what `/queue` shows."""

SENSITIVE = ("auth_token_comfy_org", "api_key_comfy_org")
"""Keys of extra_data that the history does not keep."""


class PromptQueue:
    """Prompts that wait, the one that runs, and those that have ended."""

    def __init__(self, on_change: Callable[[], None], max_history: int) -> None:
        self._on_change = on_change
        self._max_history = max_history
        self._arrived = asyncio.Event()
        self.idle = asyncio.Event()
        """Set while nothing runs or waits."""
        self.idle.set()
        self.number = 0
        self.pending: list[QueueItem] = []
        self.running: QueueItem | None = None
        self.history: dict[str, dict[str, Any]] = {}

    @property
    def remaining(self) -> int:
        """How many prompts run or wait."""
        return len(self.pending) + (self.running is not None)

    def knows(self, prompt_id: str) -> bool:
        """Tell whether a prompt of this id waits, runs or has ended."""
        return (
            prompt_id in self.history
            or (self.running is not None and self.running[1] == prompt_id)
            or any(item[1] == prompt_id for item in self.pending)
        )

    def next_number(self) -> int:
        """Count a prompt, also one that turns out invalid."""
        self.number += 1
        return self.number - 1

    def put(self, item: QueueItem) -> None:
        """Add `item`.

        Raises
        ------
        TypeError
            If one of the same number and id waits: two dictionaries have no order. As in ComfyUI the item has been
            added all the same.
        """
        self._arrived.set()
        heapq.heappush(self.pending, item)
        self._changed()

    async def take(self) -> QueueItem:
        """Wait for the next prompt and make it the running one."""
        while not self.pending:
            self._arrived.clear()
            await self._arrived.wait()
        self.running = heapq.heappop(self.pending)
        self._changed()
        return self.running

    def finish(self, entry: dict[str, Any] | None) -> None:
        """Move the running prompt to the history, in one step; None means it leaves no trace."""
        if self.running is None:
            return
        if entry is not None:
            prompt_id = self.running[1]
            self.history.pop(prompt_id, None)
            self.history[prompt_id] = {"prompt": list(without_secrets(self.running)), **entry}
            while len(self.history) > self._max_history:
                del self.history[next(iter(self.history))]
        self.running = None
        self._changed()

    def delete(self, prompt_id: object) -> bool:
        """Remove one waiting prompt of this id; return whether there was one. Removing the last sends two frames."""
        for item in self.pending:
            if item[1] == prompt_id:
                self.pending.remove(item)
                heapq.heapify(self.pending)
                if not self.pending:
                    self._changed()
                self._changed()
                return True
        return False

    def clear(self) -> None:
        """Remove every waiting prompt."""
        self.pending.clear()
        self._changed()

    def _changed(self) -> None:
        """Tell everybody how long the queue is now."""
        if self.remaining:
            self.idle.clear()
        else:
            self.idle.set()
        self._on_change()


def without_secrets(item: QueueItem) -> QueueItem:
    """Return an item whose extra_data lacks credentials."""
    number, prompt_id, prompt, extra, targets = item
    if isinstance(extra, dict):
        extra = {key: value for key, value in extra.items() if key not in SENSITIVE}
    return number, prompt_id, prompt, extra, targets
