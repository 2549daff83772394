"""Handlers of `/api/jobs`, which later versions of ComfyUI have: one view of queue and history, and a sure cancel."""

from typing import Any

from aiohttp import web

from worker.standin.jobs import STATES, all_jobs, in_order, one_job
from worker.standin.prompt_ids import is_canonical
from worker.standin.server import STANDIN, Standin


class _RefusedError(Exception):
    """A parameter is wrong; the text says how."""


async def list_jobs(request: web.Request) -> web.StreamResponse:
    """Answer the jobs of some states, the newest first unless told otherwise."""
    try:
        wanted = _states(request.query.get("status", ""))
        by = _one_of(request, "sort_by", ("created_at", "execution_duration"), "created_at")
        order = _one_of(request, "sort_order", ("asc", "desc"), "desc")
        limit = _limit(request.query.get("limit"))
        offset = _offset(request.query.get("offset", "0"))
    except _RefusedError as error:
        return web.json_response({"error": str(error)}, status=400)
    jobs = [job for job in all_jobs(request.app[STANDIN].queue) if job["status"] in wanted]
    if workflow := request.query.get("workflow_id"):
        jobs = [job for job in jobs if job.get("workflow_id") == workflow]
    jobs = in_order(jobs, by, descending=order == "desc")
    page = jobs[offset:] if limit is None else jobs[offset : offset + limit]
    more = offset + len(page) < len(jobs)
    pagination = {"offset": offset, "limit": limit, "total": len(jobs), "has_more": more}
    return web.json_response({"jobs": page, "pagination": pagination})


async def show_job(request: web.Request) -> web.StreamResponse:
    """Answer one job; unlike in the history an unknown id is a 404."""
    job = one_job(request.app[STANDIN].queue, request.match_info["job_id"])
    if job is None:
        return web.json_response({"error": "Job not found"}, status=404)
    return web.json_response(job)


async def cancel_job(request: web.Request) -> web.StreamResponse:
    """Cancel a job, whether it waits or runs."""
    return web.json_response({"cancelled": _cancel(request.app[STANDIN], request.match_info["job_id"])})


async def cancel_jobs(request: web.Request) -> web.StreamResponse:
    """Cancel several jobs; ids that are none are refused before anything is done."""
    try:
        body = await request.json()
    except ValueError:
        return web.json_response({"error": "Request body must be valid JSON"}, status=400)
    job_ids = body.get("job_ids") if isinstance(body, dict) else None
    if not isinstance(job_ids, list):
        return web.json_response({"error": "job_ids must be a list"}, status=400)
    if wrong := [job_id if isinstance(job_id, str) else repr(job_id) for job_id in job_ids if not is_canonical(job_id)]:
        return web.json_response({"error": "job_ids contains invalid id(s)", "invalid_ids": wrong}, status=400)
    cancelled = [_cancel(request.app[STANDIN], job_id) for job_id in job_ids]
    return web.json_response({"cancelled": any(cancelled)})


def _cancel(standin: Standin, job_id: str) -> bool:
    """Cancel one job; tell whether there was one. Nothing else can begin to run in between."""
    if standin.queue.running is not None and standin.queue.running[1] == job_id:
        standin.console.say(f"Cancelling running prompt {job_id}")
        standin.executor.interrupt()
        return True
    if any(item[1] == job_id for item in standin.queue.pending):
        standin.console.say(f"Cancelling pending prompt {job_id}")
        return standin.queue.delete(job_id)
    return False


def _states(text: str) -> tuple[str, ...]:
    """Return the states that are asked for; all, if none is."""
    wanted = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    if wrong := [state for state in wanted if state not in STATES]:
        raise _RefusedError(f"Invalid status value(s): {', '.join(wrong)}. Valid values: {', '.join(STATES)}")
    return wanted or STATES


def _one_of(request: web.Request, name: str, values: tuple[str, str], default: str) -> str:
    """Return a parameter that takes one of two values."""
    value = request.query.get(name, default).lower()
    if value not in values:
        raise _RefusedError(f"{name} must be '{values[0]}' or '{values[1]}'")
    return value


def _limit(text: str | None) -> int | None:
    """Return how many jobs are wanted at most."""
    if text is None:
        return None
    number = _number("limit", text)
    if number <= 0:
        raise _RefusedError("limit must be a positive integer")
    return number


def _offset(text: str) -> int:
    """Return how many jobs are left out first."""
    return max(0, _number("offset", text))


def _number(name: str, text: Any) -> int:
    try:
        return int(text)
    except ValueError:
        raise _RefusedError(f"{name} must be an integer") from None
