"""The backends in one line each, above the list: whether they are well, what they work on, and how full they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.keys import EVENTS, VIEWS
from app.monitor.job_view import step_of
from app.monitor.page_data import number
from app.monitor.words import duration
from app.web.bodies import MAX_ID

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp import web

    from app.domain.message import Snapshot
    from app.messaging.registry import Beat
    from app.monitor.job_view import Step


@dataclass(frozen=True, slots=True)
class Strip:
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


async def read_strip(request: web.Request, beats: Sequence[Beat] | None) -> list[Strip]:
    """Return the backends by name, of these heartbeats; raises `DatabaseUnavailable`."""
    jobs = {beat.name: _job_ids(beat.state) for beat in beats or () if beat.live}
    job_ids = sorted({job_id for each in jobs.values() for job_id in each})
    found = await request.config_dict[VIEWS].snapshots(job_ids) if job_ids else {}
    live = await request.config_dict[EVENTS].with_live(list(found.values()))
    snapshots = {each.job_id: each for each in live if not each.finished}
    at_work = {name: [snapshots[each] for each in current if each in snapshots] for name, current in jobs.items()}
    return [_strip(beat, at_work.get(beat.name, [])) for beat in beats or ()]


def _strip(beat: Beat, current: list[Snapshot]) -> Strip:
    state = beat.state
    total, free = number(state, "vram_total"), number(state, "vram_free")
    queue = number(state, "queue_remaining")
    models = state.get("models")
    word, note = _word(beat, bool(current or number(state, "used")))
    return Strip(
        name=beat.name,
        word=word,
        note=note,
        current=[(snapshot, step_of(snapshot)) for snapshot in current],
        model=str(models[0]) if isinstance(models, list) and models else None,
        queue=int(queue) if queue is not None else None,
        vram_used=total - free if total and free is not None else None,
        vram_total=total or None,
    )


def _word(beat: Beat, working: bool) -> tuple[str, str | None]:
    if not beat.live:
        return "no signal", duration(beat.age_s)
    if not beat.state.get("healthy"):
        reason = beat.state.get("reason")
        return "down", str(reason) if reason else None
    if beat.state.get("drained"):
        return "drained", None
    return ("working" if working else "idle"), None


def _job_ids(state: Mapping[str, Any]) -> list[int]:
    current = state.get("current")
    known = current if isinstance(current, list) else []
    return [job_id for job_id in known if type(job_id) is int and 0 <= job_id <= MAX_ID]
