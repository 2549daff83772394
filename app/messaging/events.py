"""Telling watchers: frames published after the commit, and the last progress kept for those who come later."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from app.domain.job import STATUS_OF, JobStatus
from app.domain.message import Snapshot, frame, timestamp
from app.messaging.connection import AWAY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arq.connections import ArqRedis

    from app.messaging.channels import Names

log = logging.getLogger(__name__)

LIVE_TTL_S: Final = 60
"""A key that nobody renews is of a job long gone, whose end could not be told. A running job that is silent for longer
loses nothing: with each heartbeat its progress goes into its row."""


class Events:
    """Publishes what happened. A Redis that is away costs watchers a delay, never a job: polling heals it."""

    def __init__(self, redis: ArqRedis, names: Names) -> None:
        self._redis = redis
        self._names = names

    async def publish(self, *snapshots: Snapshot) -> None:
        """Tell watchers of these states, in this order. Never raises: what is committed stays true."""
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for snapshot in snapshots:
                    told = frame(snapshot)
                    pipe.publish(self._names.job(snapshot.job_id), json.dumps(told))
                    event = {"type": "job", "phase": snapshot.phase, "backend": snapshot.backend_name} | told
                    pipe.publish(self._names.events, json.dumps(event))
                    if STATUS_OF[snapshot.phase] is JobStatus.RUNNING and (snapshot.tick or snapshot.progress):
                        live = [
                            snapshot.attempt,
                            snapshot.seq,
                            snapshot.tick,
                            snapshot.progress,
                            timestamp(snapshot.at),
                        ]
                        pipe.set(self._names.live(snapshot.job_id), json.dumps(live), ex=LIVE_TTL_S)
                    elif snapshot.finished:
                        pipe.delete(self._names.live(snapshot.job_id))
                await pipe.execute()
        except (*AWAY, RedisError) as error:
            log.warning("could not publish events of jobs %s: %s", [each.job_id for each in snapshots], error)

    async def ask_to_cancel(self, job_id: int) -> None:
        """Tell the workers that a running job is to be cancelled; they also find out when they renew its lease."""
        try:
            await self._redis.publish(self._names.cancels, str(job_id))
        except (*AWAY, RedisError) as error:
            log.warning("could not tell the workers to cancel job %s: %s", job_id, error)

    async def publish_event(self, event: dict[str, Any]) -> None:
        """Tell those who watch everything of something that is no job's, such as a worker's start."""
        try:
            await self._redis.publish(self._names.events, json.dumps(event))
        except (*AWAY, RedisError) as error:
            log.warning("could not publish %s: %s", event.get("type"), error)

    async def with_live(self, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
        """Return the snapshots with the last progress told since; while Redis is away, as they are."""
        running = [each for each in snapshots if STATUS_OF[each.phase] is JobStatus.RUNNING]
        if not running:
            return list(snapshots)
        try:
            kept = await self._redis.mget([self._names.live(each.job_id) for each in running])
        except (*AWAY, RedisError):
            return list(snapshots)
        live = {each.job_id: _merged(each, raw) for each, raw in zip(running, kept, strict=True) if raw}
        return [live.get(each.job_id, each) for each in snapshots]


def _merged(snapshot: Snapshot, raw: bytes) -> Snapshot:
    try:
        attempt, seq, tick, progress, at = json.loads(raw)
    except ValueError:
        # Written by a worker of another version, in the middle of a deployment.
        return snapshot
    if attempt != snapshot.attempt:
        return snapshot
    told = replace(snapshot, progress=max(snapshot.progress, progress))
    return replace(told, tick=tick, at=datetime.fromisoformat(at)) if seq == snapshot.seq else told
