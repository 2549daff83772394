"""The OpenAPI 3.1 document, made from the models that check and shape what goes over the wire."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from pydantic.json_schema import models_json_schema

from app.domain.access import ROLES, Role
from app.services.access import SESSION_COOKIE
from app.settings import package_version
from app.web import audit_messages, examples, inventory_payloads, key_messages, payloads, queue_messages, requests
from app.web.documented_problems import (
    HEADERS,
    OF_ACCESS,
    OF_BODY,
    OF_FILE,
    OF_HOST,
    OF_LINK,
    OF_PATH,
    OF_QUERY,
    OF_SERVERS,
    OF_WAITING,
    problem_answers,
)
from app.web.permissions import PERMISSIONS, PUBLIC
from app.web.problems import RETRY_HELPS

if TYPE_CHECKING:
    from pydantic import BaseModel

_JOB: Final = "/api/v1/generation-jobs"
_CONTENT: Final = "/api/v1/contents/{content_id}"
_BACKEND: Final = "/api/v1/backends/{name}"
_NAMES: Final = {"name": 255, "node_class": 300, "upload_id": 64, "user_id": 255}
"""Parameter of a path that is a text → the most characters that name anything."""
_UPLOADS: Final = "/api/v1/uploads"
_UPLOAD: Final = _UPLOADS + "/{upload_id}"
_KEYS: Final = "/api/v1/keys"
_KEY: Final = _KEYS + "/{key_id}"
_USERS: Final = "/api/v1/users"
_USER: Final = _USERS + "/{user_id}"
_NEEDED: Final = (
    *(requests.JobRequest, requests.JobChangeRequest, queue_messages.WeightRequest),
    *(key_messages.KeyRequest, key_messages.KeyChangeRequest),
)
"""Bodies without which a request means nothing."""
_BYTES: Final = "bytes"
_OBJECT: Final = "object"
_TEXT: Final = "text"


@dataclass(frozen=True, slots=True)
class Operation:
    """A route as the document shows it."""

    method: str
    path: str
    summary: str
    answers: dict[int, type[BaseModel] | str | None]
    """Status → model, `bytes`, `object`, `text`, or None for an empty body."""
    body: type[BaseModel] | str | None = None
    """A model, or `bytes` for a file, as it is or in a form."""
    query: type[BaseModel] | None = None
    problems: tuple[str, ...] = ()
    """Codes of what it can answer beside what `documented_problems` adds."""
    signed: bool = False
    """Whether a link in place of a key opens it."""
    example: dict[str, Any] | None = None
    """An answer, as it is when all goes well."""


_THUMBNAIL: Final = "An output's thumbnail; the picture itself (no-cache) or 404 `thumbnail_due` until it is made"
_FIRST_THUMBNAIL: Final = (
    "The first output's thumbnail; the picture itself (no-cache) or 404 `thumbnail_due` until it is made"
)
_SENT: Final = (*OF_BODY, "invalid_workflow", "idempotency_key_reused", *OF_WAITING, "upload_limit", "storage_failed")
_OUTPUT: Final = ("content_not_found", "range_not_satisfiable")
_FILE: Final[dict[int, type[BaseModel] | str | None]] = {200: _BYTES, 206: _BYTES, 304: None}

OPERATIONS: Final = (
    Operation("post", f"{_JOB}/", "Submit a job", {201: payloads.JobAnswer}, requests.JobRequest, None, problems=_SENT),
    Operation(
        "post",
        f"{_JOB}/check",
        "Tell what would become of a job, without accepting it",
        {200: payloads.CheckAnswer},
        requests.JobRequest,
        None,
        example=examples.CHECK,
        problems=(*OF_BODY, "invalid_workflow", "storage_failed"),
    ),
    Operation(
        "get", f"{_JOB}/", "List jobs", {200: payloads.JobListAnswer}, None, requests.ListQuery, problems=OF_QUERY
    ),
    Operation("get", f"{_JOB}/queue/stats", "Figures of the queue", {200: payloads.QueueStatsAnswer}),
    Operation("get", _JOB + "/{job_id}", "Show a job", {200: payloads.JobAnswer}, problems=("job_not_found",)),
    Operation(
        "delete",
        _JOB + "/{job_id}",
        "Delete a finished job",
        {204: None},
        problems=("job_not_found", "job_not_finished"),
    ),
    Operation(
        "get",
        _JOB + "/{job_id}/attempts",
        "A job's attempts",
        {200: payloads.AttemptListAnswer},
        query=requests.HistoryQuery,
        example=examples.ATTEMPTS,
        problems=("job_not_found", *OF_QUERY),
    ),
    Operation(
        "get",
        _JOB + "/{job_id}/events",
        "A job's life",
        {200: payloads.EventListAnswer},
        query=requests.HistoryQuery,
        problems=("job_not_found", *OF_QUERY),
    ),
    Operation(
        "get", _JOB + "/{job_id}/workflow", "The graph as run", {200: _OBJECT}, problems=("job_not_found", "not_found")
    ),
    Operation(
        "post",
        _JOB + "/{job_id}/cancel",
        "Cancel a job",
        {200: payloads.JobAnswer, 202: payloads.JobAnswer},
        requests.CancelRequest,
        None,
        problems=("job_not_found", "job_already_finished", "invalid_transition", *OF_BODY),
    ),
    Operation(
        "post",
        _JOB + "/{job_id}/retry",
        "Retry a failed or cancelled job",
        {200: payloads.JobAnswer},
        requests.RetryRequest,
        None,
        problems=("job_not_found", "job_not_retryable", "no_seed", *OF_WAITING, *OF_BODY),
    ),
    Operation(
        "patch",
        _JOB + "/{job_id}",
        "Give a waiting job another priority",
        {200: payloads.JobAnswer},
        requests.JobChangeRequest,
        None,
        problems=("job_not_found", "job_not_waiting", *OF_BODY),
    ),
    Operation(
        "post",
        _JOB + "/{job_id}/front",
        "Let a waiting job come before the others of its user and priority",
        {200: payloads.JobAnswer},
        problems=("job_not_found", "job_not_waiting", "job_not_movable"),
    ),
    Operation(
        "post",
        _JOB + "/cancel",
        "Cancel many jobs",
        {200: payloads.BulkAnswer},
        requests.BulkCancelRequest,
        None,
        problems=OF_BODY,
    ),
    Operation(
        "post",
        _JOB + "/retry",
        "Retry many jobs",
        {200: payloads.BulkAnswer},
        requests.BulkRetryRequest,
        None,
        problems=OF_BODY,
    ),
    Operation(
        "get",
        "/api/v1/me",
        "Who the caller is, its limits, and what of them is used",
        {200: payloads.MeAnswer},
        example=examples.ME,
        problems=OF_QUERY,
    ),
    Operation("get", _CONTENT, "What a job left", {200: payloads.ContentAnswer}, problems=("content_not_found",)),
    Operation(
        "get", _CONTENT + "/outputs/{index}", "An output's bytes", _FILE, signed=True, problems=(*OF_LINK, *_OUTPUT)
    ),
    Operation(
        "get",
        _CONTENT + "/outputs/{index}/thumbnail",
        _THUMBNAIL,
        _FILE,
        signed=True,
        problems=(*OF_LINK, *_OUTPUT, "thumbnail_due"),
    ),
    Operation("get", _CONTENT + "/thumbnail", _FIRST_THUMBNAIL, _FILE, problems=(*_OUTPUT, "thumbnail_due")),
    Operation(
        "get",
        "/api/v1/uploads/{upload_id}/workflow",
        "The graph that ComfyUI has written into an upload",
        {200: payloads.UploadWorkflowAnswer},
        query=requests.OwnerQuery,
        example=examples.UPLOAD_WORKFLOW,
        problems=(
            "upload_not_found",
            "content_not_found",
            "no_workflow",
            "invalid_workflow",
            "unreadable_workflow",
            "busy",
            *OF_QUERY,
        ),
    ),
    Operation(
        "get",
        "/api/v1/models",
        "Models, samplers and schedulers over all backends",
        {200: inventory_payloads.ModelsAnswer},
        query=requests.ModelsQuery,
        example=examples.MODELS,
        problems=OF_QUERY,
    ),
    Operation(
        "get",
        "/api/v1/nodes",
        "Node classes over all backends",
        {200: inventory_payloads.NodeListAnswer},
        query=requests.NodesQuery,
        example=examples.NODES,
        problems=OF_QUERY,
    ),
    Operation(
        "get",
        "/api/v1/nodes/{node_class}",
        "A node class: its inputs and outputs",
        {200: inventory_payloads.NodeAnswer},
        example=examples.NODE,
        problems=("node_class_not_found", *OF_QUERY),
    ),
    Operation(
        "get",
        "/api/v1/backends",
        "How the backends are",
        {200: payloads.BackendListAnswer},
        example=examples.BACKENDS,
        problems=OF_QUERY,
    ),
    Operation(
        "get",
        "/api/v1/workers",
        "How the workers are",
        {200: payloads.WorkerListAnswer},
        example=examples.WORKERS,
        problems=OF_QUERY,
    ),
    Operation(
        "post",
        _UPLOADS,
        "Hand over a file",
        {201: payloads.UploadAnswer, 200: payloads.UploadAnswer},
        _BYTES,
        requests.OwnerQuery,
        example=examples.UPLOAD,
        problems=(*OF_FILE, *OF_QUERY, "upload_limit", "storage_failed"),
    ),
    Operation(
        "get",
        _UPLOADS,
        "List uploads",
        {200: payloads.UploadListAnswer},
        query=requests.UploadListQuery,
        example=examples.UPLOADS,
        problems=OF_QUERY,
    ),
    Operation(
        "get",
        _UPLOAD,
        "Show an upload",
        {200: payloads.UploadAnswer},
        query=requests.OwnerQuery,
        example=examples.UPLOAD,
        problems=("upload_not_found", *OF_QUERY),
    ),
    Operation(
        "delete",
        _UPLOAD,
        "Delete an upload",
        {204: None},
        None,
        requests.OwnerQuery,
        problems=("upload_not_found", "upload_in_use", *OF_QUERY),
    ),
    Operation(
        "get",
        _UPLOAD + "/data",
        "An upload's bytes",
        _FILE,
        None,
        requests.OwnerQuery,
        problems=("upload_not_found", *_OUTPUT, *OF_QUERY),
    ),
    Operation(
        "post",
        _BACKEND + "/drain",
        "Give a backend no more prompts",
        {200: payloads.BackendStateAnswer},
        problems=("backend_not_found",),
    ),
    Operation(
        "post",
        _BACKEND + "/resume",
        "Give a drained backend prompts again",
        {200: payloads.BackendStateAnswer},
        problems=("backend_not_found",),
    ),
    Operation(
        "post",
        "/api/v1/queue/pause",
        "Have no waiting jobs taken; what runs goes on",
        {200: queue_messages.QueueAnswer},
        queue_messages.PauseRequest,
        example=examples.QUEUE,
        problems=OF_BODY,
    ),
    Operation(
        "post",
        "/api/v1/queue/resume",
        "Have waiting jobs taken again",
        {200: queue_messages.QueueAnswer},
        example=examples.QUEUE,
    ),
    Operation(
        "get",
        _USERS,
        "List the users who are paused, or have another weight than 1",
        {200: queue_messages.UserListAnswer},
        query=queue_messages.UsersQuery,
        example=examples.USERS,
        problems=OF_QUERY,
    ),
    Operation(
        "get",
        _USER,
        "Show a user of the queue; one whom nobody knows has the defaults",
        {200: queue_messages.UserAnswer},
        example=examples.USER,
        problems=OF_QUERY,
    ),
    Operation(
        "put",
        _USER + "/weight",
        "Set a user's share of the backends",
        {200: queue_messages.UserAnswer},
        queue_messages.WeightRequest,
        example=examples.USER,
        problems=OF_BODY,
    ),
    Operation(
        "post",
        _USER + "/pause",
        "Have none of a user's waiting jobs taken; what runs goes on",
        {200: queue_messages.UserAnswer},
        queue_messages.PauseRequest,
        example=examples.USER,
        problems=OF_BODY,
    ),
    Operation(
        "post",
        _USER + "/resume",
        "Have a user's waiting jobs taken again",
        {200: queue_messages.UserAnswer},
        example=examples.USER,
    ),
    Operation(
        "get",
        _KEYS,
        "List keys",
        {200: key_messages.KeyListAnswer},
        query=key_messages.KeyListQuery,
        example=examples.KEYS,
        problems=OF_QUERY,
    ),
    Operation(
        "post",
        _KEYS,
        "Make a key",
        {201: key_messages.MadeKeyAnswer},
        key_messages.KeyRequest,
        example=examples.MADE_KEY,
        problems=("key_taken", "no_admin_left", *OF_BODY),
    ),
    Operation(
        "get",
        _KEY,
        "Show a key",
        {200: key_messages.KeyAnswer},
        example=examples.KEY,
        problems=("key_not_found", *OF_QUERY),
    ),
    Operation(
        "patch",
        _KEY,
        "Change limits and expiry of a key, or take its revocation back",
        {200: key_messages.KeyAnswer},
        key_messages.KeyChangeRequest,
        example=examples.KEY,
        problems=("key_not_found", *OF_BODY),
    ),
    Operation(
        "delete",
        _KEY,
        "Revoke a key, everywhere and within a second",
        {204: None},
        query=key_messages.KeyRevokeQuery,
        problems=("key_not_found", "no_admin_left", *OF_QUERY),
    ),
    Operation(
        "get",
        "/api/v1/audit",
        "What was done by hand",
        {200: audit_messages.AuditListAnswer},
        query=audit_messages.AuditQuery,
        example=examples.AUDIT,
        problems=OF_QUERY,
    ),
    Operation(
        "post",
        "/api/v1/ws-tickets",
        "Make a ticket that opens one WebSocket, within a minute, without a key",
        {201: payloads.TicketAnswer},
        requests.TicketRequest,
        None,
        example=examples.TICKET,
        problems=("job_not_found", *OF_BODY),
    ),
    Operation("get", "/openapi.json", "This document", {200: _OBJECT}),
    Operation("get", "/health/live", "Whether the process serves requests", {200: _OBJECT}),
    Operation(
        "get",
        "/health/ready",
        "Whether the service can do its work",
        {200: payloads.ReadyAnswer, 503: payloads.ReadyAnswer},
    ),
    Operation("get", "/metrics", "Figures for Prometheus, in its text format", {200: _TEXT}),
)


SECURITY: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key: `Authorization: Bearer gno_…`."},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key in a header."},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": SESSION_COOKIE,
        "description": "Of a browser that has signed in to the page, for requests of the page itself.",
    },
}
"""The ways to say who one is, any of which will do; while no key has been made this machine itself needs none."""
_BINARY: Final = {"type": "string", "format": "binary"}
_FILE_CONTENT: Final = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["file"],
            "properties": {"file": _BINARY, "user_id": {"type": "string", "minLength": 1, "maxLength": 255}},
        }
    },
    "application/octet-stream": {"schema": _BINARY},
}


@cache
def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    sent = (each for operation in OPERATIONS for each in (operation.body, operation.query))
    requests = {each for each in sent if each is not None and not isinstance(each, str)}
    answers = {each for operation in OPERATIONS for each in operation.answers.values() if not isinstance(each, str)}
    modes: list[tuple[type[BaseModel], Any]] = [(model, "validation") for model in requests]
    modes += [(model, "serialization") for model in (*answers, payloads.Problem) if model is not None]
    modes.sort(key=lambda each: each[0].__name__)
    names, schemas = models_json_schema(modes, ref_template="#/components/schemas/{model}")
    named = {model: reference["$ref"] for (model, _), reference in names.items()}
    # A key says whose the job is; that it must be said while there are none is for the server to check.
    schemas["$defs"]["JobRequest"].get("required", ["user_id"]).remove("user_id")
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, named, schemas["$defs"])
    return {
        "openapi": "3.1.0",
        "info": {"title": "Genonaut", "version": package_version(), "description": _description()},
        "paths": paths,
        "components": {"schemas": schemas["$defs"], "securitySchemes": SECURITY, "headers": HEADERS},
    }


def _description() -> str:
    listed = "\n".join(f"| `{code}` | {'yes' if helps else 'no'} |" for code, helps in RETRY_HELPS.items())
    return (
        "A job queue in front of ComfyUI. Follow jobs live over WebSocket at `/ws/jobs/{job_id}` and "
        "`/ws/jobs?job_ids=1,2,3`. Errors are problem JSON (RFC 9457); their codes, and whether the same request may "
        f"succeed later:\n\n| code | later |\n|---|---|\n{listed}\n"
    )


def _operation(operation: Operation, named: dict[Any, str], schemas: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"summary": operation.summary, "operationId": _operation_id(operation)}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
        for name in ("job_id", "content_id", "index", "key_id")
        if f"{{{name}}}" in operation.path
    ]
    for name, most in _NAMES.items():
        if f"{{{name}}}" in operation.path:
            named_so = {"type": "string", "minLength": 1, "maxLength": most}
            parameters.append({"name": name, "in": "path", "required": True, "schema": named_so})
    if operation.query is not None:
        properties = schemas[named[operation.query].rpartition("/")[2]]["properties"]
        parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]
    if operation.body is requests.JobRequest:
        key = {"type": "string", "minLength": 1, "maxLength": 255}
        described = "For 24 hours the same key and body get the first answer again (Idempotency-Replayed: true)."
        parameters.append({"name": "Idempotency-Key", "in": "header", "schema": key, "description": described})
    if operation.signed:
        described = "Of a link, `signed_url`, which needs no key."
        parameters += [
            {"name": name, "in": "query", "schema": {"type": kind}, "description": described}
            for name, kind in (("expires", "integer"), ("signature", "string"))
        ]
    if parameters:
        told["parameters"] = parameters
    roles = _roles(operation)
    told["security"] = [{scheme: []} for scheme in SECURITY] if roles is not None else []
    if roles is not None:
        told["x-roles"] = roles
    if operation.body == _BYTES:
        told["requestBody"] = {"required": True, "content": _FILE_CONTENT}
    elif operation.body is not None:
        content = {"application/json": {"schema": {"$ref": named[operation.body]}}}
        told["requestBody"] = {"required": operation.body in _NEEDED, "content": content}
    told["responses"] = {str(status): _answer(answer, named) for status, answer in operation.answers.items()}
    if operation.example is not None:
        best = str(min(operation.answers))
        told["responses"][best]["content"]["application/json"]["example"] = operation.example
    codes = {*OF_HOST, *operation.problems}
    codes.update(OF_PATH if "{" in operation.path else (), (*OF_ACCESS, *OF_SERVERS) if roles is not None else ())
    for status, problem in problem_answers(codes, named[payloads.Problem]).items():
        # What is not ready is answered with the same status as what cannot be known.
        content = told["responses"].get(status, {}).get("content", {}) | problem["content"]
        told["responses"][status] = problem | {"content": content}
    return told


def _roles(operation: Operation) -> list[str] | None:
    """Return the roles that may use it; None where anybody may."""
    route = f"{operation.method.upper()} {operation.path.rstrip('/')}"
    return [role.value for role in Role if role in ROLES[PERMISSIONS[route]]] if route not in PUBLIC else None


def _answer(answer: type[BaseModel] | str | None, named: dict[Any, str]) -> dict[str, Any]:
    if answer is None:
        return {"description": "No content"}
    if answer == _BYTES:
        return {"description": "The file", "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
    if answer == _TEXT:
        return {"description": "The text", "content": {"text/plain": {"schema": {"type": "string"}}}}
    schema = {"type": "object"} if isinstance(answer, str) else {"$ref": named[answer]}
    return {"description": "The answer", "content": {"application/json": {"schema": schema}}}


def _operation_id(operation: Operation) -> str:
    words = operation.path.replace("{", "").replace("}", "").replace("-", "_").strip("/").split("/")
    return "_".join([operation.method, *(word for word in words if word not in ("api", "v1"))])
