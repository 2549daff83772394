"""What follows a failed attempt: whether there is another one, where, after which delay, and what it counts against."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from app.domain.errors import ErrorClass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.domain.job import Attempt

MOST_IN_A_ROUND: Final = 200
"""Maximum attempts that follow each other by themselves: ten that count, and one for each backend that refuses."""
SPARE_BACKENDS: Final = 2
"""Minimum of other healthy backends before a job that is known to have killed one is tried on another: one is left."""


class Where(StrEnum):
    """Where the next attempt may be made."""

    NOWHERE = "nowhere"
    ANYWHERE = "anywhere"
    ELSEWHERE = "elsewhere if possible"
    ONLY_ELSEWHERE = "only elsewhere"
    ONLY_OTHERWISE = "only where its nodes are described otherwise"


class Against(StrEnum):
    """What a failure is counted against."""

    NOTHING = "nothing"
    ATTEMPTS = "the job's attempts"
    DEVICE = "the job's attempts, and the backend's device"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What follows a failure of a class."""

    where: Where
    times: int | None = None
    """Maximum failures of this class in a round that get another attempt; None: as many as the job has attempts."""
    against: Against = Against.ATTEMPTS
    at_once: bool = False
    """The next attempt waits for no delay if another backend can take it."""
    why: str


RULES: Final[Mapping[ErrorClass, Rule]] = {
    ErrorClass.INVALID: Rule(
        where=Where.ONLY_OTHERWISE,
        against=Against.NOTHING,
        at_once=True,
        why="the same nodes refuse it again; those of another version may not",
    ),
    ErrorClass.LACKING: Rule(
        where=Where.ONLY_ELSEWHERE, against=Against.NOTHING, at_once=True, why="nothing ran, and another backend has it"
    ),
    ErrorClass.EXECUTION: Rule(where=Where.NOWHERE, why="the same inputs raise it again"),
    ErrorClass.OUT_OF_MEMORY: Rule(where=Where.ELSEWHERE, times=1, why="memory may be free by then, or larger"),
    ErrorClass.DEVICE: Rule(
        where=Where.ELSEWHERE,
        times=1,
        against=Against.DEVICE,
        at_once=True,
        why="the device may be at fault; two of them are not",
    ),
    ErrorClass.INTERRUPTED: Rule(where=Where.ANYWHERE, why="someone interrupted it, and the job is not at fault"),
    ErrorClass.BACKEND_LOST: Rule(where=Where.ELSEWHERE, why="no fault of the job"),
    ErrorClass.TIMEOUT: Rule(
        where=Where.ONLY_ELSEWHERE, times=1, why="with the same limit it ends alike there; another GPU may be faster"
    ),
    ErrorClass.BACKEND_LATE: Rule(
        where=Where.ELSEWHERE, why="it never began, or the backend did not say that it was stopped"
    ),
    ErrorClass.OUTPUT: Rule(where=Where.NOWHERE, why="the run that left such a file leaves such a one again"),
    ErrorClass.OLD_OUTPUT: Rule(
        where=Where.ANYWHERE, times=1, why="once the backend has forgotten its results the run makes a file of its own"
    ),
    ErrorClass.STORAGE: Rule(where=Where.ANYWHERE, why="there may be room by then"),
    ErrorClass.INPUT: Rule(where=Where.NOWHERE, why="the URL is refused, or what it leads to is not to be had"),
    ErrorClass.INPUT_AWAY: Rule(where=Where.ANYWHERE, why="no fault of the backend; the URL may do by then"),
    ErrorClass.BUG: Rule(where=Where.NOWHERE, why="ours; it would be met again"),
}
"""One line a class: what decides, and what the manual's failures.md tells, come from it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows a failed attempt."""

    retry: bool
    delay_s: float = 0.0
    elsewhere: bool = False
    """The next attempt should avoid this backend, if there is another."""
    counted: bool = True
    """It is one of the attempts that the job has."""


def after_failure(
    error_class: ErrorClass, *, attempts_left: int, failed_alike: int, offered_elsewhere: bool, delay_s: float
) -> Verdict:
    """Decide by the rule of an error's class whether there is another attempt.

    `attempts_left` counts the attempts after this one, `failed_alike` those before it in this round that ended in the
    same way: of errors of a device only those on other backends, of refusals only those of this one;
    `offered_elsewhere` says that another backend would take the job; `delay_s` is the wait before a retry, from
    `retry_delay`.
    """
    rule = RULES[error_class]
    # What one backend refuses twice is counted: it came back, because no other one took it for long.
    counted = rule.against is not Against.NOTHING or failed_alike > 0
    there = offered_elsewhere or rule.where in (Where.ANYWHERE, Where.ELSEWHERE)
    again = rule.where is not Where.NOWHERE and there and (rule.times is None or failed_alike < rule.times)
    if not again or (counted and attempts_left <= 0):
        return Verdict(retry=False)
    wait_s = 0.0 if rule.at_once and offered_elsewhere else delay_s
    return Verdict(retry=True, delay_s=wait_s, elsewhere=rule.where is not Where.ANYWHERE, counted=counted)


def may_be_tried_again(suspicions: int, *, certain: bool, others_well: int) -> bool:
    """Whether a job under which a backend stopped gets its one more attempt, alone on a backend.

    `suspicions` counts the backends that stopped under it before; `certain` says that its own log shows that the
    backend died of this prompt; `others_well` is how many other backends could take it. A server that was restarted,
    or a machine that failed, is no fault of the job; two in a row are held to be one.
    """
    return suspicions == 0 and (not certain or others_well >= SPARE_BACKENDS)


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long jobs wait before another attempt: `base_s`, doubled with each failure in a row, `cap_s` at most."""

    base_s: float
    cap_s: float

    def delay_s(self, earlier: Sequence[Attempt]) -> float:
        """Return the seconds to wait after an attempt that has just failed, `earlier` being those of its round."""
        return retry_delay(len(earlier) + 1, base_s=self.base_s, cap_s=self.cap_s)


def of_this_round(attempts: Sequence[Attempt], number: int) -> list[Attempt]:
    """Return the attempts before this one that led to it by automatic retries, oldest first.

    A round begins when a job is sent, or retried by hand; a retry by hand of a waiting job leaves a gap in the numbers.
    """
    found: list[Attempt] = []
    for each in reversed(attempts):
        if each.number >= number:
            continue
        if each.outcome != "retried" or each.number != number - len(found) - 1:
            break
        found.insert(0, each)
    return found


def retry_delay(failures: int, *, base_s: float = 2.0, cap_s: float = 600.0, jitter: float = 0.2) -> float:
    """Return the seconds to wait after the `failures`-th failure in a row: base, twice, four times … up to the cap.

    The jitter spreads by ± that share, so that jobs that failed together do not come back together.
    """
    exact = min(cap_s, base_s * 2.0 ** min(failures - 1, 30))
    return min(cap_s, exact * random.uniform(1 - jitter, 1 + jitter))
