"""Checking what clients send: every fault named, by its place in the body or the query."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import (
    BaseModel,
    ValidationError,
)

from app.domain.errors import Fault, InvalidRequest, MalformedJson
from app.domain.hints import Hints, token

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_JSON_DEPTH: Final = 64
MAX_FAULTS: Final = 100
"""Maximum number of faults in an answer. A body with more is wrong as a whole."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
T = TypeVar("T", bound=BaseModel)


def check(model: type[T], data: Any, *, pointer: str = "/") -> T:
    """Return the data as the model, or raise `InvalidRequest` with every fault; `pointer` goes before a field's name.

    `pointer` is "/" for a body, whose faults are named by JSON pointer, and "" for a query.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        hints = Hints()
        faults = [_fault(each, pointer, model, hints) for each in found[:MAX_FAULTS]]
        listed = "; ".join(f"{fault.pointer or 'body'}: {fault.detail}" for fault in faults[:3])
        rest = f"{len(found) - 3}" if len(found) < MAX_FAULTS else "many"
        more = f"; and {rest} more" if len(found) > 3 else ""
        raise InvalidRequest(f"The request is not valid. {listed}{more}", faults) from error


def check_texts(value: Any, free: Collection[str] = ()) -> list[Fault]:
    """Return where a value holds what PostgreSQL cannot take: NUL and lone surrogates in texts.

    Numbers without a JSON form are found too, for clients that parse JSON loosely. `free` are members of the value, an
    object, whose texts may hold anything, though their names may not: graphs are kept in a form of their own.

    Raises
    ------
    MalformedJson
        It is nested too deep.
    """
    kept = {name: each for name, each in value.items() if name not in free} if free else value
    graphs = {name: value[name] for name in free if name in value}
    if _is_sound(kept, 0) and _is_sound(graphs, 0, texts=False):
        return []
    faults: list[Fault] = []
    _look_into(kept, "", 0, faults)
    _look_into(graphs, "", 0, faults, texts=False)
    return faults


def _is_sound(value: Any, depth: int, *, texts: bool = True) -> bool:
    """Whether there is nothing to be named, which is quickly found out: pointers are made only when there is."""
    if isinstance(value, str):
        return not texts or ("\0" not in value and (value.isascii() or not _SURROGATE.search(value)))
    if isinstance(value, dict):
        return depth < MAX_JSON_DEPTH and all(
            _is_sound(key, depth) and _is_sound(each, depth + 1, texts=texts) for key, each in value.items()
        )
    if isinstance(value, list):
        return depth < MAX_JSON_DEPTH and all(_is_sound(each, depth + 1, texts=texts) for each in value)
    return not isinstance(value, float) or math.isfinite(value)


def _look_into(value: Any, pointer: str, depth: int, faults: list[Fault], *, texts: bool = True) -> None:
    if depth > MAX_JSON_DEPTH:
        raise MalformedJson(f"The body is nested deeper than {MAX_JSON_DEPTH} levels.")
    if len(faults) >= MAX_FAULTS:
        return
    if isinstance(value, str):
        faults += _text_faults(value, pointer) if texts else []
    elif isinstance(value, float) and not math.isfinite(value):
        faults.append(Fault(pointer, "not_finite", "NaN and infinite numbers are no JSON."))
    elif isinstance(value, dict):
        for key, each in value.items():
            below = f"{pointer}/{token(key)}"
            faults += _text_faults(key, below)
            _look_into(each, below, depth + 1, faults, texts=texts)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            _look_into(each, f"{pointer}/{index}", depth + 1, faults, texts=texts)


def _text_faults(text: str, pointer: str) -> list[Fault]:
    if "\0" in text:
        return [Fault(pointer, "nul_character", "A text must not contain the NUL character.")]
    if not text.isascii() and _SURROGATE.search(text):
        return [Fault(pointer, "lone_surrogate", "A text must not contain a lone surrogate: it is no Unicode.")]
    return []


def _fault(error: Any, pointer: str, model: type[BaseModel], hints: Hints) -> Fault:
    location = [str(part) for part in error["loc"]]
    detail = error["msg"].removeprefix("Value error, ")
    if not location and (match := re.match(r"^(\w+): (.*)$", detail)):
        # Of a model as a whole: it says itself which field is meant.
        location, detail = [match[1]], match[2]
    code, suggestion = error["type"], None
    if code == "extra_forbidden":
        code, detail = "unknown_field", "There is no such field."
        if len(location) == 1:
            suggestion = hints.nearest(location[0], model.model_fields)
    expected = error.get("ctx", {}).get("expected", "") if code in ("literal_error", "enum") else ""
    allowed = re.findall(r"'([^']*)'", expected)
    where = pointer + "/".join(map(token, location)) if location else ""
    return Fault(where, code, detail, tuple(allowed), suggestion)
