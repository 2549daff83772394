"""Errors on the wire: one middleware turns every error into problem JSON (RFC 9457) and gives requests an id."""

from __future__ import annotations

import logging
import math
import random
import re
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from app.domain import errors
from app.domain.text import printable
from app.keys import METRICS
from app.runtime.json_text import dumps
from app.web.answers import fault_answers
from app.web.payloads import Problem, ProblemError
from app.web.proxies import note_directly_asked, root_path
from app.web.rates import RATE, rate_headers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

log = logging.getLogger(__name__)

STATUS_OF: Final[dict[type[errors.GenonautError], HTTPStatus]] = {
    errors.MalformedJson: HTTPStatus.BAD_REQUEST,
    errors.MalformedForm: HTTPStatus.BAD_REQUEST,
    errors.BadParameter: HTTPStatus.BAD_REQUEST,
    errors.InvalidRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.UnsupportedBody: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.BodyTooSlow: HTTPStatus.REQUEST_TIMEOUT,
    errors.ForeignOrigin: HTTPStatus.FORBIDDEN,
    errors.ForeignHost: HTTPStatus.MISDIRECTED_REQUEST,
    errors.SignInNeeded: HTTPStatus.UNAUTHORIZED,
    errors.WrongKey: HTTPStatus.UNAUTHORIZED,
    errors.WrongTicket: HTTPStatus.UNAUTHORIZED,
    errors.WrongSignature: HTTPStatus.FORBIDDEN,
    errors.LinkExpired: HTTPStatus.FORBIDDEN,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.TooMany: HTTPStatus.TOO_MANY_REQUESTS,
    errors.KeyTaken: HTTPStatus.CONFLICT,
    errors.NoAdminLeft: HTTPStatus.CONFLICT,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.JobAlreadyFinished: HTTPStatus.CONFLICT,
    errors.JobNotFinished: HTTPStatus.CONFLICT,
    errors.JobNotRetryable: HTTPStatus.CONFLICT,
    errors.JobNotWaiting: HTTPStatus.CONFLICT,
    errors.JobNotMovable: HTTPStatus.CONFLICT,
    errors.UploadInUse: HTTPStatus.CONFLICT,
    errors.StorageFailed: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.InvalidTransition: HTTPStatus.CONFLICT,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""The nearest class in an error's ancestry counts; what is not here is a bug, and a 500."""

RETRY_HELPS: Final[dict[str, bool]] = {
    "malformed_json": False,
    "malformed_form": False,
    "bad_parameter": False,
    "invalid_request": False,
    "invalid_workflow": False,
    "unreadable_workflow": False,
    "idempotency_key_reused": False,
    "no_seed": False,
    "invalid_upload": False,
    "unsupported_media_type": False,
    "bad_request": False,
    "forbidden": False,
    "body_too_large": False,
    "body_too_slow": True,
    "range_not_satisfiable": False,
    "foreign_origin": False,
    "foreign_host": False,
    "sign_in_needed": False,
    "wrong_key": False,
    "wrong_ticket": False,
    "wrong_signature": False,
    "link_expired": False,
    "key_in_address": False,
    "key_taken": False,
    "no_admin_left": False,
    "too_many_requests": True,
    "too_many_waiting": True,
    "too_many_today": True,
    "too_many_sockets": True,
    "upload_limit": True,
    "too_many_wrong_keys": True,
    "not_found": False,
    "job_not_found": False,
    "content_not_found": False,
    "thumbnail_due": True,
    "upload_not_found": False,
    "no_workflow": False,
    "upload_in_use": True,
    "storage_failed": True,
    "backend_not_found": False,
    "node_class_not_found": False,
    "worker_not_found": False,
    "task_not_found": False,
    "key_not_found": False,
    "method_not_allowed": False,
    "job_already_finished": False,
    "job_not_finished": True,
    "job_not_retryable": False,
    "job_not_waiting": False,
    "job_not_movable": False,
    "invalid_transition": True,
    "database_unavailable": True,
    "redis_unavailable": True,
    "busy": True,
    "internal_error": True,
}
"""Error code → whether the same request may succeed later; the documentation's table comes from it."""

_OF_HTTP: Final = {
    "bad_request": HTTPStatus.BAD_REQUEST,
    "range_not_satisfiable": HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    "method_not_allowed": HTTPStatus.METHOD_NOT_ALLOWED,
    "internal_error": HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""Code → status of what is none of our errors."""

_CODE_OF: Final[dict[HTTPStatus, str]] = {
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: "range_not_satisfiable",
}
"""Codes of aiohttp's own exceptions. Not made from the phrases: those change with Python's version."""

REQUEST_ID: Final = web.RequestKey("REQUEST_ID", str)
_REQUEST_ID: Final = re.compile(r"[\w.-]{1,64}", re.ASCII)


@web.middleware
async def errors_as_problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer every error as problem JSON, 404 and 500 included, and put `X-Request-Id` on every answer."""
    note_directly_asked(request)
    request[RATE] = None
    given = request.headers.get("X-Request-Id", "")
    request[REQUEST_ID] = given if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"  # a name
    try:
        response = await handler(request)
    except errors.GenonautError as error:
        response = of_error(request, error)
    except web.HTTPRequestEntityTooLarge:
        detail = "The body is larger than this service takes (MAX_BODY_BYTES)."
        response = problem(request, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", detail)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        response = _of_http(request, error)
    except Exception:
        log.exception("request %s: %s %s", request[REQUEST_ID], request.method, request.path)
        detail = "Something went wrong here. The request id finds it in the server's log."
        response = problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", detail)
    if not response.prepared:
        if request[RATE] is not None:
            response.headers.update(rate_headers(request))
        response.headers["X-Request-Id"] = request[REQUEST_ID]
    return response


def status_of_code(code: str) -> HTTPStatus:
    """Return the status with which a problem of this code is answered; a `LookupError` for one that there is not."""
    return (_statuses() | _OF_HTTP)[code]


@cache
def _statuses() -> dict[str, HTTPStatus]:
    found, kinds = dict[str, HTTPStatus](), [errors.GenonautError]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if (status := next((STATUS_OF[each] for each in kind.__mro__ if each in STATUS_OF), None)) is not None:
            found[kind.code] = status
    return found


def of_error(request: web.Request, error: errors.GenonautError) -> web.Response:
    """Return the answer for one of our errors."""
    status = next((STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF), None)
    if status is None:
        log.error("request %s: unexpected %s", request[REQUEST_ID], type(error).__name__, exc_info=error)
        detail = "Something went wrong here. The request id finds it in the server's log."
        return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", detail)
    if isinstance(error, errors.TooMany):
        request.config_dict[METRICS].limited(error.code)
    faults = error.faults if isinstance(error, errors.InvalidRequest | errors.NodeClassNotFound) else ()
    response = problem(request, status, error.code, str(error), faults)
    if isinstance(error, errors.Unavailable | errors.ThumbnailDue | errors.TooMany):
        response.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if status is HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="Genonaut"'
    return response


def problem(
    request: web.Request,
    status: HTTPStatus,
    code: str,
    detail: str,
    faults: Sequence[errors.Fault] = (),
    **more: Any,
) -> web.Response:
    """Return a problem document; `more` are members besides the usual ones, such as the job of a 409."""
    document = Problem(
        type=f"urn:genonaut:problem:{code}",
        title=status.phrase,
        status=status,
        # It may tell what was sent, and that may be any bytes.
        detail=printable(detail),
        instance=printable(root_path(request) + request.path),
        code=code,
        request_id=request[REQUEST_ID],
        errors=[ProblemError(**each) for each in fault_answers(faults)],
    )
    told = document.model_dump(mode="json") | more
    told["errors"] = [{key: value for key, value in each.items() if value is not None} for each in told["errors"]]
    return web.Response(text=dumps(told), status=status, content_type="application/problem+json")


def _of_http(request: web.Request, error: web.HTTPException) -> web.Response:
    status = HTTPStatus(error.status)
    match status:
        case HTTPStatus.NOT_FOUND:
            code, detail = "not_found", f"There is nothing at {request.path}."
        case HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = error.headers.get("Allow", "")
            code, detail = "method_not_allowed", f"{request.path} takes {allowed}, not {request.method}."
        case _:
            code, detail = _CODE_OF.get(status, "bad_request"), error.text or status.phrase
    response = problem(request, status, code, detail)
    for name in ("Allow", "Content-Range"):
        if name in error.headers:
            response.headers[name] = error.headers[name]
    return response
