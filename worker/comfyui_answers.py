"""What ComfyUI says, read: frames, histories and refusals, of which nothing can be taken for granted (COMFYUI)."""

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
    BackendLacksModel,
    DeviceFailed,
    Interrupted,
    NodeFailed,
    NoOutput,
    OutOfMemory,
    OutputInvalid,
    WorkflowRefused,
)
from app.domain.progress import node_name
from app.domain.text import clean, traceback_of, word

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEAD: Final = struct.Struct(">II")
"""Of a binary frame: what it is, and a number whose meaning depends on that."""
_PREVIEW: Final = 1
_PREVIEW_WITH_METADATA: Final = 4
_OUT_OF_MEMORY: Final = re.compile(
    r"\b(?:CUDA|HIP|MPS|XPU)(?: backend| error:)? out of memory|CUBLAS_STATUS_ALLOC_FAILED|Allocation on device"
)
_DEVICE: Final = re.compile(
    r"\b(?:CUDA|HIP|XPU|SYCL|MPS|NCCL|cuDNN|cuBLAS|MIOpen)(?: \w+)? (?:error|failure)\b|device-side assert"
    r"|\b(?:CUBLAS|CUDNN|CUSOLVER|CUSPARSE|CUFFT|HIPBLAS|ROCBLAS|MIOPEN)_STATUS_(?!SUCCESS)"
    r"|\bcuda(?:Error|Get|Runtime)\w*"
    r"|\bhipError\w+|miopenStatus|no kernel image is available|Found no NVIDIA driver|No (?:CUDA|HIP) GPUs are avail"
    r"|Torch not compiled with CUDA|GPU has fallen off the bus|\bMPS backend\b.{0,60}(?:error|failed)|UR_RESULT_ERROR"
    r"|command buffer exited with error status",
    re.IGNORECASE,
)
"""Errors of the device, its driver or its libraries: cuBLAS and the like name their status."""
_MISSING: Final = ("value_not_in_list", "custom_validation_failed")
_PROMPT_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
MOST_OUTPUTS: Final = 2_000
"""Files and texts that a run may leave: a film of as many pictures, each with its row and its thumbnail."""
MOST_NAME_CHARS: Final = 1_024
"""Of a file's name, and of its folder's: file systems take a quarter of that for a name."""
_MOST_MARKS: Final = 1_000_000
"""Of commas and opening brackets in an answer: each can stand for a value, which takes up to a hundred bytes."""
_FEW_BYTES: Final = 2**16
_MOST_FRAME_BYTES: Final = 4 * 2**20
"""Of a frame of text. A longer one is not looked at: how a run ended stands in the history too."""
_MOST_FRAME_MARKS: Final = 200_000
_MOST_METADATA_BYTES: Final = 2**16
SENT: Final = "websocket"
"""Instead of a folder of ComfyUI's: the picture came through the event socket, and is nowhere else."""
_MOST_MEMORY_BYTES: Final = 2**50
_MOST_REASONS: Final = 5


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file as ComfyUI's history names it, or a text that stands in the history itself."""

    node_id: str
    filename: str
    subfolder: str = ""
    folder: str = "output"
    text: str | None = None

    @property
    def content(self) -> tuple[str | None, ...]:
        """What it holds, whichever node names it."""
        return self.folder, self.subfolder, self.filename, self.text


@dataclass(frozen=True, slots=True)
class Ending:
    """How a prompt ended, as its history entry proves it."""

    outputs: list[OutputFile] = field(default_factory=list)
    failure: AttemptFailed | None = None
    began_ms: float | None = None
    """When it began by the server's clock, milliseconds since 1970, and below when it had ended; None: not said."""
    ended_ms: float | None = None


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
    """Return what a binary frame shows, in either form (section 5)."""
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
    return _saved(_shown(data.get("node"), data.get("output")))


def read_ending(entry: Mapping[str, Any]) -> Ending:
    """Return what a history entry says. Failed and interrupted differ only in the last message (point 10)."""
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
    outputs = _outputs(entry.get("outputs"))
    if not outputs:
        # "success" is also said of a run whose output a node blocked (section 3).
        return Ending(failure=NoOutput("The workflow ended without leaving an output."))
    if len(outputs) > MOST_OUTPUTS:
        return Ending(failure=OutputInvalid(f"The run left more than {MOST_OUTPUTS:,} outputs."))
    return Ending(
        outputs, began_ms=_moment(messages, "execution_start"), ended_ms=_moment(messages, "execution_success")
    )


def _moment(messages: list[list[Any]], kind: str) -> float | None:
    """Return the timestamp of a message of this kind."""
    for name, data in messages:
        at = data.get("timestamp") if name == kind and isinstance(data, dict) else None
        if isinstance(at, int | float) and math.isfinite(at):
            return at
    return None


def read_refusal(answer: Mapping[str, Any]) -> WorkflowRefused:
    """Return the error for a 400. Its own details are empty when the fault is upstream: they stand in node_errors."""
    error, node_errors = answer.get("error"), answer.get("node_errors")
    kind = word(error.get("type")) if isinstance(error, dict) else ""
    said: list[str] = []
    kinds = [kind] if kind != "prompt_outputs_failed_validation" else []
    for node_id, found in node_errors.items() if isinstance(node_errors, dict) else ():
        for each in _errors_of(found):
            kinds.append(word(each.get("type")))
            if len(said) < _MOST_REASONS:
                message, details = clean(each.get("message"), 300), clean(each.get("details"), 300)
                details = message if kinds[-1].startswith("exception_during") else clean(f"{message}: {details}", 300)
                said.append(f"{word(found.get('class_type'))} (node {word(node_id)}): {details}")
    if isinstance(error, dict) and not said:
        said.append(clean(f"{clean(error.get('message'), 500)} {clean(error.get('details') or '', 500)}", 500))
    elif isinstance(error, str):
        said.append(clean(error, 500))
    text = "; ".join(said[:_MOST_REASONS]) or "no reason was given"
    lacks = bool(kinds) and all(each in _MISSING for each in kinds)
    lacks = lacks or (kind == "invalid_prompt" and "does not exist" in text)
    refused = BackendLacksModel if lacks else WorkflowRefused
    return refused(f"ComfyUI refused the workflow: {text}")


def _errors_of(found: Any) -> list[dict[str, Any]]:
    """Return the errors that a refusal has of one node."""
    errors = found.get("errors") if isinstance(found, dict) else None
    return [each for each in errors if isinstance(each, dict)] if isinstance(errors, list) else []


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


def _outputs(found: Any) -> list[OutputFile]:
    """Return the files and texts of all nodes, each file once of a node; previews only when nothing was saved."""
    nodes = found.items() if isinstance(found, dict) else ()
    shown = [each for node_id, node in nodes for each in _shown(node_id, node)]
    files = list(dict.fromkeys(each for each in shown if each.text is None))
    return (_saved(files) or files) + [each for each in shown if each.text is not None]


def _shown(node_id: Any, shown: Any) -> list[OutputFile]:
    """Return the files and texts that one node shows."""
    found, of = [], word(node_id)
    for key, items in shown.items() if isinstance(shown, dict) else ():
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict):
                file = _file(of, item)
                if file is not None:
                    found.append(file)
            elif key in ("text", "string") and isinstance(item, str):
                found.append(OutputFile(of, "text.txt", text=item))
    return found


def _file(node_id: str, item: dict[str, Any]) -> OutputFile | None:
    """Return the file that a record names; None for one that names none, or none that there can be."""
    name, *where = item.get("filename"), item.get("subfolder") or "", item.get("type") or "output"
    parts = [part for part in (name, *where) if isinstance(part, str) and _can_be_asked_for(part)]
    return OutputFile(node_id, *parts) if name and len(parts) == 1 + len(where) else None


def _can_be_asked_for(part: str) -> bool:
    try:
        return len(part) <= MOST_NAME_CHARS and "\0" not in part and bool(part.encode() or True)
    except UnicodeEncodeError:
        return False


def _saved(files: list[OutputFile]) -> list[OutputFile]:
    return [file for file in files if file.folder == "output" and file.text is None]


def _node_failure(data: Mapping[str, Any]) -> AttemptFailed:
    kind = word(data.get("exception_type"))
    message = clean(data.get("exception_message") or "") or kind or "The backend reported an error without a text."
    node = {"node_id": _text(data.get("node_id")), "node_type": _text(data.get("node_type"))}
    where = f"{node['node_type']} (node {node['node_id']}): " if node["node_type"] else ""
    return _failure_of(kind, message)(f"{where}{message}", **node, traceback=traceback_of(data.get("traceback")))


def _failure_of(kind: str, message: str) -> type[AttemptFailed]:
    """Return the class of what a node raised: its kind and words are those of the drivers and of PyTorch."""
    if kind.endswith("OutOfMemoryError") or _OUT_OF_MEMORY.search(message):
        return OutOfMemory
    return DeviceFailed if kind.endswith("AcceleratorError") or _DEVICE.search(message) else NodeFailed


def _text(value: Any) -> str | None:
    return clean(word(value)) or None
