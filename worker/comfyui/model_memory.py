"""What a backend has in memory, and will have when what it was given has run; how fast it runs, and how long it loads.

Told from our own runs (`app.domain.scheduling`): ComfyUI says of no model whether it is loaded. Moments are monotonic
seconds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.scheduling.fleet import BackendState
from app.domain.scheduling.learned_times import Speed
from app.domain.scheduling.warm_models import OutOfMemory, WarmSet

if TYPE_CHECKING:
    from collections.abc import Container

_FOREIGN_S: Final = 10.0
"""How long a prompt that is not ours is expected to take: nothing is known of it."""
_AS_FAST: Final = 1.1
"""Backends of which neither is faster by more than this are taken to be as fast: runs are never equally long."""
_MOST_OF_A_LOAD: Final = 0.25
"""A run that loaded for so much of what its models usually take has loaded them."""


@dataclass(slots=True)
class _Run:
    """A job that was given to the backend and has not ended its run."""

    models: frozenset[str]
    run_s: float
    """How long it will probably take, with its load."""
    since: float
    """When it could have begun."""


class ModelMemory:
    """One backend's memory, as far as it is known."""

    def __init__(self) -> None:
        self._warm = WarmSet()
        self._out_of_memory = OutOfMemory()
        self._speed = Speed()
        self._runs: dict[int, _Run] = {}
        """Job → its run, in the order in which they were given."""
        self.idle_since: float | None = None
        """Since when it has left waiting jobs to others."""
        self.looked_at = float("-inf")
        """When it last looked for a job."""

    @property
    def speed(self) -> float:
        """How fast it runs, 1.0 being the average."""
        factor = self._speed.factor
        return 1.0 if 1 / _AS_FAST <= factor <= _AS_FAST else factor

    @property
    def models(self) -> list[str]:
        """What is in memory, or will be when what it was given has run, the most recent first."""
        return [name for models in self._coming().sets for name in sorted(models)]

    @property
    def ends_at(self) -> float:
        """When what it was given will probably have ended; past if that takes longer than expected, 0 for nothing."""
        ends_at = 0.0
        for run in self._runs.values():
            ends_at = max(ends_at, run.since) + run.run_s
        return ends_at

    def took(self, job_id: int, models: frozenset[str], cost_s: float, load_s: float) -> None:
        """Note that a job was given to it, which will probably load for `load_s` seconds."""
        self.idle_since = None
        self._runs[job_id] = _Run(models, load_s + cost_s / self.speed, time.monotonic())

    def ended(self, job_id: int, models: frozenset[str], load_s: float | None, usual_s: float = 0.0) -> frozenset[str]:
        """Note that a job's run has ended, and return those of its models that were not thought to be in memory.

        `models` are those of the graph that ran. `load_s` is for how long its nodes loaded them: 0 if they were there;
        None if that was not seen. `usual_s` is what all of them usually take.
        """
        self._runs.pop(job_id, None)
        now = time.monotonic()
        for following in self._runs.values():
            following.since = max(following.since, now)
            break
        new = models - self._warm.models
        self._warm = self._warm.after(models, _were_loaded(load_s, usual_s))
        return new

    def dropped(self, job_id: int) -> None:
        """Note that a job was given to it, and has not begun to run."""
        self._runs.pop(job_id, None)

    def ran(self, expected_s: float, measured_s: float) -> None:
        """Learn from a run without its loads how fast it is, compared with what such runs take anywhere."""
        self._speed = self._speed.learned(expected_s, measured_s)

    def ran_out(self, models: frozenset[str]) -> None:
        """Note that these models, and what was done with them, did not fit. ComfyUI has unloaded all of them."""
        self.forget()
        self._out_of_memory = self._out_of_memory.after(models, time.monotonic())

    def forget(self) -> None:
        """Forget what is in memory: ComfyUI was restarted, or freed it, or ran what was not ours."""
        self._warm = self._warm.forgotten()

    def state(self, name: str, *, foreign: int, live: bool, offers: Container[str] | None) -> BackendState:
        """Return what counts of it when a job is chosen."""
        now = time.monotonic()
        coming, free_at = self._coming(), now
        for number, run in enumerate(self._runs.values()):
            free_at = max(free_at, (run.since if number == 0 else free_at) + run.run_s)
        return BackendState(
            name,
            coming.models,
            free_at + foreign * _FOREIGN_S,
            busy=bool(self._runs),
            idle_since=self.idle_since,
            room=coming.room,
            speed=self.speed,
            offers=offers,
            avoids=self._out_of_memory.avoided(now),
            live=live,
        )

    def _coming(self) -> WarmSet:
        warm = self._warm
        for run in self._runs.values():
            warm = warm.after(run.models)
        return warm


def _were_loaded(load_s: float | None, usual_s: float) -> bool | None:
    """Return whether a run had to load its models; None if that was not seen, or if it were only some of them.

    A node that applies a LoRA anew is no sign that its checkpoint had been thrown out.
    """
    if not load_s:
        return None if load_s is None else False
    return True if load_s >= _MOST_OF_A_LOAD * usual_s else None
