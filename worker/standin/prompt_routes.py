"""Handlers of prompts, queue and history."""

import time
import uuid
from typing import Any, Final

from aiohttp import web

from worker.standin.faults import FaultKind
from worker.standin.prompt_ids import is_canonical
from worker.standin.prompt_queue import without_secrets
from worker.standin.replacements import replace_nodes
from worker.standin.server import STANDIN, Standin
from worker.standin.validation import make_error, validate_prompt
from worker.standin.versions import (
    HISTORY_OFFSET,
    LINKS_NOTED,
    NO_DUPLICATES,
    OWN_PROMPT_ID,
    PARTIAL_TARGETS,
    STRICT,
    TARGETED_INTERRUPT,
)

_ID_FORM: Final = (
    "prompt_id must be a UUID string in canonical lowercase hyphenated form; omit it to let the server generate one"
)


async def submit_prompt(request: web.Request) -> web.StreamResponse:
    """Queue a prompt, or say what is wrong with it; what ComfyUI does not foresee ends in 500."""
    standin = request.app[STANDIN]
    body = await request.json()
    standin.console.say("got prompt")
    if "number" in body:
        number = float(body["number"])
    else:
        number = standin.queue.next_number()
        if isinstance(body, dict) and body.get("front"):
            number = -number
    if "prompt" not in body:
        error = make_error("no_prompt", "No prompt provided", "No prompt provided")
        return web.json_response({"error": error, "node_errors": {}}, status=400)
    prompt_id, refusal = _prompt_id(standin, body)
    if refusal is not None:
        return refusal
    targets = body.get("partial_execution_targets") if standin.version >= PARTIAL_TARGETS else None
    strict = standin.version >= STRICT
    if standin.version >= LINKS_NOTED:
        _refuse_strange(body)
        replace_nodes(body["prompt"], standin.types)
    verdict = validate_prompt(body["prompt"], standin.types, standin.version, targets)
    extra = body.get("extra_data", {})
    if "client_id" in body:
        extra["client_id"] = body["client_id"]
    if strict and isinstance(extra, dict):
        if source := request.headers.get("Comfy-Usage-Source"):
            extra.setdefault("comfy_usage_source", source)
        extra["create_time"] = int(time.time() * 1000)
    if verdict.error is not None:
        standin.console.say(f"invalid prompt: {verdict.error}", "WARNING")
        return web.json_response({"error": verdict.error, "node_errors": verdict.node_errors}, status=400)
    standin.log.accepted.append(prompt_id)
    standin.queue.put((number, prompt_id, body["prompt"], extra, verdict.outputs))
    if isinstance(extra, dict) and isinstance(extra.get("client_id"), list | dict):
        standin.crash()
    if standin.faults.take(FaultKind.LOSE_ANSWER, prompt_id=prompt_id) and request.transport is not None:
        request.transport.abort()
    return web.json_response({"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors})


def _refuse_strange(body: dict[str, Any]) -> None:
    """Fail on what 0.33 cannot go through: inputs or extra_data that are there and no objects.

    Raises
    ------
    TypeError
        Which ends in 500.
    """
    for node in body["prompt"].values():
        if "class_type" in node and not isinstance(node.get("inputs", {}), dict):
            raise TypeError("inputs are no object")
    if not isinstance(body.get("extra_data", {}), dict):
        raise TypeError("extra_data is no object")


def _prompt_id(standin: Standin, body: dict[str, Any]) -> tuple[str, web.Response | None]:
    """Return the id of a new prompt, and the answer if the body's own is refused."""
    made = str(uuid.uuid4())
    if standin.version < OWN_PROMPT_ID:
        return made, None
    if standin.version < STRICT:
        return str(body.get("prompt_id", made)), None
    given = body.get("prompt_id")
    if given is None:
        return made, None
    if not is_canonical(given):
        error = make_error("invalid_prompt_id", "prompt_id must be a valid UUID", _ID_FORM)
        return made, web.json_response({"error": error, "node_errors": {}}, status=400)
    if standin.version >= NO_DUPLICATES and standin.queue.knows(given):
        return made, web.json_response({"error": "prompt_id already exists"}, status=409)
    return given, None


async def show_queue_length(request: web.Request) -> web.StreamResponse:
    """Answer how many prompts run or wait."""
    return web.json_response(request.app[STANDIN].status()["status"])


async def show_queue(request: web.Request) -> web.StreamResponse:
    """Answer what runs and what waits, the latter in the order of the heap."""
    queue = request.app[STANDIN].queue
    running = [queue.running] if queue.running is not None else []
    pending = queue.pending
    if request.app[STANDIN].version >= STRICT:
        running, pending = [without_secrets(item) for item in running], [without_secrets(item) for item in pending]
    return web.json_response({"queue_running": running, "queue_pending": pending})


async def change_queue(request: web.Request) -> web.StreamResponse:
    """Clear the queue, or delete what waits."""
    queue = request.app[STANDIN].queue
    clear, delete = _unwanted(await request.json())
    if clear:
        queue.clear()
    for prompt_id in delete:
        queue.delete(prompt_id)
    return web.Response()


async def interrupt(request: web.Request) -> web.StreamResponse:
    """Stop the running prompt; without an id, or with a body that is no JSON, whatever runs."""
    standin = request.app[STANDIN]
    try:
        body = await request.json()
    except ValueError:
        body = {}
    prompt_id = body.get("prompt_id")
    running = standin.queue.running
    if standin.version < TARGETED_INTERRUPT or not prompt_id or (running is not None and running[1] == prompt_id):
        whom = f"Interrupting prompt {prompt_id}" if prompt_id else "Global interrupt (no prompt_id specified)"
        standin.console.say(whom)
        standin.executor.interrupt()
    return web.Response()


async def show_history(request: web.Request) -> web.StreamResponse:
    """Answer the history, oldest first."""
    standin = request.app[STANDIN]
    entries = list(standin.queue.history.items())
    most = int(request.query["max_items"]) if "max_items" in request.query else None
    offset = -1
    if standin.version >= HISTORY_OFFSET and "offset" in request.query:
        offset = int(request.query["offset"])
    if offset < 0 and most is not None:
        offset = max(0, len(entries) - most)
    start = max(0, offset)
    return web.json_response(dict(entries[start:] if most is None else entries[start : start + most]))


async def show_history_entry(request: web.Request) -> web.StreamResponse:
    """Answer one entry; an unknown id is an empty object."""
    prompt_id = request.match_info["prompt_id"]
    history = request.app[STANDIN].queue.history
    return web.json_response({prompt_id: history[prompt_id]} if prompt_id in history else {})


async def change_history(request: web.Request) -> web.StreamResponse:
    """Clear the history, or delete entries."""
    history = request.app[STANDIN].queue.history
    clear, delete = _unwanted(await request.json())
    if clear:
        history.clear()
    for prompt_id in delete:
        history.pop(prompt_id, None)
    return web.Response()


def _unwanted(body: Any) -> tuple[bool, list[Any]]:
    """Return whether everything is to go, and what else; as in ComfyUI a text is taken apart letter by letter.

    Raises
    ------
    TypeError
        If `delete` is nothing to go through, or the body nothing to look into.
    """
    if not isinstance(body, dict):
        if "clear" in body or "delete" in body:
            raise TypeError("a list or text that names a wish holds none")
        return False, []
    return bool(body.get("clear")), list(body.get("delete", []))


async def free_memory(request: web.Request) -> web.StreamResponse:
    """Unload models and forget results, when the execution is next idle."""
    executor = request.app[STANDIN].executor
    body = await request.json()
    executor.unload_models = executor.unload_models or bool(body.get("unload_models", False))
    executor.free_memory = executor.free_memory or bool(body.get("free_memory", False))
    if request.app[STANDIN].queue.running is None:
        executor.apply_free()
    return web.Response()
