"""When a backend whose device fails is given no more jobs, and how it comes back: a circuit breaker, pure.

What counts is that the same job succeeds elsewhere: a graph that upsets every device is its owner's fault and must take
no good backend out of use. Where there is no elsewhere, several users in a row must have met the error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

PROVEN: Final = 3
"""Jobs in a row that failed here and succeeded elsewhere before the backend is ill."""
USERS: Final = 3
FAILURES: Final = 5
"""Number of failures in a row, from at least `USERS` users, after which a backend is ill without such a proof."""
FIRST_PAUSE_S: Final = 15.0
LAST_PAUSE_S: Final = 900.0
"""Seconds before an ill backend gets a trial job, at first and at most; doubled after each trial that fails."""
DOUBT_PAUSE_S: Final = 4.0
"""The longest wait between two jobs of a backend that is only in doubt; the first is a second."""
MOST: Final = 100
"""Maximum number of failures that are kept one by one."""


class Breaker:
    """The device errors of one backend since its last success. Moments are seconds of any one clock."""

    def __init__(self) -> None:
        self._failures: dict[int, str] = {}
        """Job → user, of those that failed here, the latest last."""
        self._proven: set[int] = set()
        self._pauses = 0
        self._rest_until = float("-inf")
        self.is_open = False
        """Whether the backend is ill: it gets nothing but a trial job now and then."""

    @property
    def in_doubt(self) -> bool:
        """Whether its device has failed since it last did a job well."""
        return bool(self._failures)

    @property
    def unproven(self) -> list[int]:
        """Jobs that failed here, and of which one would like to know whether they succeed elsewhere."""
        return [job_id for job_id in self._failures if job_id not in self._proven]

    @property
    def failures(self) -> int:
        """How many jobs failed here in a row."""
        return len(self._failures)

    def failed(self, job_id: int, user_id: str, now: float) -> None:
        """A job met an error of the device."""
        self._failures.pop(job_id, None)
        self._failures[job_id] = user_id
        while len(self._failures) > MOST:
            oldest = next(iter(self._failures))
            del self._failures[oldest]
            self._proven.discard(oldest)
        if self.is_open:
            self._rest(now)
            return
        self._rest_until = now + min(DOUBT_PAUSE_S, 2.0 ** (len(self._failures) - 1))
        if len(self._failures) >= FAILURES and len(set(self._failures.values())) >= USERS:
            self._open(now)

    def succeeded(self) -> None:
        """A job was run well."""
        self._failures.clear()
        self._proven.clear()
        self._pauses = 0
        self._rest_until = float("-inf")
        self.is_open = False

    def proven(self, job_ids: Collection[int], now: float) -> None:
        """These jobs, which failed here, have succeeded elsewhere."""
        self._proven |= self._failures.keys() & set(job_ids)
        if len(self._proven) >= PROVEN and not self.is_open:
            self._open(now)

    def slots(self, wanted: int, used: int, now: float) -> int:
        """Return how many of the backend's slots may be used: of one in doubt a single one, after a pause."""
        if not self.in_doubt:
            return wanted
        return min(wanted, 1) if used or now >= self._rest_until else 0

    def _open(self, now: float) -> None:
        self.is_open = True
        self._rest(now)

    def _rest(self, now: float) -> None:
        self._rest_until = now + min(LAST_PAUSE_S, FIRST_PAUSE_S * 2.0**self._pauses)
        self._pauses = min(self._pauses + 1, 30)
