"""Bringing the schema to head by alembic. It is large: only who migrates imports this."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config

from app.settings import ROOT

if TYPE_CHECKING:
    from app.settings import Settings


def alembic_config(url: str) -> Config:
    """Return alembic's configuration for a database."""
    config = Config(str(ROOT / "migrations" / "alembic.ini"))
    config.set_main_option("script_location", str(ROOT / "migrations"))
    # A % in a password would be taken for an interpolation.
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


async def migrate(settings: Settings) -> None:
    """Bring the schema to head. Alembic runs its own event loop, so it does that in a thread."""
    await asyncio.to_thread(command.upgrade, alembic_config(settings.sqlalchemy_url), "head")
