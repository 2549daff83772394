"""SVG and JSON: whether they are complete. And tensors, whose header is JSON that states their length."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final
from xml.parsers import expat

from app.media.containers.source import MOST_TEXT_BYTES, STEP_BYTES, Damaged, Form

if TYPE_CHECKING:
    from app.media.containers.source import Source

_MOST_XML_BYTES: Final = 16 * 2**20
"""Of a tag without an end expat reads all again with each piece."""
_MOST_JSON_BYTES: Final = 8 * 2**20
_SVG_STEP_BYTES: Final = 2**18
_MOST_ELEMENTS: Final = 10_000
"""Of a drawing, among which the one with metadata is looked for: it stands at the beginning."""
_DOCTYPE: Final = rb"<!DOCTYPE[^\[>]{0,500}(?:\[[^\]]{0,8000}\]\s*)?>"
_PROLOG: Final = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:\s|<\?.{0,500}?\?>|<!--.{0,4000}?-->|" + _DOCTYPE + rb")*+<svg[\s>/]", re.DOTALL
)
_SVG: Final = "http://www.w3.org/2000/svg"
_PIXELS: Final = re.compile(r"\s*(\d{1,9})(?:\.\d+)?(?:px)?\s*", re.ASCII)
_UNENDED: Final = re.compile(r"[-+\w.]{0,40}|\\u?[0-9a-fA-F]{0,3}", re.ASCII)
"""What may stand where a JSON text was cut off: the beginning of a number or a word, or of an escape."""


def is_svg(start: bytes) -> bool:
    """Whether a text begins as a drawing does."""
    return _PROLOG.match(start) is not None


class _HasEntities(Exception):
    """The SVG defines entities, which can expand to far more text than the file contains."""


def svg(source: Source) -> Form | None:
    """Look whether an SVG is well-formed; None for one that is too long for that, or has entities of its own.

    Nothing that it refers to is fetched.
    """
    if source.size > _MOST_XML_BYTES:
        return None
    told: dict[str, str] = {}
    parser = expat.ParserCreate(namespace_separator=" ")

    def begin(name: str, attributes: dict[str, str]) -> None:
        told.update(attributes, name=name)
        parser.StartElementHandler = None

    def refuse(*told: object) -> None:
        raise _HasEntities

    parser.StartElementHandler = begin
    parser.EntityDeclHandler = refuse
    try:
        for piece in source.pieces(0, source.size):
            parser.Parse(piece, False)
        parser.Parse(b"", True)
    except _HasEntities:
        return None
    except expat.ExpatError as error:
        raise Damaged("it is not well-formed, or cut off") from error
    if told["name"] != f"{_SVG} svg":
        return None
    return Form("image", "image/svg+xml", "svg", _pixels(told.get("width")), _pixels(told.get("height")))


class _Enough(Exception):
    """No more of a drawing need be read."""


def svg_metadata(source: Source) -> str | None:
    """Return the text of a drawing's first metadata that begins like JSON; None where none does.

    It is cut off somewhere behind `MOST_TEXT_BYTES`, and begins within the first megabyte, or is not found: ComfyUI
    writes it first of all, and long tags of many attributes take expat seconds. One with entities is not read.
    """
    if source.size > _MOST_XML_BYTES:
        return None
    # Without namespaces: their names are made anew for each element, and may be long.
    parser = expat.ParserCreate()
    parser.buffer_text, parser.buffer_size, parser.ordered_attributes = True, 2**16, True
    told: list[str] = []
    found: str | None = None
    elements = length = 0

    def begin(name: str, attributes: list[str]) -> None:
        nonlocal elements
        del attributes
        elements += 1
        if elements > _MOST_ELEMENTS:
            raise _Enough
        parser.CharacterDataHandler = tell if name.rpartition(":")[2] == "metadata" else None

    def end(name: str) -> None:
        nonlocal found
        parser.CharacterDataHandler = None
        if told and name.rpartition(":")[2] == "metadata":
            found = "".join(told).strip()
            told.clear()
            if found.startswith("{"):
                raise _Enough
            found = None

    def tell(text: str) -> None:
        nonlocal length, found
        told.append(text)
        length += len(text)
        if length > MOST_TEXT_BYTES:
            found = "".join(told)
            raise _Enough

    def refuse(*told: object) -> None:
        raise _HasEntities

    parser.StartElementHandler, parser.EndElementHandler, parser.EntityDeclHandler = begin, end, refuse
    try:
        for at in range(0, source.size, _SVG_STEP_BYTES):
            parser.Parse(source.most(at, _SVG_STEP_BYTES), False)
            if at > STEP_BYTES and not told:
                return None
    except _HasEntities:
        return None
    except _Enough:
        pass
    except expat.ExpatError as error:
        raise Damaged("it is not well-formed, or cut off") from error
    return found


def _pixels(value: str | None) -> int | None:
    """Return a length in pixels; None for one in other units, or for none."""
    match = _PIXELS.fullmatch(value or "")
    return int(match[1]) or None if match else None


def require_json(source: Source) -> None:
    """Raise `Damaged` for a JSON text that is cut off; other errors in it are accepted."""
    if source.size > _MOST_JSON_BYTES:
        return
    raw = source.at(0, source.size)
    try:
        text = raw.decode("utf-8-sig")
        json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg.startswith("Unterminated") or _UNENDED.fullmatch(text[error.pos :].strip()):
            raise Damaged("it is cut off") from error
    except UnicodeDecodeError as error:
        if error.end == len(raw) and "unexpected end" in error.reason:
            raise Damaged("it is cut off") from error
    except (ValueError, RecursionError):
        # A number of more digits than Python reads, or deeper than it goes.
        return


def tensors(source: Source) -> None:
    """Raise `Damaged` for a safetensors file that is cut off."""
    length = source.number(0, 8, "little")
    source.require(8 + length)
    if length > _MOST_JSON_BYTES:
        return
    told = json.loads(source.at(8, length))
    ends = [each["data_offsets"][1] for name, each in told.items() if name != "__metadata__"]
    source.require(8 + length + max(ends, default=0))
