"""The list of jobs. No GET changes anything."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from app.domain.access import Ability
from app.domain.job import JobStatus
from app.keys import KNOWN_NAMES, PREVIEWS, RUN_TIMES, STATISTICS
from app.monitor.backend_summaries import read_backend_summaries
from app.monitor.eta import in_words
from app.monitor.job_view import show
from app.monitor.listing import NARROWING, NEWEST, ORDERS, SIZES, ListAddress, count_tabs, read_alike, read_listing
from app.monitor.page_data import read_health, read_snapshots
from app.monitor.rendering import FRAGMENT_HEADER, render
from app.monitor.shared_fragments import shared
from app.services.eta import end_of
from app.storage.known_names import Names
from app.web.bodies import MAX_ID, read_query
from app.web.callers import CALLER, views_of
from app.web.checking import check

if TYPE_CHECKING:
    from app.domain.message import Snapshot
    from app.domain.statistics_report import Tiles
    from app.monitor.job_view import ShownJob
    from app.storage.whole_jobs import JobView

routes: Final = web.RouteTableDef()

MOST_KEPT: Final = 200
"""Maximum number of selected rows that are shown beyond those of the page."""


@dataclass(frozen=True, slots=True)
class Row:
    """A job in the list, with what the list says beyond the job itself."""

    job: ShownJob
    preview: int | None
    """The number of its newest picture while it runs."""
    eta: str | None
    node_type: str | None
    """The class of the node in which it failed."""
    alike: str
    """How many failed alike; empty when it is the only one."""
    alike_link: str | None

    @property
    def seen(self) -> bool:
        """Whether the gallery has a tile for it."""
        return bool(self.job.answer.outputs) or self.job.answer.status == JobStatus.RUNNING


@routes.get("")
async def to_jobs(request: web.Request) -> web.Response:
    """Lead to the first page."""
    raise web.HTTPMovedPermanently("/monitor/")


@routes.get("/jobs")
@routes.get("/jobs/")
async def to_list(request: web.Request) -> web.Response:
    """Lead from what one would type to the list."""
    raise web.HTTPFound("/monitor/")


@routes.get("/")
@shared
async def list_jobs(request: web.Request) -> web.Response:
    """Show a page of the list of jobs."""
    address = check(ListAddress, read_query(request.query), pointer="")
    context = await _list(request, address)
    if context is None:
        raise web.HTTPSeeOther(address.link())
    return await render(request, "jobs.html", context)


async def _list(request: web.Request, address: ListAddress) -> dict[str, Any] | None:
    """Return what the template shows; None when going back has reached the top, where the first page belongs."""
    views, sees_fleet = views_of(request), request[CALLER].may(Ability.SEE_FLEET)
    listing, health, (tabs, scopes), (tiles, names) = await asyncio.gather(
        read_listing(views, address), read_health(request), count_tabs(views, address), _of_all_jobs(request)
    )
    if listing is None:
        return None
    kept = await _kept(request, {view.job.job_id for view in listing.items})
    rows = await _rows(request, address, listing.items + kept)
    shown = rows[: len(listing.items)]
    return {
        "address": address,
        "listing": listing,
        "rows": shown if address.view is None else [row for row in shown if row.seen],
        "kept": rows[len(listing.items) :],
        "health": health,
        "tabs": tabs,
        "scopes": scopes,
        "tiles": tiles,
        # Of the page itself: what the reader holds is no part of its address.
        "here": address.link(after=address.after, before=address.before),
        "backend_summaries": await read_backend_summaries(request, health.backends) if sees_fleet else [],
        "narrowing": NARROWING,
        "known": {"model": names.models, "backend": names.backends, "error": names.errors, "node": names.nodes}
        | {"worker": sorted(beat.name for beat in health.workers or ()) if sees_fleet else []},
        "sizes": SIZES,
        "orders": ORDERS,
        "newest": NEWEST,
        "hour_ago": datetime.now(UTC) - timedelta(hours=1),
    }


async def _of_all_jobs(request: web.Request) -> tuple[Tiles | None, Names]:
    """Return the figures and the names of all jobs, for those who may see all."""
    if not request[CALLER].may(Ability.SEE_FLEET):
        return None, Names()
    return await asyncio.gather(request.config_dict[STATISTICS].tiles(), request.config_dict[KNOWN_NAMES].read())


async def _kept(request: web.Request, shown: set[int]) -> list[JobView]:
    """Return the jobs whose rows the reader holds in their places though they have left the page."""
    if FRAGMENT_HEADER not in request.headers:
        return []
    asked = [part for part in request.query.get("keep", "").split(",") if part.isascii() and part.isdigit()]
    job_ids = {int(part) for part in asked[:MOST_KEPT] if len(part) < 20 and int(part) <= MAX_ID} - shown
    views = views_of(request)
    return await views.several(sorted(job_ids, reverse=True))


async def _rows(request: web.Request, address: ListAddress, items: list[JobView]) -> list[Row]:
    now = datetime.now(UTC)
    running = [view for view in items if view.job.status is JobStatus.RUNNING]
    keys = [key for view in running if (key := _workflow_key(view)) is not None]
    snapshots, previews, usual, alike = await asyncio.gather(
        read_snapshots(request, items),
        request.config_dict[PREVIEWS].numbers([view.job.job_id for view in running]),
        request.config_dict[RUN_TIMES].usual(keys),
        read_alike(views_of(request), items),
    )

    def row(view: JobView, snapshot: Snapshot) -> Row:
        job, last = view.job, view.attempts[-1] if view.attempts else None
        began_at = last.executing_at if last is not None and last.number == job.attempt else None
        node_type, count = alike.get(job.job_id, (None, ""))
        link = address.link(status="failed", error=job.error_code, node=node_type) if count else None
        known = usual.get(_workflow_key(view) or "")
        eta = in_words(end_of(job, known, began_at, snapshot.progress, now), now) if known is not None else None
        return Row(show(view, snapshot), previews.get(job.job_id), eta, node_type, count, link)

    return [row(view, snapshot) for view, snapshot in zip(items, snapshots, strict=True)]


def _workflow_key(view: JobView) -> str | None:
    last = view.attempts[-1] if view.attempts else None
    return last.workflow_key if last is not None else None
