"""Workers and backends as the page shows them, from heartbeats of which any part may be absent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from app.domain.heartbeats import backend_beat
from app.domain.message import timestamp
from app.domain.worker_states import WorkerState
from app.storage.fleet_figures import Loading

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from app.domain.heartbeats import BackendBeat, WorkerBeat
    from app.domain.message import Snapshot
    from app.storage.backend_states import BackendState
    from app.storage.fleet_figures import LastHour, Run

_TITLE_CHARACTERS: Final = 80


@dataclass(frozen=True, slots=True)
class ShownWorker:
    """A worker on the page; None is what its heartbeat does not tell."""

    name: str
    place: str
    live: bool
    age_s: float
    state: WorkerState | None
    """As its last heartbeat says."""
    asked: WorkerState | None
    """What it was asked to be, and has not confirmed."""
    version: str | None
    started_at: datetime | None
    slots: int | None
    used: int | None
    running: list[int]
    done: int | None
    failed: int | None
    memory_bytes: float | None
    backends: list[str]


@dataclass(frozen=True, slots=True)
class ShownRun:
    """A job that a backend works on."""

    job: Snapshot
    title: str
    preview: int | None
    """Number of its newest picture, if it has one."""


@dataclass(frozen=True, slots=True)
class ShownBackend:
    """A backend on the page; None is what its heartbeat does not tell."""

    name: str
    url: str | None
    word: str
    """healthy or unhealthy, as its driver last saw it; undriven, lost, or unknown without any heartbeat."""
    reason: str | None
    since: datetime | None
    age_s: float | None
    drained: bool
    """Its driver says that it is given no more prompts."""
    asked: str | None
    """What was decided about it, and is not confirmed: to drain, or to resume."""
    decided: BackendState | None
    freeing: bool
    """It was asked to free its memory, and its driver has not passed that on."""
    freed_at: datetime | None
    free_fault: str | None
    driver: str | None
    version: str | None
    slots: int | None
    used: int | None
    own: int | None
    foreign: int | None
    """Prompts in ComfyUI's queue, ours and other people's."""
    models: list[str]
    speed: float | None
    """How fast it runs; None if it is as fast as others, or that is not known."""
    loading: Loading | None
    """What it loaded in the last hour."""
    vram_total: float | None
    vram_used: float | None
    runs: list[ShownRun]
    image_s: float | None
    done: int | None
    failed: int | None
    done_link: str
    failed_link: str


def show_worker(beat: WorkerBeat, asked: WorkerState | None) -> ShownWorker:
    """Return a worker for the templates."""
    host, pid = beat.host, beat.pid
    told = beat.state
    is_in = WorkerState(told) if told in list(WorkerState) else None
    return ShownWorker(
        name=beat.name,
        place=f"{host}:{pid}" if host and pid is not None else beat.name,
        live=beat.live,
        age_s=beat.age_s,
        state=is_in,
        asked=asked if asked is not is_in else None,
        version=beat.version,
        started_at=beat.started_at,
        slots=beat.slots,
        used=beat.used,
        running=list(beat.running),
        done=beat.done,
        failed=beat.failed,
        memory_bytes=beat.memory_bytes,
        backends=list(beat.backends),
    )


def show_backend(
    name: str,
    found: BackendBeat | None,
    *,
    decided: BackendState | None,
    freeing: bool,
    runs: Sequence[ShownRun],
    hour: LastHour | None,
) -> ShownBackend:
    """Return a backend for the templates; one without a heartbeat is known by what was decided about it."""
    beat = found or backend_beat(name, 0, live=False, fields={})
    drained = beat.drained is True
    return ShownBackend(
        name=name,
        url=beat.url,
        word=beat.condition if found is not None else "unknown",
        reason=beat.reason,
        since=beat.since,
        age_s=found.age_s if found is not None else None,
        drained=drained,
        asked=decided.awaited(drained) if decided is not None else None,
        decided=decided if decided is not None and decided.drained else None,
        freeing=freeing,
        freed_at=beat.freed.at,
        free_fault=beat.freed.fault,
        driver=beat.driver,
        version=beat.version,
        slots=beat.slots,
        used=beat.used,
        own=beat.own,
        foreign=beat.foreign,
        models=[model.removesuffix(".safetensors") for model in beat.models],
        speed=beat.speed if beat.speed != 1.0 else None,
        loading=hour.loading.get(name, Loading()) if hour is not None else None,
        vram_total=beat.vram_total or None,
        vram_used=beat.vram_used,
        runs=list(runs),
        image_s=hour.image_s.get(name) if hour is not None else None,
        done=hour.ended.get((name, "completed"), 0) if hour is not None else None,
        failed=hour.ended.get((name, "failed"), 0) if hour is not None else None,
        done_link=_ended_link(name, "completed", hour),
        failed_link=_ended_link(name, "failed", hour),
    )


def show_run(run: Run, told: Snapshot, preview: int | None) -> ShownRun:
    """Return a running job for the templates; `told` brings its last progress."""
    title = " ".join((run.prompt or "").split()) or "a workflow"
    short = title if len(title) <= _TITLE_CHARACTERS else title[:_TITLE_CHARACTERS].rstrip() + "…"
    return ShownRun(told, short, preview)


def _ended_link(name: str, status: str, hour: LastHour | None) -> str:
    """Return the address of the list of exactly the jobs that were counted."""
    query = {"status": status, "backend": name}
    if hour is not None:
        query |= {"ended_from": timestamp(hour.since), "ended_to": timestamp(hour.until)}
    return f"/monitor/?{urlencode(query)}"
