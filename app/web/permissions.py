"""What it takes to use each address: one table for REST, sockets and page, and nothing outside it is served."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from app.domain.access import Ability
from app.domain.errors import GenonautError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aiohttp import web

SAFE_METHODS: Final = ("GET", "HEAD")
PAGE: Final = "/monitor"
"""Below this are the page's addresses."""

SIGN_OUT: Final = "POST /monitor/sign-out"

_JOBS: Final = "/api/v1/generation-jobs"
_CONTENT: Final = "/api/v1/contents/{content_id}"
_UPLOADS: Final = "/api/v1/uploads"
_BACKEND: Final = "/api/v1/backends/{name}"
_KEYS: Final = "/api/v1/keys"
_USERS: Final = "/api/v1/users"

PUBLIC: Final = frozenset(
    {
        "GET /",
        "GET /health/live",
        "GET /openapi.json",
        "GET /monitor/sign-in",
        "POST /monitor/sign-in",
        "GET /monitor/static/{name}",
        "GET /monitor/static/{version}/{name}",
    }
)
"""What is served to anybody: it tells nothing of any job. The first only leads on to the page."""
SIGNED: Final = frozenset({f"GET {_CONTENT}/outputs/{{index}}", f"GET {_CONTENT}/outputs/{{index}}/thumbnail"})
"""What a link that is signed for this very address opens too, without a key."""
TICKETED: Final = frozenset({"GET /ws/jobs", "GET /ws/jobs/{job_id}", "GET /ws/events"})
"""What a ticket opens too, in place of a key: browsers send no headers there."""
LASTING: Final = TICKETED | {f"POST {_JOBS}/{{job_id}}/cancel", f"POST {_UPLOADS}"}
"""What may take long without keeping the server busy: others of the same key do not wait for it."""
PERMISSIONS: Final[Mapping[str, Ability]] = {
    "GET /health/ready": Ability.SEE_HEALTH,
    "GET /metrics": Ability.SEE_HEALTH,
    f"POST {_JOBS}": Ability.SEND,
    f"POST {_JOBS}/check": Ability.SEND,
    f"GET {_JOBS}": Ability.SEE,
    f"GET {_JOBS}/queue/stats": Ability.SEE,
    f"GET {_JOBS}/{{job_id}}": Ability.SEE,
    f"GET {_JOBS}/{{job_id}}/attempts": Ability.SEE,
    f"GET {_JOBS}/{{job_id}}/events": Ability.SEE,
    f"GET {_JOBS}/{{job_id}}/workflow": Ability.SEE,
    f"POST {_JOBS}/{{job_id}}/cancel": Ability.CANCEL,
    f"POST {_JOBS}/{{job_id}}/retry": Ability.RETRY,
    f"POST {_JOBS}/cancel": Ability.CANCEL,
    f"POST {_JOBS}/retry": Ability.RETRY,
    f"POST {_JOBS}/{{job_id}}/front": Ability.MOVE,
    f"PATCH {_JOBS}/{{job_id}}": Ability.MOVE,
    f"DELETE {_JOBS}/{{job_id}}": Ability.DELETE,
    f"GET {_CONTENT}": Ability.SEE,
    f"GET {_CONTENT}/thumbnail": Ability.SEE,
    f"GET {_CONTENT}/outputs/{{index}}": Ability.SEE,
    f"GET {_CONTENT}/outputs/{{index}}/thumbnail": Ability.SEE,
    f"POST {_UPLOADS}": Ability.SEND,
    f"GET {_UPLOADS}": Ability.SEE,
    f"GET {_UPLOADS}/{{upload_id}}": Ability.SEE,
    f"GET {_UPLOADS}/{{upload_id}}/data": Ability.SEE,
    f"GET {_UPLOADS}/{{upload_id}}/workflow": Ability.SEE,
    f"DELETE {_UPLOADS}/{{upload_id}}": Ability.DELETE,
    "GET /api/v1/me": Ability.SEE,
    "GET /api/v1/models": Ability.SEE,
    "GET /api/v1/nodes": Ability.SEE,
    "GET /api/v1/nodes/{node_class}": Ability.SEE,
    "GET /api/v1/backends": Ability.SEE_FLEET,
    "GET /api/v1/workers": Ability.SEE_FLEET,
    f"POST {_BACKEND}/drain": Ability.STEER_BACKEND,
    f"POST {_BACKEND}/resume": Ability.STEER_BACKEND,
    "POST /api/v1/queue/pause": Ability.PAUSE,
    "POST /api/v1/queue/resume": Ability.PAUSE,
    f"GET {_USERS}": Ability.SEE_FLEET,
    f"GET {_USERS}/{{user_id}}": Ability.SEE_FLEET,
    f"PUT {_USERS}/{{user_id}}/weight": Ability.SET_WEIGHT,
    f"POST {_USERS}/{{user_id}}/pause": Ability.PAUSE,
    f"POST {_USERS}/{{user_id}}/resume": Ability.PAUSE,
    f"GET {_KEYS}": Ability.MANAGE_KEYS,
    f"POST {_KEYS}": Ability.MANAGE_KEYS,
    f"GET {_KEYS}/{{key_id}}": Ability.MANAGE_KEYS,
    f"PATCH {_KEYS}/{{key_id}}": Ability.MANAGE_KEYS,
    f"DELETE {_KEYS}/{{key_id}}": Ability.MANAGE_KEYS,
    "GET /api/v1/audit": Ability.SEE_AUDIT,
    "POST /api/v1/ws-tickets": Ability.SEE,
    "GET /ws/jobs": Ability.SEE,
    "GET /ws/jobs/{job_id}": Ability.SEE,
    "GET /ws/events": Ability.SEE,
    "GET /monitor": Ability.SEE,
    "GET /monitor/jobs": Ability.SEE,
    "GET /monitor/jobs/{job_id}": Ability.SEE,
    "GET /monitor/jobs/{job_id}/preview": Ability.SEE,
    "GET /monitor/jobs/{job_id}/outputs/{index}": Ability.SEE,
    "GET /monitor/backends": Ability.SEE_FLEET,
    "GET /monitor/workers": Ability.SEE_FLEET,
    "GET /monitor/schedule": Ability.SEE_FLEET,
    "GET /monitor/stats": Ability.SEE_FLEET,
    "GET /monitor/audit": Ability.SEE_AUDIT,
    "GET /monitor/keys": Ability.MANAGE_KEYS,
    # A question before an action is for who may act.
    "GET /monitor/new": Ability.SEND,
    "GET /monitor/jobs/{job_id}/confirm-delete": Ability.DELETE,
    "GET /monitor/bulk/cancel": Ability.CANCEL,
    "GET /monitor/bulk/retry": Ability.RETRY,
    "GET /monitor/bulk/delete": Ability.DELETE,
    SIGN_OUT: Ability.SEE,
    "POST /monitor/new": Ability.SEND,
    "POST /monitor/jobs/{job_id}/cancel": Ability.CANCEL,
    "POST /monitor/jobs/{job_id}/retry": Ability.RETRY,
    "POST /monitor/jobs/{job_id}/again": Ability.RETRY,
    "POST /monitor/jobs/{job_id}/delete": Ability.DELETE,
    "POST /monitor/jobs/{job_id}/front": Ability.MOVE,
    "POST /monitor/jobs/{job_id}/priority": Ability.MOVE,
    "POST /monitor/bulk/cancel": Ability.CANCEL,
    "POST /monitor/bulk/retry": Ability.RETRY,
    "POST /monitor/bulk/delete": Ability.DELETE,
    "POST /monitor/backends/{name}/drain": Ability.STEER_BACKEND,
    "POST /monitor/backends/{name}/resume": Ability.STEER_BACKEND,
    "POST /monitor/backends/{name}/free": Ability.STEER_BACKEND,
    "POST /monitor/workers/{worker_id}/quiet": Ability.STEER_WORKER,
    "POST /monitor/workers/{worker_id}/resume": Ability.STEER_WORKER,
    "POST /monitor/workers/{worker_id}/stop": Ability.STEER_WORKER,
    "POST /monitor/schedule/{task}/run": Ability.RUN_TASK,
    "POST /monitor/queue/pause": Ability.PAUSE,
    "POST /monitor/queue/resume": Ability.PAUSE,
    "POST /monitor/users/pause": Ability.PAUSE,
    "POST /monitor/users/resume": Ability.PAUSE,
    "POST /monitor/users/weight": Ability.SET_WEIGHT,
    "POST /monitor/keys": Ability.MANAGE_KEYS,
    "POST /monitor/keys/{key_id}/limits": Ability.MANAGE_KEYS,
    "POST /monitor/keys/{key_id}/revoke": Ability.MANAGE_KEYS,
    "POST /monitor/keys/{key_id}/restore": Ability.MANAGE_KEYS,
}
"""What it takes to use an address, with or without a slash at its end; HEAD takes what GET does."""


class UnlistedRoute(GenonautError):
    """The application has an address that is missing in the table."""

    code = "unlisted_route"


def route_of(request: web.Request) -> str:
    """Return method and address of a request as the table names them; the address is "" where there is nothing."""
    resource = request.match_info.route.resource
    place = resource.canonical if resource is not None else ""
    if "action" in request.match_info:
        # The action in the address decides what it takes.
        place = place.replace("{action}", request.match_info["action"])
    return _listed_as(request.method, place)


def require_listed(router: web.UrlDispatcher, prefix: str = "") -> None:
    """Raise `UnlistedRoute`, naming each, when routes of an application are not in the table."""
    missing = sorted({route for route in routes_of(router, prefix) if route not in PUBLIC and route not in PERMISSIONS})
    if missing:
        raise UnlistedRoute(f"It is not said (app/web/permissions.py) who may use: {', '.join(missing)}.")


def routes_of(router: web.UrlDispatcher, prefix: str = "") -> Iterator[str]:
    """Yield every route as the table names it, once for each action that its address can have.

    `prefix` is put before each address: a sub-application's routes do not have theirs until it is mounted.
    """
    for route in router.routes():
        resource = route.resource
        place = f"{prefix}{resource.canonical if resource is not None else ''}"
        pattern = resource.get_info().get("pattern") if resource is not None else None
        choices = re.search(r"\(\?P<action>([a-z-]+(?:\|[a-z-]+)*)\)", pattern.pattern if pattern else "")
        for action in choices[1].split("|") if choices else [None]:
            # An action that can be anything stays as it is, and is listed nowhere.
            yield _listed_as(route.method, place.replace("{action}", action) if action else place)


@lru_cache(maxsize=1024)
def _listed_as(method: str, place: str) -> str:
    return f"{'GET' if method == 'HEAD' else method} {place.rstrip('/') or ('/' if place else '')}"
