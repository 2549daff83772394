"""Composition root of the worker: constructs two arq workers on one event loop, backends and heartbeat; shuts down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from aiohttp import ClientSession, DummyCookieJar, TCPConnector
from arq.worker import Worker, get_kwargs

from app.domain.errors import QueueUnavailable
from app.domain.failure_policy import Backoff
from app.messaging.channels import Names
from app.messaging.events import Events
from app.messaging.figures import Figures
from app.messaging.missing_models import MissingModels
from app.messaging.offer_questions import OfferQuestions
from app.messaging.operator_messages import OperatorMessages
from app.messaging.previews import Previews
from app.messaging.queue import JobQueue
from app.messaging.redis_connection import REDIS_ERRORS, Line, close, make_listener, make_redis
from app.messaging.registry import Registry
from app.runtime.end_tasks import end_tasks
from app.runtime.guarded_http import GuardedHttp
from app.services.offer_refresh import OfferRefresh
from app.services.uploads import Uploads
from app.storage.attempts import AttemptStore
from app.storage.audit import Audit
from app.storage.backend_states import BackendStates
from app.storage.database import Database, make_engine
from app.storage.files import FileStore
from app.storage.job_views import JobViews
from app.storage.keys import KeyStore
from app.storage.outages import repeat_until_available
from app.storage.periodic_tasks import PeriodicTasks
from app.storage.run_times import RunTimes
from app.storage.statistics_recorder import StatisticsRecorder
from app.storage.thumbnails import ThumbnailStore
from app.storage.uploads import UploadStore
from app.storage.waiting_jobs import WaitingJobs
from worker.attempts.attempt_metrics import AttemptMetrics
from worker.attempts.input_files import InputFiles
from worker.attempts.job_choice import JobChoice
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
from worker.upkeep.loops import Loops, Parts, WakeUps
from worker.upkeep.model_wait import ModelWait
from worker.upkeep.offer_answers import OfferAnswers
from worker.upkeep.operator_requests import OperatorRequests
from worker.upkeep.reconciler import Reconciler
from worker.upkeep.sweeper import Sweeper

if TYPE_CHECKING:
    from app.settings import Settings

log = logging.getLogger(__name__)

ARQ_HEALTH_S: Final = 30
"""Seconds after which arq's own health key expires; Genonaut does not read it."""
_FORCED_END_S: Final = 5.0
"""Maximum seconds for the last messages to Redis at shutdown."""


class WorkerProcess:
    """Constructs all parts of one worker, runs them, and shuts them down in order."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        names = Names(settings.redis_namespace)
        self.worker_id = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._stopping = asyncio.Event()
        wake_ups = WakeUps()

        self._redis = make_redis(settings, patient=True)
        self._quick_redis = make_redis(settings, patient=False)
        self._line, self._turns_line = Line(settings), Line(settings)
        self._listener = make_listener(settings)
        self._session = ClientSession(cookie_jar=DummyCookieJar(), connector=TCPConnector(limit=0))
        self._database = database = Database(make_engine(settings))

        keep_uploads = timedelta(days=settings.keep_uploads_days)
        store = AttemptStore(database, keep_uploads, settings.limits, shares=settings.users_share)
        views = JobViews(database)
        files = FileStore(settings.storage_path)
        upload_store = UploadStore(database)
        self._uploads = Uploads(upload_store, files, max_bytes=settings.max_upload_bytes, keep=keep_uploads)
        self._guarded_http = GuardedHttp(settings.allowed_networks)
        queue, self._events = JobQueue(self._line, names), Events(self._line, names)
        registry = Registry(self._quick_redis, names, settings.stale_seconds)
        self._figures = Figures(self._quick_redis, names)
        self._operator_messages = OperatorMessages(self._quick_redis, names)
        offer_questions = OfferQuestions(self._quick_redis, names)
        self._offer_refresh = OfferRefresh(offer_questions)

        stray_savers: set[str] = set()
        backends = [
            Backend(name, url, self._comfyui(url), settings.backend_slots, stray_savers)
            for name, url in settings.backends.items()
        ]
        self.pool = BackendPool(backends, registry, self.worker_id, settings.lease_seconds)
        self.thumbnails = Thumbnails(files, ThumbnailStore(database))
        self._metrics = AttemptMetrics()
        backoff = Backoff(settings.retry_base_seconds, settings.retry_max_seconds)
        self._run_times = RunTimes(database)
        self.choice = JobChoice(
            store,
            self.pool,
            registry,
            queue,
            self._run_times,
            self._metrics,
            self.worker_id,
            settings.lease_seconds,
            chooses=settings.prefer_loaded_models,
        )
        self.runner = Runner(
            self.worker_id,
            settings,
            store,
            self._events,
            self.pool,
            self.choice,
            RetryOrFail(
                backoff,
                store,
                views,
                queue,
                self.pool,
                self._metrics,
                OtherBackends(self.pool, self._offer_refresh),
            ),
            Collector(files, settings.max_output_bytes),
            self.thumbnails,
            self._metrics,
            PreviewFeeds(Previews(self._quick_redis, names)),
            InputFiles(self._uploads, upload_store, store, files, self._guarded_http, self._metrics),
        )
        self.turns = TurnWorker(
            **get_kwargs(WorkerSettings),  # type: ignore[arg-type]
            queue_name=names.queue,
            redis_pool=self._redis,
            line=self._turns_line,
            ctx={"runner": self.runner},
            free_slots=self._free_slots,
            tell=self.choice.tell,
            health_check_key=f"{names.worker(self.worker_id)}:arq",
            health_check_interval=ARQ_HEALTH_S,
        )
        operator_requests = OperatorRequests(
            self.worker_id, self._operator_messages, BackendStates(database), self.pool, wake_ups.heartbeat.set
        )
        self.heartbeat = Heartbeat(self.worker_id, registry, self._events, self.pool, self.runner, operator_requests)
        self._offer_answers = OfferAnswers(offer_questions, self.pool, registry, self.heartbeat.beat)
        reconciler = Reconciler(
            database,
            store,
            views,
            queue,
            self._events,
            registry,
            self.thumbnails,
            ModelWait(
                WaitingJobs(database),
                store,
                registry,
                MissingModels(self._redis, names),
                self._events,
                self._metrics,
                settings.model_wait_seconds,
            ),
            backoff=backoff,
            metrics=self._metrics,
            lease_s=settings.lease_seconds,
        )
        sweeper = Sweeper(
            files,
            views,
            store,
            KeyStore(database),
            upload_store,
            self._uploads,
            Audit(database),
            orphan_s=settings.orphan_seconds,
            keep_audit=timedelta(days=settings.keep_audit_days),
        )
        clockwork = periodic_tasks(settings.reconcile_seconds)
        self._maintenance = Worker(
            **get_kwargs(MaintenanceSettings),  # type: ignore[arg-type]
            functions=[],
            cron_jobs=clockwork,
            queue_name=names.maintenance,
            redis_pool=self._redis,
            ctx={
                "worker_id": self.worker_id,
                "runs": PeriodicTasks(database),
                "clockwork": {task.name: task for task in clockwork},
                "reconciler": reconciler,
                "sweeper": sweeper,
                "reconcile_seconds": settings.reconcile_seconds,
                "statistics_recorder": StatisticsRecorder(database),
            },
            handle_signals=False,
            # A periodic task may start late by up to this delay.
            poll_delay=max(1.0, min(3.0, settings.reconcile_seconds / 5)),
            health_check_key=f"{names.worker(self.worker_id)}:arq-maintenance",
            health_check_interval=ARQ_HEALTH_S,
        )
        parts = Parts(
            names=names,
            listener=self._listener,
            operator_messages=self._operator_messages,
            figures=self._figures,
            metrics=self._metrics,
            pool=self.pool,
            runner=self.runner,
            choice=self.choice,
            turns=self.turns,
            maintenance=self._maintenance,
            heartbeat=self.heartbeat,
            operator_requests=operator_requests,
            offer_answers=self._offer_answers,
        )
        self._loops = Loops(parts, wake_ups, settings.heartbeat_seconds, self.stop)

    async def run(self) -> int:
        """Work until SIGTERM or SIGINT, then shut down, and return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        return await self.work()

    def stop(self) -> None:
        """Begin the shutdown."""
        self._stopping.set()

    async def work(self) -> int:
        """Work until `stop` is called, and return the exit code: 1 when a loop ended by itself."""
        print(f"Genonaut worker {self.worker_id} ({self.settings.genonaut_env})", file=sys.stderr)  # noqa: T201
        tasks = self._loops.start()
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        try:
            done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            broken = [task for task in done if task is not stopping]
            for task in broken:
                log.error(
                    "the loop %s ended unexpectedly: stopping the worker", task.get_name(), exc_info=task.exception()
                )
            return 1 if broken else 0
        finally:
            await self._end([*tasks, stopping])

    def _comfyui(self, url: str) -> ComfyUI:
        return ComfyUI(
            self._session,
            url,
            timeout_s=self.settings.comfyui_timeout_seconds,
            max_message_bytes=self.settings.comfyui_max_message_bytes,
        )

    def _free_slots(self) -> int:
        return 0 if self._stopping.is_set() else self.pool.free_slots()

    async def _end(self, tasks: list[asyncio.Task[Any]]) -> None:
        """Take no more turns, finish saving, release running attempts, and remove this worker from Redis."""
        self.turns.allow_pick_jobs = False
        await self.runner.drain(self.settings.shutdown_grace_seconds)
        await self._events.all_told()
        await self._loops.end(tasks)
        await self._offer_answers.close()
        for worker in (self.turns, self._maintenance):
            # Cancelled turns go back into the queue for other workers.
            await end_tasks(worker.tasks.values())
        await self._offer_refresh.close()
        # Turns that were just ended may have published more events.
        await self._events.all_told()
        with contextlib.suppress(QueueUnavailable, *REDIS_ERRORS):
            async with asyncio.timeout(_FORCED_END_S):
                await self.turns.settle()
                await self._quick_redis.delete(self.turns.health_check_key, self._maintenance.health_check_key)
                await self.pool.release()
                await self.heartbeat.leave()
                await self._operator_messages.nudge()
                await self._figures.add(self._metrics.tally)
        await self._session.close()
        for client in (self._redis, self._quick_redis, self._line, self._turns_line, self._listener):
            with contextlib.suppress(*REDIS_ERRORS):
                await close(client)
        await self._run_times.close()
        await self._database.close()
        self._uploads.close()
        self._guarded_http.close()


async def wait_for_schema(settings: Settings, help_command: str) -> None:
    """Return when the database can be reached and its schema is at head; raises `SchemaNotAtHead`."""
    database = Database(make_engine(settings))
    try:
        await repeat_until_available(lambda: database.check_schema(help_command), "waiting for the database")
    finally:
        await database.close()
