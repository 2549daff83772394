"""Workers and backends as the page shows them, from heartbeats of which any part may be absent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from app.monitor.reading import number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.messaging.registry import Beat


@dataclass(frozen=True, slots=True)
class ShownWorker:
    """A worker on the page; None is what its heartbeat does not tell."""

    name: str
    place: str
    live: bool
    age_s: float
    version: str | None
    started_at: datetime | None
    slots: int | None
    running: list[int]
    done: int | None
    failed: int | None
    memory_bytes: float | None
    backends: list[str]


@dataclass(frozen=True, slots=True)
class ShownBackend:
    """A backend on the page; None is what its heartbeat does not tell."""

    name: str
    url: str | None
    word: str
    """healthy or unhealthy, as its driver last saw it; lost when no driver tells; unknown when none ever said."""
    reason: str | None
    since: datetime | None
    age_s: float
    driver: str | None
    version: str | None
    slots: int | None
    used: int | None
    queue_remaining: int | None
    checkpoints: int | None
    vram_total: float | None
    vram_free: float | None


def show_worker(beat: Beat) -> ShownWorker:
    """Return a worker for the templates."""
    state = beat.state
    host, pid = _text(state, "host"), _whole(state, "pid")
    running = [job_id for job_id in _list(state, "running") if isinstance(job_id, int)]
    return ShownWorker(
        name=beat.name,
        place=f"{host}:{pid}" if host and pid is not None else beat.name,
        live=beat.live,
        age_s=beat.age_s,
        version=_text(state, "version"),
        started_at=_time(state, "started_at"),
        slots=_whole(state, "slots"),
        running=running,
        done=_whole(state, "done"),
        failed=_whole(state, "failed"),
        memory_bytes=number(state, "memory_bytes"),
        backends=[str(name) for name in _list(state, "backends")],
    )


def show_backend(beat: Beat) -> ShownBackend:
    """Return a backend for the templates."""
    state, healthy = beat.state, beat.state.get("healthy")
    word = "unknown" if healthy is None else "healthy" if healthy else "unhealthy"
    total, free = number(state, "vram_total"), number(state, "vram_free")
    return ShownBackend(
        name=beat.name,
        url=_text(state, "url"),
        word=word if beat.live else "lost",
        reason=_text(state, "reason"),
        since=_time(state, "since"),
        age_s=beat.age_s,
        driver=_text(state, "driver"),
        version=_text(state, "version"),
        slots=_whole(state, "slots"),
        used=_whole(state, "used"),
        queue_remaining=_whole(state, "queue_remaining"),
        checkpoints=_whole(state, "checkpoints"),
        vram_total=total,
        vram_free=free if total else None,
    )


def _text(state: Mapping[str, Any], name: str) -> str | None:
    value = state.get(name)
    return str(value) if value not in (None, "") else None


def _whole(state: Mapping[str, Any], name: str) -> int | None:
    value = number(state, name)
    return int(value) if value is not None else None


def _list(state: Mapping[str, Any], name: str) -> list[Any]:
    value = state.get(name)
    return value if isinstance(value, list) else []


def _time(state: Mapping[str, Any], name: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(state.get(name) or "")
    except (TypeError, ValueError):
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
