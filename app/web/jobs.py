"""Handlers of `/api/v1/generation-jobs`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from app.domain.envelopes import body_fault
from app.domain.errors import GenonautError, InvalidRequest, JobAlreadyFinished, NotFound
from app.domain.job import JobStatus, Phase
from app.domain.message import snapshot_of
from app.keys import CONTROL, ETA, EVENTS, LINKS, QUEUE_CONTROL, REGISTRY, SETTINGS, SIDELINE, SUBMITTING
from app.runtime.json_text import Written, as_sent, dump_bytes, dumps, loads
from app.services.links import unsigned
from app.services.submit import Replayed
from app.storage.idempotency import Once
from app.storage.job_lists import Matching
from app.storage.whole_jobs import JobView
from app.web.answers import attempt_answer, check_answer, event_answer, job_answer, pause_answer
from app.web.auditing import ACTED_ON, MAX_SCOPE, became_of_many, note, noted, sender_of
from app.web.bodies import check_kind, fingerprint, idempotency_key_of, job_id_of, parse, read_object, read_query
from app.web.body_intake import INCOMING
from app.web.callers import CALLER, actor_of, main_app, owner_of, views_of
from app.web.checking import check
from app.web.payloads import (
    BulkAnswer,
    BulkResult,
    QueueStatsAnswer,
)
from app.web.problems import problem
from app.web.proxies import root_path
from app.web.requests import (
    MAX_BULK,
    BulkCancelRequest,
    BulkRequest,
    BulkRetryRequest,
    CancelRequest,
    HistoryQuery,
    JobChangeRequest,
    JobRequest,
    ListQuery,
    RetryRequest,
)
from app.web.responses import answered, json_answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from app.domain.access import Caller
    from app.domain.job import Job, NewJob, Standing
    from app.domain.message import Snapshot
    from app.domain.run_times import Range
    from app.services.links import Signing
    from app.services.submit import DryRun
    from app.storage.job_lists import Page
    from app.storage.moves import Moved

routes: Final = web.RouteTableDef()

BASE: Final = "/api/v1/generation-jobs"
ONE: Final = BASE + r"/{job_id:\d+}"

WRITTEN_AT_ONCE: Final = 200
"""Number of jobs that are serialised in one go, which takes about 10 ms."""


async def whole_job(request: web.Request, view: JobView) -> dict[str, Any]:
    """Return a job with the last progress and the time it will probably take."""
    signed = (await request.app[LINKS].signing()).signed if view.outputs else unsigned
    (snapshot,) = await request.app[EVENTS].with_live([snapshot_of(view.job)])
    estimate = await request.app[ETA].of(view, snapshot.progress, datetime.now(UTC))
    obstacle, root = await request.app[ETA].obstacle(view), root_path(request)
    if not view.job.has_workflow and not view.job.has_extra_pnginfo:
        return job_answer(view, snapshot, signed, estimate, obstacle, root=root)
    asked = await views_of(request).asked_graph(view.job.job_id)
    workflow, extra = _written(asked.workflow), _written(asked.extra_pnginfo)
    return job_answer(view, snapshot, signed, estimate, obstacle, workflow=workflow, extra_pnginfo=extra, root=root)


@routes.post(BASE)
async def create_job(request: web.Request) -> web.Response:
    """Accept a job."""
    # The bytes count until the job is accepted: what was read of them is held so long.
    async with request.app[INCOMING].body(request) as raw:
        check_kind(request)
        key, caller = idempotency_key_of(request), request[CALLER]
        sent = sender_of(request)
        job, overrides, once = await request.app[SIDELINE].do(len(raw), _asked, raw, key, caller, sent)
        result = await request.app[SUBMITTING].submit(job, overrides, once, sender=caller)
    if isinstance(result, Replayed):
        text, job_id, headers = result.answer, loads(result.answer)["job_id"], {"Idempotency-Replayed": "true"}
    else:
        text, job_id, headers = _created(result), result.job_id, {}
    headers["Location"] = f"{BASE}/{job_id}"
    text = _rooted(text, root_path(request))
    return web.Response(text=text, status=HTTPStatus.CREATED, content_type="application/json", headers=headers)


@routes.post(BASE + "/check")
async def check_job(request: web.Request) -> web.Response:
    """Tell what would become of a job, without accepting it."""
    async with request.app[INCOMING].body(request) as raw:
        check_kind(request)
        job, overrides, _ = await request.app[SIDELINE].do(len(raw), _asked, raw, None, request[CALLER])
        found = await request.app[SUBMITTING].check(job, overrides, sender=request[CALLER])
    position, wait, run = await expected(request, job, found)
    pauses = await request.app[QUEUE_CONTROL].concerning(job.user_id)
    return answered(check_answer(found, position, wait, run, pauses))


async def expected(request: web.Request, job: NewJob, found: DryRun) -> tuple[int, Range | None, Range | None]:
    """Return the place in the queue that a job would have, how long it would wait there, and how long it would run."""
    shares = main_app(request)[SETTINGS].users_share
    position = 1 + await views_of(request).waiting_before(job, shares=shares)
    key = next((each.workflow_key for each in found.backends if each.workflow_key is not None), None)
    return position, *await request.config_dict[ETA].expected(found.job, key, position)


@routes.get(BASE)
async def list_jobs(request: web.Request) -> web.Response:
    """List jobs, newest first unless sorted otherwise."""
    asked = check(ListQuery, read_query(request.query, repeatable=("status",)), pointer="")
    if asked.cursor is not None and asked.skip:
        raise InvalidRequest("cursor and skip exclude each other: a cursor already says where to go on.")
    page = await views_of(request).page(
        asked.to_filter(), asked.sort, asked.limit, cursor=asked.cursor, skip=asked.skip
    )
    snapshots = await request.app[EVENTS].with_live([snapshot_of(view.job) for view in page.items])
    signing = await request.app[LINKS].signing()
    if len(page.items) <= WRITTEN_AT_ONCE:
        body = _listed(asked, page, snapshots, signing, root_path(request))
    else:
        # In a thread, which lets the loop in again and again.
        body = await asyncio.to_thread(_listed, asked, page, snapshots, signing, root_path(request))
    return json_answer(body)


@routes.get(BASE + "/queue/stats")
async def queue_stats(request: web.Request) -> web.Response:
    """Give the figures of the queue."""
    stats = await views_of(request).stats()
    registry, pauses = request.app[REGISTRY], await request.app[QUEUE_CONTROL].concerning()
    answer = QueueStatsAnswer(
        pending_jobs=stats.by_status.get(JobStatus.PENDING, 0),
        running_jobs=stats.by_status.get(JobStatus.RUNNING, 0),
        oldest_wait_seconds=stats.oldest_wait_s,
        by_priority={str(priority): count for priority, count in stats.by_priority.items()},
        by_model=stats.by_model,
        workers_online=sum(beat.live for beat in await registry.workers()),
        backends_online=sum(beat.live and bool(beat.healthy) for beat in await registry.backends()),
        paused=pause_answer(next((each for each in pauses if each.user_id is None), None)),
    )
    return answered(answer)


@routes.get(ONE)
async def get_job(request: web.Request) -> web.Response:
    """Show a job."""
    return answered(await whole_job(request, await views_of(request).view(job_id_of(request))))


@routes.get(ONE + "/attempts")
async def list_attempts(request: web.Request) -> web.Response:
    """Show a job's attempts."""
    asked = check(HistoryQuery, read_query(request.query), pointer="")
    attempts = await views_of(request).attempts(job_id_of(request), after=asked.after, limit=asked.limit + 1)
    shown = [attempt_answer(attempt) for attempt in attempts[: asked.limit]]
    return answered({"items": shown, "next_after": shown[-1]["number"] if len(attempts) > asked.limit else None})


@routes.get(ONE + "/events")
async def list_events(request: web.Request) -> web.Response:
    """Show the steps of a job's life."""
    asked = check(HistoryQuery, read_query(request.query), pointer="")
    events = await views_of(request).events(job_id_of(request), after=asked.after, limit=asked.limit + 1)
    shown = [event_answer(event) for event in events[: asked.limit]]
    return answered({"items": shown, "next_after": shown[-1]["seq"] if len(events) > asked.limit else None})


@routes.get(ONE + "/workflow")
async def get_workflow(request: web.Request) -> web.Response:
    """Give the graph as it was last sent to ComfyUI."""
    job_id = job_id_of(request)
    graph = await views_of(request).sent_graph(job_id)
    if graph is None:
        raise NotFound(f"Job {job_id} has not been sent to a backend yet.")
    return json_answer(graph.encode())


@routes.post(ONE + "/cancel")
async def cancel_job(request: web.Request) -> web.Response:
    """Cancel a job: 200 when it is cancelled, 202 while that is not confirmed, 409 when it ended before."""
    job_id = job_id_of(request)
    asked = check(CancelRequest, await read_object(request, optional=True))
    try:
        cancelling = request.app[CONTROL].cancel(job_id, asked.reason, actor_of(request), request[CALLER].scope)
        job = await noted(request, "cancel", f"job {job_id}", cancelling, lambda job: job.phase)
    except JobAlreadyFinished as error:
        view = await views_of(request).view(job_id)
        return problem(request, HTTPStatus.CONFLICT, error.code, str(error), job=await whole_job(request, view))
    answer = await whole_job(request, await views_of(request).view(job_id))
    return answered(answer, HTTPStatus.OK if job.phase is Phase.CANCELLED else HTTPStatus.ACCEPTED)


@routes.post(ONE + "/retry")
async def retry_job(request: web.Request) -> web.Response:
    """Give a failed or cancelled job another attempt."""
    job_id = job_id_of(request)
    asked = check(RetryRequest, await read_object(request, optional=True))
    new_seed, actor, caller = asked.seed == "new", actor_of(request), request[CALLER]
    retrying = request.app[CONTROL].retry(job_id, new_seed=new_seed, actor=actor, owner=caller.scope, sender=caller)
    await noted(request, "retry", f"job {job_id}", retrying, lambda _: "reseeded" if new_seed else "retried")
    return answered(await whole_job(request, await views_of(request).view(job_id)))


@routes.post(ONE + "/front")
async def move_to_front(request: web.Request) -> web.Response:
    """Let a waiting job come before the others of its user and priority."""
    job_id = job_id_of(request)
    moving = request.app[CONTROL].to_front(job_id, actor_of(request), request[CALLER].scope)
    await noted(request, "to_front", f"job {job_id}", moving, became_of_move)
    return answered(await whole_job(request, await views_of(request).view(job_id)))


@routes.patch(ONE)
async def change_job(request: web.Request) -> web.Response:
    """Give a waiting job another priority."""
    job_id = job_id_of(request)
    asked = check(JobChangeRequest, await read_object(request))
    caller, control = request[CALLER], request.app[CONTROL]
    setting = control.set_priority(job_id, asked.priority, actor_of(request), caller.scope, sender=caller)
    await noted(request, "priority_set", f"job {job_id}", setting, became_of_move, priority=asked.priority)
    return answered(await whole_job(request, await views_of(request).view(job_id)))


def became_of_move(moved: Moved) -> str:
    """Return the outcome of a move, as the audit has it."""
    return "moved" if moved.changed else "unchanged"


@routes.post(BASE + "/cancel")
async def cancel_jobs(request: web.Request) -> web.Response:
    """Cancel many jobs."""
    asked = check(BulkCancelRequest, await read_object(request))
    control, actor, owner = request.app[CONTROL], actor_of(request), request[CALLER].scope
    return await _in_bulk(request, "cancel", asked, lambda job_id: control.cancel(job_id, asked.reason, actor, owner))


@routes.post(BASE + "/retry")
async def retry_jobs(request: web.Request) -> web.Response:
    """Retry many jobs."""
    asked = check(BulkRetryRequest, await read_object(request))
    control, new_seed, actor, caller = request.app[CONTROL], asked.seed == "new", actor_of(request), request[CALLER]

    async def retry(job_id: int) -> Standing:
        return await control.retry(job_id, new_seed=new_seed, actor=actor, owner=caller.scope, sender=caller)

    return await _in_bulk(request, "retry", asked, retry)


@routes.delete(ONE)
async def delete_job(request: web.Request) -> web.Response:
    """Delete a finished job with its files."""
    job_id = job_id_of(request)
    deleting = request.app[CONTROL].delete(job_id, request[CALLER].scope)
    await noted(request, "delete", f"job {job_id}", deleting, lambda _: "deleted")
    return web.Response(status=HTTPStatus.NO_CONTENT)


async def _in_bulk(
    request: web.Request, action: str, asked: BulkRequest, act: Callable[[int], Awaitable[Standing]]
) -> web.Response:
    named = asked.job_ids or []
    chosen, meant = asked.to_filter(), Matching(named, len(named), exact=True, next_cursor=None)
    if chosen is not None:
        meant = await views_of(request).matching(chosen, MAX_BULK, asked.cursor)
    results = [
        BulkResult(job_id=job_id, ok=False, code=became.code, detail=str(became))
        if isinstance(became, GenonautError)
        else BulkResult(job_id=job_id, ok=True, status=became.status, phase=became.phase)
        for job_id, became in await request.app[CONTROL].in_bulk(meant.job_ids, act)
    ]
    if results:
        acted = [each.job_id for each in results if each.ok]
        refused = len(results) - len(acted)
        outcome = became_of_many(len(acted), refused)
        await note(request, action, _scope(asked), outcome, **{ACTED_ON: acted, "refused": refused})
    answer = BulkAnswer(
        results=results, matched=meant.matched, matched_exact=meant.exact, next_cursor=meant.next_cursor
    )
    return answered(answer)


def _scope(asked: BulkRequest) -> str:
    """Return which jobs a bulk action was for, as the audit has it."""
    if asked.job_ids is not None:
        return f"{len(asked.job_ids)} named"
    chosen = asked.filter.model_dump(mode="json", exclude_defaults=True) if asked.filter is not None else {}
    return f"jobs of {dumps(chosen)}"[:MAX_SCOPE] if chosen else "all jobs"


def _asked(
    raw: bytes, key: str | None, caller: Caller, sent: Mapping[str, str | None] | None = None
) -> tuple[NewJob, dict[str, Any], Once | None]:
    body = parse(raw)
    if (fault := body_fault(body)) is not None:
        raise InvalidRequest(fault.detail, [fault])
    if caller.owner is not None:
        body.setdefault("user_id", caller.owner)
    asked = check(JobRequest, body)
    owner_of(caller, asked.user_id, "/user_id")
    once = Once(asked.user_id, key, fingerprint(body), _created) if key is not None else None
    return asked.to_new_job(sent), asked.overrides, once


def _created(job: Job) -> str:
    """Return the answer to a submission: the same for the same job, so that a repetition gets it to the letter."""
    view = JobView(job, [], [], None)
    extra = Written(as_sent(job.extra_pnginfo)) if job.extra_pnginfo is not None else None
    # It has no outputs yet; links would end before the answer is forgotten.
    answer = job_answer(
        view, snapshot_of(job), unsigned, workflow=job.workflow, extra_pnginfo=extra, now=job.created_at
    )
    return dumps(answer)


def _rooted(created: str, root: str) -> str:
    """Return the answer to a submission with this before each of its links.

    What is kept for a repetition is without: it may come by another way. The links are the last member, so that the
    rest, which may be megabytes, is left as it is.
    """
    before, mark, links = created.rpartition('"links":{')
    return "".join((before, mark, links.replace('":"/', f'":"{root}/'))) if root else created


def _written(text: str | None) -> Written | None:
    return Written(text) if text is not None else None


def _listed(asked: ListQuery, page: Page, snapshots: list[Snapshot], signing: Signing, root: str) -> bytes:
    each = zip(page.items, snapshots, strict=True)
    items = [job_answer(view, snapshot, signing.signed, root=root) for view, snapshot in each]
    answer = {
        "items": items,
        "total": page.total,
        "total_exact": page.total_exact,
        "skip": asked.skip,
        "limit": asked.limit,
        "next_cursor": page.next_cursor,
    }
    return dump_bytes(answer)
