"""Jobs that are sent when the schedule says so: poison, and ten at once that save over each other's files."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tests.chaos.clients import Client, Kind, Plan
from tests.chaos.keyring import USERS

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from tests.chaos.clients import Record
    from tests.chaos.keyring import Keyring
    from tests.chaos.processes import Fleet

FIRST_NUMBER: Final = 1_000_000
"""Beyond the numbers of the jobs that are drawn."""


class Planter:
    """Sends jobs in the middle of a run, each by a client of its own."""

    def __init__(self, fleet: Fleet, session: ClientSession, record: Record, keyring: Keyring | None) -> None:
        self._fleet = fleet
        self._session = session
        self._record = record
        self._keyring = keyring
        self._numbers = itertools.count(FIRST_NUMBER)
        self.clients: list[asyncio.Task[None]] = []

    def plant(self, kind: Kind, count: int, variant: int) -> list[asyncio.Task[None]]:
        """Let so many clients submit and follow a job each, all at once; their tasks end with their jobs."""
        tasks = []
        for _ in range(count):
            plan = _plan(next(self._numbers), kind, variant)
            holder = self._keyring.holder(plan.number % len(USERS)) if self._keyring is not None else None
            if holder is not None:
                plan = replace(plan, owner=holder.owner)
            self._record.planned.append(plan)
            client = Client(self._session, self._fleet.api_urls, self._record, [plan], holder)
            tasks.append(asyncio.create_task(client.run(), name=f"client-{plan.number}"))
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
