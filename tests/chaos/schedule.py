"""What goes wrong in a run, and when: a schedule drawn from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence


class Fault(StrEnum):
    """What can be injected."""

    WORKER_KILL = "worker: SIGKILL"
    WORKER_FREEZE = "worker: stopped beyond its lease"
    WORKER_ROLL = "workers: rolled, SIGTERM"
    APP_KILL = "app: SIGKILL"
    APP_ROLL = "apps: rolled, SIGTERM"
    REDIS_RESTART = "Redis: restart"
    REDIS_AWAY = "Redis: away 6 s"
    REDIS_FLUSH = "Redis: FLUSHALL"
    POSTGRES_FAST = "PostgreSQL: fast restart"
    POSTGRES_IMMEDIATE = "PostgreSQL: immediate restart"
    POSTGRES_AWAY = "PostgreSQL: away 6 s"
    STANDIN_KILL = "ComfyUI: SIGKILL"
    DEAD_THREAD = "ComfyUI: execution thread dies"
    DEAF = "ComfyUI: sockets go deaf"
    DROP_SOCKETS = "ComfyUI: sockets cut"
    LOSE_ANSWER = "ComfyUI: answers to POST lost"
    VIEW_ERROR = "ComfyUI: /view fails"
    BROKEN_GPU = "ComfyUI: broken GPU for 8 s"
    POISON = "job: ends its ComfyUI's thread"
    FIXED_SAVERS = "jobs: ten save over one file"
    KEY_REVOKED = "key: revoked and restored"
    KEY_REPLACED = "key: replaced by another"
    KEY_WITHOUT_REDIS = "key: revoked with Redis away"
    KEY_WITHOUT_POSTGRES = "key: revoked, then PostgreSQL away"
    KEY_WITHOUT_APP = "key: revoked with an app away"


OF_KEYS: Final = (
    Fault.KEY_REVOKED,
    Fault.KEY_REPLACED,
    Fault.KEY_WITHOUT_REDIS,
    Fault.KEY_WITHOUT_POSTGRES,
    Fault.KEY_WITHOUT_APP,
)
"""Drawn by themselves, so that a seed's other faults are those that they are without keys."""
SMALL_OF_KEYS: Final = (Fault.KEY_REVOKED, Fault.KEY_REPLACED, Fault.KEY_WITHOUT_REDIS, Fault.KEY_WITHOUT_APP)
AWAY_S: Final = 6.0
"""Longer than a lease."""
BROKEN_S: Final = 8.0
"""So long a broken device fails every run."""
KILLS: Final = frozenset({Fault.WORKER_KILL, Fault.APP_KILL, Fault.STANDIN_KILL})
RESTARTS: Final = frozenset({Fault.REDIS_RESTART, Fault.REDIS_FLUSH, Fault.POSTGRES_FAST, Fault.POSTGRES_IMMEDIATE})
HEAVY: Final = KILLS | {
    Fault.WORKER_FREEZE,
    Fault.WORKER_ROLL,
    Fault.APP_ROLL,
    Fault.REDIS_AWAY,
    Fault.POSTGRES_AWAY,
    Fault.DEAD_THREAD,
    Fault.BROKEN_GPU,
    Fault.POISON,
    Fault.KEY_WITHOUT_REDIS,
    Fault.KEY_WITHOUT_POSTGRES,
    Fault.KEY_WITHOUT_APP,
}
"""Faults whose consequences last; a restart that is to be measured by itself keeps away from them."""
CALM_PAUSES: Final = 3
"""So many pauses after them before the next round."""
TARGETS_S: Final = dict.fromkeys(KILLS, 20.0) | dict.fromkeys(RESTARTS, 5.0)
"""By when all must go on."""
SMALL: Final = (
    Fault.WORKER_KILL,
    Fault.REDIS_RESTART,
    Fault.STANDIN_KILL,
    Fault.POSTGRES_FAST,
    Fault.REDIS_FLUSH,
    Fault.APP_KILL,
    Fault.LOSE_ANSWER,
    Fault.POSTGRES_IMMEDIATE,
    Fault.DROP_SOCKETS,
    Fault.WORKER_ROLL,
)
"""What the short run injects."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault of the schedule."""

    at_s: float
    fault: Fault
    target: int
    """Which one of several; taken modulo their number."""
    down_s: float
    """How long what was killed stays away."""


def draw_schedule(seed: int, seconds: float, faults: Sequence[Fault], pause_s: float) -> list[Planned]:
    """Return what goes wrong when: every fault once before any comes again, some hard upon the one before.

    In each round those with lasting consequences come last, so that restarts are mostly measured by themselves; some
    restarts are thrown among the others all the same.
    """
    draw = random.Random(f"faults {seed}" if not set(faults) & set(OF_KEYS) else f"faults of keys {seed}")
    schedule: list[Planned] = []
    at_s = 2.0
    while at_s < seconds - 1:
        mixed = {fault for fault in faults if fault in HEAVY or (fault in RESTARTS and draw.random() < 0.25)}
        light = [fault for fault in faults if fault not in mixed]
        heavy = [fault for fault in faults if fault in mixed]
        for fault in (*draw.sample(light, len(light)), *draw.sample(heavy, len(heavy))):
            schedule.append(Planned(round(at_s, 2), fault, draw.randrange(60), round(draw.uniform(0.3, 2.5), 2)))
            at_s += draw.uniform(0.2, 1.0) if draw.random() < 0.15 else draw.uniform(0.7, 1.3) * pause_s
        at_s += CALM_PAUSES * pause_s
    return [planned for planned in schedule if planned.at_s < seconds - 1]
