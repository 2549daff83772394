"""When a process that has died is started again, and when that is given up."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

STEADY_S: Final = 60.0
"""Seconds of running after which the count of deaths starts again at zero."""


@dataclass(frozen=True, slots=True)
class Delays:
    """How long to wait before a start, and how often to try one that never succeeds."""

    first_s: float = 1.0
    """Doubled with each death."""
    most_s: float = 60.0
    tries: int = 5
    """Maximum number of failed starts in a row; after that someone has to read the messages and act."""


@dataclass(slots=True)
class Restarts:
    """What has become of the starts of one process."""

    delays: Delays
    clock: Callable[[], float] = time.monotonic
    deaths: int = 0
    """In a row."""
    failed_starts: int = 0
    """In a row: it ended without having come up."""
    came_up_at: float | None = None
    """By the clock; None as long as the process that was started last has not said that it is there."""
    ever_up: bool = False
    """It has come up once, so that it can."""

    def came_up(self) -> None:
        """Note that it is there."""
        self.came_up_at, self.ever_up = self.clock(), True
        self.failed_starts = 0

    def died(self) -> float | None:
        """Note its end; return the seconds until it is to be started again, None when that is given up."""
        if self.came_up_at is None:
            self.failed_starts += 1
        elif self.clock() - self.came_up_at > STEADY_S:
            self.deaths = 0
        self.came_up_at = None
        self.deaths += 1
        if self.failed_starts >= self.delays.tries:
            return None
        # The exponent is limited, because after a thousand deaths the power would be too large for a float.
        return float(min(self.delays.most_s, self.delays.first_s * 2 ** min(self.deaths - 1, 30)))
