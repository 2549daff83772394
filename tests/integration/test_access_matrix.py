"""Who may use what: every route, by everybody, in each way that the service can be served.

The contract is written down here by itself, and not read from the code's own table. A new route takes one line in
`ROUTES`, which says of which kind it is.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest
from integration.access_world import HOLDERS, MODES, NOBODY, UNKNOWN, picture_form, rows_of, statements

from app import keys
from app.main import create_app, create_monitor_app
from app.messaging.hub import Hub
from app.settings import load_settings
from app.web.permissions import routes_of
from harness import LIVES, SMALL_BODY, eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from integration.access_world import Told, World

    Make = Callable[[str], Awaitable[World]]

YES = "yes"
WHO: Final = (NOBODY, *HOLDERS)
CONTRACT: Final[Mapping[str, str]] = {
    #                     nobody ann bob viewer operator admin
    "public":             "yes   yes yes yes yes yes",
    "health":             "401   yes yes yes yes yes",
    "common":             "401   yes yes yes yes yes",
    "read one of ann's":  "401   yes 404 yes yes yes",
    "send":               "401   yes yes 403 yes yes",
    "change one of ann's": "401  yes 404 403 yes yes",
    "read of the fleet":  "401   403 403 yes yes yes",
    "steer the fleet":    "401   403 403 403 yes yes",
    "for admins":         "401   403 403 403 403 yes",
}  # fmt: skip
"""Kind of route → what becomes of a request for it, of each one in the order of `WHO`.

"common" is what each may ask for and gets another answer to: lists, figures, what models there are.
"""


@dataclass(frozen=True)
class Route:
    """How a route is asked for so that all is well."""

    kind: str
    job: str = "completed"
    """The phase of ann's job that it is asked for."""
    query: str = ""
    json: Any = None
    form: Mapping[str, str] = field(default_factory=dict)
    upload: bool = False
    """Whether it brings a file."""
    well: tuple[str, ...] = ()
    """Codes of refusals that have nothing to do with who asks; of the page their statuses."""


_JOBS: Final = "/api/v1/generation-jobs"
_ONE: Final = _JOBS + "/{job_id}"
_CONTENT: Final = "/api/v1/contents/{content_id}"
_UPLOAD: Final = "/api/v1/uploads/{upload_id}"
_BODY: Final = {name: value for name, value in SMALL_BODY.items() if name != "user_id"} | {"user_id": "{owner}"}
ROUTES: Final[Mapping[str, Route]] = {
    "GET /health/live": Route("public"),
    "GET /openapi.json": Route("public"),
    "GET /health/ready": Route("health"),
    "GET /metrics": Route("health"),
    f"POST {_JOBS}": Route("send", json=_BODY),
    f"POST {_JOBS}/check": Route("send", json=_BODY),
    f"GET {_JOBS}": Route("common"),
    f"GET {_JOBS}/queue/stats": Route("common"),
    f"GET {_ONE}": Route("read one of ann's"),
    f"GET {_ONE}/attempts": Route("read one of ann's"),
    f"GET {_ONE}/events": Route("read one of ann's"),
    f"GET {_ONE}/workflow": Route("read one of ann's"),
    f"POST {_ONE}/cancel": Route("change one of ann's", "queued"),
    f"POST {_ONE}/retry": Route("change one of ann's", "failed"),
    f"DELETE {_ONE}": Route("change one of ann's"),
    f"POST {_JOBS}/cancel": Route("send", json={"job_ids": [1]}),
    f"POST {_JOBS}/retry": Route("send", json={"job_ids": [1]}),
    f"GET {_CONTENT}": Route("read one of ann's"),
    f"GET {_CONTENT}/thumbnail": Route("read one of ann's"),
    f"GET {_CONTENT}/outputs/{{index}}": Route("read one of ann's"),
    f"GET {_CONTENT}/outputs/{{index}}/thumbnail": Route("read one of ann's"),
    "POST /api/v1/uploads": Route("send", upload=True),
    "GET /api/v1/uploads": Route("common"),
    f"GET {_UPLOAD}": Route("read one of ann's"),
    f"GET {_UPLOAD}/data": Route("read one of ann's"),
    f"GET {_UPLOAD}/workflow": Route("read one of ann's", well=("no_workflow",)),
    f"DELETE {_UPLOAD}": Route("change one of ann's"),
    "GET /api/v1/models": Route("common"),
    "GET /api/v1/nodes": Route("common"),
    "GET /api/v1/nodes/{node_class}": Route("common", well=("node_class_not_found",)),
    "GET /api/v1/backends": Route("read of the fleet"),
    "GET /api/v1/workers": Route("read of the fleet"),
    "POST /api/v1/backends/{name}/drain": Route("steer the fleet"),
    "POST /api/v1/backends/{name}/resume": Route("steer the fleet"),
    f"POST {_ONE}/front": Route("change one of ann's", "queued"),
    f"PATCH {_ONE}": Route("change one of ann's", "queued", json={"priority": 1}),
    "POST /api/v1/queue/pause": Route("steer the fleet"),
    "POST /api/v1/queue/resume": Route("steer the fleet"),
    "GET /api/v1/users": Route("read of the fleet"),
    "GET /api/v1/users/{user_id}": Route("read of the fleet"),
    "PUT /api/v1/users/{user_id}/weight": Route("for admins", json={"weight": 2}),
    "POST /api/v1/users/{user_id}/pause": Route("steer the fleet"),
    "POST /api/v1/users/{user_id}/resume": Route("steer the fleet"),
    "GET /ws/jobs": Route("read one of ann's", query="?job_ids={job_id}"),
    "GET /ws/jobs/{job_id}": Route("read one of ann's"),
    "GET /ws/events": Route("common"),
    "POST /api/v1/ws-tickets": Route("common", json={"events": True}),
    "GET /api/v1/me": Route("common"),
    "GET /api/v1/audit": Route("for admins"),
    "GET /api/v1/keys": Route("for admins"),
    "POST /api/v1/keys": Route("for admins", json={}, well=("invalid_request",)),
    "GET /api/v1/keys/{key_id}": Route("for admins", well=("key_not_found",)),
    "PATCH /api/v1/keys/{key_id}": Route("for admins", json={}, well=("key_not_found", "invalid_request")),
    "DELETE /api/v1/keys/{key_id}": Route("for admins", well=("key_not_found",)),
    "GET /monitor": Route("common"),
    "GET /monitor/jobs": Route("common"),
    "GET /monitor/jobs/{job_id}": Route("read one of ann's"),
    "GET /monitor/jobs/{job_id}/preview": Route("read one of ann's"),
    "GET /monitor/jobs/{job_id}/outputs/{index}": Route("read one of ann's"),
    "GET /monitor/backends": Route("read of the fleet"),
    "GET /monitor/workers": Route("read of the fleet"),
    "GET /monitor/schedule": Route("read of the fleet"),
    "GET /monitor/stats": Route("read of the fleet"),
    "GET /monitor/audit": Route("for admins"),
    "GET /monitor/keys": Route("for admins"),
    "POST /monitor/keys": Route("for admins", well=("422",)),
    "POST /monitor/keys/{key_id}/limits": Route("for admins", well=("404",)),
    "POST /monitor/keys/{key_id}/revoke": Route("for admins", well=("404",)),
    "POST /monitor/keys/{key_id}/restore": Route("for admins", well=("404",)),
    "GET /monitor/new": Route("send"),
    "GET /monitor/jobs/{job_id}/confirm-delete": Route("change one of ann's"),
    "GET /monitor/bulk/cancel": Route("send", query="?until_id=9999"),
    "GET /monitor/bulk/retry": Route("send", query="?until_id=9999"),
    "GET /monitor/bulk/delete": Route("send", query="?until_id=9999"),
    "GET /monitor/sign-in": Route("public"),
    "GET /monitor/static/{name}": Route("public"),
    "GET /monitor/static/{version}/{name}": Route("public"),
    "POST /monitor/sign-in": Route("public"),
    "POST /monitor/sign-out": Route("common"),
    "POST /monitor/new": Route("send", form={"prompt": "a sunset", "kind": "image"}),
    "POST /monitor/jobs/{job_id}/cancel": Route("change one of ann's", "queued"),
    "POST /monitor/jobs/{job_id}/retry": Route("change one of ann's", "failed"),
    "POST /monitor/jobs/{job_id}/again": Route("change one of ann's"),
    "POST /monitor/jobs/{job_id}/delete": Route("change one of ann's"),
    "POST /monitor/bulk/cancel": Route("send", form={"job": "1"}),
    "POST /monitor/bulk/retry": Route("send", form={"job": "1"}),
    "POST /monitor/bulk/delete": Route("send", form={"job": "1"}),
    "POST /monitor/backends/{name}/drain": Route("steer the fleet"),
    "POST /monitor/backends/{name}/resume": Route("steer the fleet"),
    "POST /monitor/backends/{name}/free": Route("steer the fleet"),
    "POST /monitor/workers/{worker_id}/quiet": Route("steer the fleet"),
    "POST /monitor/workers/{worker_id}/resume": Route("steer the fleet"),
    "POST /monitor/workers/{worker_id}/stop": Route("steer the fleet"),
    "POST /monitor/schedule/{task}/run": Route("steer the fleet"),
    "POST /monitor/jobs/{job_id}/front": Route("change one of ann's", "queued"),
    "POST /monitor/jobs/{job_id}/priority": Route("change one of ann's", "queued", form={"priority": "1"}),
    "POST /monitor/queue/pause": Route("steer the fleet"),
    "POST /monitor/queue/resume": Route("steer the fleet"),
    "POST /monitor/users/pause": Route("steer the fleet", form={"user": "ann"}),
    "POST /monitor/users/resume": Route("steer the fleet", form={"user": "ann"}),
    "POST /monitor/users/weight": Route("for admins", form={"user": "ann", "weight": "2"}),
}
ONLY_ALONE: Final = {"GET /": Route("public")}
"""What the page has when it is served alone."""
NOT_ALONE: Final = ("GET /api/v1/audit", "GET /api/v1/keys", "GET /api/v1/keys/{key_id}")
"""What could be read, but is not served beside the page that is served alone."""
CELLS: Final = 2500
"""At least so many are looked at: kinds of ways × people × routes."""
_NOT_READ_ONLY: Final = ("POST /monitor/sign-in", "POST /monitor/sign-out")


def expected(route: str, who: str, mode: str) -> str:
    """Return what becomes of a request, by the contract alone."""
    kind, (method, place) = (ROUTES | ONLY_ALONE)[route].kind, route.split()
    answer = CONTRACT[kind].split()[WHO.index(who)]
    if mode == "page alone" and not place.startswith("/monitor") and (method != "GET" or route in NOT_ALONE):
        return "absent"
    if "open" in mode:
        # Nobody can sign in, for there is no key: a wrong one is refused.
        answer = "403" if route == "POST /monitor/sign-in" else YES
        if kind != "public" and (who != NOBODY or "proxied" in mode):
            answer = "401"
    if mode == "read-only page" and route not in _NOT_READ_ONLY and method == "POST" and place.startswith("/monitor"):
        answer = "403" if answer in (YES, "404") else answer
    return answer


def became(route: str, told: Told) -> str:
    """Return what became of a request, in the contract's words."""
    if told.leads_to_sign_in:
        return "401"
    if told.status < 400 or {told.code, str(told.status)} & set((ROUTES | ONLY_ALONE)[route].well):
        return YES
    # A worker need not be there, which has nothing to do with who asks.
    if route == "GET /health/ready" and told.status == 503:
        return YES
    if told.code in ("not_found", "method_not_allowed"):
        return "absent"
    return str(told.status)


async def request_for(world: World, route: str, who: str, things: Mapping[str, str]) -> Told:
    """Ask for a route as one asks for it."""
    given, (method, place) = (ROUTES | ONLY_ALONE)[route], route.split()
    filled = dict(things) | {"key_id": "999", "user_id": "ann"}
    if "/static/" in place:
        filled |= {"name": "monitor.css"}
    path = re.sub(r"{(\w+)}", lambda name: filled[name[1]], place + given.query)
    more: dict[str, Any] = {}
    owner = who if who in HOLDERS else "ann"
    if given.json is not None:
        more["json"] = {name: owner if value == "{owner}" else value for name, value in given.json.items()}
    if given.upload:
        more["data"] = picture_form(user_id=owner)
    form = dict(given.form)
    if route == "POST /monitor/new":
        form["user_id"] = owner
    if route == "POST /monitor/sign-in":
        form["key"] = world.secrets["eve"]
    kept = world.sessions.get(who)
    if route == "POST /monitor/sign-out" and kept is not None:
        # One of its own, which ends.
        world.sessions[who], _ = await world.client.app[keys.KEYS].sign_in(world.secrets[who])
    told = await world.ask(who, method, path, form=form, **more)
    if kept is not None:
        world.sessions[who] = kept
    return told


def test_of_every_route_it_is_said_here_who_may_use_it() -> None:
    away = {"database_url": "postgresql://u@127.0.0.1:1/db", "redis_url": "redis://127.0.0.1:1"}
    settings = load_settings("test", **away)
    routes = set(routes_of(create_app(settings).router))
    missing, gone = sorted(routes - ROUTES.keys()), sorted(ROUTES.keys() - routes)
    assert not missing, f"Say of which kind these are, in one line each of ROUTES ({__file__}): {missing}"
    assert not gone, f"These are no routes any more; take their lines out of ROUTES: {gone}"
    alone = set(routes_of(create_monitor_app(settings).router))
    assert alone - routes == ONLY_ALONE.keys()
    assert len(ROUTES) * len(WHO) * len(MODES) >= CELLS


@LIVES
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("who", WHO)
async def test_each_route_does_what_the_contract_says(make_world: Make, who: str, mode: str) -> None:
    world = await make_world(mode)
    routes, wrong, cells = ROUTES | (ONLY_ALONE if mode == "page alone" else {}), [], 0
    for route, given in routes.items():
        wanted, things = expected(route, who, mode), world.things[given.job]
        if wanted == YES and given.kind == "change one of ann's":
            things = await world.make(given.job)
        told = await request_for(world, route, who, things)
        cells += 1
        if (found := became(route, told)) != wanted:
            wrong.append(f"{route}: {found} ({told.status} {told.code}) instead of {wanted}")
    assert not wrong, f"{who}, {mode}: " + "; ".join(wrong)
    assert cells == len(routes)


_BY_THE_CLOCK: Final = ("app.services.access.KNOWN_S", "app.services.links.KNOWN_S")
"""Seconds after which something is read from the database, whoever asks for what."""
OF_ANNS: Final = [route for route, given in ROUTES.items() if given.kind.endswith("one of ann's")]


async def nothing(_: Any) -> None:
    """Do nothing."""


@LIVES
@pytest.mark.parametrize("phase", ["queued", "running", "completed", "failed"])
async def test_what_is_anothers_is_answered_as_what_is_not_there(
    make_world: Make, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in _BY_THE_CLOCK:
        monkeypatch.setattr(name, 3600.0)
    # The hub reads what is watched by the clock too, and whenever events begin to arrive again.
    monkeypatch.setattr(Hub, "resync", nothing)
    world = await make_world("keys")
    await eventually(world.hears_events)
    things, wrong = await world.make(phase), []
    before = await rows_of(world, "ann")
    for route in OF_ANNS:
        # Twice: what was found once, and is remembered, must not tell either.
        for _ in range(2):
            async with statements(world.client.app[keys.DATABASE]) as of_another:
                anothers = await request_for(world, route, "bob", things)
            async with statements(world.client.app[keys.DATABASE]) as of_none:
                none = await request_for(world, route, "bob", UNKNOWN)
            differing = set(anothers.lines(things)) ^ set(none.lines(UNKNOWN))
            if differing or none.status != 404:
                wrong.append(f"{route}: {none.status} {sorted(differing)}")
        if differing := list((Counter(of_another) - Counter(of_none)) + (Counter(of_none) - Counter(of_another))):
            wrong.append(f"{route}: {len(of_another)} statements, {len(of_none)} of what is not there: {differing}")
    assert not wrong, "\n".join(wrong)
    assert await rows_of(world, "ann") == before
