"""Whether a backend executes at all: told from its frames, its queue and its own log, and from none of them alone.

A ComfyUI whose execution thread has died answers everything as if well, and a node may be silent for minutes while it
loads a model. What tells them apart: between two nodes nothing takes long, and the log shows how a thread ended.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from worker.comfyui.client import Place
from worker.comfyui.server_log import LogSays

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from worker.comfyui.client import ComfyUI

log = logging.getLogger(__name__)

LOOK_S: Final = 2.0
QUIET_S: Final = 3.0
"""A silence that is looked into."""
DOUBT_S: Final = 5.0
"""With no node at work: the backend is given no more prompts until it is heard again."""
DEAD_S: Final = {LogSays.PROBABLY_DEAD: 8.0, LogSays.UNREADABLE: 15.0, LogSays.NOTHING: 60.0}
"""The silence that means death where no node is at work, or nothing runs and something waits.

Beside a log that says nothing it must be long: it may be our socket that has gone deaf, or memory being freed."""


class Followed(Protocol):
    """A prompt of ours, as far as its frames tell."""

    @property
    def cancelling(self) -> bool:
        """Whether nothing is waited for but its end, which was asked for."""

    @property
    def at_work(self) -> bool | None:
        """Whether a node is at work; None when frames were missed."""

    @property
    def heard_at(self) -> float:
        """When its last frame came."""


@dataclass(frozen=True, slots=True)
class Standstill:
    """A backend that executes nothing any more."""

    prompt_id: str | None
    """What it has been executing ever since, if anything."""
    certain: bool
    """Its own log says so; else it is what a long silence means."""


class VitalSigns:
    """Looks after one backend. Moments are of the monotonic clock."""

    def __init__(
        self, name: str, comfyui: ComfyUI, followed: Mapping[str, Followed], on_change: Callable[[], None]
    ) -> None:
        self._name = name
        self._comfyui = comfyui
        self._followed = followed
        self._on_change = on_change
        """Called when `standstill` or `doubt` is another than before."""
        self.standstill: Standstill | None = None
        self.doubt = False
        """It has fallen silent where it should not: it is given no more until it is heard."""
        self._heard_at = time.monotonic()
        self._nothing_runs_since: float | None = None
        self._ahead: tuple[str, float] | None = None
        """A prompt that is not followed here, since when it has been seen running before one that waits."""

    def heard(self) -> None:
        """A frame of a prompt of ours came, or nothing is to be heard."""
        self._heard_at = time.monotonic()
        self._nothing_runs_since = None
        self._set_doubt(False)

    def stand_still(self, prompt_id: str | None, *, certain: bool) -> None:
        """Note that it executes nothing any more; those who wait behind the prompt move elsewhere."""
        if self.standstill is None:
            log.error("backend %s stands still at prompt %s: restart it", self._name, prompt_id)
            self.standstill = Standstill(prompt_id, certain)
            self._on_change()

    def saw_running(self, prompt_id: str | None, stall_s: float) -> None:
        """Note what is executed while one of ours waits behind it, or is to end: too long the same means a standstill.

        A prompt that is followed here is judged by its follower, who hears of its progress; unless that one stops it,
        and waits for nothing but its end.
        """
        now = time.monotonic()
        follower = self._followed.get(prompt_id or "")
        if prompt_id is None or (follower is not None and not follower.cancelling):
            self._ahead = None
        elif self._ahead is None or self._ahead[0] != prompt_id:
            self._ahead = (prompt_id, now)
        elif now - self._ahead[1] > stall_s:
            self.stand_still(prompt_id, certain=False)

    async def look(self) -> None:
        """Look whether it still executes, if it is silent though there is something to do; raises `BackendLost`."""
        now = time.monotonic()
        if self.standstill is not None or now - self._heard_at < QUIET_S:
            return
        says = await self._comfyui.log_says()
        running, waits = await self._comfyui.at_hand()
        if says is LogSays.DEAD:
            self.stand_still(running, certain=True)
        elif running is None:
            self._judge_idle(says, now, waits=waits)
        else:
            self._nothing_runs_since = None
            self._judge_running(says, running, now)

    def _judge_idle(self, says: LogSays, now: float, *, waits: bool) -> None:
        """Nothing runs: is there nothing to do, or nobody to do it?"""
        if not waits:
            self.heard()
        elif self._nothing_runs_since is None:
            self._nothing_runs_since = now
        elif now - self._nothing_runs_since >= DEAD_S[says]:
            self.stand_still(None, certain=False)
        elif now - self._nothing_runs_since >= DOUBT_S:
            self._set_doubt(True)

    def _judge_running(self, says: LogSays, running: str, now: float) -> None:
        follower = self._followed.get(running)
        silent_s = now - max(self._heard_at, follower.heard_at if follower is not None else self._heard_at)
        between_nodes = follower is not None and follower.at_work is False
        if (between_nodes or says is LogSays.PROBABLY_DEAD) and silent_s >= DEAD_S[says]:
            self.stand_still(running, certain=says is LogSays.PROBABLY_DEAD)
        else:
            self._set_doubt(silent_s >= DOUBT_S and (between_nodes or says is LogSays.PROBABLY_DEAD))

    async def look_after_standstill(self) -> None:
        """See whether what stood still has moved on, or was restarted; raises `BackendLost`."""
        still = self.standstill
        if still is None:
            return
        says = await self._comfyui.log_says()
        if says is LogSays.DEAD:
            return
        if still.prompt_id is not None:
            alive = (await self._comfyui.locate(still.prompt_id))[0] is not Place.RUNNING
        else:
            running, waits = await self._comfyui.at_hand()
            alive = running is not None or not waits
        if alive and self.standstill is still:
            log.info("backend %s works again", self._name)
            self.standstill = None
            self.heard()
            self._on_change()

    def _set_doubt(self, doubt: bool) -> None:
        if doubt != self.doubt:
            self.doubt = doubt
            if doubt:
                log.warning("backend %s has fallen silent between two nodes: it is given no more for now", self._name)
            self._on_change()
