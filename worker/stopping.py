"""Stopping a prompt, until the backend's own word says that it does not run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import BackendLost
from worker.comfyui import Place

if TYPE_CHECKING:
    from worker.backend import Backend
    from worker.watch import Watch

log = logging.getLogger(__name__)

AGAIN_S: Final = 1.0
"""An interrupt that came in a gap is lost; it is sent again until ComfyUI confirms the end."""
LIMIT_S: Final = 120.0


async def stop_prompt(backend: Backend, prompt_id: str, watch: Watch, stall_s: float) -> dict[str, Any] | None:
    """Delete or interrupt the prompt, again and again, until it has gone.

    Returns its history entry, or None if it was deleted before it began; raises `BackendLost` when the end is not
    confirmed within `LIMIT_S`.
    """
    loop = asyncio.get_running_loop()
    limit = loop.time() + LIMIT_S
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
        if place is Place.RUNNING:
            watch.begin()
            backend.saw_running(prompt_id, stall_s)
    raise BackendLost("The backend did not confirm that the run was stopped.")
