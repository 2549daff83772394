"""The table of what came out of a scenario, one line for each mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.simulation.measures import Measures, Waits
    from app.simulation.scenario import Scenario

HEADER: Final = (
    "MODE",
    "TOOK",
    "LOADS/100",
    "BUSY",
    "WAIT P50",
    "P95",
    "MAX",
    "JAIN",
    "OVERTAKEN",
    "PUT OFF",
    "NOT DONE",
    "DECISIONS",
)
LEGEND: Final = (
    "TOOK, WAIT: seconds, a wait being until the models are loaded and the job runs. BUSY: the share of time in which "
    "backends run without loading.\nJAIN: of GPU time by weight, while all tenants have jobs waiting; 1 is exact. "
    "OVERTAKEN: most times. PUT OFF: at most, in loads of the job's own models."
)
FEW: Final = 3
"""Tenants that are shown one by one; of more, those who waited least and longest."""


def row(scenario: Scenario, mode: str, measures: Measures) -> tuple[str, ...]:
    """Return the line of one mode."""
    done, took_s = max(1, measures.done), max(measures.last_end, 1e-9)
    jain = measures.jain() if len(measures.tenants) > 1 else None
    return (
        mode,
        f"{measures.last_end:.1f}",
        f"{100 * measures.loads / done:.1f}",
        f"{measures.run_s / (took_s * len(scenario.hardware)):.2f}",
        *_figures(measures.waits()),
        "" if jain is None else f"{jain:.4f}",
        f"{measures.most_overtaken}",
        f"{measures.most_put_off:.2f}",
        f"{measures.left}",
        f"{measures.decisions}",
    )


def tenant_rows(mode: str, measures: Measures) -> Iterator[tuple[str, ...]]:
    """Yield a line for each tenant that is shown: its waits, and its part of the GPU time beside the one it is due."""
    tenants = sorted(measures.tenants, key=lambda name: (measures.waits(name).p95, name))
    if len(tenants) < 2:
        return
    shares = measures.shares()
    for name in tenants if len(tenants) <= FEW else (tenants[0], tenants[-1]):
        share = shares.get(name)
        yield (mode, name, *_figures(measures.waits(name)), "" if share is None else f"{share:.3f}")


TENANT_HEADER: Final = ("MODE", "TENANT", "WAIT P50", "P95", "MAX", "SHARE")


def _figures(waits: Waits) -> tuple[str, str, str]:
    return f"{waits.p50:.1f}", f"{waits.p95:.1f}", f"{waits.longest:.1f}"
