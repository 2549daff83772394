"""The loops of a worker: leases, heartbeats, operators' requests, messages from Redis. Each goes on after an outage."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from app.domain.errors import Unavailable
from app.domain.scheduling.choice import SOONEST_LOOK_S
from app.domain.worker_states import WorkerState
from app.messaging.redis_connection import REDIS_ERRORS
from app.runtime.end_tasks import end_tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from arq.worker import Worker
    from redis.asyncio import Redis

    from app.messaging.channels import Names
    from app.messaging.figures import Figures
    from app.messaging.operator_messages import OperatorMessages
    from worker.attempts.attempt_metrics import AttemptMetrics
    from worker.attempts.job_choice import JobChoice
    from worker.attempts.runner import Runner
    from worker.comfyui.pool import BackendPool
    from worker.queue.turn_worker import TurnWorker
    from worker.upkeep.heartbeat import Heartbeat
    from worker.upkeep.offer_answers import OfferAnswers
    from worker.upkeep.operator_requests import OperatorRequests

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WakeUps:
    """Events that make a loop run at once instead of with the next heartbeat."""

    heartbeat: asyncio.Event = field(default_factory=asyncio.Event)
    """The content of the heartbeat has changed, or an operator has made a request."""
    drains: asyncio.Event = field(default_factory=asyncio.Event)
    """An operator has drained or resumed a backend."""
    offer_questions: asyncio.Event = field(default_factory=asyncio.Event)
    """A server asks whether a backend now offers something that its catalog lacks."""

    def operators(self) -> None:
        """Read operators' requests at once."""
        self.heartbeat.set()
        self.drains.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of a worker that the loops call."""

    names: Names
    listener: Redis
    operator_messages: OperatorMessages
    figures: Figures
    metrics: AttemptMetrics
    pool: BackendPool
    runner: Runner
    choice: JobChoice
    turns: TurnWorker
    maintenance: Worker
    heartbeat: Heartbeat
    operator_requests: OperatorRequests
    offer_answers: OfferAnswers


class Loops:
    """The tasks that a worker runs from start to end, independent of its jobs."""

    def __init__(self, parts: Parts, wake_ups: WakeUps, heartbeat_s: float, stop: Callable[[], None]) -> None:
        self._parts = parts
        self._wake_ups = wake_ups
        self._heartbeat_s = heartbeat_s
        self._stop = stop
        self._freeing: asyncio.Task[None] | None = None
        for backend in parts.pool.backends.values():
            backend.on_slot = self._slot_is_free
            backend.on_health = wake_ups.heartbeat.set
            backend.on_change = parts.heartbeat.change

    def start(self) -> list[asyncio.Task[Any]]:
        """Start each loop as a task with its name; a loop ends by itself only because of a bug."""
        parts = self._parts
        loops: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "leases": self._renew_leases,
            "heartbeats": self._send_heartbeats,
            "drains": self._read_drains,
            "news": self._publish_news,
            "offer-questions": self._answer_offer_questions,
            "backends": parts.pool.run,
            "listener": self._listen,
            "turns": partial(self._run_arq, parts.turns),
            "maintenance": partial(self._run_arq, parts.maintenance),
        }
        return [asyncio.create_task(run(), name=name) for name, run in loops.items()]

    async def end(self, tasks: list[asyncio.Task[Any]]) -> None:
        """End the tasks that `start` returned."""
        await end_tasks([*tasks, *([self._freeing] if self._freeing else [])])

    async def _renew_leases(self) -> None:
        """Every `HEARTBEAT_SECONDS`: renew the leases on jobs, and take over attempts whose lease has expired."""
        runner = self._parts.runner
        while True:
            began = asyncio.get_running_loop().time()
            for step in (runner.renew, runner.take_over, runner.promote, runner.stop_stale, runner.learn_of_devices):
                await _survive(step)
            spent = asyncio.get_running_loop().time() - began
            await asyncio.sleep(max(0.05, self._heartbeat_s - spent))

    async def _send_heartbeats(self) -> None:
        """Every `HEARTBEAT_SECONDS`, and when woken: send heartbeats to Redis, and carry out operators' requests.

        This loop is separate from the leases: if Redis hangs, the leases in PostgreSQL must still be renewed.
        """
        parts, requests = self._parts, self._parts.operator_requests
        steps = (
            requests.apply_state,
            self._drive,
            parts.choice.refresh,
            parts.turns.renew_locks,
            parts.heartbeat.beat,
            self._add_figures,
        )
        while True:
            self._wake_ups.heartbeat.clear()
            for step in steps:
                await _survive(step)
            if self._freeing is None or self._freeing.done():
                # Not awaited: a backend that does not answer must not delay the renewal of leases.
                self._freeing = asyncio.create_task(_survive(requests.free_memory), name="freeing")
            if requests.state is WorkerState.STOPPING and self._is_idle():
                log.info("all jobs have ended: stopping, as an operator requested")
                self._stop()
            await self._next(self._wake_ups.heartbeat)

    async def _drive(self) -> None:
        """Renew the leases on backends; tell the other workers at once when some were released."""
        pool = self._parts.pool
        before = len(pool.driven)
        await pool.renew()
        if pool.quiet and len(pool.driven) < before:
            await self._parts.operator_messages.nudge()

    async def _add_figures(self) -> None:
        await self._parts.figures.add(self._parts.metrics.tally)

    def _is_idle(self) -> bool:
        """Whether no attempt runs or is being saved."""
        return not self._parts.runner.running and not any(b.used for b in self._parts.pool.backends.values())

    async def _read_drains(self) -> None:
        """Every `HEARTBEAT_SECONDS`, and when woken: read which backends are drained.

        This loop is separate from the heartbeats: if PostgreSQL hangs, the leases in Redis must still be renewed.
        """
        while True:
            self._wake_ups.drains.clear()
            await _survive(self._parts.operator_requests.read_drains)
            await self._next(self._wake_ups.drains)

    async def _publish_news(self) -> None:
        """Publish changes as they happen; what an outage of Redis delays is sent with the next heartbeat."""
        while True:
            await _survive(self._parts.heartbeat.run)
            await asyncio.sleep(self._heartbeat_s)

    async def _answer_offer_questions(self) -> None:
        """Every `HEARTBEAT_SECONDS`, and when woken: answer servers' questions about what a backend offers."""
        while True:
            self._wake_ups.offer_questions.clear()
            await _survive(self._parts.offer_answers.start_answers)
            await self._next(self._wake_ups.offer_questions)

    async def _next(self, woken: asyncio.Event) -> None:
        """Wait until the next heartbeat is due, or until woken."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._heartbeat_s):
                await woken.wait()

    async def _run_arq(self, worker: Worker) -> None:
        """Run an arq worker, and start it again after an outage of Redis."""
        while True:
            try:
                await worker.async_run()
            except (Unavailable, *REDIS_ERRORS) as error:
                log.warning("arq stopped because of an outage, starting it again: %s", error)
                await asyncio.sleep(1)

    async def _listen(self) -> None:
        """Receive messages about turns, cancellations and requests from Redis; polling finds what is missed."""
        delay_s = 0.1
        while True:
            try:
                async with self._parts.listener.pubsub() as pubsub:
                    names = self._parts.names
                    await pubsub.subscribe(
                        names.wake, names.cancels, names.commands, names.questions_asked, names.looks
                    )
                    delay_s = 0.1
                    # Messages may have been sent before this subscription.
                    self._parts.turns.wake()
                    self._wake_ups.operators()
                    self._wake_ups.offer_questions.set()
                    while True:
                        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=5)
                        if message is None:
                            await pubsub.check_health()
                        else:
                            self._hear(message["channel"].decode(), message["data"])
            except REDIS_ERRORS as error:
                log.warning("not listening to Redis, polling until it is back: %s", error)
            except Exception:
                log.exception("unexpected error in the listener")
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, 2.0)

    def _hear(self, channel: str, data: bytes) -> None:
        """Act on one message."""
        names = self._parts.names
        if channel == names.wake:
            self._parts.turns.wake(int(data))
        elif channel == names.looks:
            self._look(data.decode())
        elif channel == names.commands:
            self._wake_ups.operators()
        elif channel == names.questions_asked:
            self._wake_ups.offer_questions.set()
        else:
            self._parts.runner.request_cancel(int(data))

    def _look(self, backend: str) -> None:
        """Have a backend look for a job; not right after it has, as two could go on telling each other for ever."""
        found = self._parts.pool.backends.get(backend)
        if found is None or not found.load.free:
            return
        loop = asyncio.get_running_loop()
        soonest = max(0.0, found.memory.looked_at + SOONEST_LOOK_S - loop.time())
        loop.call_later(soonest, self._parts.turns.wake)

    def _slot_is_free(self) -> None:
        self._parts.turns.wake()
        if self._parts.pool.quiet:
            # The backend may be idle now, and can then be released to other workers.
            self._wake_ups.heartbeat.set()


async def _survive(step: Callable[[], Awaitable[None]]) -> None:
    """Run one step and log its errors, so that the loop goes on."""
    try:
        await step()
    except (Unavailable, *REDIS_ERRORS) as error:
        log.warning("%s: %s", getattr(step, "__name__", "heartbeat"), error)
    except Exception:
        log.exception("unexpected error in %s", getattr(step, "__name__", "heartbeat"))
