"""How many requests of one key are worked on at once: a flood of one waits for itself, and not all others for it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from aiohttp import web

AT_ONCE: Final = 8
"""Requests of one key. More of them would not make that one quicker, and the next one of another waits for each."""
PATIENCE_S: Final = 1.0
"""No request waits longer than this for another one of its key, which may have a reason to take long."""


class RequestsAtOnce:
    """The requests that are worked on, by key, and those that wait until one of the same key has ended."""

    def __init__(self, at_once: int = AT_ONCE, patience_s: float = PATIENCE_S) -> None:
        self._at_once = at_once
        self.patience_s = patience_s
        self._begun: dict[int, int] = {}
        """Key's id → how many of its requests are worked on; only of keys that have any."""
        self._waiting: dict[int, deque[asyncio.Future[None]]] = {}

    def begun(self, key_id: int) -> int:
        """Return how many requests of a key are worked on."""
        return self._begun.get(key_id, 0)

    def waiting(self, key_id: int) -> int:
        """Return how many requests of a key wait for others of it."""
        return len(self._waiting.get(key_id, ()))

    async def begin(self, key_id: int) -> None:
        """Return when the request may be worked on; `end` must follow, unless this was cancelled."""
        begun = self._begun.get(key_id, 0)
        if begun < self._at_once:
            self._begun[key_id] = begun + 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(key_id, deque())
        waiting.append(turn)
        try:
            async with asyncio.timeout(self.patience_s):
                await turn
        except TimeoutError:
            if not _given(turn):
                self._begun[key_id] = self._begun.get(key_id, 0) + 1
        except asyncio.CancelledError:
            if _given(turn):
                # In the same moment: it is another's now.
                self.end(key_id)
            raise
        finally:
            self._forget(key_id, turn)

    def end(self, key_id: int) -> None:
        """Let the one that waits longest begin."""
        # Some may have begun out of impatience: those places are not passed on.
        if self._begun[key_id] <= self._at_once:
            for turn in self._waiting.get(key_id, ()):
                if not turn.done():
                    turn.set_result(None)
                    return
        begun = self._begun[key_id] - 1
        if begun:
            self._begun[key_id] = begun
        else:
            del self._begun[key_id]

    def _forget(self, key_id: int, turn: asyncio.Future[None]) -> None:
        waiting = self._waiting[key_id]
        waiting.remove(turn)
        if not waiting:
            del self._waiting[key_id]


def _given(turn: asyncio.Future[None]) -> bool:
    """Whether it was given before the wait for it ended, in whichever way."""
    return turn.done() and not turn.cancelled()


REQUESTS_AT_ONCE: Final = web.AppKey("REQUESTS_AT_ONCE", RequestsAtOnce)
