"""From a successful run to a completed job: its outputs are stored, and then the job is committed as completed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from app.domain.job import Phase
from app.runtime.end_tasks import end_tasks

if TYPE_CHECKING:
    from app.domain.job import Output
    from worker.attempts.attempt import Attempt
    from worker.comfyui.answers import Ending

SAVING_S: Final = 0.25
"""Seconds before the job is marked `saving`; faster saving avoids that commit."""


async def save_outputs(attempt: Attempt, ending: Ending) -> list[Output]:
    """Store the outputs, complete the job, and return the stored outputs.

    Raises
    ------
    AttemptFailed
        None of the outputs can be kept, or they could not be fetched or stored.
    LostClaim, InvalidTransition
    """
    collecting = asyncio.create_task(
        attempt.outputs.keep(attempt.job, ending.outputs, attempt.made(ending)),
        name=f"collect-{attempt.job.job_id}",
    )
    try:
        await asyncio.wait({collecting}, timeout=SAVING_S)
        if not collecting.done() and attempt.job.phase is not Phase.SAVING:
            await attempt.ledger.mark_saving()
        collected = await collecting
    finally:
        if not collecting.done():
            await end_tasks([collecting])
    attempt.backend.stray_savers.update(each.saver for each in collected.lost if each.saver is not None)
    silence = ending.silence if not ending.outputs else None
    notes = filter(None, [attempt.left_out, *ending.notes, *collected.notes, silence])
    await attempt.ledger.complete(collected.outputs, list(notes))
    return collected.outputs
