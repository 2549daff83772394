"""The state of a backend that another process drives, as its heartbeat tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.domain.scheduling.fleet import BackendState
from app.domain.scheduling.learned_times import FASTEST, SLOWEST

if TYPE_CHECKING:
    from collections.abc import Container

    from app.domain.heartbeats import BackendBeat

_MOST_FREE_IN_S: Final = 86_400.0


def state_heard(beat: BackendBeat, offers: Container[str] | None, now: float) -> BackendState:
    """Return the state; `offers` are its model files, None if they are not known, and `now` is on any one clock."""
    return BackendState(
        beat.name,
        frozenset(beat.warm),
        now + min(max((beat.free_in_s or 0.0) - beat.age_s, 0.0), _MOST_FREE_IN_S),
        busy=bool(beat.used),
        room=beat.room,
        speed=min(max(beat.speed or 1.0, SLOWEST), FASTEST),
        offers=offers,
        avoids=frozenset(frozenset(models) for models in beat.avoids),
        live=beat.live and bool(beat.healthy) and not beat.drained,
    )
