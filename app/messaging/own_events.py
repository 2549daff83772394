"""Events for those who may see only their own jobs: each gets what happens to these, and learns of no other."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from app.domain.errors import Unavailable
from app.runtime.end_tasks import end_tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

log = logging.getLogger(__name__)

MOST_KNOWN: Final = 20_000
"""Jobs of which it is remembered whose they are; that never changes."""
MOST_WAITING: Final = 2000
"""Messages that wait until it is known whose they are; with more all are dropped, and clients read everything anew."""
ASKED_AT_ONCE: Final = 500
RETRY_S: Final = 1.0
"""Seconds until it is asked again after PostgreSQL was away."""


class EventWatcher(Protocol):
    """Who is sent events: takes them without waiting."""

    def offer_event(self, message: bytes) -> None:
        """Take an event."""


W = TypeVar("W", bound=EventWatcher)


class OwnEvents(Generic[W]):
    """Sends each job's events to the watchers of its owner, in their order.

    `owners` returns whose those of the jobs are that exist. Nothing is kept or asked while there are no watchers.
    `hello` is the message that tells a watcher to read everything anew, after messages were dropped.
    """

    def __init__(self, owners: Callable[[Sequence[int]], Awaitable[Mapping[int, str]]], hello: bytes) -> None:
        self._owners = owners
        self._hello = hello
        self._watchers: dict[str, set[W]] = {}
        self._known: OrderedDict[int, str] = OrderedDict()
        """Job → whose it is; the one that was last heard of comes last."""
        self._waiting: dict[int, list[bytes]] = {}
        """Messages of jobs that are not in `_known`."""
        self._count = 0
        """How many messages wait."""
        self._lost = False
        """Messages were dropped, and the watchers have not been told yet."""
        self._asking: asyncio.Task[None] | None = None

    def __bool__(self) -> bool:
        return bool(self._watchers)

    def __iter__(self) -> Iterator[W]:
        return iter([watcher for watchers in self._watchers.values() for watcher in watchers])

    @property
    def waiting(self) -> int:
        """How many messages wait until it is known whose they are."""
        return self._count

    @property
    def known(self) -> int:
        """Of how many jobs it is remembered whose they are."""
        return len(self._known)

    def watch(self, watcher: W, owner: str) -> None:
        """Send the events of this owner's jobs from now on."""
        self._watchers.setdefault(owner, set()).add(watcher)

    def unwatch(self, watcher: W) -> None:
        """Send it nothing more."""
        for owner, watchers in list(self._watchers.items()):
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[owner]
        if not self._watchers:
            self._drop()

    def forward(self, job_id: int, message: bytes, owner: str | None = None) -> None:
        """Send a message of a job to its owner's watchers; `owner` where the message itself tells whose it is."""
        owner = owner or self._known.get(job_id)
        if owner is not None:
            self._learn(job_id, owner)
            self._send(owner, message)
            return
        if self._count >= MOST_WAITING:
            self._drop()
            self._lost = True
            return
        self._waiting.setdefault(job_id, []).append(message)
        self._count += 1
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="owners")

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            await end_tasks([self._asking])

    async def _ask(self) -> None:
        """Ask whose the jobs are, until no message waits; what comes meanwhile is asked for together."""
        while self._waiting:
            asked = list(islice(self._waiting, ASKED_AT_ONCE))
            try:
                found = await self._owners(asked)
            except Unavailable as error:
                log.warning("whose jobs the events are of is not known: %s", error)
                await asyncio.sleep(RETRY_S)
                continue
            except Exception:
                log.exception("it could not be asked whose jobs the events are of")
                found, self._lost = {}, True
            for job_id in asked:
                if (owner := found.get(job_id)) is not None:
                    self._learn(job_id, owner)
                else:
                    # Deleted meanwhile. That is not remembered: it is nobody's business any more.
                    self._count -= len(self._waiting.pop(job_id, ()))
            self._tell_of_loss()
        self._tell_of_loss()

    def _tell_of_loss(self) -> None:
        if self._lost:
            self._lost = False
            for watcher in self:
                watcher.offer_event(self._hello)

    def _learn(self, job_id: int, owner: str) -> None:
        """Remember whose a job is, and send what waited for that."""
        self._known[job_id] = owner
        self._known.move_to_end(job_id)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        if job_id in self._waiting:
            messages = self._waiting.pop(job_id)
            self._count -= len(messages)
            for message in messages:
                self._send(owner, message)

    def _send(self, owner: str, message: bytes) -> None:
        for watcher in list(self._watchers.get(owner, ())):
            watcher.offer_event(message)

    def _drop(self) -> None:
        self._waiting.clear()
        self._count = 0
