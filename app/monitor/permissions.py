"""What it takes to use each address of the page: one table, and nothing outside it is served."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from app.domain.access import Ability
from app.domain.errors import GenonautError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aiohttp import web

SAFE_METHODS: Final = ("GET", "HEAD")
PREFIX: Final = "/monitor"
PUBLIC: Final = frozenset({"/monitor/sign-in", "/monitor/static/{name}", "/monitor/static/{version}/{name}"})
"""What is served to who has not signed in."""
READS: Final[Mapping[str, Ability]] = {
    "/monitor": Ability.SEE,
    "/monitor/jobs": Ability.SEE,
    "/monitor/jobs/{job_id}": Ability.SEE,
    "/monitor/jobs/{job_id}/preview": Ability.SEE,
    "/monitor/jobs/{job_id}/outputs/{index}": Ability.SEE,
    "/monitor/backends": Ability.SEE,
    "/monitor/workers": Ability.SEE,
    "/monitor/schedule": Ability.SEE,
    "/monitor/stats": Ability.SEE,
    "/monitor/audit": Ability.SEE_AUDIT,
    # A question before an action is for who may act.
    "/monitor/new": Ability.SEND,
    "/monitor/jobs/{job_id}/confirm-delete": Ability.DELETE,
    "/monitor/bulk/cancel": Ability.CANCEL,
    "/monitor/bulk/retry": Ability.RETRY,
    "/monitor/bulk/delete": Ability.DELETE,
}
"""What it takes to read an address, with or without a slash at its end."""
FORMS: Final[Mapping[str, Ability]] = {
    "/monitor/sign-out": Ability.SEE,
    "/monitor/new": Ability.SEND,
    "/monitor/jobs/{job_id}/cancel": Ability.CANCEL,
    "/monitor/jobs/{job_id}/retry": Ability.RETRY,
    "/monitor/jobs/{job_id}/again": Ability.RETRY,
    "/monitor/jobs/{job_id}/delete": Ability.DELETE,
    "/monitor/bulk/cancel": Ability.CANCEL,
    "/monitor/bulk/retry": Ability.RETRY,
    "/monitor/bulk/delete": Ability.DELETE,
    "/monitor/backends/{name}/drain": Ability.STEER_BACKEND,
    "/monitor/backends/{name}/resume": Ability.STEER_BACKEND,
    "/monitor/backends/{name}/free": Ability.STEER_BACKEND,
    "/monitor/workers/{worker_id}/quiet": Ability.STEER_WORKER,
    "/monitor/workers/{worker_id}/resume": Ability.STEER_WORKER,
    "/monitor/workers/{worker_id}/stop": Ability.STEER_WORKER,
    "/monitor/schedule/{task}/run": Ability.RUN_TASK,
}
"""What it takes to send a form to an address."""


class UnlistedRoute(GenonautError):
    """The page has an address that is missing in the list of permissions."""

    code = "unlisted_route"


def place_of(request: web.Request) -> str:
    """Return the address as the tables name it; "" where there is nothing."""
    resource = request.match_info.route.resource
    place = resource.canonical if resource is not None else ""
    # The action in the address decides what it takes.
    return place.replace("{action}", request.match_info.get("action", "")).rstrip("/")


def ability_for(place: str, method: str) -> Ability | None:
    """Return the role that a route needs; None when the route is not listed, so that no one may use it."""
    return (READS if method in SAFE_METHODS else FORMS).get(place)


def require_listed(router: web.UrlDispatcher) -> None:
    """Raise `UnlistedRoute`, naming each, when routes of the page's sub-application are in neither table."""
    missing = sorted({f"{method} {place}" for method, place in places(router) if not _listed(place, method)})
    if missing:
        raise UnlistedRoute(f"It is not said (app/monitor/permissions.py) who may use: {', '.join(missing)}.")


def places(router: web.UrlDispatcher, prefix: str = PREFIX) -> Iterator[tuple[str, str]]:
    """Yield method and address of every route, once for each action that its address can have.

    `prefix` is put before each address: routes do not have it until the sub-application is mounted.
    """
    for route in router.routes():
        resource = route.resource
        place = f"{prefix}{resource.canonical if resource is not None else ''}".rstrip("/")
        pattern = resource.get_info().get("pattern") if resource is not None else None
        choices = re.search(r"\(\?P<action>([a-z-]+(?:\|[a-z-]+)*)\)", pattern.pattern if pattern else "")
        for action in choices[1].split("|") if choices else [None]:
            # An action that can be anything stays as it is, and is listed nowhere.
            yield route.method, place.replace("{action}", action) if action else place


def _listed(place: str, method: str) -> bool:
    return place in PUBLIC or ability_for(place, method) is not None
