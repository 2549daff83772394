"""What the stand-ins executed, by their own logs, which are asked for often: a killed one takes its log along."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp import ClientError, ClientTimeout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import ClientSession

POLL_S: Final = 0.4
ANSWER: Final = ClientTimeout(total=2)


@dataclass(frozen=True, slots=True)
class Execution:
    """One start of one prompt; times are Unix seconds."""

    standin: str
    life: int
    """Counts the server's starts; between two of them it forgets everything."""
    prompt_id: str
    started: float
    ended: float | None
    outcome: str


class ExecutionLogs:
    """The logs of all stand-ins and of all their lives."""

    def __init__(self, session: ClientSession, urls: dict[str, str]) -> None:
        self._session = session
        self._urls = urls
        self._lives: dict[str, list[dict[str, Any]]] = {name: [{}] for name in urls}
        self.harms: dict[str, list[tuple[float, float]]] = {name: [] for name in urls}
        """From when to when each stand-in was no good: its execution thread dead, or all of it."""
        self.breakdowns: dict[str, list[tuple[float, float]]] = {name: [] for name in urls}
        """From when to when the device of each was broken: every run failed at once."""
        self._died_at: dict[str, float] = {}

    async def poll(self) -> None:
        """Collect for ever."""
        while True:
            for name in self._urls:
                await self.collect(name)
            await asyncio.sleep(POLL_S)

    async def collect(self, name: str) -> None:
        """Take over what a stand-in has logged; one that is away keeps what was collected before."""
        life = self._lives[name]
        position = len(life) - 1
        with contextlib.suppress(ClientError, OSError, TimeoutError, ValueError):
            async with self._session.get(f"{self._urls[name]}/standin/log", timeout=ANSWER) as response:
                told = await response.json()
            # The answer may be one of a life that ended meanwhile: never of the next, which begins with an empty log.
            if len(told["executions"]) >= len(life[position].get("executions", ())):
                if told["dead"]:
                    self._died_at.setdefault(name, time.time() - POLL_S)
                life[position] = told

    def ends(self, name: str) -> None:
        """Note that the stand-in's life has just ended; it must not have begun its next one."""
        self._died_at.setdefault(name, time.time() - POLL_S)
        self._lives[name].append({})

    def begins(self, name: str) -> None:
        """Note that the stand-in serves again."""
        self.harms[name].append((self._died_at.pop(name, time.time()), time.time()))

    def is_last_life(self, run: Execution) -> bool:
        """Whether the server that executed this still lives."""
        return run.life == len(self._lives[run.standin])

    async def is_dead(self, name: str) -> bool:
        """Whether its execution thread has died."""
        await self.collect(name)
        return bool(self._lives[name][-1].get("dead"))

    def executions(self) -> Iterator[Execution]:
        """Yield everything that was executed."""
        for name, lives in self._lives.items():
            for number, log in enumerate(lives, 1):
                for each in log.get("executions", ()):
                    yield Execution(
                        name, number, each["prompt_id"], each["started"], each["ended"], str(each["outcome"])
                    )

    def was_harmed(self, name: str, start: float, end: float) -> bool:
        """Whether the stand-in was killed, or its thread was dead, at some time between these."""
        return any(since <= end and until >= start for since, until in self.harms.get(name, ()))

    def was_broken(self, name: str, start: float, end: float) -> bool:
        """Whether the stand-in's device was broken at some time between these."""
        return any(since <= end and until >= start for since, until in self.breakdowns.get(name, ()))

    async def busy(self) -> list[str]:
        """Return the stand-ins whose queues are not empty, or that do not answer."""
        found = []
        for name, url in self._urls.items():
            try:
                async with self._session.get(f"{url}/queue", timeout=ANSWER) as response:
                    queue = await response.json()
            except (ClientError, OSError, TimeoutError, ValueError):
                found.append(f"{name} does not answer")
                continue
            left = [item[1] for key in ("queue_running", "queue_pending") for item in queue[key]]
            if left:
                found.append(f"{name} still has {left}")
        return found
