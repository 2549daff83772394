"""Whether a backend still executes prompts, judged from its frames, its queue and its log together.

A ComfyUI whose execution thread has ended still answers all requests, and a node may send no frames for minutes while
it loads a model. The difference: between two nodes nothing takes long, and the log shows how a thread ended.
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
"""Seconds without frames after which the backend is checked."""
DOUBT_S: Final = 5.0
"""Seconds without frames, while no node runs, after which the backend gets no new prompts until a frame comes."""
DEAD_S: Final = {LogSays.PROBABLY_DEAD: 8.0, LogSays.UNREADABLE: 15.0, LogSays.NOTHING: 60.0}
"""Seconds without frames that mean a standstill, when no node runs, or nothing runs while prompts wait.

Long when the log shows nothing: the event socket may be broken, or memory may be being freed."""


class Followed(Protocol):
    """A prompt of ours, as described by its frames."""

    @property
    def cancelling(self) -> bool:
        """Whether the prompt is being cancelled."""

    @property
    def at_work(self) -> bool | None:
        """Whether a node is running; None when frames were lost."""

    @property
    def heard_at(self) -> float:
        """When its last frame came."""


@dataclass(frozen=True, slots=True)
class Standstill:
    """The state of a backend that no longer executes prompts."""

    prompt_id: str | None
    """The prompt at which execution stopped, if any."""
    certain: bool
    """True when the log shows it, False when it is concluded from a long silence."""


class VitalSigns:
    """Checks whether one backend executes prompts. Times are of the monotonic clock."""

    def __init__(
        self, name: str, comfyui: ComfyUI, followed: Mapping[str, Followed], on_change: Callable[[], None]
    ) -> None:
        self._name = name
        self._comfyui = comfyui
        self._followed = followed
        self._on_change = on_change
        """Called when `standstill` or `doubt` changes."""
        self.standstill: Standstill | None = None
        self.doubt = False
        """The backend is silent where it should not be: it gets no new prompts until a frame comes."""
        self._heard_at = time.monotonic()
        self._nothing_runs_since: float | None = None
        self._ahead: tuple[str, float] | None = None
        """A prompt without a follower here that runs before a waiting one, and since when."""

    def heard(self) -> None:
        """Note that a frame came, or that no frames are to be expected."""
        self._heard_at = time.monotonic()
        self._nothing_runs_since = None
        self._set_doubt(False)

    def stand_still(self, prompt_id: str | None, *, certain: bool) -> None:
        """Note that execution stands still; jobs that wait behind the prompt move to other backends."""
        if self.standstill is None:
            log.error("backend %s stopped executing at prompt %s: restart it", self._name, prompt_id)
            self.standstill = Standstill(prompt_id, certain)
            self._on_change()

    def saw_running(self, prompt_id: str | None, stall_s: float) -> None:
        """Note which prompt runs while one of ours waits behind it or is being stopped.

        The same prompt for longer than `stall_s` means a standstill. A prompt that is followed here does not count: its
        follower sees its progress. It counts while it is being cancelled.
        """
        now = time.monotonic()
        follower = self._followed.get(prompt_id or "")
        if prompt_id is None or (follower is not None and not follower.cancelling):
            self._ahead = None
        elif self._ahead is None or self._ahead[0] != prompt_id:
            self._ahead = (prompt_id, now)
        elif now - self._ahead[1] > stall_s:
            self.stand_still(prompt_id, certain=False)

    async def check(self) -> None:
        """Check whether the backend still executes, if it has been silent for `QUIET_S`; raises `BackendLost`."""
        now = time.monotonic()
        if self.standstill is not None or now - self._heard_at < QUIET_S:
            return
        says = await self._comfyui.log_says()
        running, waits = await self._comfyui.queue_state()
        if says is LogSays.DEAD:
            self.stand_still(running, certain=True)
        elif running is None:
            self._judge_idle(says, now, waits=waits)
        else:
            self._nothing_runs_since = None
            self._judge_running(says, running, now)

    def _judge_idle(self, says: LogSays, now: float, *, waits: bool) -> None:
        """Judge a backend that runs nothing: idle, or at a standstill while prompts wait."""
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

    async def check_standstill(self) -> None:
        """End the standstill if the backend executes again or was restarted; raises `BackendLost`."""
        still = self.standstill
        if still is None:
            return
        says = await self._comfyui.log_says()
        if says is LogSays.DEAD:
            return
        if still.prompt_id is not None:
            alive = (await self._comfyui.locate(still.prompt_id))[0] is not Place.RUNNING
        else:
            running, waits = await self._comfyui.queue_state()
            alive = running is not None or not waits
        if alive and self.standstill is still:
            log.info("backend %s executes prompts again", self._name)
            self.standstill = None
            self.heard()
            self._on_change()

    def _set_doubt(self, doubt: bool) -> None:
        if doubt != self.doubt:
            self.doubt = doubt
            if doubt:
                log.warning("backend %s is silent between two nodes: no new prompts for now", self._name)
            self._on_change()
