"""Handlers of `/api/v1/queue` and `/api/v1/users`: what is paused, and how large each user's share is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from app.domain.errors import NotFound
from app.domain.text import is_plain
from app.keys import QUEUE_CONTROL
from app.web.answers import pause_answer
from app.web.auditing import noted
from app.web.bodies import read_object, read_query
from app.web.callers import actor_of
from app.web.checking import check
from app.web.queue_messages import (
    PauseRequest,
    QueueAnswer,
    UserAnswer,
    UserListAnswer,
    UsersQuery,
    WeightRequest,
)
from app.web.requests import NoQuery
from app.web.responses import answered

if TYPE_CHECKING:
    from app.domain.pauses import Pause
    from app.storage.tenants import TenantStanding

routes: Final = web.RouteTableDef()

QUEUE: Final = "/api/v1/queue"
USERS: Final = "/api/v1/users"
ONE: Final = USERS + "/{user_id}"
MOST_CHARS: Final = 255
"""A longer text is nobody's `user_id`."""


@routes.post(QUEUE + "/pause")
async def pause_queue(request: web.Request) -> web.Response:
    """Have nobody's waiting jobs taken."""
    return answered(QueueAnswer(paused=pause_answer(await _pause(request, None))))


@routes.post(QUEUE + "/resume")
async def resume_queue(request: web.Request) -> web.Response:
    """Have waiting jobs taken again."""
    await _resume(request, None)
    return answered(QueueAnswer(paused=None))


@routes.get(USERS)
async def list_users(request: web.Request) -> web.Response:
    """List the users of whom anything is set."""
    asked = check(UsersQuery, read_query(request.query), pointer="")
    found = await request.app[QUEUE_CONTROL].users(asked.after, asked.limit + 1)
    shown = found[: asked.limit]
    following = shown[-1].user_id if len(found) > asked.limit else None
    return answered(UserListAnswer(items=[user_answer(each) for each in shown], next_after=following))


@routes.get(ONE)
async def show_user(request: web.Request) -> web.Response:
    """Show a user; one whom nobody knows has the defaults."""
    check(NoQuery, read_query(request.query), pointer="")
    return await _user(request)


@routes.put(ONE + "/weight")
async def set_weight(request: web.Request) -> web.Response:
    """Set a user's weight."""
    user_id = user_of(request)
    asked = check(WeightRequest, await read_object(request))
    setting = request.app[QUEUE_CONTROL].set_weight(user_id, asked.weight, actor_of(request))
    await noted(request, "weight_set", f"user {user_id}", setting, weight=asked.weight)
    return await _user(request)


@routes.post(ONE + "/pause")
async def pause_user(request: web.Request) -> web.Response:
    """Have none of a user's waiting jobs taken."""
    await _pause(request, user_of(request))
    return await _user(request)


@routes.post(ONE + "/resume")
async def resume_user(request: web.Request) -> web.Response:
    """Have a user's waiting jobs taken again."""
    await _resume(request, user_of(request))
    return await _user(request)


def user_of(request: web.Request) -> str:
    """Return the user of the path; raises `NotFound` for a text that can be none."""
    user_id = request.match_info["user_id"]
    if len(user_id) > MOST_CHARS or not is_plain(user_id):
        raise NotFound("There can be no such user.")
    return user_id


def user_answer(found: TenantStanding) -> UserAnswer:
    """Return a user."""
    return UserAnswer(
        user_id=found.user_id,
        weight=found.weight,
        paused=pause_answer(found.pause),
        waiting=found.waiting,
        running=found.running,
    )


def target_of(user_id: str | None) -> str:
    """Return how the audit names what is paused or resumed."""
    return f"user {user_id}" if user_id is not None else "queue"


async def _pause(request: web.Request, user_id: str | None) -> Pause:
    asked = check(PauseRequest, await read_object(request, optional=True))
    pausing = request.app[QUEUE_CONTROL].pause(user_id, asked.reason, actor_of(request))
    return await noted(request, "pause", target_of(user_id), pausing, reason=asked.reason)


async def _resume(request: web.Request, user_id: str | None) -> None:
    resuming = request.app[QUEUE_CONTROL].resume(user_id, actor_of(request))
    await noted(request, "resume", target_of(user_id), resuming, lambda pause: "done" if pause else "none")


async def _user(request: web.Request) -> web.Response:
    return answered(user_answer(await request.app[QUEUE_CONTROL].user(user_of(request))))
