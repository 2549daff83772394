"""Stopping a prompt until the backend confirms that it no longer runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import BackendLost
from worker.comfyui.client import Place

if TYPE_CHECKING:
    from worker.attempts.prompt_watch import PromptWatch
    from worker.comfyui.backend import Backend

log = logging.getLogger(__name__)

AGAIN_S: Final = 1.0
"""Seconds between two interrupts: one that arrives between two nodes is lost, so it is repeated until confirmed."""
LIMIT_S: Final = 120.0
"""Seconds after which an unconfirmed cancellation is given up; it is requested again later."""
LATE_LIMIT_S: Final = 30.0
"""The same limit for a run that exceeded its time limit, whose job then moves on."""
DISOBEYED_S: Final = 5.0
"""Seconds after which a backend that has not stopped the prompt gets no new prompts."""


async def stop_prompt(
    backend: Backend, prompt_id: str, watch: PromptWatch, stall_s: float, *, late: bool = False
) -> dict[str, Any] | None:
    """Delete or interrupt the prompt, repeatedly, until it no longer runs.

    Returns its history entry; None if it was deleted before it began, or if the backend has certainly stopped
    executing. Raises `BackendLost` when the end is not confirmed within `LIMIT_S`, or `LATE_LIMIT_S` if `late`.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    limit = began + (LATE_LIMIT_S if late else LIMIT_S)
    try:
        while loop.time() < limit:
            try:
                await backend.comfyui.stop(prompt_id)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(AGAIN_S if watch.began_at is not None else 0.1):
                        await watch.ended.wait()
                place, entry = await backend.comfyui.locate(prompt_id)
            except BackendLost as error:
                log.warning("prompt %s: cannot be stopped yet: %s", prompt_id, error)
                await asyncio.sleep(1)
                continue
            if place in (Place.FINISHED, Place.UNKNOWN):
                return entry
            if backend.standstill is not None and backend.standstill.certain:
                return None
            if place is Place.RUNNING:
                watch.begin()
                backend.saw_running(prompt_id, stall_s)
            if loop.time() - began > DISOBEYED_S:
                backend.stopping.add(prompt_id)
        backend.stale |= {prompt_id}
        raise BackendLost("The backend did not confirm that the run was stopped.")
    finally:
        backend.stopping.discard(prompt_id)
        backend.on_slot()
