"""Keys under which the application hands its parts to the handlers."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from app.messaging.events import Events
from app.messaging.hub import Hub
from app.messaging.queue import JobQueue
from app.messaging.registry import Registry
from app.services.control import Control
from app.services.snapshots import Snapshots
from app.services.submit import Submitting
from app.settings import Settings
from app.storage.database import Database
from app.storage.files import FileStore
from app.storage.job_views import JobViews

SETTINGS: Final = web.AppKey("SETTINGS", Settings)
DATABASE: Final = web.AppKey("DATABASE", Database)
QUEUE: Final = web.AppKey("QUEUE", JobQueue)
EVENTS: Final = web.AppKey("EVENTS", Events)
REGISTRY: Final = web.AppKey("REGISTRY", Registry)
FILES: Final = web.AppKey("FILES", FileStore)
VIEWS: Final = web.AppKey("VIEWS", JobViews)
SNAPSHOTS: Final = web.AppKey("SNAPSHOTS", Snapshots)
SUBMITTING: Final = web.AppKey("SUBMITTING", Submitting)
CONTROL: Final = web.AppKey("CONTROL", Control)
HUB: Final = web.AppKey("HUB", Hub)
CLOSING: Final = web.AppKey("CLOSING", asyncio.Event)
"""Set when the server shuts down: open sockets are closed with 1001."""
