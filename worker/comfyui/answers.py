"""What ComfyUI says, read: frames, histories and refusals; nothing can be taken for granted (manual, comfyui.md)."""

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
"""Of a binary frame: what it is, and a number whose meaning depends on that."""
_PREVIEW: Final = 1
_PREVIEW_WITH_METADATA: Final = 4
_PROMPT_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MOST_MARKS: Final = 1_000_000
"""Of commas and opening brackets in an answer: each can stand for a value, which takes up to a hundred bytes."""
_FEW_BYTES: Final = 2**16
_MOST_FRAME_BYTES: Final = 4 * 2**20
"""Of a frame of text. A longer one is not looked at: how a run ended stands in the history too."""
_MOST_FRAME_MARKS: Final = 200_000
_MOST_METADATA_BYTES: Final = 2**16
_MOST_MEMORY_BYTES: Final = 2**50
_MOST_SILENT: Final = 5
"""So many nodes are named of a run that left nothing."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a prompt ended, as its history entry proves it."""

    outputs: list[OutputFile] = field(default_factory=list)
    failure: AttemptFailed | None = None
    began_ms: float | None = None
    """When it began by the server's clock, milliseconds since 1970, and below when it had ended; None: not said."""
    ended_ms: float | None = None
    cached: frozenset[str] = frozenset()
    """Nodes that did not run: what they show is of an earlier run."""
    notes: tuple[str, ...] = ()
    """What is to be said of outputs that are left out."""
    silence: str = ""
    """What is to be said where there are no outputs at all."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that came in a binary frame: of a run as it comes into being, or what a node sends on purpose."""

    image: memoryview
    prompt_id: str | None
    """None in the old form, which does not say whose it is, and of what node."""
    node_id: str | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """What a server says of itself: checked, for it stands in heartbeats and on the page."""

    version: str = ""
    device: str | None = None
    vram_total: int | None = None
    vram_free: int | None = None
    """Not more than `vram_total`."""


def read_frame(message: Any) -> tuple[str, dict[str, Any]] | Picture | None:
    """Return (type, data) of a text frame, or the picture of a binary one; None for what is neither, or not understood.

    Nothing is copied: of the pictures, which can be many and large, most are never looked at.
    """
    if message.type is WSMsgType.BINARY:
        return _picture(memoryview(message.data))
    if message.type is not WSMsgType.TEXT or len(message.data) > _MOST_FRAME_BYTES:
        return None
    frame = read_object(message.data, _MOST_FRAME_MARKS)
    kind, data = frame.get("type"), frame.get("data")
    return (kind, data) if isinstance(kind, str) and isinstance(data, dict) else None


def _picture(frame: memoryview) -> Picture | None:
    """Return what a binary frame shows, in either form (manual, comfyui.md, "Binary frames")."""
    if len(frame) <= _HEAD.size:
        return None
    kind, number = _HEAD.unpack_from(frame)
    if kind == _PREVIEW:
        return Picture(frame[_HEAD.size :], None)
    end = _HEAD.size + number
    if kind != _PREVIEW_WITH_METADATA or end >= len(frame) or number > _MOST_METADATA_BYTES:
        return None
    said = read_object(bytes(frame[_HEAD.size : end]))
    prompt_id = prompt_id_of(said.get("prompt_id"))
    return Picture(frame[end:], prompt_id, node_name(said.get("node_id"))) if prompt_id is not None else None


def prompt_id_of(value: Any) -> str | None:
    """Return the id of a prompt; None for what none can be: it becomes part of a path, and of a row."""
    return value if isinstance(value, str) and _PROMPT_ID.fullmatch(value) else None


def listed(items: Any) -> list[list[Any]]:
    """Return the entries of a queue."""
    return [item for item in items if isinstance(item, list)] if isinstance(items, list) else []


def read_stats(answer: Mapping[str, Any]) -> Stats:
    """Return what `GET /system_stats` says, as far as it can be true."""
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
    """Return a number of bytes; None for what is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= _MOST_MEMORY_BYTES:
        return None
    return int(value)


def read_saved(data: Mapping[str, Any]) -> list[OutputFile]:
    """Return the files that a node has saved, as the frame `executed` tells of them while the run goes on."""
    return saved(read_node(word(data.get("node")), data.get("output")))


def read_ending(entry: Mapping[str, Any], folder_id: str = "") -> Ending:
    """Return what a history entry says. Failed and interrupted differ only in the last message (point 10).

    `folder_id` is that by which the run's own folder is named.
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
    """Return what is to be said of a run that left nothing: its nodes save without saying so, or were blocked."""
    nodes = [word(node_id) for node_id in wanted] if isinstance(wanted, list) else []
    shown = ", ".join(f"{node} ({class_of(graph, node) or 'unknown'})" for node in nodes[:_MOST_SILENT])
    whose = f": {'nodes' if len(nodes) > 1 else 'node'} {shown}{', …' if len(nodes) > _MOST_SILENT else ''}"
    return (
        f"The run ended well and left nothing that could be kept{whose if nodes else ''}. A node may save a file and"
        " not name it, which is at the backend then, or be blocked by another one."
    )


def _cached(messages: list[list[Any]]) -> frozenset[str]:
    told = [data.get("nodes") for kind, data in messages if kind == "execution_cached" and isinstance(data, dict)]
    return frozenset(word(node_id) for nodes in told if isinstance(nodes, list) for node_id in nodes)


def _moment(messages: list[list[Any]], kind: str) -> float | None:
    """Return the timestamp of a message of this kind."""
    for name, data in messages:
        at = data.get("timestamp") if name == kind and isinstance(data, dict) else None
        if isinstance(at, int | float) and math.isfinite(at):
            return at
    return None


def read_object(raw: bytes | bytearray | str, most_marks: int = _MOST_MARKS) -> dict[str, Any]:
    """Return the JSON object that a text is; an empty one for any other text, and for one that holds too much."""
    if len(raw) > _FEW_BYTES and _marks(raw) > most_marks:
        return {}
    try:
        value = orjson.loads(raw)
    except ValueError:
        # What Python's own takes and JSON has not: NaN, lone surrogates (point 14).
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _marks(raw: bytes | bytearray | str) -> int:
    """Return how many commas and opening brackets there are: no fewer than values, which are counted so in no time."""
    if isinstance(raw, str):
        return raw.count(",") + raw.count("[") + raw.count("{")
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def _node_failure(data: Mapping[str, Any]) -> AttemptFailed:
    kind = word(data.get("exception_type"))
    message = clean(data.get("exception_message") or "") or kind or "The backend reported an error without a text."
    node = {"node_id": _text(data.get("node_id")), "node_type": _text(data.get("node_type"))}
    where = f"{node['node_type']} (node {node['node_id']}): " if node["node_type"] else ""
    return failure_of(kind, message)(f"{where}{message}", **node, traceback=traceback_of(data.get("traceback")))


def _text(value: Any) -> str | None:
    return clean(word(value)) or None
