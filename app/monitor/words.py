"""How things are said on the page: words and marks of phases, lengths of time, sizes, and what may be done to a job."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from app.domain.job import FINISHED, STATUS_OF, TRANSITIONS, WAITING, JobEvent, Phase
from app.domain.message import timestamp
from app.domain.scheduling.jobs import CHOICE, Reason
from app.domain.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

WORDS: Final[Mapping[Phase, str]] = {phase: phase.value for phase in Phase} | {
    Phase.QUEUED: "pending",
    Phase.EXECUTING: "running",
}
"""Where these differ from the phase they say what clients know as the status."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may be done to a job in a phase; the store decides again when it is asked to."""

    cancel: bool
    retry: bool
    again: bool
    """A completed job is over; what it asked for can be sent once more, as a new job."""
    delete: bool
    move: bool
    """Its place in the queue, or its priority, can be changed."""


def allowed(phase: Phase) -> Allowed:
    """Return what the table of transitions lets happen to a job in this phase."""
    cancels = TRANSITIONS[JobEvent.WITHDRAWN].sources | TRANSITIONS[JobEvent.CANCEL_REQUESTED].sources
    retries = TRANSITIONS[JobEvent.RETRIED].sources
    ended = STATUS_OF[phase] in FINISHED
    return Allowed(phase in cancels, phase in retries, phase is Phase.COMPLETED, ended, phase in WAITING)


def duration(seconds: float | None) -> str:
    """Return a length of time, as exact as a reader needs it; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    for limit, unit_s, unit in ((100, 1, "s"), (100 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds / unit_s)} {unit}"
    return f"{int(seconds / 86400)} d"


def exact(seconds: float) -> str:
    """Return a length of time as one compares it with others: to three digits, from milliseconds on."""
    if seconds < 1:
        return f"{round(1000 * seconds)} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    large, small, units = (seconds, 60, "min s") if seconds < 6000 else (seconds / 60, 60, "h min")
    (whole, rest), (unit, part) = divmod(int(large), small), units.split()
    return f"{whole} {unit} {rest} {part}" if rest else f"{whole} {unit}"


def ago(at: datetime) -> str:
    """Return how long ago that was, on this machine's clock."""
    return f"{duration(max(0.0, (datetime.now(UTC) - at).total_seconds()))} ago"


def stamp(at: datetime | None) -> str:
    """Return a time for people: UTC to the second; nothing for None."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if at else ""


def after(at: datetime | None, start: datetime) -> str:
    """Return how long after `start` that was; a dash for None."""
    return f"+{duration((at - start).total_seconds())}" if at else "–"


def size(count: float | None) -> str:
    """Return a number of bytes in the largest unit that leaves a whole; nothing for None."""
    if count is None:
        return ""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def plain(value: Any) -> str:
    """Return a value digit for digit, a text as it is and anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def pretty(value: Any) -> str:
    """Return JSON over several lines."""
    return printable(json.dumps(value, ensure_ascii=False, indent=2))


def why_taken(choice: Mapping[str, Any], backend: str, load_s: float | None = None) -> str:
    """Return why a backend took a job, as part of a sentence; nothing of a reason that this version does not know.

    `load_s` is for how long it loaded models then, None if that is not known: what was expected is said instead.
    """
    overtook = choice.get("overtook") or 0
    before = f"taken before {overtook} older job{'s' if overtook > 1 else ''}" if overtook else "taken"
    match choice.get("reason"):
        case Reason.DUE:
            return "taken as the first in the queue"
        case Reason.WARM:
            return f"{before}, because its models were loaded on {backend}"
        case Reason.LOAD if load_s is not None:
            return f"{before}; its models were loaded first ({duration(load_s)})"
        case Reason.LOAD:
            return f"{before}; its models have to be loaded first (≈ {duration(choice.get('load_s'))})"
        case Reason.AHEAD:
            return f"{before}, queued behind the running job, which leaves its models loaded"
    return ""


def event_words(data: Mapping[str, Any]) -> str:
    """Return what the log of events says of an event beside its name: each fact, and why a backend took the job."""
    # A cancellation has a reason too, in the client's words.
    why = why_taken(data, str(data.get("backend"))) if "rank" in data else ""
    said = CHOICE if why else ()
    facts = [f"{name}: {plain(value)}" for name, value in data.items() if value is not None and name not in said]
    return "; ".join([*facts, *([why] if why else [])])


FILTERS: Final[dict[str, Callable[..., str]]] = {
    "duration": duration,
    "exact": exact,
    "ago": ago,
    "stamp": stamp,
    "after": after,
    "iso": timestamp,
    "size": size,
    "plain": plain,
    "event_words": event_words,
    "pretty": pretty,
    "why_taken": why_taken,
    "word": lambda phase: WORDS[phase],
}
"""Filters of the templates."""
