"""What an operator does meanwhile: it follows all events, drains backends, and acts on jobs of many owners."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aiohttp import ClientError, WSMsgType

from tests.chaos.callers import Caller
from tests.chaos.clients import JOBS, OUTAGES, REFUSED, Asked
from tests.chaos.keyring import OWNERS
from tests.chaos.planting import FIRST_NUMBER

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from tests.chaos.clients import Record
    from tests.chaos.keyring import Holder, Keyring
    from tests.chaos.processes import Fleet

EVERY_S: Final = 2.0
DRAINED_S: Final = 1.0
"""A backend is resumed so long after it was drained."""
_AGAIN_S: Final = 0.3
_AWAY: Final = (ClientError, OSError, TimeoutError, ValueError)


@dataclass
class Overheard:
    """What `/ws/events` told one who follows it."""

    owner: str
    sees_all: bool
    job_ids: set[int] = field(default_factory=set)
    messages: int = 0


class Steering:
    """Does what takes the key of an operator, from the beginning of a run until it is cancelled."""

    def __init__(self, fleet: Fleet, session: ClientSession, record: Record, keyring: Keyring, seed: int) -> None:
        self._fleet = fleet
        self._record = record
        self._draw = random.Random(f"operator {seed}")
        self._session = session
        self._caller = self._of(keyring.operator)
        self._user = self._of(keyring.holders[0])
        self.overheard: Final = [Overheard(keyring.operator.owner, True), Overheard(keyring.holders[0].owner, False)]
        self._drained: set[str] = set()
        """Backends that were drained, or may have been."""
        self.done = 0
        """How many orders were carried out."""

    async def follow(self) -> None:
        """Follow all events, as the operator and as a user, for ever."""
        async with asyncio.TaskGroup() as group:
            for caller, overheard in zip((self._caller, self._user), self.overheard, strict=True):
                group.create_task(self._follow(caller, overheard), name=f"events-{overheard.owner}")

    async def act(self) -> None:
        """Give orders for ever; when that was cancelled, `settle` is to be called."""
        while True:
            await asyncio.sleep(self._draw.uniform(0.5, 1.5) * EVERY_S)
            chance = self._draw.random()
            if chance < 0.5:
                await self._drain(self._draw.choice(sorted(self._fleet.standin_urls)))
            elif chance < 0.85:
                await self._cancel_some()
            else:
                # Of one owner, so that some cancelled jobs stay so.
                chosen = {"user_id": self._draw.choice(OWNERS), "status": ["cancelled"]}
                await self._post(f"{JOBS}/retry", {"filter": chosen})

    async def settle(self) -> None:
        """Resume what was drained, which would keep its jobs waiting for ever."""
        for name in sorted(self._drained):
            while await self._post(f"/api/v1/backends/{name}/resume") != 200:
                await asyncio.sleep(_AGAIN_S)
            self._drained.discard(name)

    def _of(self, holder: Holder) -> Caller:
        return Caller(self._session, self._fleet.api_urls, holder, self._draw, self._record.sent)

    async def _drain(self, name: str) -> None:
        self._drained.add(name)
        await self._post(f"/api/v1/backends/{name}/drain")
        await asyncio.sleep(DRAINED_S)
        await self.settle()

    async def _cancel_some(self) -> None:
        """Cancel two jobs in one request, whosever they are; those stay that the schedule of faults has sent."""
        sent = [each for each in self._record.tries[-40:] if each.job_id is not None]
        sent = [each for each in sent if int(each.tag.partition(":")[0]) < FIRST_NUMBER]
        if not sent:
            return
        job_ids = sorted({self._draw.choice(sent).job_id or 0 for _ in range(2)})
        asked = [Asked("cancel", job_id, time.time()) for job_id in job_ids]
        self._record.asked += asked
        answer: dict[int, dict[str, object]] = {}
        if await self._post(f"{JOBS}/cancel", {"job_ids": job_ids}, answer) != 200:
            return
        for each in asked:
            result = answer.get(each.job_id, {})
            each.told = str(result.get("status") or result.get("code"))
            each.answered_at = time.time()
            each.status = 409 if not result.get("ok") else 200 if each.told == "cancelled" else 202

    async def _post(
        self, path: str, body: object = None, results: dict[int, dict[str, object]] | None = None
    ) -> int | None:
        """Ask once, and return the status; None when there was no answer."""
        app = self._draw.randrange(len(self._fleet.api_urls))
        with contextlib.suppress(*_AWAY):
            async with self._caller.request("POST", app, path, json=body or {}) as response:
                answer = await response.json()
                if response.status == 200:
                    self.done += 1
                    for each in answer.get("results", ()) if results is not None else ():
                        results[each["job_id"]] = each
                # Nobody knows of a backend between the loss of all that Redis had and the next heartbeat.
                elif response.status not in (*OUTAGES, *REFUSED) and answer.get("code") != "backend_not_found":
                    self._record.faults.append(f"the operator's POST {path} was answered {response.status} {answer}")
                return response.status
        return None

    async def _follow(self, caller: Caller, overheard: Overheard) -> None:
        while True:
            app, key = self._draw.randrange(len(self._fleet.api_urls)), caller.holder.key
            assert key is not None
            sent = caller.note("GET /ws/events", app, key)
            with contextlib.suppress(*_AWAY):
                url = f"{self._fleet.api_urls[app]}/ws/events"
                async with self._session.ws_connect(url, headers=key.headers()) as ws:
                    sent.status, sent.answered_at = 101, time.time()
                    async for message in ws:
                        if message.type is WSMsgType.TEXT:
                            told = message.json()
                            overheard.messages += 1
                            if isinstance(told.get("job_id"), int):
                                overheard.job_ids.add(told["job_id"])
            sent.answered_at = sent.answered_at or time.time()
            await asyncio.sleep(self._draw.uniform(1.0, 2.0))
