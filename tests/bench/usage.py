"""Processor time and memory of processes, as Linux tells them under /proc."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Usage:
    """Of some processes and of all that descend from them."""

    cpu_s: float
    resident_bytes: int


def processors_s() -> float:
    """Return for how many seconds the cores have been in use since the system's start; 0 if it does not tell."""
    try:
        line = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return 0.0
    # proc(5): user, nice, system, idle, iowait, irq, softirq, steal; what guests had is in the first two.
    ticks = list(map(int, line.split()[1:9]))
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def usage(pids: Iterable[int]) -> Usage | None:
    """Return what the processes have used so far; None on a system that does not tell."""
    processes = {int(path.name): found for path in Path("/proc").glob("[0-9]*") if (found := _stat(path))}
    if not processes:
        return None
    wanted, reached = list(pids), set()
    while wanted:
        pid = wanted.pop()
        reached.add(pid)
        wanted += [child for child, found in processes.items() if found[1] == str(pid) and child not in reached]
    # proc(5): after the name come state, parent, …; utime and stime are fields 14 and 15, rss is field 24, in pages.
    ticks = sum(int(processes[pid][11]) + int(processes[pid][12]) for pid in reached)
    pages = sum(int(processes[pid][21]) for pid in reached)
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), pages * resource.getpagesize())


def _stat(path: Path) -> list[str]:
    try:
        # The name, in brackets, may itself hold spaces and brackets.
        return (path / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
