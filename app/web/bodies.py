"""Reading what clients send: JSON bodies, queries and ids, each fault with a clear answer."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NoReturn

from aiohttp import web
from aiohttp.http import HttpProcessingError

from app.domain.errors import (
    BadParameter,
    ContentNotFound,
    Fault,
    InvalidRequest,
    JobNotFound,
    MalformedForm,
    MalformedJson,
    UnsupportedBody,
)
from app.web.checking import check_texts

if TYPE_CHECKING:
    from multidict import MultiMapping

MAX_ID: Final = 2**63 - 1
"""The greatest id that the column holds."""
MAX_KEY: Final = 255
_JSON_TYPES: Final = ("application/json", "application/octet-stream", "application/x-www-form-urlencoded")
"""aiohttp says octet-stream when a client names no type; curl's -d says form unless told otherwise."""


async def read_object(request: web.Request, *, optional: bool = False) -> dict[str, Any]:
    """Return the body, a JSON object; an empty one counts as `{}` if it is optional.

    Raises
    ------
    UnsupportedBody, MalformedJson, InvalidRequest
    """
    if request.content_length is not None and request.content_length > request.client_max_size:
        raise web.HTTPRequestEntityTooLarge(max_size=request.client_max_size, actual_size=request.content_length)
    try:
        raw = await request.read()
    except (web.RequestPayloadError, ConnectionError) as error:
        raise MalformedJson("The body broke off, or is not what its Content-Encoding says.") from error
    if optional and not raw.strip():
        return {}
    kind = request.content_type
    if kind not in _JSON_TYPES and not kind.endswith("+json"):
        raise UnsupportedBody(f"The body is to be application/json, not {kind}.")
    try:
        value = json.loads(raw, parse_constant=_no_number, object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise MalformedJson("The body is not UTF-8.") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise MalformedJson(f"The body is no JSON: {error.msg} at {where}.") from error
    except (ValueError, RecursionError) as error:
        raise MalformedJson(
            "The body is no JSON that can be read: a number is too long, or it nests too deep."
        ) from error
    if not isinstance(value, dict):
        raise MalformedJson("The body is to be a JSON object.")
    if faults := check_texts(value):
        raise InvalidRequest("The body holds characters that cannot be kept.", faults)
    return value


async def read_form(request: web.Request) -> MultiMapping[Any]:
    """Return the fields of a form; once read, it is read from memory.

    Raises
    ------
    MalformedForm
        It is none: of a multipart form the boundary is missing, or a part broken off, or the charset is unknown.
    """
    try:
        return await request.post()
    except web.HTTPException:
        raise
    except (ValueError, LookupError, RuntimeError, AssertionError, TypeError, AttributeError, EOFError) as error:
        # What aiohttp's readers raise for nonsense is of many kinds, and none is ours.
        raise MalformedForm("The form cannot be read: it is broken off, or not what its Content-Type says.") from error
    except (web.RequestPayloadError, HttpProcessingError, zlib.error, ConnectionError) as error:
        raise MalformedForm("The form broke off, or is not what its Content-Encoding says.") from error


def idempotency_key_of(request: web.Request) -> str | None:
    """Return the `Idempotency-Key`, or None; raises `BadParameter` for one that is blank, too long, or given twice."""
    given = request.headers.getall("Idempotency-Key", [])
    if not given:
        return None
    key = given[0].strip()
    if len(given) > 1 or not 0 < len(key) <= MAX_KEY or not key.isprintable():
        detail = f"An Idempotency-Key is one text of 1 to {MAX_KEY} printable characters."
        raise BadParameter(detail, [Fault("Idempotency-Key", "invalid_key", detail)])
    return key


def fingerprint(body: dict[str, Any]) -> str:
    """Return a digest that is the same for bodies of the same content, however they are spaced and ordered."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def read_query(query: MultiMapping[str], *, repeatable: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the query as a plain dict; repeatable parameters are lists, and may also be separated by commas."""
    values: dict[str, Any] = {}
    for name in query:
        if name in repeatable:
            values[name] = [part for each in query.getall(name) for part in each.split(",") if part]
        elif len(query.getall(name)) > 1:
            raise InvalidRequest(f"{name} is given twice.", [Fault(name, "repeated", "It can be given once.")])
        else:
            values[name] = query[name]
    if faults := check_texts(values):
        named = [replace(fault, pointer=fault.pointer.removeprefix("/")) for fault in faults]
        raise InvalidRequest("The query holds characters that cannot be searched for.", named)
    return values


def job_id_of(request: web.Request) -> int:
    """Return the job id of the path; the route lets only digits through."""
    job_id = _digits(request.match_info["job_id"])
    if job_id is None:
        raise JobNotFound([request.match_info["job_id"]])  # type: ignore[list-item]
    return job_id


def number_of(request: web.Request, name: str) -> int:
    """Return another number of the path."""
    number = _digits(request.match_info[name])
    if number is None:
        raise ContentNotFound("There is no such content.")
    return number


def _digits(text: str) -> int | None:
    # int() refuses more than 4300 digits with an error of its own, and takes digits of every script.
    return int(text) if text.isascii() and len(text) < 20 and int(text) <= MAX_ID else None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        # Which of the two is meant nobody can know; in a workflow the other node would silently be lost.
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise MalformedJson(f"The body is no JSON that can be read: it has the name {twice[:100]!r} twice.")
    return value


def _no_number(text: str) -> NoReturn:
    raise MalformedJson(f"The body is no JSON: {text} is no JSON number.")
