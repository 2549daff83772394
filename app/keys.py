"""Keys under which the application hands its parts to the handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from app.messaging.events import Events
from app.messaging.figures import Figures
from app.messaging.hub import Hub
from app.messaging.previews import Previews
from app.messaging.queue import JobQueue
from app.messaging.registry import Registry
from app.messaging.request_rates import RequestRates
from app.messaging.tickets import Tickets
from app.metrics import ServerMetrics
from app.runtime.side_thread import SideThread
from app.services.access import Access
from app.services.control import Control
from app.services.eta import Eta
from app.services.fleet_control import Fleet
from app.services.inventory import Inventory
from app.services.key_management import KeyManagement
from app.services.links import Links
from app.services.live_fleet import LiveFleet
from app.services.owners_at_limits import OwnersAtLimits
from app.services.queue_control import QueueControl
from app.services.seeds import Seeds
from app.services.snapshots import Snapshots
from app.services.submit import Submitting
from app.services.uploads import Uploads
from app.settings import Settings
from app.storage.audit import Audit
from app.storage.database import Database
from app.storage.files import FileStore
from app.storage.fleet_figures import FleetFigures
from app.storage.job_views import JobViews
from app.storage.keys import KeyStore
from app.storage.known_names import KnownNames
from app.storage.owner_use import OwnerUse
from app.storage.run_times import RunTimes
from app.storage.statistics import Statistics
from app.storage.uploads import UploadStore

if TYPE_CHECKING:
    import asyncio

OWNERS_AT_LIMITS: Final = web.AppKey("OWNERS_AT_LIMITS", OwnersAtLimits)
OWNER_USE: Final = web.AppKey("OWNER_USE", OwnerUse)
RATES: Final = web.AppKey("RATES", RequestRates)
SETTINGS: Final = web.AppKey("SETTINGS", Settings)
ACCESS: Final = web.AppKey("ACCESS", Access)
TICKETS: Final = web.AppKey("TICKETS", Tickets)
LINKS: Final = web.AppKey("LINKS", Links)
AUDIT: Final = web.AppKey("AUDIT", Audit)
KEYS: Final = web.AppKey("KEYS", KeyStore)
KEY_MANAGEMENT: Final = web.AppKey("KEY_MANAGEMENT", KeyManagement)
DATABASE: Final = web.AppKey("DATABASE", Database)
QUEUE: Final = web.AppKey("QUEUE", JobQueue)
EVENTS: Final = web.AppKey("EVENTS", Events)
PREVIEWS: Final = web.AppKey("PREVIEWS", Previews)
REGISTRY: Final = web.AppKey("REGISTRY", Registry)
FILES: Final = web.AppKey("FILES", FileStore)
VIEWS: Final = web.AppKey("VIEWS", JobViews)
ETA: Final = web.AppKey("ETA", Eta)
RUN_TIMES: Final = web.AppKey("RUN_TIMES", RunTimes)
KNOWN_NAMES: Final = web.AppKey("KNOWN_NAMES", KnownNames)
STATISTICS: Final = web.AppKey("STATISTICS", Statistics)
SNAPSHOTS: Final = web.AppKey("SNAPSHOTS", Snapshots)
SEEDS: Final = web.AppKey("SEEDS", Seeds)
UPLOADS: Final = web.AppKey("UPLOADS", Uploads)
UPLOAD_STORE: Final = web.AppKey("UPLOAD_STORE", UploadStore)
SUBMITTING: Final = web.AppKey("SUBMITTING", Submitting)
CONTROL: Final = web.AppKey("CONTROL", Control)
QUEUE_CONTROL: Final = web.AppKey("QUEUE_CONTROL", QueueControl)
FLEET: Final = web.AppKey("FLEET", Fleet)
LIVE_FLEET: Final = web.AppKey("LIVE_FLEET", LiveFleet)
INVENTORY: Final = web.AppKey("INVENTORY", Inventory)
FLEET_FIGURES: Final = web.AppKey("FLEET_FIGURES", FleetFigures)
METRICS: Final = web.AppKey("METRICS", ServerMetrics)
FIGURES: Final = web.AppKey("FIGURES", Figures)
HUB: Final = web.AppKey("HUB", Hub)
SIDELINE: Final = web.AppKey("SIDELINE", SideThread)
BACKGROUND: Final[web.AppKey[set[asyncio.Task[None]]]] = web.AppKey("BACKGROUND", set)
"""What goes on after its request was answered; it is ended before the connections are closed."""
