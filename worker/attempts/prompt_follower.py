"""Following one prompt on its backend until it ends, is stopped, or the backend is given up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

from app.domain.errors import AttemptTimeout, BackendForgot, BackendLate, BackendLost, BackendStalled
from app.domain.job import Phase
from app.runtime.end_tasks import end_tasks
from worker.attempts.stop_prompt import stop_prompt
from worker.comfyui.answers import read_ending
from worker.comfyui.client import Place

if TYPE_CHECKING:
    from worker.attempts.ledger import Ledger
    from worker.attempts.prompt_watch import PromptWatch
    from worker.attempts.self_queued_prompts import SelfQueuedPrompts
    from worker.comfyui.backend import Backend

SHORT_S: Final = 0.05
"""Seconds before a started prompt is marked `executing`; a shorter run saves that commit and event."""
NOTE_S: Final = 0.25
"""Seconds for which the submitted graph waits to be stored with the attempt's next step."""


class PromptFollower:
    """Follows the prompts of one attempt; `entry` is the current prompt's history entry, None until it is read."""

    def __init__(
        self,
        backend: Backend,
        watch: PromptWatch,
        prompts: SelfQueuedPrompts,
        ledger: Ledger,
        *,
        poll_s: float,
        stall_s: float,
    ) -> None:
        self.entry: dict[str, Any] | None = None
        self._backend = backend
        self._watch = watch
        self._prompts = prompts
        self._ledger = ledger
        self._poll_s = poll_s
        self._stall_s = stall_s
        self._deadline: float | None = None
        """Monotonic time by which all prompts of the attempt must end; None until the first one begins."""

    @property
    def _timeout_s(self) -> int:
        return self._ledger.job.timeout_seconds

    async def follow(self) -> bool:
        """Return once the prompt has ended; False when it was stopped and left no history entry.

        Raises
        ------
        AttemptTimeout, BackendLate, BackendForgot, BackendStalled, BackendLost
        LostClaim
        """
        if self.entry is not None:
            return True
        watch, now = self._watch, time.monotonic()
        # Time in ComfyUI's own queue does not count as run time, but has a limit of its own.
        deadline = self._deadline or now + 2 * self._timeout_s + 60
        looked_at = now
        publishing: asyncio.Task[None] | None = None
        began = self._deadline is not None
        try:
            while not watch.ended.is_set():
                watch.clear_news()
                if watch.cancelling:
                    self.entry = await self._stop()
                    return self.entry is not None
                if self._backend.standstill is not None:
                    await self.leave_standstill()
                if watch.began_at is not None and not began:
                    began, deadline = True, time.monotonic() + self._timeout_s
                    self._deadline = deadline
                if began and publishing is None:
                    if await watch.news_within(SHORT_S):
                        continue
                    if self._ledger.job.phase is Phase.ASSIGNED:
                        await self._ledger.mark_executing()
                    publishing = asyncio.create_task(self._ledger.publish_progress(), name="progress")
                    continue
                now = time.monotonic()
                if now >= deadline:
                    await self._stop_late()
                    return True
                poll_s = self._poll_s if self._backend.healthy else 1.0
                look_in_s = poll_s - (now - max(watch.heard_at, looked_at))
                if look_in_s <= 0:
                    self.entry = await self._look_up()
                    if self.entry is not None:
                        return True
                    looked_at = time.monotonic()
                elif not await watch.news_within(
                    min(look_in_s, deadline - now, NOTE_S if self._ledger.sent else look_in_s)
                ):
                    await self._ledger.note_sent()
            return True
        finally:
            if publishing is not None:
                # Short, because the attempt's end waits for this.
                await end_tasks([publishing], again_s=0.02)

    async def history(self) -> dict[str, Any]:
        """Return the history entry of the ended prompt; it is readable once `executing null` has arrived.

        Raises
        ------
        BackendLost
        """
        if self.entry is not None:
            return self.entry
        for number in range(20):
            entry = await self._backend.comfyui.history(self._prompts.prompt_id)
            if entry is not None:
                return entry
            await asyncio.sleep(0.02 * (number + 1))
        raise BackendLost("The backend announced the end of the run but has no history of it.")

    async def leave_standstill(self) -> NoReturn:
        """Leave a backend that stands still; the prompt is removed from its queue in case execution resumes.

        Raises
        ------
        BackendStalled
        """
        still = self._backend.standstill
        with contextlib.suppress(BackendLost):
            await self._backend.comfyui.stop(self._prompts.prompt_id)
        stalled = BackendStalled("The backend stopped making progress; the job moves on.")
        if still is not None and still.prompt_id == self._prompts.prompt_id:
            stalled = BackendStalled("The backend stopped for good while it executed this job.")
            stalled.under_it, stalled.certain = True, still.certain
        raise stalled

    async def _look_up(self) -> dict[str, Any] | None:
        """Ask where the prompt is and return its history entry, None while it has not ended.

        Raises
        ------
        BackendLost
            The backend does not answer.
        BackendForgot
            The backend does not know the prompt.
        """
        tries = 3
        while True:
            try:
                place, entry = await self._backend.comfyui.locate(self._prompts.prompt_id)
            except BackendLost:
                tries -= 1
                if not tries:
                    raise
                await asyncio.sleep(1)
                continue
            if place is Place.UNKNOWN:
                raise BackendForgot("The backend has forgotten the run; it was probably restarted.")
            if place is Place.RUNNING:
                self._watch.begin()
                # A running node may send no frames for long; the job's time limit covers that.
                if self._watch.at_work is False and self._is_silent():
                    self._backend.stand_still(self._prompts.prompt_id)
            elif place is Place.PENDING:
                with contextlib.suppress(BackendLost):
                    self._backend.saw_running((await self._backend.comfyui.queue_state())[0], self._stall_s)
            return entry

    def _is_silent(self) -> bool:
        """Whether the run has sent no frame for more than `stall_s`."""
        return time.monotonic() - self._watch.heard_at > self._stall_s

    async def _stop_late(self) -> None:
        """Stop a run that exceeds its time limit.

        Raises
        ------
        AttemptTimeout
            Unless the run succeeded in the meantime.
        BackendLate
            The run had not begun, or the backend did not confirm the stop.
        BackendStalled
        """
        began = self._watch.began_at is not None
        took = f"The run took longer than {self._timeout_s} s"
        try:
            self.entry = await self._stop(late=True)
        except BackendLost as error:
            if began and self._is_silent():
                self._backend.stand_still(self._prompts.prompt_id)
                await self.leave_standstill()
            late = BackendLate(f"{took}, and the backend did not confirm that it stopped the run.")
            late.under_it = True
            raise late from error
        if self._backend.standstill is not None:
            await self.leave_standstill()
        if self.entry is None or read_ending(self.entry).failure is not None:
            if not began:
                raise BackendLate("The run did not begin in time: the backend was executing other prompts.")
            raise AttemptTimeout(f"{took}, and was stopped.")

    async def _stop(self, *, late: bool = False) -> dict[str, Any] | None:
        with contextlib.suppress(BackendLost):
            await self._prompts.stop_waiting()
        entry = await stop_prompt(self._backend, self._prompts.prompt_id, self._watch, self._stall_s, late=late)
        await self._prompts.stop_others()
        return entry
