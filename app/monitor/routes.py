"""The monitor page's sub-application."""

from __future__ import annotations

from aiohttp import web


def create_monitor() -> web.Application:
    """Return the sub-application of the page."""
    return web.Application()
