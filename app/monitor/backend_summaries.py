"""The backends in one line each, above the list: whether they are well, what they work on, and how full they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.keys import EVENTS
from app.monitor.job_view import step_of
from app.monitor.words import duration
from app.web.bodies import MAX_ID
from app.web.callers import views_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from app.domain.heartbeats import BackendBeat
    from app.domain.message import Snapshot
    from app.monitor.job_view import Step


@dataclass(frozen=True, slots=True)
class BackendSummary:
    """A backend in one line; None is what its heartbeat does not tell."""

    name: str
    word: str
    """working, idle, drained, down, or no signal."""
    note: str | None
    """What ails it, or since when it is silent."""
    current: list[tuple[Snapshot, Step | None]]
    """The jobs that it works on, and the nodes at work."""
    model: str | None
    queue: int | None
    vram_used: float | None
    vram_total: float | None


async def read_backend_summaries(request: web.Request, beats: Sequence[BackendBeat] | None) -> list[BackendSummary]:
    """Return the backends by name, of these heartbeats; raises `DatabaseUnavailable`."""
    jobs = {beat.name: [each for each in beat.current if each <= MAX_ID] for beat in beats or () if beat.live}
    job_ids = sorted({job_id for each in jobs.values() for job_id in each})
    found = await views_of(request).snapshots(job_ids) if job_ids else {}
    live = await request.config_dict[EVENTS].with_live(list(found.values()))
    snapshots = {each.job_id: each for each in live if not each.finished}
    at_work = {name: [snapshots[each] for each in current if each in snapshots] for name, current in jobs.items()}
    return [_summary(beat, at_work.get(beat.name, [])) for beat in beats or ()]


def _summary(beat: BackendBeat, current: list[Snapshot]) -> BackendSummary:
    word, note = _word(beat, bool(current or beat.used))
    return BackendSummary(
        name=beat.name,
        word=word,
        note=note,
        current=[(snapshot, step_of(snapshot)) for snapshot in current],
        model=beat.models[0] if beat.models else None,
        queue=beat.queue_remaining,
        vram_used=beat.vram_used,
        vram_total=beat.vram_total or None,
    )


def _word(beat: BackendBeat, working: bool) -> tuple[str, str | None]:
    if not beat.live:
        return "no signal", duration(beat.age_s)
    if not beat.healthy:
        return "down", beat.reason
    if beat.drained:
        return "drained", None
    return ("working" if working else "idle"), None
