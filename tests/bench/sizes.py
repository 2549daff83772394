"""How much each row does: bounded, so that all of them together take some three minutes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Counts and times of the rows."""

    connections: int = 16
    rounds: int = 3
    """Of requests and of sockets; those to the service and those to the bare server take turns."""
    round_s: float = 2.0
    read_jobs: int = 8
    roundtrip_jobs: int = 12
    roundtrip_s: tuple[float, float] = (0.5, 2.5)
    """Lengths of the jobs, from and to."""
    busy_jobs: int = 40
    heavy_jobs: int = 20
    busy_s: tuple[float, float] = (0.2, 0.5)
    saving_jobs: int = 10
    """With one picture each, and as many with several."""
    instant_jobs: int = 300
    sockets: int = 1000
    single_requests: int = 25
    """Of each kind."""
    idle_s: float = 20.0


QUICK = Sizes(
    connections=4,
    rounds=1,
    round_s=0.3,
    read_jobs=2,
    roundtrip_jobs=2,
    roundtrip_s=(0.05, 0.1),
    busy_jobs=4,
    heavy_jobs=3,
    busy_s=(0.05, 0.1),
    saving_jobs=2,
    instant_jobs=10,
    sockets=20,
    single_requests=2,
    idle_s=0.5,
)
"""Enough to see that every row still works."""
