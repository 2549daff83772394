"""Forms that act on a job: each does one thing, says what is confirmed, and leads back to where it was sent from."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Final

from aiohttp import web

from app.domain.errors import GenonautError, JobAlreadyFinished, JobNotFinished, JobNotFound, JobNotRetryable
from app.domain.job import Phase
from app.keys import BACKGROUND, CONTROL, VIEWS
from app.monitor.pages import JOB
from app.monitor.rendering import leave_flash
from app.web.bodies import job_id_of

if TYPE_CHECKING:
    from app.domain.job import Job

log = logging.getLogger(__name__)
routes: Final = web.RouteTableDef()

ACTOR: Final = "monitor"
"""Who did it, in a job's events, as long as nobody signs in."""
CONFIRM_S: Final = 1.5
"""So long a page waits for a cancellation to be confirmed; after that it says `cancelling`, and shows the rest live."""

_SAID: Final = {
    Phase.CANCELLED: "cancelled",
    Phase.CANCELLING: "cancelling",
    Phase.SAVING: "saving",
    Phase.COMPLETED: "late",
    Phase.FAILED: "late",
}
"""What is said of a cancellation, by the phase in which the job then is."""


@routes.post(JOB + "/cancel")
async def cancel_job(request: web.Request) -> web.Response:
    """Cancel a job, and say `cancelled` only when it is."""
    job_id = job_id_of(request)
    cancelling = asyncio.create_task(request.config_dict[CONTROL].cancel(job_id, None, ACTOR), name=f"cancel-{job_id}")
    following = asyncio.create_task(_follow(cancelling, job_id), name=f"cancel-{job_id}-rest")
    request.config_dict[BACKGROUND].add(following)
    following.add_done_callback(request.config_dict[BACKGROUND].discard)
    done, _ = await asyncio.wait({cancelling}, timeout=CONFIRM_S)
    if done:
        try:
            phase = cancelling.result().phase
        except JobAlreadyFinished:
            return await _back(request, job_id, "late")
    else:
        phase = (await request.config_dict[VIEWS].view(job_id)).job.phase
    return await _back(request, job_id, _SAID.get(phase, "asked"))


@routes.post(JOB + "/retry")
async def retry_job(request: web.Request) -> web.Response:
    """Give a failed or cancelled job another attempt, with its own seed or a new one."""
    job_id = job_id_of(request)
    new_seed = (await request.post()).get("seed") == "new"
    try:
        await request.config_dict[CONTROL].retry(job_id, new_seed=new_seed, actor=ACTOR)
    except JobNotRetryable:
        return await _back(request, job_id, "not_retryable")
    return await _back(request, job_id, "reseeded" if new_seed else "retried")


@routes.post(JOB + "/delete")
async def delete_job(request: web.Request) -> web.Response:
    """Delete a finished job; its confirmation page sends this."""
    job_id = job_id_of(request)
    try:
        await request.config_dict[CONTROL].delete(job_id)
    except JobNotFinished:
        return await _back(request, job_id, "not_finished")
    return await _back(request, job_id, "deleted")


async def _follow(cancelling: asyncio.Task[Job], job_id: int) -> None:
    """See a cancellation through to its end, which the job's events tell to whoever watches."""
    try:
        await cancelling
    except (JobAlreadyFinished, JobNotFound):
        pass
    except GenonautError as error:
        log.warning("job %s is asked to be cancelled; its end was not seen: %s", job_id, error)


async def _back(request: web.Request, job_id: int, code: str) -> web.Response:
    """Lead back to the page that the form names, if it is one of ours, else to the job."""
    named = (await request.post()).get("back", "")
    own = isinstance(named, str) and re.fullmatch(r"/monitor/[!-\[\]-~]*", named) is not None
    target = named if own and isinstance(named, str) else f"/monitor/jobs/{job_id}"
    response = web.Response(status=303, headers={"Location": target, "Cache-Control": "no-store"})
    leave_flash(request, response, code, job_id)
    return response
