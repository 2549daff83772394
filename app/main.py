"""Composition root of the server: everything is constructed here, and handed to its users."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections import Counter
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from aiohttp import hdrs, web

from app import keys
from app.domain.errors import DatabaseUnavailable, GenonautError, SchemaNotAtHead
from app.messaging.channels import Names
from app.messaging.events import Events
from app.messaging.figures import Figures
from app.messaging.hub import Hub
from app.messaging.offer_questions import OfferQuestions
from app.messaging.operator_messages import OperatorMessages
from app.messaging.previews import Previews
from app.messaging.queue import JobQueue
from app.messaging.redis_connection import Line, close, make_listener, make_redis
from app.messaging.registry import Registry
from app.messaging.request_rates import RequestRates
from app.messaging.tickets import Tickets
from app.metrics import ServerMetrics
from app.monitor.routes import create_monitor
from app.runtime.end_tasks import end_tasks
from app.runtime.side_thread import SideThread
from app.services.access import KEYS_CHANGED, Access
from app.services.control import Control
from app.services.eta import Eta
from app.services.fleet_control import Fleet
from app.services.forecasts import Forecasts
from app.services.inventory import Inventory
from app.services.key_management import KeyManagement
from app.services.links import Links
from app.services.live_fleet import LiveFleet
from app.services.offer_refresh import OfferRefresh
from app.services.owners_at_limits import OwnersAtLimits
from app.services.queue_control import QueueControl
from app.services.references import References
from app.services.seeds import Seeds
from app.services.snapshots import Snapshots
from app.services.submit import Submitting
from app.services.uploads import Uploads
from app.storage.audit import Audit
from app.storage.backend_states import BackendStates
from app.storage.database import Database, make_engine
from app.storage.files import FileStore
from app.storage.fleet_figures import FleetFigures
from app.storage.job_views import JobViews
from app.storage.jobs import JobStore
from app.storage.keys import KeyStore
from app.storage.known_names import KnownNames
from app.storage.link_secret import LinkSecretStore
from app.storage.outages import repeat_until_available
from app.storage.owner_use import OwnerUse
from app.storage.pauses import Pauses
from app.storage.periodic_tasks import PeriodicTasks
from app.storage.run_times import RunTimes
from app.storage.statistics import Statistics
from app.storage.tenants import Tenants
from app.storage.uploads import UploadStore
from app.storage.waiting_jobs import WaitingJobs
from app.web import (
    api_keys,
    audit,
    backends,
    contents,
    inventory,
    jobs,
    me,
    metrics,
    queue,
    system,
    tickets,
    uploads,
    websockets,
)
from app.web.admission import only_permitted
from app.web.body_intake import INCOMING, Incoming, refuse_large_forms
from app.web.connections import LOOPBACK, Runner
from app.web.cross_origin import answer_preflights, let_pages_read
from app.web.expectations import mend_expectations
from app.web.metrics import counted
from app.web.origin import refuse_foreign_hosts
from app.web.permissions import PAGE, require_listed
from app.web.prefixed import serve_behind_proxies
from app.web.problems import errors_as_problems
from app.web.protective_headers import add_protective_headers
from app.web.rates import HELD, MOST_HELD
from app.web.requests_at_once import REQUESTS_AT_ONCE, RequestsAtOnce
from app.web.socket_client import text_frame
from app.web.sockets_of_keys import OPEN_SOCKETS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from app.settings import Settings

log = logging.getLogger(__name__)

_SHUTDOWN_S: Final = 5.0
SERVING: Final[dict[str, Any]] = {
    "access_log": None,
    # By us, up to a limit: after a refusal aiohttp would inflate the rest too, for seconds, while all others wait.
    "auto_decompress": False,
    # Seconds for which the rest of a refused body is read and dropped: the client reads the answer only afterwards.
    "lingering_time": 2.0,
    # Bytes of a body that come before they are read: twice as many are held of each, and aiohttp's own are 256 KiB.
    "read_bufsize": 2**16,
}
"""How a runner serves the application."""


class NoAdminKey(GenonautError):
    """Others than this machine's users would reach the server, and nobody could let them in."""

    code = "no_admin_key"


class PortBusy(GenonautError):
    """Another program listens on the port that was asked for."""

    code = "port_busy"


def create_app(settings: Settings) -> web.Application:
    """Return the whole server: REST, WebSocket, and the page below `/monitor/`."""
    app = _application(settings)
    _construct(app, settings)
    tables = (
        jobs,
        contents,
        uploads,
        inventory,
        backends,
        queue,
        api_keys,
        audit,
        system,
        me,
        metrics,
        tickets,
        websockets,
    )
    for table in (each.routes for each in tables):
        _add_routes(app, table)
    return _with_page(app)


def create_monitor_app(settings: Settings) -> web.Application:
    """Return a server of the page alone, which works while the API is down."""
    app = _application(settings)
    _construct(app, settings)

    async def to_page(request: web.Request) -> web.Response:
        raise web.HTTPFound("/monitor/")

    app.router.add_get("/", to_page)
    # What the page itself asks for, pictures and events, and what it links to: reading, and nothing that changes a job.
    changing = (jobs, uploads, backends, queue)
    reading = [
        route
        for module in changing
        for route in module.routes
        if isinstance(route, web.RouteDef) and route.method == hdrs.METH_GET
    ]
    for table in (reading, *(each.routes for each in (contents, inventory, system, me, metrics, websockets))):
        _add_routes(app, table)
    return _with_page(app)


async def run(app: web.Application, settings: Settings, port: int, help_command: str) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code.

    Raises
    ------
    PortBusy, NoAdminKey
    SchemaNotAtHead
        `help_command` is what the message tells to run.
    """
    with contextlib.suppress(DatabaseUnavailable):
        await _check_database(app, help_command)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    exempt = (*LOOPBACK, *settings.proxy_networks)
    runner = Runner(app, exempt=exempt, shutdown_timeout=_SHUTDOWN_S, handle_signals=False, **SERVING)
    await runner.setup()
    try:
        await _listen(runner, settings.api_host, port)
        print(f"Genonaut serves http://{settings.api_host}:{port} ({settings.genonaut_env})", file=sys.stderr)  # noqa: T201
        watching = asyncio.create_task(_watch_database(app, help_command, stopping), name="database")
        await stopping.wait()
        (fault,) = await end_tasks([watching])
        if isinstance(fault, SchemaNotAtHead | NoAdminKey):
            raise fault
    finally:
        await runner.cleanup()
    return 0


def _application(settings: Settings) -> web.Application:
    mend_expectations()
    # What is for pages of other sites only costs those who have named some.
    shares = [answer_preflights] if settings.origins else []
    guards = (
        *(counted, errors_as_problems, refuse_foreign_hosts, *shares),
        *(only_permitted, refuse_large_forms),
    )
    app = web.Application(middlewares=guards, client_max_size=settings.max_body_bytes)
    # Before those of the page, which has some of its own.
    app.on_response_prepare.append(add_protective_headers)
    if settings.origins:
        app.on_response_prepare.append(let_pages_read)
    serve_behind_proxies(app, settings)
    return app


def _construct(app: web.Application, settings: Settings) -> None:
    names = Names(settings.redis_namespace)
    redis, line, listener = make_redis(settings, patient=False), Line(settings), make_listener(settings)
    database = Database(make_engine(settings))
    keep_uploads = timedelta(days=settings.keep_uploads_days)
    store, views = JobStore(database, keep_uploads, shares=settings.users_share), JobViews(database)
    turns, events, files = JobQueue(line, names), Events(line, names), FileStore(settings.storage_path)
    registry = Registry(redis, names, settings.stale_seconds)
    snapshots = Snapshots(views, events)
    app[keys.SETTINGS] = settings
    app[keys.DATABASE] = database
    app[keys.QUEUE] = turns
    app[keys.EVENTS] = events
    app[keys.PREVIEWS] = Previews(redis, names)
    app[keys.TICKETS] = Tickets(redis, names)
    app[keys.REGISTRY] = registry
    app[keys.FILES] = files
    app[keys.VIEWS] = views
    app[keys.UPLOAD_STORE] = upload_store = UploadStore(database)
    app[keys.UPLOADS] = taking = Uploads(upload_store, files, max_bytes=settings.max_upload_bytes, keep=keep_uploads)
    app[uploads.RECEIVING] = asyncio.Semaphore(uploads.AT_ONCE)
    app[keys.RUN_TIMES] = run_times = RunTimes(database)
    app[keys.LIVE_FLEET] = fleet = LiveFleet(registry)
    app[keys.ETA] = Eta(run_times, Forecasts(WaitingJobs(database), run_times, fleet, registry))
    app[keys.KNOWN_NAMES] = KnownNames(database)
    app[keys.STATISTICS] = Statistics(database)
    app[keys.SNAPSHOTS] = snapshots
    app[INCOMING] = Incoming(settings.max_body_bytes, patience_s=settings.body_seconds)
    app[keys.SIDELINE] = sideline = SideThread()
    app[keys.INVENTORY] = Inventory(registry, fleet, sideline)
    app[keys.SEEDS] = seeds = Seeds(registry)
    app[keys.SUBMITTING] = Submitting(
        store,
        turns,
        registry,
        fleet,
        seeds,
        References(taking, upload_store, views, settings.allowed_networks),
        OfferRefresh(OfferQuestions(redis, names)),
        sideline,
        run_times,
        settings.default_checkpoint,
        settings.max_workflow_bytes,
    )
    app[keys.METRICS] = ServerMetrics()
    app[keys.FIGURES] = figures = Figures(redis, names)
    app[keys.HUB] = hub = Hub(listener, names, snapshots.read, text_frame, app[keys.METRICS], views.owners)
    app[keys.CONTROL] = Control(store, turns, events, hub, figures, files, seeds, settings.cancel_wait_seconds)
    app[keys.QUEUE_CONTROL] = QueueControl(Pauses(database), Tenants(database), turns, events)
    commands = OperatorMessages(redis, names)
    app[keys.FLEET] = Fleet(registry, commands, BackendStates(database), PeriodicTasks(database))
    app[keys.FLEET_FIGURES] = FleetFigures(database)
    app[keys.KEYS] = key_store = KeyStore(database, settings.limits)
    app[keys.RATES] = rates = RequestRates(redis, names)
    app[keys.OWNER_USE] = owner_use = OwnerUse(database)
    app[keys.OWNERS_AT_LIMITS] = OwnersAtLimits(key_store, owner_use, settings.limits)
    app[OPEN_SOCKETS] = Counter()
    app[HELD] = asyncio.Semaphore(MOST_HELD)
    app[REQUESTS_AT_ONCE] = RequestsAtOnce()
    app[websockets.SOCKETS] = {}
    app[keys.ACCESS] = access = Access(key_store, events, read_only=settings.monitor_read_only)
    app[keys.KEY_MANAGEMENT] = KeyManagement(key_store, access)
    hub.on_event[KEYS_CHANGED] = lambda told: access.forget(told["key"])
    app[keys.LINKS] = links = Links(LinkSecretStore(database), settings.link_seconds)
    app[keys.AUDIT] = Audit(database)
    background: set[asyncio.Task[None]] = set()
    app[keys.BACKGROUND] = background

    @asynccontextmanager
    async def connections(_: web.Application) -> AsyncIterator[None]:
        yield
        # Work that ended handlers have started may still run, and would reconnect to what is closed here.
        await end_tasks(background)
        await app[keys.SUBMITTING].settle()
        await run_times.close()
        await app[keys.INVENTORY].close()
        await access.settle()
        await links.settle()
        await rates.settle()
        await views.settle()
        await snapshots.settle()
        await events.all_told()
        for client in (redis, line, listener):
            await close(client)
        await database.close()
        sideline.close()
        taking.close()

    app.cleanup_ctx.extend([connections, _fan_out])
    app.on_shutdown.append(_close_sockets)


@asynccontextmanager
async def _fan_out(app: web.Application) -> AsyncIterator[None]:
    """Run the hub, and check the keys of clients that watch all events, as long as the server runs."""
    tasks = [
        asyncio.create_task(app[keys.HUB].run(), name="hub"),
        asyncio.create_task(websockets.end_with_keys(app), name="keys"),
    ]
    yield
    await end_tasks(tasks)


async def _close_sockets(app: web.Application) -> None:
    app[keys.HUB].dismiss()


def _add_routes(app: web.Application, table: Iterable[web.AbstractRouteDef]) -> None:
    """Add each route with and without a trailing slash: a redirect would lose the body of a POST."""
    for route in table:
        route.register(app.router)
        if isinstance(route, web.RouteDef) and not route.path.startswith(("/ws", "/openapi")):
            web.RouteDef(route.method, f"{route.path}/", route.handler, route.kwargs).register(app.router)


def _with_page(app: web.Application) -> web.Application:
    """Add the page, and see that of every address it is said who may use it; raises `UnlistedRoute`."""
    require_listed(app.router)
    app.add_subapp(PAGE, create_monitor())
    return app


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
    except OSError as error:
        raise PortBusy(f"Port {port} of {host} cannot be used: {error.strerror or error}.") from error


async def _check_database(app: web.Application, help_command: str) -> None:
    """Raise `SchemaNotAtHead`, or `NoAdminKey` if the server listens for others and nobody could let them in."""
    settings = app[keys.SETTINGS]
    await app[keys.DATABASE].check_schema(help_command)
    if not settings.is_for_this_machine and not await app[keys.KEYS].has_admin():
        raise NoAdminKey(
            f"API_HOST {settings.api_host} lets others than this machine reach the service, which takes a key of an "
            f"admin. Make one first: make keys-add-{settings.genonaut_env} NAME=ann ROLE=admin"
        )


async def _watch_database(app: web.Application, help_command: str, stopping: asyncio.Event) -> None:
    """Check the database as soon as it can be reached, and stop the server if it is not as it must be."""
    try:
        await repeat_until_available(
            lambda: _check_database(app, help_command), "requests are answered with 503 until the database is back"
        )
    except (SchemaNotAtHead, NoAdminKey):
        stopping.set()
        raise
