"""What follows a failed attempt: whether there is another one, where, and after how long."""

from __future__ import annotations

import random
from dataclasses import dataclass

from app.domain.errors import ErrorClass

SPARE_BACKENDS = 2
"""So many other backends must be well before a job that is known to have killed one is tried on another: one of them
is left, whatever becomes of it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows a failed attempt."""

    retry: bool
    delay_s: float = 0.0
    elsewhere: bool = False
    """The next attempt should avoid this backend, if there is another."""


def after_failure(
    error_class: ErrorClass, *, attempts_left: int, failed_alike: int, offered_elsewhere: bool, delay_s: float
) -> Verdict:
    """Decide from the class of an error whether there is another attempt (DESIGN, "The job").

    `attempts_left` counts the attempts after this one, `failed_alike` those before it that ended in the same way, of
    errors of a device only those on other backends; `offered_elsewhere` says that another backend may have what this
    one lacks; `delay_s` is the wait before a retry, from `retry_delay`.
    """
    if attempts_left <= 0:
        return Verdict(retry=False)
    match error_class:
        case ErrorClass.INVALID:
            return Verdict(retry=offered_elsewhere, elsewhere=True)
        case ErrorClass.OUT_OF_MEMORY:
            return Verdict(retry=not failed_alike, delay_s=delay_s, elsewhere=True)
        case ErrorClass.DEVICE:
            # A graph can upset a device too: what two of them refuse is not tried on a third.
            return Verdict(retry=not failed_alike, delay_s=0.0 if offered_elsewhere else delay_s, elsewhere=True)
        case ErrorClass.BACKEND_LOST | ErrorClass.TIMEOUT:
            return Verdict(retry=True, delay_s=delay_s, elsewhere=True)
        case ErrorClass.STORAGE | ErrorClass.INTERRUPTED:
            return Verdict(retry=True, delay_s=delay_s)
        case ErrorClass.EXECUTION | ErrorClass.BUG:
            return Verdict(retry=False)


def may_be_tried_again(suspicions: int, *, certain: bool, others_well: int) -> bool:
    """Whether a job under which a backend stopped gets its one more attempt, alone on a backend.

    `suspicions` counts the backends that stopped under it before; `certain` says that its own log shows that the
    backend died of this prompt; `others_well` is how many other backends could take it. A server that was restarted,
    or a machine that failed, is no fault of the job; two in a row are held to be one.
    """
    return suspicions == 0 and (not certain or others_well >= SPARE_BACKENDS)


def retry_delay(failures: int, *, base_s: float = 2.0, cap_s: float = 600.0, jitter: float = 0.2) -> float:
    """Return the seconds to wait after the `failures`-th failure in a row: base, twice, four times … up to the cap.

    The jitter spreads by ± that share, so that jobs that failed together do not come back together.
    """
    exact = min(cap_s, base_s * 2.0 ** min(failures - 1, 30))
    return min(cap_s, exact * random.uniform(1 - jitter, 1 + jitter))
