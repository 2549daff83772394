"""Forms that act on a job: each does one thing, says what is confirmed, and leads back to where it was sent from."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Final

from aiohttp import web

from app.domain.errors import (
    GenonautError,
    JobAlreadyFinished,
    JobNotFinished,
    JobNotFound,
    JobNotRetryable,
    NoSeedToChange,
)
from app.domain.job import Phase
from app.keys import BACKGROUND, CONTROL, SUBMITTING
from app.monitor.job_pages import JOB
from app.monitor.rendering import leave_flash
from app.services.submit import Replayed
from app.storage.idempotency import Once
from app.web.auditing import note
from app.web.bodies import job_id_of, read_form
from app.web.callers import CALLER, views_of

if TYPE_CHECKING:
    from app.domain.job import ListedJob, Standing

log = logging.getLogger(__name__)
routes: Final = web.RouteTableDef()

CONFIRM_S: Final = 1.5
"""Maximum seconds that the answer to a cancel waits for its confirmation; after that the page shows `cancelling`."""

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
    caller = request[CALLER]
    cancelling = asyncio.create_task(
        request.config_dict[CONTROL].cancel(job_id, None, caller.name, caller.scope), name=f"cancel-{job_id}"
    )
    following = asyncio.create_task(_follow(cancelling, job_id), name=f"cancel-{job_id}-rest")
    request.config_dict[BACKGROUND].add(following)
    following.add_done_callback(request.config_dict[BACKGROUND].discard)
    done, _ = await asyncio.wait({cancelling}, timeout=CONFIRM_S)
    if done:
        try:
            phase = cancelling.result().phase
        except JobAlreadyFinished:
            return await _back(request, "cancel", job_id, "late")
    else:
        phase = (await views_of(request).view(job_id)).job.phase
    return await _back(request, "cancel", job_id, _SAID.get(phase, "asked"))


@routes.post(JOB + "/retry")
async def retry_job(request: web.Request) -> web.Response:
    """Give a failed or cancelled job another attempt, with its own seed or a new one."""
    job_id = job_id_of(request)
    new_seed = (await read_form(request)).get("seed") == "new"
    try:
        caller, control = request[CALLER], request.config_dict[CONTROL]
        await control.retry(job_id, new_seed=new_seed, actor=caller.name, owner=caller.scope, sender=caller)
    except JobNotRetryable:
        return await _back(request, "retry", job_id, "not_retryable")
    except NoSeedToChange:
        return await _back(request, "retry", job_id, "no_seed")
    return await _back(request, "retry", job_id, "reseeded" if new_seed else "retried")


@routes.post(JOB + "/again")
async def send_again(request: web.Request) -> web.Response:
    """Send a new job that asks for what a completed one did, with another seed if it has one of its own."""
    views, job_id = views_of(request), job_id_of(request)
    job = (await views.view(job_id)).job
    if job.phase is not Phase.COMPLETED:
        return await _back(request, "again", job.job_id, "not_completed")
    whole = await views.whole(job_id)
    once, submitting = await _once(request, job), request.config_dict[SUBMITTING]
    sent, reseeded = await submitting.again(whole, once, sender=request[CALLER])
    new_id = int(sent.answer) if isinstance(sent, Replayed) else sent.job_id
    return await _back(request, "again", job.job_id, "again" if reseeded else "again_alike", new_id)


@routes.post(JOB + "/delete")
async def delete_job(request: web.Request) -> web.Response:
    """Delete a finished job; its confirmation page sends this."""
    job_id = job_id_of(request)
    try:
        await request.config_dict[CONTROL].delete(job_id, request[CALLER].scope)
    except JobNotFinished:
        return await _back(request, "delete", job_id, "not_finished")
    return await _back(request, "delete", job_id, "deleted")


async def _once(request: web.Request, job: ListedJob) -> Once | None:
    """Return what makes a form that is sent again, because no answer came, send one job; None when it names no press.

    The page's script gives each press a number of its own; without it a browser asks before it sends a form again.
    """
    press = (await read_form(request)).get("press")
    if not isinstance(press, str) or re.fullmatch("[0-9a-f]{32}", press) is None:
        return None
    return Once(job.user_id, f"again {press}", f"again {job.job_id}", lambda sent: str(sent.job_id))


async def _follow(cancelling: asyncio.Task[Standing], job_id: int) -> None:
    """Receives the events of a job that is being cancelled, until its end."""
    try:
        await cancelling
    except (JobAlreadyFinished, JobNotFound):
        pass
    except GenonautError as error:
        log.warning("job %s is asked to be cancelled; its end was not seen: %s", job_id, error)


async def lead_back(request: web.Request, code: str, *parts: int, otherwise: str = "/monitor/") -> web.Response:
    """Lead back to the page that the form names, if it is one of ours, and have it say what happened."""
    response = web.Response(
        status=303, headers={"Location": await way_back(request, otherwise), "Cache-Control": "no-store"}
    )
    leave_flash(request, response, code, *parts)
    return response


async def way_back(request: web.Request, otherwise: str) -> str:
    """Return the address that the form names as the one it was sent from, if it is one of ours."""
    named = (await read_form(request)).get("back", "")
    own = isinstance(named, str) and re.fullmatch(r"/monitor/[!-\[\]-~]*", named) is not None
    return named if own and isinstance(named, str) else otherwise


async def _back(request: web.Request, action: str, job_id: int, code: str, *new_ids: int) -> web.Response:
    await note(request, action, f"job {job_id}", code, **({"job_ids": list(new_ids)} if new_ids else {}))
    return await lead_back(request, code, job_id, *new_ids, otherwise=f"/monitor/jobs/{job_id}")
