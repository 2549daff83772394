"""Heartbeats of workers and backends: what they hold, and how their JSON is read.

The JSON comes from Redis and may be of an older or newer worker, or damaged. Each value is checked by itself: one of
the wrong type, or out of bounds, is left out, and the rest of the heartbeat is read all the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BYTES: Final = 2**20
"""Maximum length of a heartbeat's JSON; a longer one is not read."""
_MAX_TEXT: Final = 2_000
"""Maximum characters of one text; the rest is cut off."""
_MAX_NUMBER: Final = 2**53
"""Maximum magnitude of a number: beyond it JavaScript cannot count exactly."""


@dataclass(frozen=True, slots=True)
class WorkerBeat:
    """A worker's heartbeat; None, or an empty tuple, is what it does not tell."""

    name: str
    age_s: float
    """Seconds since it was written, by Redis' clock: the clocks of our machines may differ."""
    live: bool
    """It is young enough for its writer to be alive."""
    told: frozenset[str]
    """Names of the fields that the heartbeat held in a readable form, null included."""
    state: str | None
    """A `WorkerState`; a newer worker may know other ones."""
    host: str | None
    pid: int | None
    version: str | None
    started_at: datetime | None
    backends: tuple[str, ...]
    slots: int | None
    used: int | None
    running: tuple[int, ...]
    """Ids of the jobs that it runs."""
    done: int | None
    failed: int | None
    memory_bytes: float | None


@dataclass(frozen=True, slots=True)
class Freed:
    """When a backend was last asked to free its memory, and what went wrong."""

    at: datetime | None
    fault: str | None


@dataclass(frozen=True, slots=True)
class BackendBeat:
    """A backend's heartbeat, written by its driver; None, or an empty tuple, is what it does not tell."""

    name: str
    age_s: float
    """Seconds since it was written, by Redis' clock: the clocks of our machines may differ."""
    live: bool
    """It is young enough for its writer to be alive."""
    told: frozenset[str]
    """Names of the fields that the heartbeat held in a readable form, null included."""
    url: str | None
    driver: str | None
    """Id of the worker that drives it."""
    healthy: bool | None
    reason: str | None
    since: datetime | None
    slots: int | None
    used: int | None
    drained: bool | None
    queue_remaining: int | None
    foreign: int | None
    """Prompts in ComfyUI's queue that are not ours."""
    warm: tuple[str, ...]
    """The models that are probably in memory, or will be when what it was given has run, the most recent first; as
    `LoadedModels` names them."""
    room: int | None
    """How many more sets of models fit before one is thrown out."""
    speed: float | None
    """How fast it runs, 1.0 being the average."""
    free_in_s: float | None
    """In how many seconds all that it was given will probably have run."""
    avoids: tuple[tuple[str, ...], ...]
    """Sets of models that ran out of memory lately."""
    freed: Freed
    version: str | None
    vram_total: float | None
    vram_free: float | None
    catalog: str | None
    """Digest of what it offers."""
    current: tuple[int, ...]
    """Ids of the jobs that it works on."""

    @property
    def condition(self) -> str:
        """healthy or unhealthy, as its driver last saw it; undriven, lost, or unknown when it does not say."""
        if not self.live:
            return "lost"
        if self.undriven:
            return "undriven"
        return "unknown" if self.healthy is None else "healthy" if self.healthy else "unhealthy"

    @property
    def own(self) -> int | None:
        """Number of prompts in ComfyUI's queue that are ours."""
        if self.queue_remaining is None or self.foreign is None:
            return None
        return max(0, self.queue_remaining - self.foreign)

    @property
    def vram_used(self) -> float | None:
        """Bytes of its video memory that are in use; None also where it has none."""
        if not self.vram_total or self.vram_free is None:
            return None
        return max(0.0, self.vram_total - self.vram_free)

    @property
    def models(self) -> tuple[str, ...]:
        """The files of the models that are probably in memory, without their folders."""
        return tuple(name.partition("/")[2] or name for name in self.warm)

    @property
    def undriven(self) -> bool:
        """Its last driver gave it up; False when the heartbeat does not say."""
        return "driver" in self.told and self.driver is None


def parse_heartbeat(raw: bytes) -> dict[str, Any]:
    """Return the fields of a heartbeat's JSON, unchecked; raises `ValueError` for what is no JSON object."""
    if len(raw) > MAX_BYTES:
        raise ValueError(f"it is longer than {MAX_BYTES} bytes")
    try:
        fields = json.loads(raw)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - one error for all that cannot be read
    return fields


def worker_beat(name: str, age_s: float, live: bool, fields: Mapping[str, Any]) -> WorkerBeat:
    """Return a worker's heartbeat; never raises, whatever the fields hold."""
    read = _Fields(fields)
    return WorkerBeat(
        name=name,
        age_s=age_s,
        live=live,
        state=read.text("state"),
        host=read.text("host"),
        pid=read.whole("pid"),
        version=read.text("version"),
        started_at=read.time("started_at"),
        backends=read.texts("backends"),
        slots=read.whole("slots"),
        used=read.whole("used"),
        running=read.ids("running"),
        done=read.whole("done"),
        failed=read.whole("failed"),
        memory_bytes=read.number("memory_bytes"),
        told=frozenset(read.told),
    )


def backend_beat(name: str, age_s: float, live: bool, fields: Mapping[str, Any]) -> BackendBeat:
    """Return a backend's heartbeat; never raises, whatever the fields hold."""
    read = _Fields(fields)
    inner = fields.get("freed")
    freed = _Fields(inner if isinstance(inner, dict) else {})
    return BackendBeat(
        name=name,
        age_s=age_s,
        live=live,
        url=read.text("url"),
        driver=read.text("driver"),
        healthy=read.flag("healthy"),
        reason=read.text("reason"),
        since=read.time("since"),
        slots=read.whole("slots"),
        used=read.whole("used"),
        drained=read.flag("drained"),
        queue_remaining=read.whole("queue_remaining"),
        foreign=read.whole("foreign"),
        warm=read.texts("warm"),
        room=read.whole("room"),
        speed=read.number("speed"),
        free_in_s=read.number("free_in_s"),
        avoids=read.sets("avoids"),
        freed=Freed(freed.time("at"), freed.text("fault")),
        version=read.text("version"),
        vram_total=read.number("vram_total"),
        vram_free=read.number("vram_free"),
        catalog=read.text("catalog"),
        current=read.ids("current"),
        told=frozenset(read.told),
    )


class _Fields:
    """Reads fields one by one, and notes in `told` which of them were readable."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields
        self.told = {name for name, value in fields.items() if value is None}

    def text(self, name: str) -> str | None:
        value = self._fields.get(name)
        if not isinstance(value, str):
            return None
        self.told.add(name)
        return _text(value) or None

    def flag(self, name: str) -> bool | None:
        value = self._fields.get(name)
        if not isinstance(value, bool):
            return None
        self.told.add(name)
        return value

    def number(self, name: str) -> float | None:
        value = self._fields.get(name)
        # A comparison with NaN is false.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_NUMBER:
            return None
        self.told.add(name)
        return value

    def whole(self, name: str) -> int | None:
        value = self.number(name)
        return int(value) if value is not None else None

    def time(self, name: str) -> datetime | None:
        try:
            at = datetime.fromisoformat(self._fields.get(name) or "")
            # In UTC, so that no page stumbles over a time at the edge of the calendar.
            at = at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
        except (TypeError, ValueError, OverflowError):
            return None
        self.told.add(name)
        return at

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(_text(each) for each in self._list(name) if isinstance(each, str))

    def sets(self, name: str) -> tuple[tuple[str, ...], ...]:
        found = [each for each in self._list(name) if isinstance(each, list)]
        return tuple(tuple(_text(text) for text in each if isinstance(text, str)) for each in found)

    def ids(self, name: str) -> tuple[int, ...]:
        return tuple(each for each in self._list(name) if type(each) is int and 0 <= each <= _MAX_NUMBER)

    def _list(self, name: str) -> list[Any]:
        value = self._fields.get(name)
        if not isinstance(value, list):
            return []
        self.told.add(name)
        return value


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode()[:_MAX_TEXT]
