"""The monitor page's sub-application: its routes, templates, static files and guard, put together."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

import aiohttp_jinja2
from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.monitor import (
    actions,
    audit_pages,
    bulk_actions,
    fleet_actions,
    fleet_pages,
    job_pages,
    key_pages,
    list_page,
    new_job_page,
    output_page,
    queue_actions,
    sessions,
    stats_pages,
)
from app.monitor.assets import ASSETS, Assets, send_asset
from app.monitor.charts import spark
from app.monitor.guard import add_security_headers, errors_as_pages
from app.monitor.shared_fragments import SHARED_FRAGMENTS, SharedFragments
from app.monitor.words import FILTERS
from app.web.permissions import PAGE, require_listed

FOLDER: Final = Path(__file__).parent


def create_monitor() -> web.Application:
    """Return the sub-application of the page, to be mounted at `/monitor`.

    Raises
    ------
    UnlistedRoute
        An address is missing in the list of permissions.
    """
    app = web.Application(middlewares=[errors_as_pages])
    app[ASSETS] = _assets()
    app[SHARED_FRAGMENTS] = SharedFragments()
    app[aiohttp_jinja2.APP_KEY] = _templates()
    app.on_response_prepare.append(add_security_headers)
    app.add_routes(list_page.routes)
    app.add_routes(job_pages.routes)
    app.add_routes(output_page.routes)
    app.add_routes(fleet_pages.routes)
    app.add_routes(stats_pages.routes)
    app.add_routes(new_job_page.routes)
    app.add_routes(actions.routes)
    app.add_routes(bulk_actions.routes)
    app.add_routes(fleet_actions.routes)
    app.add_routes(queue_actions.routes)
    app.add_routes(audit_pages.routes)
    app.add_routes(key_pages.routes)
    app.add_routes(sessions.routes)
    app.router.add_get("/static/{name}", send_asset)
    app.router.add_get("/static/{version}/{name}", send_asset)
    require_listed(app.router, PAGE)
    return app


@cache
def _assets() -> Assets:
    """Return the static files, read and compressed once per process."""
    return Assets(FOLDER / "static")


@cache
def _templates() -> Environment:
    """Return the templates. One environment per process compiles each of them once, however many applications."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    environment.globals |= {"asset": _assets().address, "modules": _assets().modules(), "spark": spark}
    return environment
