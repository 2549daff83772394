"""Events for watchers, published after the commit, and the last progress of each job for those that come later."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from app.domain.job import STATUS_OF, JobStatus
from app.domain.message import Snapshot, frame, timestamp
from app.messaging.redis_connection import REDIS_ERRORS
from app.runtime.json_text import dumps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from arq.connections import ArqRedis

    from app.messaging.channels import Names

log = logging.getLogger(__name__)

LIVE_TTL_S: Final = 60
"""Seconds after which stored progress expires unless it is renewed: its job has ended unnoticed. A job that runs
silently for longer loses nothing: each heartbeat writes its progress into its row."""

_TELL: Final = """
for at = 2, #ARGV, 3 do
    local call, name, value = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    if call == 'PUBLISH' then
        redis.call('PUBLISH', name, value)
    elseif call == 'SET' then
        redis.call('SET', name, value, 'EX', ARGV[1])
    else
        redis.call('DEL', name)
    end
end
"""
"""One command for all: redis-py spends more time on each command and its answer than Redis does."""

_MORE: Final = ("type", "phase", "node", "attempt", "backend")
"""What is published of a job beyond its frame."""
_OF_THE_FRAME: Final[Mapping[str, Sequence[str]]] = {"pending": ("attempt",), "started": ("attempt", "backend")}
"""Frames that have some of it as their own."""


class Events:
    """Publishes events in order. While Redis is away watchers get them late, by polling; no job is affected."""

    def __init__(self, redis: ArqRedis, names: Names) -> None:
        self._redis = redis
        self._names = names
        self._script = redis.register_script(_TELL)
        self._outbox: list[Snapshot] = []
        self._sending: asyncio.Task[None] | None = None

    def tell(self, *snapshots: Snapshot) -> None:
        """Tell watchers of these states, after what was told before, without waiting until they were sent."""
        self._outbox += snapshots
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_all(), name="events")

    async def publish(self, *snapshots: Snapshot) -> None:
        """Tell watchers of these states, and wait until they were sent. Never raises: what is committed stays true."""
        self.tell(*snapshots)
        await self.all_told()

    async def all_told(self) -> None:
        """Return when everything that was told so far has been sent, or given up."""
        if self._sending is not None:
            await asyncio.shield(self._sending)

    async def _send_all(self) -> None:
        """Send what is in the outbox, and then in one round trip what came meanwhile, until nothing comes any more."""
        while self._outbox:
            snapshots, self._outbox = self._outbox, []
            try:
                await self._send(snapshots)
            except REDIS_ERRORS as error:
                log.warning("could not publish events of jobs %s: %s", [each.job_id for each in snapshots], error)
            except Exception:
                log.exception("could not publish events of jobs %s", [each.job_id for each in snapshots])

    async def _send(self, snapshots: Sequence[Snapshot]) -> None:
        calls: list[str | int] = []
        for snapshot in snapshots:
            calls += "PUBLISH", self._names.events, news(snapshot)
            if STATUS_OF[snapshot.phase] is JobStatus.RUNNING and (snapshot.tick or snapshot.progress):
                at = timestamp(snapshot.at)
                live = [snapshot.attempt, snapshot.seq, snapshot.tick, snapshot.progress, at, snapshot.node]
                calls += "SET", self._names.live(snapshot.job_id), dumps(live)
            elif snapshot.finished:
                calls += "DEL", self._names.live(snapshot.job_id), ""
        await self._script(args=[LIVE_TTL_S, *calls])

    async def ask_to_cancel(self, job_id: int) -> None:
        """Tell the workers that a running job is to be cancelled; they also find out when they renew its lease."""
        try:
            await self._redis.publish(self._names.cancels, str(job_id))
        except REDIS_ERRORS as error:
            log.warning("could not tell the workers to cancel job %s: %s", job_id, error)

    async def publish_event(self, event: dict[str, Any]) -> bool:
        """Publish an event that belongs to no job, such as the start of a worker, and return whether that was done."""
        try:
            await self._redis.publish(self._names.events, json.dumps(event))
        except REDIS_ERRORS as error:
            log.warning("could not publish %s: %s", event.get("type"), error)
            return False
        return True

    async def with_live(self, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
        """Return the snapshots with the last progress told since; while Redis is away, as they are."""
        running = [each.job_id for each in snapshots if STATUS_OF[each.phase] is JobStatus.RUNNING]
        return merged(snapshots, await self.live(running))

    async def live(self, job_ids: Sequence[int]) -> dict[int, bytes]:
        """Return what was last told of the progress of those that run, for `merged`; nothing while Redis is away."""
        if not job_ids:
            return {}
        try:
            kept = await self._redis.mget([self._names.live(job_id) for job_id in job_ids])
        except REDIS_ERRORS:
            return {}
        return {job_id: raw for job_id, raw in zip(job_ids, kept, strict=True) if raw}


def merged(snapshots: Sequence[Snapshot], live: Mapping[int, bytes]) -> list[Snapshot]:
    """Return the snapshots with the last progress told, as `Events.live` found it.

    It may have been read before them: later events reach the watchers by themselves.
    """
    return [
        _merged(each, live[each.job_id]) if each.job_id in live and STATUS_OF[each.phase] is JobStatus.RUNNING else each
        for each in snapshots
    ]


def news(snapshot: Snapshot) -> str:
    """Return the message about this state of a job: its frame, and more fields for clients that watch all events."""
    told = {"type": "job", "phase": snapshot.phase, "attempt": snapshot.attempt, "backend": snapshot.backend_name}
    told |= frame(snapshot)
    return dumps(told | {"node": snapshot.node} if snapshot.node is not None else told)


def frame_of(told: dict[str, Any]) -> dict[str, Any]:
    """Return the frame that is in the news of a job."""
    own = _OF_THE_FRAME.get(told["status"], ())
    return {name: value for name, value in told.items() if name not in _MORE or name in own}


def _merged(snapshot: Snapshot, raw: bytes) -> Snapshot:
    try:
        attempt, seq, tick, progress, at, *more = json.loads(raw)
    except ValueError:
        # Written by a worker of another version, in the middle of a deployment.
        return snapshot
    if attempt != snapshot.attempt:
        return snapshot
    told = replace(snapshot, progress=max(snapshot.progress, progress), node=more[0] if more else None)
    return replace(told, tick=tick, at=datetime.fromisoformat(at)) if seq == snapshot.seq else told
