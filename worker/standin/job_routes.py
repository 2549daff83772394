"""Handlers of `/api/jobs`, which later versions of ComfyUI have: one view of queue and history, and a sure cancel."""

from typing import Any

from aiohttp import web

from worker.standin.prompt_queue import PromptQueue, QueueItem
from worker.standin.server import STANDIN, Standin


async def list_jobs(request: web.Request) -> web.StreamResponse:
    """Answer the jobs of some statuses."""
    jobs = _jobs(request.app[STANDIN].queue)
    if "status" in request.query:
        wanted = request.query["status"].split(",")
        jobs = [job for job in jobs if job["status"] in wanted]
    offset = int(request.query.get("offset", "0"))
    limit = int(request.query["limit"]) if "limit" in request.query else None
    page = jobs[offset:] if limit is None else jobs[offset : offset + limit]
    more = offset + len(page) < len(jobs)
    pagination = {"offset": offset, "limit": limit, "total": len(jobs), "has_more": more}
    return web.json_response({"jobs": page, "pagination": pagination})


async def show_job(request: web.Request) -> web.StreamResponse:
    """Answer one job; unlike in the history an unknown id is a 404."""
    for job in _jobs(request.app[STANDIN].queue):
        if job["id"] == request.match_info["job_id"]:
            return web.json_response(job)
    return web.json_response({"error": "Job not found"}, status=404)


async def cancel_job(request: web.Request) -> web.StreamResponse:
    """Cancel a job, whether it waits or runs."""
    return web.json_response({"cancelled": _cancel(request.app[STANDIN], request.match_info["job_id"])})


async def cancel_jobs(request: web.Request) -> web.StreamResponse:
    """Cancel several jobs."""
    body = await request.json()
    cancelled = [_cancel(request.app[STANDIN], job_id) for job_id in body["job_ids"]]
    return web.json_response({"cancelled": any(cancelled)})


def _cancel(standin: Standin, job_id: str) -> bool:
    """Cancel one job; tell whether there was one."""
    if standin.queue.delete(job_id):
        return True
    if standin.queue.running is not None and standin.queue.running[1] == job_id:
        standin.console.say(f"Cancelling running prompt {job_id}")
        standin.executor.interrupt()
        return True
    return False


def _jobs(queue: PromptQueue) -> list[dict[str, Any]]:
    """Return all jobs, newest first."""
    jobs = [_job(item, "pending") for item in sorted(queue.pending, key=lambda item: item[:2], reverse=True)]
    if queue.running is not None:
        jobs.append(_job(queue.running, "in_progress"))
    for entry in reversed(queue.history.values()):
        job = _job(tuple(entry["prompt"]), _ended(entry["status"]))
        jobs.append(job | {"outputs": entry["outputs"], "execution_status": entry["status"]})
    return jobs


def _job(item: QueueItem, status: str) -> dict[str, Any]:
    created = item[3].get("create_time") if isinstance(item[3], dict) else None
    return {"id": item[1], "status": status, "priority": item[0], "create_time": created}


def _ended(status: dict[str, Any]) -> str:
    """Return the word for how a job ended."""
    if status["completed"]:
        return "completed"
    return "cancelled" if status["messages"][-1][0] == "execution_interrupted" else "failed"
