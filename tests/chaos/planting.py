"""Jobs that are sent when the schedule says so: poison, and ten at once that save over each other's files."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Final

from tests.chaos.clients import Client, Kind, Plan

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from tests.chaos.clients import Record
    from tests.chaos.processes import Fleet

FIRST_NUMBER: Final = 1_000_000
"""Beyond the numbers of the jobs that are drawn."""


class Planter:
    """Sends jobs in the middle of a run, each by a client of its own."""

    def __init__(self, fleet: Fleet, session: ClientSession, record: Record) -> None:
        self._fleet = fleet
        self._session = session
        self._record = record
        self._numbers = itertools.count(FIRST_NUMBER)
        self.clients: list[asyncio.Task[None]] = []

    def plant(self, kind: Kind, count: int, variant: int) -> list[asyncio.Task[None]]:
        """Let so many clients submit and follow a job each, all at once; their tasks end with their jobs."""
        plans = [_plan(next(self._numbers), kind, variant) for _ in range(count)]
        self._record.planned += plans
        tasks = [
            asyncio.create_task(
                Client(self._session, self._fleet.api_urls, self._record, [plan]).run(), name=f"client-{plan.number}"
            )
            for plan in plans
        ]
        self.clients += tasks
        return tasks


def _plan(number: int, kind: Kind, variant: int) -> Plan:
    return Plan(
        number=number,
        kind=kind,
        seconds=0.0,
        priority=0,
        cancel_after_s=None,
        cancel_twice=False,
        retry=False,
        variant=variant,
    )
