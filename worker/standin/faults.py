"""Faults on demand: what goes wrong, how often, and for which node, route or client."""

import asyncio
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final

from worker.standin.gpu_faults import GpuFault
from worker.standin.nodes import ThreadDiedError
from worker.standin.tracebacks import Place


class FaultKind(StrEnum):
    """What can go wrong. The first group waits for its occasion, the second happens at once."""

    NODE_ERROR = "node_error"
    """A node raises: `node`, `message`, `exception_type`."""
    OUT_OF_MEMORY = "out_of_memory"
    """A node needs more memory than there is: `node`, `message`."""
    BROKEN_GPU = "broken_gpu"
    """A node raises what a broken device raises: `gpu`. With `times` None every run fails at its first node."""
    SLOW_CHECK = "slow_check"
    """`seconds` pass without a frame between `execution_start` and `execution_cached`, as a slow IS_CHANGED has it."""
    SLOW_FIRST_NODE = "slow_first_node"
    """`seconds` pass without a frame between `execution_cached` and the first node."""
    HANG = "hang"
    """A node never ends, not even when interrupted, or after `seconds`; clearing the fault lets it go on."""
    SLOW_STEPS = "slow_steps"
    """A progress step takes `seconds` longer."""
    HISTORY_LATE = "history_late"
    """The job stays in the queue for `seconds` after the frame that announces its end."""
    HISTORY_LOST = "history_lost"
    """A job leaves no history entry, though its frames came."""
    DEAD_THREAD_AT_START = "dead_thread_at_start"
    """The execution thread ends right after `execution_start`: `logged`, `message`."""
    SLOW_HTTP = "slow_http"
    """An answer takes `seconds` longer: `route`, `method`."""
    REFUSE = "refuse"
    """A request is answered `status` and `body`: `route`, `method`."""
    REFUSE_PROMPT = "refuse_prompt"
    """The same for `POST /prompt` alone."""
    NONSENSE = "nonsense"
    """A request is answered 200 with `body`, by default a page: `route`, `method`, `content_type`."""
    DROP_CONNECTION = "drop_connection"
    """A connection is cut before the request is looked at: `route`, `method`."""
    LOSE_ANSWER = "lose_answer"
    """A prompt is queued, and the connection cut in place of the answer."""
    VIEW = "view"
    """`/view` fails for a file that is there: `how`."""
    UPLOAD = "upload"
    """An upload of a picture or a mask fails, whatever is uploaded: `how`, `seconds`."""
    REFUSE_SOCKETS = "refuse_sockets"
    """`/ws` is answered 503."""
    DEAF_CONNECTIONS = "deaf_connections"
    """A new socket gets no frame at all, not even the first."""
    LOSE_FRAMES = "lose_frames"
    """Frames are lost: `frames`, `client_id`."""

    DEAD_THREAD = "dead_thread"
    """The execution thread ends; what runs stays in the queue: `logged`, `message`."""
    FOREIGN_PROMPT = "foreign_prompt"
    """Prompts of another client are queued, `times` of them: `foreign`, `seconds`, `client_id`."""
    DEAF = "deaf"
    """The open sockets get no frames any more: `client_id`."""
    DROP_SOCKETS = "drop_sockets"
    """The open sockets are cut, 1006: `client_id`."""
    SEND_FRAME = "send_frame"
    """A text frame with `body` is sent: `client_id`."""
    EMPTY_INPUT = "empty_input"
    """The input folder is emptied; nothing else changes."""
    RESTART = "restart"
    """Queue, history and models are forgotten, sockets cut; for `seconds` no connection is answered."""
    CRASH = "crash"
    """The process ends with code 1; within a test, nothing is answered any more."""


IMMEDIATE = frozenset(
    {
        FaultKind.DEAD_THREAD,
        FaultKind.FOREIGN_PROMPT,
        FaultKind.DEAF,
        FaultKind.DROP_SOCKETS,
        FaultKind.SEND_FRAME,
        FaultKind.EMPTY_INPUT,
        FaultKind.RESTART,
        FaultKind.CRASH,
    }
)
"""Kinds that are carried out when they are asked for, once, and never wait."""


class ViewFault(StrEnum):
    """How `/view` fails: the values of `Fault.how` for it."""

    MISSING = "missing"
    ERROR = "error"
    TRUNCATED = "truncated"
    NOT_AN_IMAGE = "not_an_image"
    EMPTY = "empty"
    UNAVAILABLE = "unavailable"
    """503, as a proxy in front of ComfyUI answers."""


class UploadFault(StrEnum):
    """How an upload fails: the values of `Fault.how` for it."""

    ERROR = "error"
    """500, and no file."""
    TOO_LARGE = "too_large"
    """413 before the form is read, and no file, as a proxy in front of ComfyUI may have it."""
    DISK_FULL = "disk_full"
    """500, and the first half of the file stays under its name."""
    CUT = "cut"
    """The connection is cut while the form is read, and there is no file."""
    LOST = "lost"
    """The file is stored, and the connection cut in place of the answer."""
    SLOW = "slow"
    """The file is stored, and the answer comes `seconds` later."""


_HOW: Final = {FaultKind.VIEW: ViewFault, FaultKind.UPLOAD: UploadFault}
"""What `how` means to each kind that has it."""


class ForeignPrompt(StrEnum):
    """What somebody else's prompt does: the values of `Fault.foreign`."""

    SILENT = "silent"
    """It runs for `seconds` without a frame."""
    SLOW = "slow"
    """It runs for `seconds`, with progress."""
    DEADLY = "deadly"
    """It ends the execution thread."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """One fault. Fields that its kind does not use are ignored."""

    kind: FaultKind
    times: int | None = 1
    """Number of times it still occurs; None means until it is cleared."""
    after: int = 0
    """Number of matching occasions that are skipped first."""
    seconds: float = 0.0
    """Seconds that the hang, delay or downtime lasts; for a hang, 0 means for ever."""
    node: str | None = None
    """The node's id or class_type; None means the first node that runs."""
    message: str = ""
    exception_type: str = "RuntimeError"
    route: str | None = None
    """Path without `/api`, as a beginning: `/history` also covers `/history/{id}`. None means every one."""
    method: str | None = None
    status: int = 500
    body: str = ""
    content_type: str = "text/html"
    how: ViewFault | UploadFault | None = None
    """None means the first of those that its kind has."""
    gpu: GpuFault = GpuFault.CUDA
    foreign: ForeignPrompt = ForeignPrompt.SILENT
    logged: bool = True
    """Whether the log tells of the death, as it does unless the error was SystemExit."""
    client_id: str | None = None
    """Client id of the affected sockets or of the foreign prompt; None means all sockets, or no client."""
    prompt_id: str | None = None
    """Which prompt; None means any."""
    frames: tuple[str, ...] = ()
    """Frame types that are lost; empty means all of them."""
    released: asyncio.Event = field(default_factory=asyncio.Event, compare=False, repr=False)
    """Set when the fault is cleared, which ends a hang."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields as the control route shows them."""
        shown = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "released"}
        return shown | {"frames": list(self.frames)}


def parse_fault(data: dict[str, Any]) -> Fault:
    """Return the fault that the control route was asked for.

    Raises
    ------
    ValueError
        If the kind or a field is unknown, or a value has the wrong type.
    """
    allowed = {one.name: one for one in fields(Fault) if one.name != "released"}
    if unknown := sorted(set(data) - set(allowed)):
        raise ValueError(f"Unknown field: {', '.join(unknown)}; known: {', '.join(allowed)}")
    values = dict(data)
    values["kind"] = FaultKind(data.get("kind", ""))
    for name, kind in (("gpu", GpuFault), ("foreign", ForeignPrompt)):
        if name in data:
            values[name] = kind(data[name])
    if data.get("how") is not None:
        values["how"] = _HOW.get(values["kind"], ViewFault)(data["how"])
    if "frames" in data:
        values["frames"] = tuple(data["frames"])
    for name in ("seconds", "status", "after"):
        if name in values and (isinstance(values[name], bool) or not isinstance(values[name], int | float)):
            raise ValueError(f"{name} must be a number")
    if values.get("times", 1) is not None and not isinstance(values.get("times", 1), int):
        raise ValueError("times must be a whole number or null")
    return Fault(**values)


def death_of(fault: Fault) -> ThreadDiedError:
    """Return the death that a fault asks for; `message` is what the error says."""
    place = Place.NODE if fault.logged else None
    return ThreadDiedError("as asked for", place, f"RuntimeError: {fault.message or 'the stand-in was asked to die'}")


class Faults:
    """The faults that wait for their occasion, in the order they were asked for."""

    def __init__(self, faults: tuple[Fault, ...] = ()) -> None:
        self._waiting = [Fault(**_copied(fault)) for fault in faults]

    def add(self, fault: Fault) -> Fault:
        """Arm `fault` and return it."""
        self._waiting.append(fault)
        return fault

    def clear(self, kind: FaultKind | None = None) -> None:
        """Forget the faults of `kind`, or all of them; what hangs because of one goes on."""
        for fault in self._waiting:
            if kind in (None, fault.kind):
                fault.released.set()
        self._waiting = [fault for fault in self._waiting if kind not in (None, fault.kind)]

    def waiting(self) -> list[Fault]:
        """Return the faults that can still occur."""
        return [fault for fault in self._waiting if fault.times != 0]

    def take(self, kind: FaultKind, **occasion: str) -> Fault | None:
        """Return the fault of `kind` that this occasion meets and count it, or None.

        `occasion` gives what the fault may be limited to: `node` and `node_type`, `route` and `method`, `client_id`,
        `prompt_id`, `frame`.
        """
        for fault in self._waiting:
            if fault.kind is kind and fault.times != 0 and _meets(fault, occasion):
                if fault.after > 0:
                    fault.after -= 1
                    continue
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None


def _copied(fault: Fault) -> dict[str, Any]:
    """Return the fields of `fault`, so that the one in the options is never counted down."""
    return {one.name: getattr(fault, one.name) for one in fields(fault) if one.name != "released"}


def _meets(fault: Fault, occasion: dict[str, str]) -> bool:
    """Tell whether `fault` is meant for this occasion."""
    if fault.node is not None and fault.node not in (occasion.get("node"), occasion.get("node_type")):
        return False
    if fault.route is not None and not occasion.get("route", "").startswith(fault.route):
        return False
    if fault.frames and occasion.get("frame") not in fault.frames:
        return False
    return all(getattr(fault, name) in (None, occasion.get(name)) for name in ("method", "client_id", "prompt_id"))
