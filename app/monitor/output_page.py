"""One output of the gallery, large: with what was asked for, and the outputs before and after it in the same list."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from app.domain.errors import NotFound
from app.domain.job import SHOWN_BY_BROWSERS, JobStatus
from app.domain.message import snapshot_of
from app.keys import FILES
from app.monitor.job_pages import JOB, inputs_of, read_excerpt, read_view
from app.monitor.job_view import show
from app.monitor.listing import ListAddress, limited
from app.monitor.rendering import render
from app.storage.job_lists import opposite
from app.web.bodies import number_of, read_query
from app.web.callers import views_of
from app.web.checking import check

if TYPE_CHECKING:
    from app.domain.job import ListedJob
    from app.storage.job_views import JobViews
    from app.storage.whole_jobs import JobView
    from app.web.payloads import OutputAnswer

routes: Final = web.RouteTableDef()

_LOOKED_AT: Final = 3
"""Jobs read at a time to find one that has outputs: nearly every completed one has."""
_LOOKS: Final = 4
"""So often this is done: a search goes through 50,000 jobs each time."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The output before or after another one."""

    job_id: int
    index: int


@routes.get(JOB + r"/outputs/{index:\d+}")
async def show_output(request: web.Request) -> web.Response:
    """Show one output, large."""
    address = check(ListAddress, read_query(request.query), pointer="")
    view, index, views = await read_view(request), number_of(request, "index"), views_of(request)
    job = show(view, snapshot_of(view.job))
    output = next((each for each in job.answer.outputs if each.index == index), None)
    if output is None:
        raise NotFound(f"Job {view.job.job_id} has no output {index}.")
    preceding, following, text = await asyncio.gather(
        _job_beside(views, address, view.job, back=True),
        _job_beside(views, address, view.job, back=False),
        _text_of(request, output, view),
    )
    places = [each.index for each in view.outputs]
    place = places.index(index)
    before = Neighbour(view.job.job_id, places[place - 1]) if place else _end_of(preceding, -1)
    after = Neighbour(view.job.job_id, places[place + 1]) if place + 1 < len(places) else _end_of(following, 0)
    context: dict[str, Any] = {
        "job": job,
        "output": output,
        "place": place + 1,
        "before": before,
        "after": after,
        "query": address.output_query,
        "back": f"{await _grid(views, address, view.job, preceding)}#shot-{view.job.job_id}-{index}",
        "source": _source(output, unseen=index in job.unseen),
        "text": text,
        "inputs": inputs_of(job),
    }
    return await render(request, "output.html", context)


async def _job_beside(views: JobViews, address: ListAddress, job: ListedJob, *, back: bool) -> JobView | None:
    """Return the next job of the list that has outputs, onward or back; None when there is none to be found."""
    chosen, order = limited(address.to_filter(), (JobStatus.COMPLETED,)), opposite(address.by) if back else address.by
    cursor: str | None = views.cursor_at(order, job)
    if chosen is None:
        return None
    for _ in range(_LOOKS):
        page = await views.page(chosen, order, _LOOKED_AT, cursor=cursor, skip=0)
        found, cursor = next((view for view in page.items if view.outputs), None), page.next_cursor
        if found is not None or cursor is None:
            return found
    return None


def _end_of(view: JobView | None, end: int) -> Neighbour | None:
    return Neighbour(view.job.job_id, view.outputs[end].index) if view is not None else None


async def _grid(views: JobViews, address: ListAddress, job: ListedJob, preceding: JobView | None) -> str:
    """Return the address of a page of the gallery that shows the job: the first one if it does, or one from it on."""
    grid = address.model_copy(update={"view": "gallery"})
    chosen = grid.to_shown()
    if chosen is None or preceding is None:
        return grid.link()
    passed = await views.before(chosen, grid.by, job)
    if passed.exact and passed.value < grid.jobs:
        return grid.link()
    return grid.link(after=views.cursor_at(grid.by, preceding.job))


def _source(output: OutputAnswer, *, unseen: bool) -> str | None:
    """Return the address of the picture that browsers can show; None when there is none."""
    if output.kind == "image" and output.content_type in SHOWN_BY_BROWSERS:
        return output.url
    return None if unseen else output.thumbnail_url


async def _text_of(request: web.Request, output: OutputAnswer, view: JobView) -> str | None:
    if output.kind not in ("text", "data"):
        return None
    path = next(each.path for each in view.outputs if each.index == output.index)
    return await read_excerpt(request.config_dict[FILES], path)
