"""Forms that steer the queue: pause and resume, weights of users, and moves of single jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from app.domain.errors import Fault, InvalidRequest, JobNotMovable, JobNotWaiting
from app.domain.fair_tags import parse_weight
from app.domain.pauses import MOST_REASON_CHARS
from app.keys import AUDIT, CONTROL, QUEUE_CONTROL
from app.monitor.actions import lead_back
from app.monitor.job_pages import JOB
from app.web.auditing import note
from app.web.bodies import job_id_of, read_form
from app.web.callers import CALLER
from app.web.checking import check, check_texts
from app.web.jobs import became_of_move
from app.web.queue import MOST_CHARS, target_of
from app.web.requests import JobChangeRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.storage.moves import Moved

routes: Final = web.RouteTableDef()

_HERE: Final = "/monitor/schedule"


@routes.post("/queue/{action:pause|resume}")
async def steer_queue(request: web.Request) -> web.Response:
    """Have nobody's waiting jobs taken, or have them taken again."""
    return await _steer(request, request.match_info["action"], None, await _undone(request, ("pause", "resume")))


@routes.post("/users/{action:pause|resume}")
async def steer_user(request: web.Request) -> web.Response:
    """Have none of a user's waiting jobs taken, or have them taken again."""
    undone = await _undone(request, ("pause", "resume"))
    return await _steer(request, request.match_info["action"], await _user(request, undone), undone)


@routes.post("/users/weight")
async def weigh_user(request: web.Request) -> web.Response:
    """Set a user's weight, or undo what an entry of the audit tells of."""
    undone = await _undone(request, ("weight_set",))
    user_id = await _user(request, undone)
    text = str(undone.get("before", "")) or await _text(request, "weight")
    try:
        weight = parse_weight(text)
    except ValueError as error:
        raise _fault("weight", f"The weight {error}.") from None
    before = await request.config_dict[QUEUE_CONTROL].set_weight(user_id, weight, request[CALLER].name)
    told = {"user_id": user_id, "weight": weight, "before": before}
    entry = await note(request, "weight_set", target_of(user_id), "done", **told)
    return await lead_back(request, "user_weight", entry or 0, otherwise=_HERE)


@routes.post(JOB + "/front")
async def move_to_front(request: web.Request) -> web.Response:
    """Let a waiting job come before the others of its user and priority."""
    job_id, caller = job_id_of(request), request[CALLER]
    try:
        moved = await request.config_dict[CONTROL].to_front(job_id, caller.name, caller.scope)
    except (JobNotWaiting, JobNotMovable) as error:
        return await _moved(request, "to_front", job_id, error.code, error.code)
    return await _moved(request, "to_front", job_id, became_of_move(moved), "moved_to_front")


@routes.post(JOB + "/priority")
async def set_priority(request: web.Request) -> web.Response:
    """Give a waiting job another priority, or undo what an entry of the audit tells of."""
    job_id, caller, control = job_id_of(request), request[CALLER], request.config_dict[CONTROL]
    undone = await _undone(request, ("priority_set",), f"job {job_id}")
    text = str(undone.get("before", "")) or await _text(request, "priority")
    number = int(text) if text.removeprefix("-").isdecimal() and text.isascii() and len(text) < 9 else text
    asked = check(JobChangeRequest, {"priority": number})
    try:
        moved: Moved = await control.set_priority(job_id, asked.priority, caller.name, caller.scope, sender=caller)
    except JobNotWaiting as error:
        return await _moved(request, "priority_set", job_id, error.code, error.code, priority=asked.priority)
    told = {"priority": asked.priority, "before": moved.priority_before}
    entry = await note(request, "priority_set", f"job {job_id}", became_of_move(moved), **told)
    # What has not changed needs no undo.
    parts = job_id, entry or 0 if moved.changed else 0
    return await lead_back(request, "priority_set", *parts, otherwise=f"/monitor/jobs/{job_id}")


async def _steer(request: web.Request, action: str, user_id: str | None, undone: dict[str, Any]) -> web.Response:
    control, actor = request.config_dict[QUEUE_CONTROL], request[CALLER].name
    told, outcome = {"user_id": user_id} if user_id is not None else {}, "done"
    if action == "pause":
        reason = undone.get("reason") or await _text(request, "reason") or None
        if reason is not None and len(reason) > MOST_REASON_CHARS:
            raise _fault("reason", f"The reason is to have at most {MOST_REASON_CHARS} characters.")
        await control.pause(user_id, reason, actor)
    else:
        pause = await control.resume(user_id, actor)
        reason, outcome = (pause.reason, "done") if pause is not None else (None, "none")
    entry = await note(request, action, target_of(user_id), outcome, **told, reason=reason)
    code = f"{'queue' if user_id is None else 'user'}_{action}"
    return await lead_back(request, code, entry or 0 if outcome == "done" else 0, otherwise=_HERE)


async def _moved(request: web.Request, action: str, job_id: int, outcome: str, code: str, **told: Any) -> web.Response:
    await note(request, action, f"job {job_id}", outcome, **told)
    return await lead_back(request, code, job_id, otherwise=f"/monitor/jobs/{job_id}")


async def _undone(request: web.Request, actions: Sequence[str], target: str | None = None) -> dict[str, Any]:
    """Return what the audit keeps of the action that a form takes back; nothing where it takes back none."""
    entry = await _text(request, "entry")
    number = int(entry) if entry.isascii() and entry.isdigit() and len(entry) < 19 else 0
    found = await request.config_dict[AUDIT].entry(number) if number else None
    if found is None or found.action not in actions or (target is not None and found.target != target):
        return {}
    return found.data


async def _user(request: web.Request, undone: dict[str, Any]) -> str:
    """Return whom the form is about: in a field, and not in the address, where some names would mean something."""
    user_id = str(undone.get("user_id", "")) or await _text(request, "user")
    if not 1 <= len(user_id) <= MOST_CHARS:
        raise _fault("user", f"A user is a text of 1 to {MOST_CHARS} characters.")
    return user_id


async def _text(request: web.Request, name: str) -> str:
    value = (await read_form(request)).get(name, "")
    if not isinstance(value, str) or check_texts(value):
        raise _fault(name, "The form holds what cannot be kept.")
    # A name is as it is, but for the line ends that browsers make of others.
    return value.replace("\r\n", "\n") if name == "user" else value.strip()


def _fault(name: str, detail: str) -> InvalidRequest:
    return InvalidRequest(detail, [Fault(name, "invalid", detail)])
