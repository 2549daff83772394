"""Clients submit jobs, follow them over WebSockets through every interruption, cancel and retry, and record it all."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from aiohttp import ClientError, ClientSession, WSMsgType, WSServerHandshakeError

from tests.chaos import pictures, workflows
from tests.chaos.callers import Caller, open_socket
from tests.chaos.keyring import Holder
from tests.chaos.strangers import Belongings, Stranger

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from tests.chaos.callers import Sent
    from tests.chaos.keyring import Revocation
    from tests.chaos.strangers import Foreign

JOBS: Final = "/api/v1/generation-jobs"
UPLOADS: Final = "/api/v1/uploads"
CONTENTS: Final = "/api/v1/contents"
TERMINAL: Final = ("completed", "failed", "cancelled")
AWAY: Final = (ClientError, OSError, TimeoutError)
OUTAGES: Final = (500, 502, 503)
REFUSED: Final = (401, 429)
"""A key that is revoked just now, or a limit; whether that was right is checked at the end, with all that is known."""
REFUSED_PAUSE_S: Final = (1.0, 2.5)
"""Between these a client waits before it shows a key again that was refused."""
KEEP_UPLOADS_S: Final = 5.0
"""So long an upload is kept from its last use on, unless a job needs it: short, so that the sweep deletes in a run."""
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
FROM_PICTURES: Final = (Kind.SLOW, Kind.IMAGE, Kind.BATCH)
"""Of these a third starts from a picture."""
PAINTERS: Final = "painters"
"""Owner of the pictures that many jobs use, and of those jobs."""


class Naming(StrEnum):
    """How a workflow names the file of one of its inputs."""

    TEXT = "upload:<id> in the workflow"
    INPUTS = "inputs"


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
    picture: int | None = None
    """The picture that it starts from."""
    naming: Naming = Naming.TEXT
    deletes: bool = False
    """Whether its client asks, as soon as it is accepted, that its picture be deleted."""
    owner: str | None = None
    """Whose key its client has; None in a run without keys."""

    @property
    def shares(self) -> bool:
        """Whether others start from its picture too."""
        return self.picture is not None and self.picture < pictures.SHARED

    @property
    def user_id(self) -> str:
        """Who sends it, and hands its picture over."""
        if self.owner is not None:
            return self.owner
        return PAINTERS if self.shares else f"client-{self.number}"

    def body(self, tag: str, upload_id: str | None) -> dict[str, Any]:
        """Return the request; `tag` tells this very try from others of the same job."""
        # With a key it may be left out.
        whose = {} if self.owner is not None and self.number % 2 else {"user_id": self.user_id}
        body: dict[str, Any] = whose | {
            "priority": self.priority,
            "max_attempts": 10,
            "metadata": {"chaos": tag},
        }
        if self.kind in (Kind.IMAGE, Kind.BATCH):
            body |= {"width": 64, "height": 64, "batch_size": 2 if self.kind is Kind.BATCH else 1}
            sampler: dict[str, Any] = {"steps": 4}
            if upload_id is not None:
                sampler["denoise"] = pictures.DENOISE
                body["image"] = {"upload": upload_id}
            body |= {"job_type": "image", "prompt": f"ship {self.number}", "sampler_params": sampler}
            return body | {"checkpoint_model": workflows.CHECKPOINTS[self.number % len(workflows.CHECKPOINTS)]}
        body |= {"job_type": "workflow", "workflow": self._workflow(upload_id)}
        if upload_id is not None and self.naming is Naming.INPUTS:
            body["workflow"]["1"]["inputs"] = {}
            body["inputs"] = {"1.image": {"upload": upload_id}}
        return body

    def _workflow(self, upload_id: str | None) -> dict[str, Any]:
        if upload_id is not None:
            return workflows.from_picture(upload_id, self.number, self.seconds)
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
class Handed:
    """A picture that was handed over; it was kept anew from `at`, Unix seconds, or later."""

    picture: int
    at: float
    upload_id: str
    new: bool
    """Whether there was none of these bytes."""
    owner: str = ""


@dataclass
class Deletion:
    """An answer to who asked that a job's picture be deleted, though the job may need it."""

    job_id: int
    answered_at: float
    status: int


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
    key: str = ""
    """Name of the key that opened it, or its ticket; empty in a run without keys."""


@dataclass
class Record:
    """What all clients did and saw."""

    tries: list[Try] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    planned: list[Plan] = field(default_factory=list)
    handed: list[Handed] = field(default_factory=list)
    deletions: list[Deletion] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    """Each request that showed a key."""
    foreign: list[Foreign] = field(default_factory=list)
    watched: list[Connection] = field(default_factory=list)
    """Sockets of `/ws/events` that were open when their key was revoked."""
    revocations: list[Revocation] = field(default_factory=list)
    owners: dict[int, str] = field(default_factory=dict)
    """Job → whose key it was sent with."""
    kept: list[tuple[int, str]] = field(default_factory=list)
    """Contents, each with whose it is."""
    outages: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """From when to when PostgreSQL, or Redis, was away or emptied."""
    faults: list[str] = field(default_factory=list)
    """What no client should ever see."""

    @property
    def submitted(self) -> int:
        """How many jobs were accepted with 201."""
        return sum(each.status == 201 for each in self.tries)


def draw_plans(seed: int, count: int) -> list[list[Plan]]:
    """Return the jobs in groups; one client follows each group over one socket."""
    draw = random.Random(f"jobs {seed}")
    # Drawn by themselves: the jobs of a seed are otherwise those that they were before there were pictures.
    of_pictures = random.Random(f"pictures {seed}")
    groups: list[list[Plan]] = []
    number = 0
    while number < count:
        size = min(draw.choice((1, 1, 2, 3, 5, 8)), count - number)
        group = [_draw_plan(draw, number + index) for index in range(size)]
        groups.append([_with_picture(of_pictures, plan) for plan in group])
        number += size
    return groups


def with_owners(groups: Sequence[Sequence[Plan]], holders: Sequence[Holder]) -> list[list[Plan]]:
    """Return the groups, each of an owner: one client sends all of it with one key."""
    return [[replace(plan, owner=holder_of(group, holders).owner) for plan in group] for group in groups]


def holder_of(group: Sequence[Plan], holders: Sequence[Holder]) -> Holder:
    """Return who sends a group; every owner has some, also in a short run."""
    # Scattered: the numbers of neighbouring groups differ by their sizes only.
    return holders[random.Random(f"owner {group[0].number}").randrange(len(holders))]


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


def _with_picture(draw: random.Random, plan: Plan) -> Plan:
    """Return the plan, of every third with a picture to start from: in half of them one that others use too."""
    starts, shares, deletes = draw.random() < 1 / 3, draw.random() < 0.5, draw.random() < 0.3
    shared, naming = draw.randrange(pictures.SHARED), draw.choice(list(Naming))
    if plan.kind not in FROM_PICTURES or not starts:
        return plan
    picture = shared if shares else pictures.own(plan.number)
    return replace(plan, picture=picture, naming=naming, deletes=deletes and not shares)


class Client:
    """Submits and follows one group of jobs."""

    def __init__(
        self, session: ClientSession, urls: list[str], record: Record, group: list[Plan], holder: Holder | None = None
    ) -> None:
        """Without a `holder` there are no keys."""
        self._urls = urls
        self._record = record
        self._group = group
        self._draw = random.Random(f"client {group[0].number}")
        self._app = self._draw.randrange(len(urls))
        self._kept: dict[int, int] = {}
        """Content → the job that left it: what is still to be looked at."""
        # Drawn by themselves, so that a seed's clients do the same with and without keys.
        self._of_keys = random.Random(f"keys {group[0].number}")
        self._caller = Caller(session, urls, holder or Holder(""), self._of_keys, record.sent)
        self._stranger = Stranger(self._caller, record.foreign, self._of_keys) if holder is not None else None

    async def run(self) -> None:
        """Do everything that the plans ask for, until each job has ended."""
        followed: dict[int, Plan] = {}
        async with asyncio.TaskGroup() as tasks:
            for plan in self._group:
                job_id = await self._submit(plan)
                followed[job_id] = plan
                if plan.cancel_after_s is not None:
                    tasks.create_task(self._cancel(job_id, plan))
                await self._look_around(followed)
                await asyncio.sleep(self._draw.uniform(0.0, 0.15))
            ended = await self._follow(list(followed))
        await self._look_around(followed)
        again = [job_id for job_id, word in ended.items() if followed[job_id].retry and word in ("failed", "cancelled")]
        again = [job_id for job_id in again if await self._ask("retry", job_id, self._app) == 200]
        if again:
            await self._follow(again)

    async def _submit(self, plan: Plan) -> int:
        """Post until it is accepted; each try has a tag of its own, so that a lost answer can be traced."""
        for number in range(1, 1000):
            handed = await self._hand_over(plan)
            attempt = Try(f"{plan.number}:{number}", time.time())
            self._record.tries.append(attempt)
            try:
                body = plan.body(attempt.tag, handed.upload_id if handed is not None else None)
                async with self._caller.request("POST", self._app, JOBS, json=body) as response:
                    answer = await response.json()
                    attempt.status, attempt.code = response.status, answer.get("code")
            except (*AWAY, ValueError):
                self._turn_elsewhere()
            else:
                if attempt.status == 201:
                    attempt.job_id = int(answer["job_id"])
                    self._record.owners[attempt.job_id] = plan.user_id
                    if plan.deletes and handed is not None:
                        await self._delete(handed, plan, attempt.job_id)
                    return attempt.job_id
                # One that was handed over long ago may be gone: it is handed over again.
                gone = [each.get("code") for each in answer.get("errors", ())] == ["unknown_upload"]
                gone = gone and handed is not None and time.time() > handed.at + KEEP_UPLOADS_S
                if attempt.status not in (*OUTAGES, *REFUSED) and not gone:
                    self._record.faults.append(f"POST of {attempt.tag} was answered {attempt.status} {answer}")
            await self._pause(attempt.status)
        raise AssertionError("unreachable")

    async def _hand_over(self, plan: Plan) -> Handed | None:
        """Upload the picture of a plan until it is taken; None if it has none."""
        while plan.picture is not None:
            at, status = time.time(), None
            try:
                path = f"{UPLOADS}?user_id={plan.user_id}"
                async with self._caller.request("POST", self._app, path, data=pictures.png(plan.picture)) as response:
                    answer = await response.json()
                    status = response.status
            except (*AWAY, ValueError):
                self._turn_elsewhere()
            if status in (200, 201):
                handed = Handed(plan.picture, at, answer["upload_id"], new=status == 201, owner=plan.user_id)
                self._record.handed.append(handed)
                return handed
            if status not in (None, *OUTAGES, *REFUSED):
                self._record.faults.append(f"the picture of job {plan.number} was answered {status} {answer}")
            await self._pause(status)
        return None

    async def _delete(self, handed: Handed, plan: Plan, job_id: int) -> None:
        """Ask once that a picture be deleted; whether its job still needs it, the job itself will show."""
        with contextlib.suppress(*AWAY):
            path = f"{UPLOADS}/{handed.upload_id}?user_id={plan.user_id}"
            async with self._caller.request("DELETE", self._app, path) as response:
                self._record.deletions.append(Deletion(job_id, time.time(), response.status))
                if response.status not in (204, 404, 409, *OUTAGES, *REFUSED):
                    told = f"the deletion of the picture of job {job_id} was answered {response.status}"
                    self._record.faults.append(told)

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
                async with self._caller.request("POST", app, f"{JOBS}/{job_id}/{what}", json={}) as response:
                    answer = await response.json()
                    asked.told = answer.get("code") or answer.get("status")
                    asked.status, asked.answered_at = response.status, time.time()
            except (*AWAY, ValueError):
                app = (app + 1) % len(self._urls)
            else:
                if asked.status in (200, 202, 409):
                    return asked.status
                if asked.status not in (*OUTAGES, *REFUSED):
                    self._record.faults.append(f"{what} of job {job_id} was answered {asked.status} {answer}")
                    return asked.status
            await asyncio.sleep(self._of_keys.uniform(*REFUSED_PAUSE_S) if asked.status in REFUSED else 0.3)

    async def _follow(self, job_ids: list[int]) -> dict[int, str]:
        """Watch until each job has ended, over as many sockets as it takes, and return how they ended."""
        ended: dict[int, str] = {}
        misses = 0
        while waiting := [job_id for job_id in job_ids if job_id not in ended]:
            refused: int | None = None
            connection = Connection(self._group[0].number, self._app, waiting, time.time())
            try:
                async with open_socket(self._caller, self._app, waiting, self._of_keys) as (ws, key):
                    connection.key = key
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
                            if frame.get("content_id"):
                                self._record.kept.append((frame["content_id"], self._caller.holder.owner))
                                self._kept[frame["content_id"]] = frame["job_id"]
                    connection.close_code, connection.closed_at = ws.close_code, time.time()
            except WSServerHandshakeError as error:
                refused = error.status
                # 404 and the like: an accepted job is unknown. 500 and 503 are outages.
                misses += error.status < 500 and error.status not in REFUSED
                if misses == 3:
                    self._record.faults.append(f"the socket for jobs {waiting} was refused with {error.status}")
                    return ended
            except AWAY:
                if all(job_id in ended for job_id in waiting):
                    self._record.faults.append(f"the socket of jobs {waiting} was not closed after their end")
            connection.closed_at = connection.closed_at or time.time()
            self._turn_elsewhere()
            await self._pause(refused, 0.05, 0.3)
        return ended

    async def _look_around(self, own: Collection[int]) -> None:
        """With a key: ask for something of another owner, and look at what one's own jobs left."""
        if self._stranger is None:
            return
        uploads = [(each.upload_id, each.owner) for each in self._record.handed]
        await self._stranger.ask(self._app, Belongings(self._record.owners, self._record.kept, uploads))
        for content_id in [each for each, job_id in self._kept.items() if job_id in own]:
            del self._kept[content_id]
            with contextlib.suppress(*AWAY):
                async with self._caller.request("GET", self._app, f"{CONTENTS}/{content_id}/outputs/0") as response:
                    if response.status not in (200, *OUTAGES, *REFUSED):
                        self._record.faults.append(f"content {content_id} was answered {response.status}")
                    await response.read()

    async def _pause(self, status: int | None, least_s: float = 0.1, most_s: float = 0.4) -> None:
        """Wait before the next try: longer when the key was refused."""
        drawn_s = self._draw.uniform(least_s, most_s)
        await asyncio.sleep(self._of_keys.uniform(*REFUSED_PAUSE_S) if status in REFUSED else drawn_s)

    def _turn_elsewhere(self) -> None:
        self._app = (self._app + 1) % len(self._urls)
