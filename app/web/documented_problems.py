"""The problems that an operation can answer with, as the OpenAPI document has them: by status, with codes and headers.

An operation names the codes of its own. Those that come before any handler, or whatever it does, are added here.
"""

from __future__ import annotations

from collections import defaultdict
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from app.web.problems import status_of_code

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OF_HOST: Final = ("foreign_host",)
"""Whoever asks, and whatever for: the name that is asked for is none of this server's."""
OF_ACCESS: Final = (
    *("bad_request", "bad_parameter", "key_in_address", "sign_in_needed", "wrong_key", "forbidden", "foreign_origin"),
    *("too_many_requests", "too_many_wrong_keys"),
)
"""Wherever it matters who asks: among them two keys at once, or one in the address."""
OF_SERVERS: Final = ("internal_error", "database_unavailable", "redis_unavailable")
OF_LINK: Final = ("wrong_signature", "link_expired")
OF_PATH: Final = ("not_found",)
"""Of a path with a part that can be no number, or no name, there is nothing at all."""
OF_QUERY: Final = ("invalid_request",)
OF_BODY: Final = (
    "malformed_json",
    "body_too_slow",
    "body_too_large",
    "unsupported_media_type",
    "invalid_request",
    "busy",
)
OF_FILE: Final = (
    "malformed_form",
    "body_too_slow",
    "body_too_large",
    "unsupported_media_type",
    "invalid_upload",
    "busy",
)
OF_WAITING: Final = ("too_many_waiting", "too_many_today")

HEADERS: Final[Mapping[str, Any]] = {
    "Retry-After": {
        "description": "After so many seconds it may be tried again.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "RateLimit": {
        "description": 'Of a key whose requests are limited: `"requests";r=19;t=1`, how many are left, and in how many '
        "seconds all of them are back (draft-ietf-httpapi-ratelimit-headers-10).",
        "schema": {"type": "string"},
    },
    "RateLimit-Policy": {
        "description": 'Of a key whose requests are limited: `"requests";q=20;w=2`, how many it may send at once, and '
        "in how many seconds so many come back.",
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {"description": "How one says who one is.", "schema": {"type": "string"}},
}
"""Headers of problems by name, as components of the document."""
_AGAIN: Final = ("Retry-After",)
_OF_STATUS: Final = {
    HTTPStatus.UNAUTHORIZED: ("WWW-Authenticate",),
    HTTPStatus.TOO_MANY_REQUESTS: ("Retry-After", "RateLimit", "RateLimit-Policy"),
    HTTPStatus.SERVICE_UNAVAILABLE: _AGAIN,
}
_OF_CODE: Final = {"thumbnail_due": _AGAIN}


def problem_answers(codes: Iterable[str], schema: str) -> dict[str, dict[str, Any]]:
    """Return the answers for problems with these codes, by status; `schema` refers to that of a problem."""
    by_status: dict[HTTPStatus, set[str]] = defaultdict(set)
    for code in codes:
        by_status[status_of_code(code)].add(code)
    return {str(int(status)): _answer(status, sorted(named), schema) for status, named in sorted(by_status.items())}


def _answer(status: HTTPStatus, codes: list[str], schema: str) -> dict[str, Any]:
    named = {"allOf": [{"$ref": schema}, {"properties": {"code": {"enum": codes}}}]}
    answer: dict[str, Any] = {
        "description": f"{status.phrase}: {', '.join(f'`{code}`' for code in codes)}",
        "content": {"application/problem+json": {"schema": named}},
    }
    headers = dict.fromkeys([*_OF_STATUS.get(status, ()), *(each for code in codes for each in _OF_CODE.get(code, ()))])
    if headers:
        answer["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    return answer
