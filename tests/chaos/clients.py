"""Clients submit jobs, follow them over WebSockets through every interruption, cancel and retry, and record it all."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from aiohttp import ClientError, ClientSession, ClientTimeout, ClientWSTimeout, WSMsgType, WSServerHandshakeError

from tests.chaos import workflows

JOBS: Final = "/api/v1/generation-jobs"
TERMINAL: Final = ("completed", "failed", "cancelled")
AWAY: Final = (ClientError, OSError, TimeoutError)
ANSWER: Final = ClientTimeout(total=8)
_CLOSE: Final = ClientWSTimeout(ws_close=2)
CLOSE_S: Final = 8.0
"""So long after the last job's end a server may keep a socket open."""


class Kind(StrEnum):
    """What a job asks for."""

    SLOW = "slow"
    IMAGE = "image"
    BATCH = "batch"
    FAILING = "failing"
    POISON = "poison"
    """It ends the execution thread of its ComfyUI."""
    FIXED = "fixed"
    """Its saver writes the same file as those of others."""


DRAWN: Final = (Kind.SLOW, Kind.IMAGE, Kind.BATCH, Kind.FAILING)
"""The others are sent when the schedule of faults says so."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A job that a client will submit."""

    number: int
    kind: Kind
    seconds: float
    priority: int
    cancel_after_s: float | None
    """Asked for so long after the submission; None: it is not cancelled."""
    cancel_twice: bool
    retry: bool
    """Whether it is tried again after it failed or was cancelled."""
    variant: int = 0
    """Which of the poisons or savers."""

    def body(self, tag: str) -> dict[str, Any]:
        """Return the request; `tag` tells this very try from others of the same job."""
        body: dict[str, Any] = {
            "user_id": f"client-{self.number}",
            "priority": self.priority,
            "max_attempts": 10,
            "metadata": {"chaos": tag},
        }
        if self.kind in (Kind.IMAGE, Kind.BATCH):
            size = {"width": 64, "height": 64, "batch_size": 2 if self.kind is Kind.BATCH else 1}
            return body | size | {"job_type": "image", "prompt": f"ship {self.number}", "sampler_params": {"steps": 4}}
        return body | {"job_type": "workflow", "workflow": self._workflow()}

    def _workflow(self) -> dict[str, Any]:
        match self.kind:
            case Kind.FAILING:
                return workflows.failing(self.number)
            case Kind.POISON:
                return workflows.poisonous(self.number, self.variant)
            case Kind.FIXED:
                return workflows.saved_over(self.number, self.seconds, self.variant)
            case _:
                return workflows.slow(self.number, self.seconds)


@dataclass
class Try:
    """One POST of a job. `status` is None when no answer came: it may have been accepted or not."""

    tag: str
    at: float
    status: int | None = None
    job_id: int | None = None
    code: str | None = None


@dataclass
class Asked:
    """A cancel or a retry, as it was answered."""

    what: str
    job_id: int
    at: float
    answered_at: float = 0.0
    status: int | None = None
    told: str | None = None
    """The job's status or the error's code."""


@dataclass
class Connection:
    """One WebSocket: every frame with the time at which it came."""

    number: int
    app: int
    job_ids: list[int]
    opened_at: float
    closed_at: float = 0.0
    close_code: int | None = None
    frames: list[tuple[float, dict[str, Any]]] = field(default_factory=list)


@dataclass
class Record:
    """What all clients did and saw."""

    tries: list[Try] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    planned: list[Plan] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What no client should ever see."""

    @property
    def submitted(self) -> int:
        """How many jobs were accepted with 201."""
        return sum(each.status == 201 for each in self.tries)


def draw_plans(seed: int, count: int) -> list[list[Plan]]:
    """Return the jobs in groups; one client follows each group over one socket."""
    draw = random.Random(f"jobs {seed}")
    groups: list[list[Plan]] = []
    number = 0
    while number < count:
        size = min(draw.choice((1, 1, 2, 3, 5, 8)), count - number)
        groups.append([_draw_plan(draw, number + index) for index in range(size)])
        number += size
    return groups


def _draw_plan(draw: random.Random, number: int) -> Plan:
    kind = draw.choices(DRAWN, weights=(70, 18, 6, 6))[0]
    cancelled = draw.random() < 0.16
    return Plan(
        number=number,
        kind=kind,
        seconds=round(draw.uniform(0.1, 1.5), 2),
        priority=draw.randint(-5, 5) if draw.random() < 0.1 else 0,
        cancel_after_s=round(draw.uniform(0.0, 2.5), 2) if cancelled else None,
        cancel_twice=draw.random() < 0.3,
        retry=draw.random() < (0.7 if kind is Kind.FAILING else 0.3),
    )


class Client:
    """Submits and follows one group of jobs."""

    def __init__(self, session: ClientSession, urls: list[str], record: Record, group: list[Plan]) -> None:
        self._session = session
        self._urls = urls
        self._record = record
        self._group = group
        self._draw = random.Random(f"client {group[0].number}")
        self._app = self._draw.randrange(len(urls))

    async def run(self) -> None:
        """Do everything that the plans ask for, until each job has ended."""
        followed: dict[int, Plan] = {}
        async with asyncio.TaskGroup() as tasks:
            for plan in self._group:
                job_id = await self._submit(plan)
                followed[job_id] = plan
                if plan.cancel_after_s is not None:
                    tasks.create_task(self._cancel(job_id, plan))
                await asyncio.sleep(self._draw.uniform(0.0, 0.15))
            ended = await self._follow(list(followed))
        again = [job_id for job_id, word in ended.items() if followed[job_id].retry and word in ("failed", "cancelled")]
        again = [job_id for job_id in again if await self._ask("retry", job_id, self._app) == 200]
        if again:
            await self._follow(again)

    async def _submit(self, plan: Plan) -> int:
        """Post until it is accepted; each try has a tag of its own, so that a lost answer can be traced."""
        for number in range(1, 1000):
            attempt = Try(f"{plan.number}:{number}", time.time())
            self._record.tries.append(attempt)
            try:
                url = f"{self._urls[self._app]}{JOBS}"
                async with self._session.post(url, json=plan.body(attempt.tag), timeout=ANSWER) as response:
                    answer = await response.json()
                    attempt.status, attempt.code = response.status, answer.get("code")
            except (*AWAY, ValueError):
                self._turn_elsewhere()
            else:
                if attempt.status == 201:
                    attempt.job_id = int(answer["job_id"])
                    return attempt.job_id
                if attempt.status not in (500, 502, 503):
                    self._record.faults.append(f"POST of {attempt.tag} was answered {attempt.status} {answer}")
            await asyncio.sleep(self._draw.uniform(0.1, 0.4))
        raise AssertionError("unreachable")

    async def _cancel(self, job_id: int, plan: Plan) -> None:
        await asyncio.sleep(plan.cancel_after_s or 0)
        apps = [0, len(self._urls) - 1] if plan.cancel_twice else [self._app]
        await asyncio.gather(*(self._ask("cancel", job_id, app) for app in apps))

    async def _ask(self, what: str, job_id: int, app: int) -> int:
        """Cancel or retry until there is a clear answer, and return its status."""
        while True:
            asked = Asked(what, job_id, time.time())
            self._record.asked.append(asked)
            try:
                url = f"{self._urls[app]}{JOBS}/{job_id}/{what}"
                async with self._session.post(url, json={}, timeout=ANSWER) as response:
                    answer = await response.json()
                    asked.told = answer.get("code") or answer.get("status")
                    asked.status, asked.answered_at = response.status, time.time()
            except (*AWAY, ValueError):
                app = (app + 1) % len(self._urls)
            else:
                if asked.status in (200, 202, 409):
                    return asked.status
                if asked.status not in (500, 502, 503):
                    self._record.faults.append(f"{what} of job {job_id} was answered {asked.status} {answer}")
                    return asked.status
            await asyncio.sleep(0.3)

    async def _follow(self, job_ids: list[int]) -> dict[int, str]:
        """Watch until each job has ended, over as many sockets as it takes, and return how they ended."""
        ended: dict[int, str] = {}
        misses = 0
        while waiting := [job_id for job_id in job_ids if job_id not in ended]:
            path = f"/ws/jobs/{waiting[0]}" if len(waiting) == 1 else f"/ws/jobs?job_ids={','.join(map(str, waiting))}"
            connection = Connection(self._group[0].number, self._app, waiting, time.time())
            try:
                async with self._session.ws_connect(f"{self._urls[self._app]}{path}", timeout=_CLOSE) as ws:
                    self._record.connections.append(connection)
                    while True:
                        late = CLOSE_S if all(job_id in ended for job_id in waiting) else None
                        message = await ws.receive(timeout=late)
                        if message.type is not WSMsgType.TEXT:
                            break
                        frame = message.json()
                        connection.frames.append((time.time(), frame))
                        if frame.get("status") in TERMINAL:
                            ended[frame["job_id"]] = frame["status"]
                    connection.close_code, connection.closed_at = ws.close_code, time.time()
            except WSServerHandshakeError as error:
                # 404 and the like: an accepted job is unknown. 500 and 503 are outages.
                misses += error.status < 500
                if misses == 3:
                    self._record.faults.append(f"the socket for jobs {waiting} was refused with {error.status}")
                    return ended
            except AWAY:
                if all(job_id in ended for job_id in waiting):
                    self._record.faults.append(f"the socket of jobs {waiting} was not closed after their end")
            connection.closed_at = connection.closed_at or time.time()
            self._turn_elsewhere()
            await asyncio.sleep(self._draw.uniform(0.05, 0.3))
        return ended

    def _turn_elsewhere(self) -> None:
        self._app = (self._app + 1) % len(self._urls)
