"""How much each row does: bounded, so that all of them together take some seven minutes."""

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
    told_before: int = 10
    told_jobs: int = 200
    told_s: tuple[float, float] = (0.1, 0.3)
    sockets: int = 1000
    single_requests: int = 25
    """Of each kind."""
    idle_s: float = 20.0
    compares: bool = True
    """Whether the jobs of which it is chosen what is next are run a second time, first come, first served."""
    load_s: float = 2.0
    """To load a checkpoint, in the rows of what is chosen."""
    chosen_s: float = 0.25
    """Length of their jobs after that."""
    mixed_jobs: int = 40
    mixed_orders: int = 2
    zipf_jobs: int = 90
    flood_jobs: int = 60
    fleet_backends: int = 50
    fleet_jobs: tuple[tuple[float, int], ...] = ((3.0, 4), (1.0, 10))
    """Length of the jobs, and how many for each backend."""


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
    told_before=2,
    told_jobs=10,
    sockets=20,
    single_requests=2,
    idle_s=0.5,
    compares=False,
    load_s=0.1,
    chosen_s=0.05,
    mixed_jobs=6,
    mixed_orders=1,
    zipf_jobs=9,
    flood_jobs=4,
    fleet_backends=3,
    fleet_jobs=((0.2, 3),),
)
"""Enough to see that every row still works."""
