"""The queue played in virtual time, so that a rule of who is next can be judged before it is used."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

from app.commands.terminal import show, table
from app.domain.errors import GenonautError
from app.simulation.play import Mode, Play
from app.simulation.report import HEADER, LEGEND, TENANT_HEADER, row, tenant_rows
from app.simulation.scenarios import SCENARIOS, USUAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.settings import Settings
    from app.simulation.measures import Measures
    from app.simulation.scenario import Scenario


class UnknownSimulation(GenonautError):
    """There is no such scenario or mode."""

    code = "unknown_simulation"


async def simulate(_settings: Settings, scenarios: Sequence[str], modes: str, seed: int) -> int:
    """Play scenarios and show what came out; how fast that went is told on standard error, as it differs each time."""
    chosen = [_named(name) for name in scenarios or USUAL]
    wanted = [_mode(name) for name in modes.split(",")] if modes else list(Mode)
    for scenario in chosen:
        show(f"{scenario.name}: {scenario.about}; seed {seed}")
        rows: list[tuple[str, ...]] = []
        tenants: list[tuple[str, ...]] = []
        for mode in wanted:
            measures = await _played(scenario, mode, seed)
            rows.append(row(scenario, mode, measures))
            tenants.extend(tenant_rows(mode, measures))
        show(table(HEADER, rows))
        if tenants:
            show(table(TENANT_HEADER, tenants))
        show("")
    show(LEGEND)
    return 0


async def _played(scenario: Scenario, mode: Mode, seed: int) -> Measures:
    play = Play(scenario, mode, seed)
    began = time.process_time()
    for _ in play.steps():
        # So that Ctrl-C is heard.
        await asyncio.sleep(0)
    took_s = max(time.process_time() - began, 1e-9)
    rate = play.measures.decisions / took_s
    told = f"{scenario.name}, {mode}: {took_s:.1f} s of processor time, {rate:,.0f} decisions a second"
    print(told, file=sys.stderr)  # noqa: T201
    return play.measures


def _named(name: str) -> Scenario:
    if name not in SCENARIOS:
        raise UnknownSimulation(f"There is no scenario {name!r}; there are {', '.join(SCENARIOS)}.")
    return SCENARIOS[name]()


def _mode(name: str) -> Mode:
    try:
        return Mode(name)
    except ValueError as error:
        raise UnknownSimulation(f"There is no mode {name!r}; there are {', '.join(Mode)}.") from error
