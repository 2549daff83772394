"""Parses ComfyUI's frames, history entries and statistics; every field is checked (manual, comfyui.md)."""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import WSMsgType

from app.domain.errors import (
    AttemptFailed,
    Interrupted,
)
from app.domain.progress import node_name
from app.domain.text import clean, traceback_of, word
from worker.comfyui.node_failures import failure_of
from worker.comfyui.node_outputs import class_of, read_node, read_shown, saved

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.comfyui.node_outputs import OutputFile

_HEAD: Final = struct.Struct(">II")
"""Head of a binary frame: its type, and a number whose meaning depends on the type."""
_PREVIEW: Final = 1
_PREVIEW_WITH_METADATA: Final = 4
_PROMPT_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MOST_MARKS: Final = 1_000_000
"""Maximum number of commas and opening brackets in an answer: each can mean a value of up to a hundred bytes."""
_FEW_BYTES: Final = 2**16
_MOST_FRAME_BYTES: Final = 4 * 2**20
"""Maximum bytes of a text frame. Longer ones are ignored: the history tells how a run ended, too."""
_MOST_FRAME_MARKS: Final = 200_000
_MOST_METADATA_BYTES: Final = 2**16
_MOST_MEMORY_BYTES: Final = 2**50
_MOST_SILENT: Final = 5
"""Maximum number of nodes named in the message about a run without outputs."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a prompt ended, according to its history entry."""

    outputs: list[OutputFile] = field(default_factory=list)
    failure: AttemptFailed | None = None
    began_ms: float | None = None
    """Start by the server's clock, in milliseconds since 1970; None when unknown."""
    ended_ms: float | None = None
    """End by the server's clock, in milliseconds since 1970; None when unknown."""
    cached: frozenset[str] = frozenset()
    """Nodes that did not run: their outputs come from an earlier run."""
    notes: tuple[str, ...] = ()
    """Warnings about outputs that are left out."""
    silence: str = ""
    """Warning for a run without any outputs."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture from a binary frame: a preview, or an output that a node sends through the event socket."""

    image: memoryview
    prompt_id: str | None
    """None in the old format, which names neither prompt nor node."""
    node_id: str | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """A server's statistics, checked, because heartbeats and the monitor page show them."""

    version: str = ""
    device: str | None = None
    vram_total: int | None = None
    vram_free: int | None = None
    """Not more than `vram_total`."""


def read_frame(message: Any) -> tuple[str, dict[str, Any]] | Picture | None:
    """Return (type, data) of a text frame, or the picture of a binary one; None for any other frame.

    A picture's bytes are not copied, because most pictures, which can be many and large, are never used.
    """
    if message.type is WSMsgType.BINARY:
        return _picture(memoryview(message.data))
    if message.type is not WSMsgType.TEXT or len(message.data) > _MOST_FRAME_BYTES:
        return None
    frame = read_object(message.data, _MOST_FRAME_MARKS)
    kind, data = frame.get("type"), frame.get("data")
    return (kind, data) if isinstance(kind, str) and isinstance(data, dict) else None


def _picture(frame: memoryview) -> Picture | None:
    """Return the picture in a binary frame of the old or the new format (manual, comfyui.md, "Binary frames")."""
    if len(frame) <= _HEAD.size:
        return None
    kind, number = _HEAD.unpack_from(frame)
    if kind == _PREVIEW:
        return Picture(frame[_HEAD.size :], None)
    end = _HEAD.size + number
    if kind != _PREVIEW_WITH_METADATA or end >= len(frame) or number > _MOST_METADATA_BYTES:
        return None
    metadata = read_object(bytes(frame[_HEAD.size : end]))
    prompt_id = prompt_id_of(metadata.get("prompt_id"))
    return Picture(frame[end:], prompt_id, node_name(metadata.get("node_id"))) if prompt_id is not None else None


def prompt_id_of(value: Any) -> str | None:
    """Return a prompt id; None if the value is not a valid one, because ids become part of paths and rows."""
    return value if isinstance(value, str) and _PROMPT_ID.fullmatch(value) else None


def listed(items: Any) -> list[list[Any]]:
    """Return the entries that are lists, from a list; empty for any other value."""
    return [item for item in items if isinstance(item, list)] if isinstance(items, list) else []


def read_stats(answer: Mapping[str, Any]) -> Stats:
    """Return the plausible values of an answer to `GET /system_stats`."""
    system, devices = answer.get("system"), answer.get("devices")
    version = word(system.get("comfyui_version"), 50) if isinstance(system, dict) else ""
    first = devices[0] if isinstance(devices, list) and devices else None
    if not isinstance(first, dict):
        return Stats(version)
    total, free = _memory(first.get("vram_total")), _memory(first.get("vram_free"))
    if total is not None and free is not None:
        free = min(free, total)
    return Stats(version, word(first.get("name"), 100) or None, total, free)


def _memory(value: Any) -> int | None:
    """Return a number of bytes; None for an invalid value."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= _MOST_MEMORY_BYTES:
        return None
    return int(value)


def read_saved(data: Mapping[str, Any]) -> list[OutputFile]:
    """Return the files that a node has saved, from the data of a frame `executed`."""
    return saved(read_node(word(data.get("node")), data.get("output")))


def read_ending(entry: Mapping[str, Any], folder_id: str = "") -> Ending:
    """Return the result in a history entry. A failed and an interrupted run differ only in the last message (point 10).

    `folder_id` is the id in the name of the run's own output folder.
    """
    status = entry.get("status")
    status = status if isinstance(status, dict) else {}
    messages = [each for each in listed(status.get("messages")) if len(each) == 2]
    kind, data = messages[-1] if messages else ("", {})
    data = data if isinstance(data, dict) else {}
    if kind == "execution_interrupted":
        return Ending(
            failure=Interrupted("The run was interrupted at the backend.", node_id=_text(data.get("node_id")))
        )
    if status.get("status_str") != "success" or kind == "execution_error":
        return Ending(failure=_node_failure(data))
    prompt = entry.get("prompt")
    _, _, graph, _, wanted = [*(prompt if isinstance(prompt, list) else ()), *[None] * 5][:5]
    outputs, notes = read_shown(entry.get("outputs"), graph, folder_id)
    return Ending(
        outputs,
        began_ms=_moment(messages, "execution_start"),
        ended_ms=_moment(messages, "execution_success"),
        cached=_cached(messages),
        notes=tuple(notes),
        silence=_silence(graph, wanted),
    )


def _silence(graph: Any, wanted: Any) -> str:
    """Return the warning for a run without outputs: nodes save files without reporting them, or were blocked."""
    nodes = [word(node_id) for node_id in wanted] if isinstance(wanted, list) else []
    shown = ", ".join(f"{node} ({class_of(graph, node) or 'unknown'})" for node in nodes[:_MOST_SILENT])
    whose = f": {'nodes' if len(nodes) > 1 else 'node'} {shown}{', …' if len(nodes) > _MOST_SILENT else ''}"
    return (
        f"The run succeeded and reported no outputs{whose if nodes else ''}. A node may save a file without"
        " reporting it, which then exists only on the backend, or another node may have blocked it."
    )


def _cached(messages: list[list[Any]]) -> frozenset[str]:
    found = [data.get("nodes") for kind, data in messages if kind == "execution_cached" and isinstance(data, dict)]
    return frozenset(word(node_id) for nodes in found if isinstance(nodes, list) for node_id in nodes)


def _moment(messages: list[list[Any]], kind: str) -> float | None:
    """Return the timestamp of the first message of this kind; None if there is none."""
    for name, data in messages:
        at = data.get("timestamp") if name == kind and isinstance(data, dict) else None
        if isinstance(at, int | float) and math.isfinite(at):
            return at
    return None


def read_object(raw: bytes | bytearray | str, most_marks: int = _MOST_MARKS) -> dict[str, Any]:
    """Return the parsed JSON object; an empty one for any other text, and for one with too many values."""
    if len(raw) > _FEW_BYTES and _marks(raw) > most_marks:
        return {}
    try:
        value = orjson.loads(raw)
    except ValueError:
        # Python's parser accepts NaN and lone surrogates, which ComfyUI may send (point 14).
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _marks(raw: bytes | bytearray | str) -> int:
    """Return the number of commas and opening brackets: a fast upper bound of the number of values."""
    if isinstance(raw, str):
        return raw.count(",") + raw.count("[") + raw.count("{")
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def _node_failure(data: Mapping[str, Any]) -> AttemptFailed:
    kind = word(data.get("exception_type"))
    message = clean(data.get("exception_message") or "") or kind or "The backend reported an error without a message."
    node = {"node_id": _text(data.get("node_id")), "node_type": _text(data.get("node_type"))}
    where = f"{node['node_type']} (node {node['node_id']}): " if node["node_type"] else ""
    return failure_of(kind, message)(f"{where}{message}", **node, traceback=traceback_of(data.get("traceback")))


def _text(value: Any) -> str | None:
    return clean(word(value)) or None
