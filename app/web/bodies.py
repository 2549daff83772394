"""Reading what clients send: JSON bodies, queries and ids, each fault with a clear answer."""

from __future__ import annotations

import hashlib
import json
import json.scanner
import zlib
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NoReturn

from aiohttp import web
from aiohttp.http import HttpProcessingError

from app.domain.errors import (
    BadParameter,
    BodyTooLarge,
    ContentNotFound,
    Fault,
    InvalidRequest,
    JobNotFound,
    MalformedForm,
    MalformedJson,
    UnsupportedBody,
)
from app.domain.hints import shown
from app.keys import SIDELINE
from app.web.body_intake import INCOMING, patience_for
from app.web.checking import check_texts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multidict import MultiMapping

MAX_ID: Final = 2**63 - 1
"""The greatest id that the column holds."""
MAX_KEY: Final = 255
_GRAPHS: Final = ("workflow", "overrides", "extra_pnginfo", "extra_data")
"""Members of a body that become a graph, or go with it."""
MAX_VALUES: Final = 500_000
"""Commas, colons and opening brackets of a body: each value takes up to a hundred bytes when it is read."""
MANY_VALUES: Final = 100_000
"""With more of them a body is read patiently."""
MAX_DIGITS: Final = 500
"""Maximum number of digits of an integer; a fraction cannot have more of them before its point."""
MAX_NAMES: Final = 50_000
"""Maximum number of names of one object: an object is made, copied and freed without a pause for other tasks."""
_PIECE: Final = 1_000


async def read_object(request: web.Request, *, optional: bool = False) -> dict[str, Any]:
    """Return the body, a JSON object; an empty one counts as `{}` if it is optional.

    Raises
    ------
    UnsupportedBody, MalformedJson, InvalidRequest, BodyTooLarge, BodyTooSlow, Busy
    """
    async with request.app[INCOMING].body(request) as raw:
        if optional and not raw.strip():
            return {}
        check_kind(request)
        return await request.app[SIDELINE].do(len(raw), parse, raw)


def check_kind(request: web.Request) -> None:
    """Raise `UnsupportedBody` unless the body says that it is JSON, which takes a page of another site a permission."""
    kind = request.content_type
    if kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedBody(f"The body is to be application/json, not {shown(kind)}.")


def parse(raw: bytes) -> dict[str, Any]:
    """Return what a body says. Of a large one, in a thread, it lets others go on all the while.

    Raises
    ------
    MalformedJson, InvalidRequest, BodyTooLarge
    """
    values = sum(map(raw.count, (b",", b":", b"[", b"{")))
    if values > MAX_VALUES:
        raise BodyTooLarge(f"The body holds some {values} names and values; at most {MAX_VALUES} are taken.")
    value = decoded(raw, patient=values > MANY_VALUES)
    if not isinstance(value, dict):
        raise MalformedJson("The body is to be a JSON object.")
    if faults := check_texts(value, _GRAPHS):
        raise InvalidRequest("The body holds characters that cannot be kept.", faults)
    return value


def decoded(raw: bytes, *, patient: bool) -> Any:
    """Return the value of a JSON text; raises `MalformedJson`.

    `patient` reads more slowly, and other threads can run meanwhile.
    """
    try:
        return (_Decoder(patient=True) if patient else _QUICK).decode(_text(raw))
    except UnicodeDecodeError as error:
        raise MalformedJson("The body is not UTF-8.") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise MalformedJson(f"The body is no JSON: {error.msg} at {where}.") from error
    except (ValueError, RecursionError) as error:
        raise MalformedJson(
            "The body is no JSON that can be read: a number is too long, or it nests too deep."
        ) from error


async def read_form(request: web.Request) -> MultiMapping[Any]:
    """Return the fields of a form; once read, it is read from memory.

    Raises
    ------
    MalformedForm
        It is none: of a multipart form the boundary is missing, or a part broken off, or the charset is unknown.
    BodyTooSlow
    """
    try:
        return await patience_for(request).wait_for(request.post())
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
    digest = hashlib.sha256()
    for piece in _sorted_json(body, 3):
        digest.update(piece.encode())
    return digest.hexdigest()


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
    if len(pairs) > MAX_NAMES:
        raise BodyTooLarge(f"The body has an object of {len(pairs)} names; at most {MAX_NAMES} are taken.")
    value = dict(pairs)
    if len(value) < len(pairs):
        # Which of the two is meant cannot be known; in a workflow the other node would silently be lost.
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise MalformedJson(f"The body is no JSON that can be read: it has the name {twice[:100]!r} twice.")
    return value


def _no_number(text: str) -> NoReturn:
    raise MalformedJson(f"The body is no JSON: {text} is no JSON number.")


def _integer(text: str) -> int:
    # Reading and writing a number takes the square of its length.
    if len(text) > MAX_DIGITS:
        raise ValueError("too many digits")
    return int(text)


def _fraction(text: str) -> float:
    return float(text)


class _Decoder(json.JSONDecoder):
    """Reads JSON, and refuses duplicate names, NaN, infinity and numbers with too many digits.

    The quick decoder is the standard library's in C, which blocks all other threads until it has finished. The patient
    one is the standard library's in Python.
    """

    def __init__(self, *, patient: bool) -> None:
        super().__init__(
            object_pairs_hook=_object, parse_int=_integer, parse_float=_fraction, parse_constant=_no_number
        )
        if patient:
            self.parse_object = json.decoder.JSONObject  # type: ignore[attr-defined]
            self.parse_array = json.decoder.JSONArray  # type: ignore[attr-defined]
            self.scan_once = json.scanner.py_make_scanner(self)  # type: ignore[attr-defined]


_QUICK: Final = _Decoder(patient=False)


def _text(raw: bytes) -> str:
    # As json.loads has it: UTF-16 and UTF-32 are JSON too, and a surrogate that is encoded is found by `check_texts`.
    return raw.decode(json.detect_encoding(raw), "surrogatepass")


def _sorted_json(value: Any, levels: int) -> Iterator[str]:
    """Yield the JSON text of a value, its names sorted, in pieces, so that other tasks run in between."""
    if levels and isinstance(value, dict):
        yield "{"
        for place, key in enumerate(sorted(value)):
            yield f"{', ' if place else ''}{json.dumps(key)}: "
            yield from _sorted_json(value[key], levels - 1)
        yield "}"
    elif levels and isinstance(value, list):
        yield "["
        for start in range(0, len(value), _PIECE):
            yield ", " if start else ""
            yield json.dumps(value[start : start + _PIECE], sort_keys=True)[1:-1]
        yield "]"
    else:
        yield json.dumps(value, sort_keys=True)
