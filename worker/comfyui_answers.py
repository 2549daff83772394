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
    WorkflowRefused,
)
from app.domain.text import clean, traceback_of

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
    """None in the old form, which does not say whose it is."""


def read_frame(message: Any) -> tuple[str, dict[str, Any]] | Picture | None:
    """Return (type, data) of a text frame, or the picture of a binary one; None for what is neither, or not understood.

    Nothing is copied: of the pictures, which can be many and large, most are never looked at.
    """
    if message.type is WSMsgType.BINARY:
        return _picture(memoryview(message.data))
    if message.type is not WSMsgType.TEXT:
        return None
    frame = read_object(message.data)
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
    if kind != _PREVIEW_WITH_METADATA or end >= len(frame):
        return None
    prompt_id = read_object(bytes(frame[_HEAD.size : end])).get("prompt_id")
    return Picture(frame[end:], prompt_id) if isinstance(prompt_id, str) else None


def read_saved(data: Mapping[str, Any]) -> list[OutputFile]:
    """Return the files that a node has saved, as the frame `executed` tells of them while the run goes on."""
    return _saved(_shown(data.get("node"), data.get("output")))


def read_ending(entry: Mapping[str, Any]) -> Ending:
    """Return what a history entry says. Failed and interrupted differ only in the last message (point 10)."""
    status = entry.get("status")
    status = status if isinstance(status, dict) else {}
    messages = [each for each in status.get("messages") or () if isinstance(each, list) and len(each) == 2]
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
    kind = str(error.get("type")) if isinstance(error, dict) else ""
    said, kinds = [], [kind] if kind != "prompt_outputs_failed_validation" else []
    for node_id, found in node_errors.items() if isinstance(node_errors, dict) else ():
        for each in found.get("errors") or () if isinstance(found, dict) else ():
            kinds.append(str(each.get("type")))
            details = f"{each.get('message')}: {each.get('details')}"
            if kinds[-1].startswith("exception_during"):
                details = str(each.get("message"))
            said.append(f"{found.get('class_type')} (node {node_id}): {clean(details, 300)}")
    if isinstance(error, dict) and not said:
        said.append(clean(f"{error.get('message')} {error.get('details') or ''}", 500))
    elif isinstance(error, str):
        said.append(clean(error, 500))
    text = "; ".join(said[:5]) or "no reason was given"
    lacks = bool(kinds) and all(each in _MISSING for each in kinds)
    lacks = lacks or (kind == "invalid_prompt" and "does not exist" in text)
    refused = BackendLacksModel if lacks else WorkflowRefused
    return refused(f"ComfyUI refused the workflow: {text}")


def read_object(raw: bytes | str) -> dict[str, Any]:
    """Return the JSON object that a text is; an empty one for any other text."""
    try:
        value = orjson.loads(raw)
    except ValueError:
        # What Python's own takes and JSON has not: NaN, lone surrogates (point 14).
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _outputs(found: Any) -> list[OutputFile]:
    """Return the files and texts of all nodes; previews only when nothing was saved."""
    nodes = found.items() if isinstance(found, dict) else ()
    shown = [each for node_id, node in nodes for each in _shown(node_id, node)]
    files = [each for each in shown if each.text is None]
    return (_saved(files) or files) + [each for each in shown if each.text is not None]


def _shown(node_id: Any, shown: Any) -> list[OutputFile]:
    """Return the files and texts that one node shows."""
    found = []
    for key, items in shown.items() if isinstance(shown, dict) else ():
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and isinstance(item.get("filename"), str) and item["filename"]:
                folder = str(item.get("type") or "output")
                found.append(OutputFile(str(node_id), item["filename"], str(item.get("subfolder") or ""), folder))
            elif key in ("text", "string") and isinstance(item, str):
                found.append(OutputFile(str(node_id), "text.txt", text=item))
    return found


def _saved(files: list[OutputFile]) -> list[OutputFile]:
    return [file for file in files if file.folder == "output" and file.text is None]


def _node_failure(data: Mapping[str, Any]) -> AttemptFailed:
    kind = str(data.get("exception_type") or "")
    message = clean(data.get("exception_message") or kind or "The backend reported an error without a text.")
    node = {"node_id": _text(data.get("node_id")), "node_type": _text(data.get("node_type"))}
    where = f"{node['node_type']} (node {node['node_id']}): " if node["node_type"] else ""
    return _failure_of(kind, message)(f"{where}{message}", **node, traceback=traceback_of(data.get("traceback")))


def _failure_of(kind: str, message: str) -> type[AttemptFailed]:
    """Return the class of what a node raised: its kind and words are those of the drivers and of PyTorch."""
    if kind.endswith("OutOfMemoryError") or _OUT_OF_MEMORY.search(message):
        return OutOfMemory
    return DeviceFailed if kind.endswith("AcceleratorError") or _DEVICE.search(message) else NodeFailed


def _text(value: Any) -> str | None:
    return clean(value, 200) if value is not None else None
