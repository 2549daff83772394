"""Which of a worker's backends is asked first when a turn is given away: pure functions over plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class BackendLoad:
    """What counts of a backend when a turn is given away."""

    name: str
    slots: int
    used: int
    foreign: int = 0
    """Prompts in its queue that are not ours."""
    in_doubt: bool = False
    """Its device has failed since it last did a job well."""
    ends_at: float = 0.0
    """When what it was given will probably have ended; past if that takes longer than expected, 0 if there is none."""

    @property
    def free(self) -> int:
        """How many prompts it takes at once beyond those that it has."""
        return max(0, self.slots - self.used)


def by_preference(backends: Iterable[BackendLoad]) -> list[str]:
    """Return the names of the backends with a free slot, the one that would begin soonest first."""
    free = [backend for backend in backends if backend.free]
    return [
        backend.name
        for backend in sorted(free, key=lambda each: (each.in_doubt, each.used + each.foreign, each.ends_at, each.name))
    ]
