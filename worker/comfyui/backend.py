"""One ComfyUI server as its worker sees it: event socket, state, slots, and the followers of its prompts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import uuid4

from app.domain.breaker import Breaker
from app.domain.errors import BackendLost, Unavailable
from app.domain.loaded_models import MOST_MODELS
from app.domain.message import timestamp
from app.domain.scheduling.backend_load import BackendLoad
from app.runtime.end_tasks import end_tasks
from worker.comfyui.answers import Picture, Stats, prompt_id_of, read_frame
from worker.comfyui.backend_offer import BackendOffer
from worker.comfyui.bounded_http import in_turns
from worker.comfyui.exclusive_run import ExclusiveRun
from worker.comfyui.model_memory import ModelMemory
from worker.comfyui.vital_signs import LOOK_S, Followed, Standstill, VitalSigns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from app.domain.catalog import Catalog
    from app.messaging.registry import Registry
    from worker.comfyui.client import ComfyUI

log = logging.getLogger(__name__)

STATS_AGE_S: Final = 30.0
REFRESH_S: Final = 5.0
"""Seconds between two checks whether the statistics or the offer must be read again."""
_MOST_QUEUED: Final = 10**6
MOST_SAVING: Final = 16
"""Maximum number of runs of a backend that are being saved; at the limit the backend gets no new prompts.

Without it the backlog would grow without end when runs are shorter than their saving."""


def _nothing() -> None:
    """Default callback: does nothing."""


class Follower(Followed, Protocol):
    """Receives the frames of one prompt."""

    def feed(self, kind: str, data: Mapping[str, Any]) -> None:
        """Take a frame of the prompt; must not wait."""

    @property
    def executing(self) -> bool:
        """Whether the backend executes the prompt now, according to its frames."""

    def show(self, picture: Picture) -> None:
        """Take a picture of the prompt; must not wait."""

    def wake(self) -> None:
        """Have the follower check the backend's state, which has changed."""

    def miss(self) -> None:
        """Note that frames may have been lost; the follower then reads the queue and the history."""


class Backend:
    """One ComfyUI server as this worker sees it."""

    def __init__(self, name: str, url: str, comfyui: ComfyUI, slots: int, stray_savers: set[str] | None = None) -> None:
        self.name = name
        self.url = url
        self.comfyui = comfyui
        self.slots = slots
        self.used = 0
        self.saving = 0
        """Number of runs that hold no slot any more and whose outputs are being saved."""
        self.driven = False
        self.drained = False
        """The backend gets no new prompts and finishes those it has."""
        self.healthy = False
        self.reason: str | None = "not connected yet"
        self.since = datetime.now(UTC)
        self.client_id = ""
        self.queue_remaining = 0
        self.offering = BackendOffer(comfyui)
        self.stray_savers = stray_savers if stray_savers is not None else set()
        """Node classes known to save outside the folder they were given; shared by all backends."""
        self.breaker = Breaker()
        """Circuit breaker that counts errors of the backend's device."""
        self.exclusive_run = ExclusiveRun(self._slot_changed)
        self.stopping: set[str] = set()
        """Prompts that do not stop although asked to; until they have, the backend gets no new prompts."""
        self.foreign_event_at = 0.0
        """Monotonic time of the last frame about a prompt without a follower here."""
        self.stale: frozenset[str] = frozenset()
        """Our prompts in its queue whose attempts are over; until they have stopped, it gets no new prompts."""
        self.memory = ModelMemory()
        """What is in its memory, and how fast it is."""
        self.freed: dict[str, Any] | None = None
        """When it was last asked to free its memory, and the fault if that failed."""
        self.stats = Stats()
        self._stats_at = float("-inf")
        self.followers: dict[str, Follower] = {}
        self._stood_still = False
        self._vital_signs = VitalSigns(name, comfyui, self.followers, self._life_changed)
        self.on_slot: Callable[[], None] = _nothing
        """Called when the backend may take another prompt."""
        self.on_health: Callable[[], None] = _nothing
        """Called when the backend becomes unhealthy or healthy."""
        self.on_change: Callable[[], None] = _nothing
        """Called when what `state` returns has changed."""

    @property
    def catalog(self) -> Catalog:
        """The node classes and models it offers, as last read."""
        return self.offering.catalog

    @property
    def load(self) -> BackendLoad:
        """The backend's load, for the scheduler; no slots when it may get no new prompts."""
        able = self.driven and self.healthy and not self.drained and self.standstill is None
        able = able and not self._vital_signs.doubt and not self.stopping and not self.stale
        able = able and not self.exclusive_run.taken
        able = able and self.saving < MOST_SAVING
        slots = self.breaker.slots(self.slots, self.used, time.monotonic()) if able else 0
        return BackendLoad(self.name, slots, self.used, self.foreign, self.breaker.in_doubt, self.memory.ends_at)

    @property
    def standstill(self) -> Standstill | None:
        """Where execution stands still, None while it works; a backend at a standstill gets no new prompts."""
        return self._vital_signs.standstill

    @property
    def ailment(self) -> str | None:
        """Why the backend gets no jobs; None when it is healthy."""
        if self.standstill is not None:
            return "its execution stands still: restart it"
        if self.healthy and self.breaker.is_open:
            failed = f"{self.breaker.failures} jobs in a row failed with an error of its device"
            return f"{failed}: it gets only trial jobs until one succeeds"
        return self.reason

    @property
    def foreign(self) -> int:
        """Number of prompts in its queue that this worker does not follow."""
        return max(0, self.queue_remaining - len(self.followers))

    @contextlib.contextmanager
    def following(self, prompt_id: str, follower: Follower) -> Any:
        """Hand the prompt's frames to the follower within the block."""
        self.followers[prompt_id] = follower
        try:
            yield
        finally:
            if self.followers.get(prompt_id) is follower:
                del self.followers[prompt_id]

    def take_slot(self) -> None:
        """Take a slot for a prompt."""
        self.used += 1
        self.on_change()

    def free_slot(self) -> None:
        """Give a slot back and report it."""
        self.used -= 1
        self.on_change()
        self.on_slot()

    def begin_saving(self) -> None:
        """Count a run whose outputs are being saved."""
        self.saving += 1

    def end_saving(self) -> None:
        """Count a run whose saving has ended, and report that a slot may be free."""
        self.saving -= 1
        self.on_change()
        self.on_slot()

    def set_drained(self, drained: bool) -> None:
        """Set whether an operator has drained the backend."""
        if drained != self.drained:
            log.info("backend %s is %s", self.name, "drained" if drained else "in use again")
            self.drained = drained
            self.on_change()
            self.on_slot()

    async def free_memory(self) -> None:
        """Have the backend unload its models; the result is in `freed`, and its statistics are read again."""
        fault = None
        try:
            await self.comfyui.free_memory()
        except BackendLost as error:
            fault = str(error)
        else:
            self.memory.forget()
            self._stats_at = float("-inf")
        self.freed = {"at": timestamp(datetime.now(UTC)), "fault": fault}
        self.on_change()

    def set_health(self, reason: str | None) -> None:
        """Set why the backend is unhealthy; None means healthy."""
        healthy = reason is None
        if healthy != self.healthy:
            self.since = datetime.now(UTC)
            log.log(logging.INFO if healthy else logging.WARNING, "backend %s is %s", self.name, reason or "connected")
        changed, self.healthy, self.reason = healthy != self.healthy, healthy, reason
        if changed:
            self.on_health()
            self.on_slot()

    def set_stale(self, prompt_ids: frozenset[str]) -> None:
        """Set which of our prompts in its queue belong to attempts that are over."""
        freed = self.stale and not prompt_ids
        self.stale = prompt_ids
        if freed:
            self._slot_changed()

    def stand_still(self, prompt_id: str) -> None:
        """Note that execution stands still at this prompt; jobs that wait behind it move to other backends."""
        self._vital_signs.stand_still(prompt_id, certain=False)

    def saw_running(self, prompt_id: str | None, stall_s: float) -> None:
        """Note which prompt runs while one of ours waits or is being stopped; see `VitalSigns.saw_running`."""
        self._vital_signs.saw_running(prompt_id, stall_s)

    def device_failed(self, job_id: int, user_id: str) -> None:
        """Note that a job failed with an error of the device."""
        self._judge_device(lambda: self.breaker.failed(job_id, user_id, time.monotonic()))

    def device_succeeded(self) -> None:
        """Note that a job succeeded."""
        if self.breaker.in_doubt:
            self._judge_device(self.breaker.succeeded)

    def device_proven(self, job_ids: list[int]) -> None:
        """Note that these jobs, which failed with an error of the device here, succeeded on other backends."""
        self._judge_device(lambda: self.breaker.proven(job_ids, time.monotonic()))

    def _judge_device(self, judge: Callable[[], None]) -> None:
        was_open = self.breaker.is_open
        judge()
        if self.breaker.is_open != was_open:
            self.since = datetime.now(UTC)
            log.error("backend %s: %s", self.name, self.ailment or "its device works again")
            self.on_health()
        self.on_change()
        self.on_slot()

    def state(self, worker_id: str) -> dict[str, Any]:
        """Return the backend's state for its heartbeat."""
        return {
            "url": self.url.rpartition("@")[2],
            "driver": worker_id,
            "healthy": self.healthy and self.standstill is None and not self.breaker.is_open,
            "reason": self.ailment,
            "since": timestamp(self.since),
            "slots": self.slots,
            "used": self.used,
            "drained": self.drained,
            "queue_remaining": self.queue_remaining,
            "foreign": self.foreign,
            **self._told_of_memory(),
            "freed": self.freed,
            "version": self.comfyui.version,
            "checkpoints": len(self.catalog.checkpoints),
            "device": self.stats.device,
            "vram_total": self.stats.vram_total,
            "vram_free": self.stats.vram_free,
            "catalog": self.offering.digest,
        }

    def _told_of_memory(self) -> dict[str, Any]:
        memory = self.memory
        state = memory.state(self.name, foreign=self.foreign, live=True, offers=None)
        return {
            "warm": memory.models[:MOST_MODELS],
            "room": state.room,
            "speed": round(state.speed, 3),
            "free_in_s": round(max(0.0, state.free_at - time.monotonic()), 1),
            "avoids": [sorted(models) for models in state.avoids],
        }

    async def refresh(self, registry: Registry) -> None:
        """Read the server's statistics and offer again, when that is due."""
        now = time.monotonic()
        if now - self._stats_at > STATS_AGE_S:
            self._stats_at = now
            self.stats = await self.comfyui.system_stats()
        await self.offering.refresh(registry, busy=self.used > 0)
        await self.offering.publish(registry)

    async def serve(self, registry: Registry) -> None:
        """Connect and read the event socket until it closes; raises `BackendLost` or `Unavailable`."""
        self.offering.forget_age()
        self.comfyui.input_folder.forget()
        self.memory.forget()
        self._stats_at = float("-inf")
        await self._vital_signs.check_standstill()
        await self.refresh(registry)
        self.client_id = f"genonaut-{uuid4().hex}"
        async with self.comfyui.socket(self.client_id) as ws:
            self.set_health(None)
            self._vital_signs.heard()
            self._look_again()
            tasks = [
                asyncio.create_task(self._refresh_for_ever(registry), name=f"refresh-{self.name}"),
                asyncio.create_task(self._look_for_ever(), name=f"look-{self.name}"),
            ]
            try:
                async for message in in_turns(ws):
                    # Nothing here may wait: a client that stops reading delays all events (comfyui.md).
                    frame = read_frame(message)
                    if isinstance(frame, Picture):
                        self.show(frame)
                    elif frame is not None:
                        self._dispatch(*frame)
            finally:
                await end_tasks(tasks)
        raise BackendLost(f"The backend closed its event socket (code {ws.close_code}).")

    async def _refresh_for_ever(self, registry: Registry) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await self.refresh(registry)
            except (BackendLost, Unavailable) as error:
                # The server may only be busy; the event socket shows whether it is gone.
                log.info("backend %s: its state cannot be read: %s", self.name, error)

    async def _look_for_ever(self) -> None:
        """Check regularly whether the backend executes, and report slots for trial jobs."""
        while True:
            await asyncio.sleep(LOOK_S)
            if not (self.followers or self.queue_remaining or self.standstill):
                self._vital_signs.heard()
            with contextlib.suppress(BackendLost):
                await self._vital_signs.check_standstill()
                await self._vital_signs.check()
            if self.breaker.in_doubt:
                self.on_slot()

    def _life_changed(self) -> None:
        if (self.standstill is not None) != self._stood_still:
            self._stood_still = self.standstill is not None
            self.since = datetime.now(UTC)
            self.on_health()
        self.on_change()
        self.on_slot()
        for follower in list(self.followers.values()):
            follower.wake()

    def _slot_changed(self) -> None:
        self.on_change()
        self.on_slot()

    def disconnected(self, reason: str) -> None:
        """Note that the connection is lost; followers then poll for their prompts."""
        self.set_health(reason)
        self._look_again()

    def _dispatch(self, kind: str, data: Mapping[str, Any]) -> None:
        if kind == "status":
            status = data.get("status")
            info = status.get("exec_info") if isinstance(status, dict) else None
            remaining = info.get("queue_remaining") if isinstance(info, dict) else None
            if isinstance(remaining, int) and not isinstance(remaining, bool):
                self.queue_remaining = max(0, min(remaining, _MOST_QUEUED))
                if self.foreign:
                    # What it loads is not known.
                    self.memory.forget()
            return
        prompt_id = prompt_id_of(data.get("prompt_id"))
        if prompt_id is None:
            return
        self._vital_signs.heard()
        if kind == "execution_start":
            self.on_change()
        follower = self.followers.get(prompt_id)
        if follower is not None:
            follower.feed(kind, data)
        else:
            self.foreign_event_at = time.monotonic()

    def show(self, picture: Picture) -> None:
        """Hand a picture to the follower of its prompt; drop it when the prompt is unknown."""
        if picture.prompt_id is not None:
            shown = [follower] if (follower := self.followers.get(picture.prompt_id)) else []
        else:
            # The old format names no prompt: the picture belongs to the one prompt being executed, if that is ours.
            shown = [follower for follower in set(self.followers.values()) if follower.executing]
        if len(shown) == 1:
            shown[0].show(picture)

    def _look_again(self) -> None:
        for follower in list(self.followers.values()):
            follower.miss()
