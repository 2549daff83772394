"""Composition root of the worker: two arq workers on one event loop, backends, heartbeat, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from aiohttp import ClientSession, DummyCookieJar, TCPConnector
from arq.worker import Worker, get_kwargs
from redis.exceptions import RedisError

from app.domain.errors import DatabaseUnavailable, QueueUnavailable, Unavailable
from app.domain.worker_states import WorkerState
from app.messaging.channels import Names
from app.messaging.events import Events
from app.messaging.figures import Figures
from app.messaging.offer_questions import OfferQuestions
from app.messaging.operator_messages import OperatorMessages
from app.messaging.previews import Previews
from app.messaging.queue import JobQueue
from app.messaging.redis_connection import AWAY, Line, close, make_listener, make_redis
from app.messaging.registry import Registry
from app.runtime.end_tasks import end_tasks
from app.services.offer_refresh import OfferRefresh
from app.storage.attempts import AttemptStore
from app.storage.backend_states import BackendStates
from app.storage.database import Database, make_engine
from app.storage.files import FileStore
from app.storage.job_views import JobViews
from app.storage.periodic_tasks import PeriodicTasks
from app.storage.statistics_recorder import StatisticsRecorder
from app.storage.thumbnails import ThumbnailStore
from worker.attempts.attempt_metrics import AttemptMetrics
from worker.attempts.other_backends import OtherBackends
from worker.attempts.retry_or_fail import RetryOrFail
from worker.attempts.runner import Runner
from worker.comfyui.backend import Backend
from worker.comfyui.client import ComfyUI
from worker.comfyui.pool import BackendPool
from worker.outputs.collector import Collector
from worker.outputs.preview_feed import PreviewFeeds
from worker.outputs.thumbnails import Thumbnails
from worker.queue.arq_tasks import MaintenanceSettings, WorkerSettings, periodic_tasks
from worker.queue.turn_worker import TurnWorker
from worker.upkeep.heartbeat import Heartbeat
from worker.upkeep.offer_answers import OfferAnswers
from worker.upkeep.operator_requests import OperatorRequests
from worker.upkeep.reconciler import Reconciler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from app.settings import Settings

log = logging.getLogger(__name__)

ARQ_HEALTH_S: Final = 30
"""arq's own sign of life, which nothing of ours reads, goes so long after a killed worker."""
_FORCED_END_S: Final = 5.0


class WorkerProcess:
    """Everything that one worker consists of."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._names = Names(settings.redis_namespace)
        self.worker_id = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._stopping = asyncio.Event()
        self._beat_now = asyncio.Event()
        self._learn_now = asyncio.Event()
        self._answer_now = asyncio.Event()
        self._freeing: asyncio.Task[None] | None = None
        self._redis = make_redis(settings, patient=True)
        self._quick_redis = make_redis(settings, patient=False)
        self._line, self._turns_line = Line(settings), Line(settings)
        self._listener = make_listener(settings)
        self._session = ClientSession(cookie_jar=DummyCookieJar(), connector=TCPConnector(limit=0))
        database = Database(make_engine(settings))
        self._database = database
        views = JobViews(database)
        queue, events = JobQueue(self._line, self._names), Events(self._line, self._names)
        self._events = events
        self._registry = Registry(self._quick_redis, self._names, settings.stale_seconds)
        self._careless: set[str] = set()
        backends = [self._backend(name, url) for name, url in settings.backends.items()]
        self._pool = BackendPool(backends, self._registry, self.worker_id, settings.lease_seconds)
        store, files = AttemptStore(database), FileStore(settings.storage_path)
        self._collector = Collector(files, settings.max_output_bytes)
        self.thumbnails = Thumbnails(files, ThumbnailStore(database))
        self._measures, self._figures = AttemptMetrics(), Figures(self._quick_redis, self._names)
        pictures = PreviewFeeds(Previews(self._quick_redis, self._names))
        questions = OfferQuestions(self._quick_redis, self._names)
        self._afresh = OfferRefresh(questions)
        elsewhere = OtherBackends(self._pool, self._afresh)
        aftermath = RetryOrFail(settings, store, views, queue, self._pool, self._measures, elsewhere)
        self._runner = Runner(
            self.worker_id,
            settings,
            store,
            events,
            self._pool,
            aftermath,
            self._collector,
            self.thumbnails,
            self._measures,
            pictures,
        )
        self._turns = TurnWorker(
            **get_kwargs(WorkerSettings),  # type: ignore[arg-type]
            queue_name=self._names.queue,
            redis_pool=self._redis,
            line=self._turns_line,
            ctx={"runner": self._runner},
            free_slots=self._free_slots,
            health_check_key=f"{self._names.worker(self.worker_id)}:arq",
            health_check_interval=ARQ_HEALTH_S,
        )
        self._commands = OperatorMessages(self._quick_redis, self._names)
        states = BackendStates(database)
        self._wishes = OperatorRequests(self.worker_id, self._commands, states, self._pool, self._beat_now.set)
        self._telling = Heartbeat(self.worker_id, self._registry, events, self._pool, self._runner, self._wishes)
        self._answering = OfferAnswers(questions, self._pool, self._registry, self._telling.beat)
        clockwork = periodic_tasks(settings.reconcile_seconds)
        maintenance = {
            "worker_id": self.worker_id,
            "runs": PeriodicTasks(database),
            "clockwork": {task.name: task for task in clockwork},
            "reconciler": Reconciler(
                database,
                store,
                views,
                queue,
                events,
                self._registry,
                files,
                self.thumbnails,
                lease_s=settings.lease_seconds,
                orphan_s=settings.orphan_seconds,
            ),
            "reconcile_seconds": settings.reconcile_seconds,
            "statistics_recorder": StatisticsRecorder(database),
        }
        self._maintenance = Worker(
            **get_kwargs(MaintenanceSettings),  # type: ignore[arg-type]
            functions=[],
            cron_jobs=clockwork,
            queue_name=self._names.maintenance,
            redis_pool=self._redis,
            ctx=maintenance,
            handle_signals=False,
            # A periodic task may be late by so much.
            poll_delay=max(1.0, min(3.0, settings.reconcile_seconds / 5)),
            health_check_key=f"{self._names.worker(self.worker_id)}:arq-maintenance",
            health_check_interval=ARQ_HEALTH_S,
        )

    async def run(self) -> int:
        """Work until SIGTERM or SIGINT, then hand over what runs, and return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        return await self.work()

    def stop(self) -> None:
        """Begin the orderly end."""
        self._stopping.set()

    async def work(self) -> int:
        """Work until `stop`, and return the exit code."""
        print(f"Genonaut worker {self.worker_id} ({self._settings.genonaut_env})", file=sys.stderr)  # noqa: T201
        loops: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "leases": self._leases_for_ever,
            "presence": self._presence_for_ever,
            "drains": self._learn_for_ever,
            "news": self._news_for_ever,
            "answers": self._answer_for_ever,
            "backends": self._pool.run,
            "listener": self._listen_for_ever,
            "turns": partial(self._arq_for_ever, self._turns),
            "maintenance": partial(self._arq_for_ever, self._maintenance),
        }
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(run(), name=name) for name, run in loops.items()]
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        try:
            done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            broken = [task for task in done if task is not stopping]
            for task in broken:
                log.error("%s ended, and so does the worker", task.get_name(), exc_info=task.exception())
            return 1 if broken else 0
        finally:
            await self._end([*tasks, stopping])

    def _backend(self, name: str, url: str) -> Backend:
        settings = self._settings
        comfyui = ComfyUI(
            self._session,
            url,
            timeout_s=settings.comfyui_timeout_seconds,
            max_message_bytes=settings.comfyui_max_message_bytes,
        )
        backend = Backend(name, url, comfyui, settings.backend_slots, self._careless)
        backend.on_slot = self._wake
        backend.on_health = self._beat_now.set
        backend.on_change = self._change
        return backend

    def _wake(self) -> None:
        self._turns.wake()
        if self._pool.quiet:
            # What has nothing left is for others to drive.
            self._beat_now.set()

    def _change(self) -> None:
        self._telling.change()

    def _free_slots(self) -> int:
        return 0 if self._stopping.is_set() else self._pool.free_slots()

    async def _end(self, tasks: list[asyncio.Task[Any]]) -> None:
        """Take no more, let what is being saved be saved, hand over the rest, and say goodbye."""
        self._turns.allow_pick_jobs = False
        await self._runner.drain(self._settings.shutdown_grace_seconds)
        await self._events.all_told()
        await end_tasks([*tasks, *([self._freeing] if self._freeing else [])])
        await self._answering.close()
        for worker in (self._turns, self._maintenance):
            # Cancelled turns go back into the queue, where other workers find them.
            await end_tasks(worker.tasks.values())
        await self._afresh.close()
        # Of a turn that was just being taken, more may have been told since.
        await self._events.all_told()
        with contextlib.suppress(QueueUnavailable, TimeoutError, *AWAY, RedisError):
            async with asyncio.timeout(_FORCED_END_S):
                await self._turns.settle()
                await self._quick_redis.delete(self._turns.health_check_key, self._maintenance.health_check_key)
                await self._pool.let_go()
                await self._telling.leave()
                await self._commands.nudge()
                await self._figures.add(self._measures.tally)
        await self._session.close()
        for client in (self._redis, self._quick_redis, self._line, self._turns_line, self._listener):
            with contextlib.suppress(*AWAY, RedisError):
                await close(client)
        await self._database.close()

    async def _arq_for_ever(self, worker: Worker) -> None:
        """Run an arq worker; an outage of Redis must not end the process."""
        while True:
            try:
                await worker.async_run()
            except (*AWAY, RedisError, Unavailable) as error:
                log.warning("arq stumbled over an outage, and begins again: %s", error)
                await asyncio.sleep(1)

    async def _leases_for_ever(self) -> None:
        """Every `HEARTBEAT_SECONDS` renew the leases on jobs, and take over what nobody looks after."""
        while True:
            began = asyncio.get_running_loop().time()
            beats = (self._runner.renew, self._runner.take_over, self._runner.stop_stale, self._runner.learn_of_devices)
            for beat in beats:
                await self._survive(beat)
            spent = asyncio.get_running_loop().time() - began
            await asyncio.sleep(max(0.05, self._settings.heartbeat_seconds - spent))

    async def _presence_for_ever(self) -> None:
        """Every `HEARTBEAT_SECONDS`, and when there is a reason: signs of life in Redis, and what is asked for there.

        A loop of its own: a Redis that hangs must not cost the leases in PostgreSQL.
        """
        beats = (self._wishes.obey, self._drive, self._turns.renew_locks, self._telling.beat, self._add_figures)
        while True:
            self._beat_now.clear()
            for beat in beats:
                await self._survive(beat)
            if self._freeing is None or self._freeing.done():
                # Not waited for: a backend that does not answer must not cost a lease.
                self._freeing = asyncio.create_task(self._survive(self._wishes.free), name="freeing")
            if self._wishes.state is WorkerState.STOPPING and self._is_idle():
                log.info("nothing runs any more, and this worker was asked to stop then")
                self.stop()
            await self._heartbeat(self._beat_now)

    async def _drive(self) -> None:
        """Renew the leases on backends; those that were let go are for the other workers to take at once."""
        before = len(self._pool.driven)
        await self._pool.renew()
        if self._pool.quiet and len(self._pool.driven) < before:
            await self._commands.nudge()

    async def _learn_for_ever(self) -> None:
        """Every `HEARTBEAT_SECONDS`, and when something was decided: which backends are drained.

        A loop of its own: a PostgreSQL that hangs must not cost the leases in Redis.
        """
        while True:
            self._learn_now.clear()
            await self._survive(self._wishes.learn)
            await self._heartbeat(self._learn_now)

    async def _news_for_ever(self) -> None:
        """Tell of changes; while Redis is away the heartbeats do."""
        while True:
            await self._survive(self._telling.run)
            await asyncio.sleep(self._settings.heartbeat_seconds)

    async def _answer_for_ever(self) -> None:
        """Every `HEARTBEAT_SECONDS`, and when it is asked: whether a backend offers what somebody misses in it."""
        while True:
            self._answer_now.clear()
            await self._survive(self._answering.look)
            await self._heartbeat(self._answer_now)

    async def _heartbeat(self, at_once: asyncio.Event) -> None:
        """Return when it is time for the next heartbeat, or for an extra one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.heartbeat_seconds):
                await at_once.wait()

    def _is_idle(self) -> bool:
        """Whether nothing of what this worker was given is left with it."""
        return not self._runner.running and not any(backend.used for backend in self._pool.backends.values())

    async def _survive(self, beat: Callable[[], Awaitable[None]]) -> None:
        try:
            await beat()
        except (Unavailable, *AWAY, RedisError) as error:
            log.warning("heartbeat: %s", error)
        except Exception:
            log.exception("the heartbeat stumbled")

    async def _add_figures(self) -> None:
        await self._figures.add(self._measures.tally)

    def _look(self) -> None:
        """Look at once what is wanted of this worker."""
        self._beat_now.set()
        self._learn_now.set()

    async def _listen_for_ever(self) -> None:
        """Be woken for turns, told of cancels, and nudged to look what is wanted; all have a poll behind them."""
        delay_s = 0.1
        while True:
            try:
                async with self._listener.pubsub() as pubsub:
                    names = self._names
                    await pubsub.subscribe(names.wake, names.cancels, names.commands, names.questions_asked)
                    delay_s = 0.1
                    # Something may have been said while nobody listened.
                    self._turns.wake()
                    self._look()
                    self._answer_now.set()
                    while True:
                        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=5)
                        if message is None:
                            await pubsub.check_health()
                        elif (channel := message["channel"].decode()) == names.wake:
                            self._turns.wake(int(message["data"]))
                        elif channel == names.commands:
                            self._look()
                        elif channel == names.questions_asked:
                            self._answer_now.set()
                        else:
                            self._runner.request_cancel(int(message["data"]))
            except (*AWAY, RedisError) as error:
                log.warning("not listening to Redis, polling until it is back: %s", error)
            except Exception:
                log.exception("the listener stumbled")
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, 2.0)


async def wait_for_schema(settings: Settings, help_command: str) -> None:
    """Return when the database can be reached and its schema is at head; raises `SchemaNotAtHead`."""
    database = Database(make_engine(settings))
    try:
        while True:
            try:
                await database.check_schema(help_command)
            except DatabaseUnavailable as error:
                log.warning("waiting for the database: %s", error)
                await asyncio.sleep(2)
            else:
                return
    finally:
        await database.close()
