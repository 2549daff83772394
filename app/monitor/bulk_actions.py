"""Forms that act on many jobs: those that were ticked, or those that a list held when its reader was asked.

The jobs stand in the form by their numbers, so that exactly what was shown is acted on, whatever happens meanwhile.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlencode

from aiohttp import web
from pydantic import Field

from app.domain.errors import BadParameter, Fault, GenonautError
from app.domain.job import Phase
from app.keys import AUDIT, CONTROL
from app.monitor.actions import lead_back, way_back
from app.monitor.listing import BULK_STATUSES, NARROWING, Cursor, ListAddress, bulk_filter
from app.monitor.rendering import render
from app.storage.job_lists import Matching
from app.web.auditing import ACTED_ON, MAX_SCOPE, became_of_many, note
from app.web.bodies import MAX_ID, read_form, read_query
from app.web.callers import CALLER, views_of
from app.web.checking import check
from app.web.requests import MAX_BULK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from app.domain.job import Standing

routes: Final = web.RouteTableDef()

BULK: Final = r"/bulk/{action:cancel|retry|delete}"


class BulkScope(ListAddress):
    """Everything that a list holds, up to a job."""

    until_id: Annotated[int, Field(ge=0, le=MAX_ID)]
    on: Cursor | None = None
    """Where the search for them goes on."""


@routes.get(BULK)
async def confirm_all(request: web.Request) -> web.Response:
    """Ask before something is done to all that a list holds, and say to how many."""
    action = request.match_info["action"]
    scope = check(BulkScope, read_query(request.query), pointer="")
    chosen = bulk_filter(scope, action)
    found = Matching([], 0, exact=True, next_cursor=None)
    if chosen.status:
        bounded = replace(chosen, until_id=scope.until_id)
        found = await views_of(request).matching(bounded, MAX_BULK, scope.on)
    more = found.matched - len(found.job_ids)
    narrowed_by = {NARROWING[name]: value for name, value in scope.narrowed_by.items()}
    back = scope.link(until_id=None, on=None)
    onward = (
        f"/monitor/bulk/{action}?{urlencode(scope.fields | {'on': found.next_cursor})}" if found.next_cursor else None
    )
    only_more = more if found.exact and scope.on is None else None
    return await _ask(request, action, found.job_ids, back, narrowed_by, only_more, onward)


@routes.post(BULK)
async def act_on_many(request: web.Request) -> web.Response:
    """Cancel, retry or delete the jobs that the form names; deleting is asked about first."""
    action = request.match_info["action"]
    form = await read_form(request)
    job_ids = _job_ids([str(value) for name in ("job", "jobs") for value in form.getall(name, [])])
    scope = str(form.get("scope", ""))[:MAX_SCOPE] or f"{len(job_ids)} selected"
    if (entry := str(form.get("entry", ""))) and not job_ids:
        job_ids, scope = await _acted_on(request, entry), f"undo of entry {entry}"[:MAX_SCOPE]
    if not job_ids:
        return await lead_back(request, "bulk_none")
    if action == "delete" and form.get("asked") != "yes":
        return await _ask(request, action, job_ids, await way_back(request, "/monitor/"), {}, 0, None)
    control, caller = request.config_dict[CONTROL], request[CALLER]
    actor, owner = caller.name, caller.scope

    async def delete(job_id: int) -> None:
        await control.delete(job_id, owner)

    acts: dict[str, Callable[[int], Awaitable[Standing | None]]] = {
        "cancel": lambda job_id: control.cancel(job_id, None, actor, owner),
        "retry": lambda job_id: control.retry(
            job_id, new_seed=form.get("seed") == "new", actor=actor, owner=owner, sender=caller
        ),
        "delete": delete,
    }
    outcomes = [(job_id, _outcome(each)) for job_id, each in await control.in_bulk(job_ids, acts[action])]
    became = Counter(outcome for _, outcome in outcomes)
    parts = [became["done"], became["cancelling"]] if action == "cancel" else [became["done"]]
    acted = [job_id for job_id, outcome in outcomes if outcome == "done"]
    outcome = became_of_many(len(outcomes) - became["refused"], became["refused"])
    noted = await note(request, action, scope, outcome, jobs=job_ids, **{ACTED_ON: acted}, **became)
    undo = [(noted or 0) if acted else 0] if action in ("cancel", "retry") else []
    return await lead_back(request, f"bulk_{action}", len(job_ids), *parts, became["refused"], *undo)


async def _acted_on(request: web.Request, entry: str) -> list[int]:
    """Return the jobs to which an entry of the audit tells that a bulk action was done: an undo is for these alone.

    Who sees only its own jobs has only its own actions to undo: of others' it shall not learn how many jobs they had.
    """
    number = int(entry) if entry.isascii() and entry.isdigit() and len(entry) < 19 else 0
    found, caller = await request.config_dict[AUDIT].entry(number), request[CALLER]
    own = found is not None and (caller.scope is None or found.actor == caller.name)
    acted = found.data.get(ACTED_ON) if found is not None and own else None
    return [job_id for job_id in acted if isinstance(job_id, int)] if isinstance(acted, list) else []


async def _ask(
    request: web.Request,
    action: str,
    job_ids: Sequence[int],
    back: str,
    narrowed_by: dict[str, str],
    more: int | None,
    onward: str | None,
) -> web.Response:
    """Return the page that asks; `more` is how many there are beyond those, None when they were not counted.

    `onward` leads to the others, or to where a search for them goes on.
    """
    context: dict[str, Any] = {
        "action": action,
        "job_ids": job_ids,
        "back": back,
        "narrowed_by": narrowed_by,
        "more": more,
        "onward": onward,
        "statuses": [status.value for status in BULK_STATUSES[action]],
    }
    return await render(request, "confirm_bulk.html", context)


def _outcome(became: Standing | GenonautError | None) -> str:
    if isinstance(became, GenonautError):
        return "refused"
    if became is not None and became.phase in (Phase.CANCELLING, Phase.SAVING):
        return "cancelling"
    return "done"


def _job_ids(texts: Sequence[str]) -> list[int]:
    """Return the numbers, each once, of texts that may name several, separated by commas; raises `BadParameter`."""
    parts = [part for text in texts for part in text.split(",") if part]
    sound = all(part.isascii() and part.isdigit() and len(part) < 20 and int(part) <= MAX_ID for part in parts)
    if not sound or len(parts) > MAX_BULK:
        detail = f"One form acts on at most {MAX_BULK:,} jobs, which it names by their numbers."
        raise BadParameter(detail, [Fault("jobs", "invalid", detail)])
    return list(dict.fromkeys(map(int, parts)))
