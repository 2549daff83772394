"""What a run found: figures, each beside its limit in the same run, as a Markdown table."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    what: str
    value: float
    unit: str
    limit: float | None = None
    """The same of a server that does nothing else; None where there is none."""


def table(figures: list[Figure]) -> str:
    """Return the figures as Markdown."""
    lines = ["| what | Genonaut | limit in the same run | ratio |", "|---|--:|--:|--:|"]
    for figure in figures:
        limit = _written(figure.limit, figure.unit) if figure.limit is not None else "–"
        ratio = f"{figure.value / figure.limit:.2f}" if figure.limit else "–"
        lines.append(f"| {figure.what} | {_written(figure.value, figure.unit)} | {limit} | {ratio} |")
    return "\n".join(lines)


def machine(versions: str) -> str:
    """Return what the run ran on, in a line."""
    today = datetime.now(UTC).date().isoformat()
    return f"{today}; {os.cpu_count()} cores, {_processor()}; Python {platform.python_version()}, {versions}."


def _written(value: float, unit: str) -> str:
    digits = 3 if unit == "" else 0 if abs(value) >= 100 or float(value).is_integer() else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f} {unit}".strip()


def _processor() -> str:
    """Return the processor's model, as far as the system tells it."""
    described = Path("/proc/cpuinfo")
    if described.exists():
        for line in described.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
