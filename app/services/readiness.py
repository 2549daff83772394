"""Which backends can take work, and why the others cannot: told from heartbeats, of which any part may be absent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.domain.worker_states import WorkerState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.domain.heartbeats import BackendBeat, WorkerBeat

MOST_NAMED: Final = 10
"""Of more backends that cannot take work the rest are counted."""
NO_BACKEND: Final = "No backend can take work"
_NOT_WORKING: Final = (WorkerState.QUIET, WorkerState.STOPPING)


def why_idle(backends: Sequence[BackendBeat], workers: Sequence[WorkerBeat]) -> dict[str, str | None]:
    """Return backend → why it can be given no job; None of one that can, be it that its slots are all taken."""
    drivers = {beat.name: beat for beat in workers}
    return {beat.name: _why(beat, drivers) for beat in backends}


def no_backend(reasons: Mapping[str, str | None]) -> str | None:
    """Return what is to be said when no backend can take work; None while one can."""
    if any(reason is None for reason in reasons.values()):
        return None
    if not reasons:
        return f"{NO_BACKEND}: no worker drives any."
    named = [f"{name}: {reason}" for name, reason in reasons.items()][:MOST_NAMED]
    more = len(reasons) - len(named)
    return f"{NO_BACKEND}. {' '.join(named)}{f' And {more} more.' if more else ''}"


def _why(beat: BackendBeat, drivers: Mapping[str, WorkerBeat]) -> str | None:
    if beat.undriven:
        return "No worker drives it at the moment."
    if not beat.live:
        return f"No worker has told of it for {beat.age_s:.0f} s."
    if not beat.healthy:
        return _sentence(beat.reason or "it is not well")
    if beat.drained:
        return "It is drained."
    driver = drivers.get(beat.driver or "")
    if driver is not None and driver.state in _NOT_WORKING:
        return f"The worker that drives it is {driver.state}, and takes no more jobs."
    return None


def _sentence(text: str) -> str:
    """Return a reason as workers note it, which may be half a sentence, as a whole one."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
