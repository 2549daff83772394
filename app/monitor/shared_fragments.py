"""Fragments that many viewers ask for: made once for all who ask at the same time, so that a viewer costs nothing."""

from __future__ import annotations

import asyncio
from functools import wraps
from typing import TYPE_CHECKING, Final

from aiohttp import web

from app.keys import BACKGROUND
from app.monitor.rendering import ACTED, FOR_ALL, FRAGMENT_HEADER, send_shared
from app.web.callers import CALLER
from app.web.proxies import outside_address, root_path

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

APART_S: Final = 0.1
"""Minimum seconds between the making of a fragment and its next making."""
GATHER_S: Final = 0.01
"""Seconds to wait for further requests before a fragment is made: viewers notified of a change ask within that time."""
MOST_REMEMBERED: Final = 1000


class SharedFragments:
    """Makes a thing once for all concurrent requests. Each gets one begun after it had asked: none is stale."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, asyncio.Future[str | None]] = {}
        self._began: dict[Hashable, float] = {}

    async def get(
        self, key: Hashable, make: Callable[[], Awaitable[str | None]], running: set[asyncio.Task[None]]
    ) -> str | None:
        """Return what `make` of the first concurrent request for this key returns; raise what it raises.

        It goes on when that request was cancelled; the owner of `running` ends it at shutdown.
        """
        made = self._waiting.get(key)
        if made is None:
            made = self._waiting[key] = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(self._make(key, make, made), name="shared-fragment")
            running.add(task)
            task.add_done_callback(running.discard)
        return await asyncio.shield(made)

    async def _make(
        self, key: Hashable, make: Callable[[], Awaitable[str | None]], made: asyncio.Future[str | None]
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(max(GATHER_S, self._began.get(key, 0.0) + APART_S - loop.time()))
            # Requests from now on need a later one.
            del self._waiting[key]
            self._began.pop(key, None)
            self._began[key] = loop.time()
            if len(self._began) > MOST_REMEMBERED:
                del self._began[next(iter(self._began))]
            made.set_result(await make())
        except Exception as error:  # noqa: BLE001  # every request gets it
            made.set_exception(error)
            # All that asked for it may have gone.
            made.exception()
        finally:
            made.cancel()


SHARED_FRAGMENTS: Final = web.AppKey("SHARED_FRAGMENTS", SharedFragments)


def shared(page: Callable[[web.Request], Awaitable[web.Response]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Make the page's fragment once for all who see the same and ask together; a whole page is made for who asks.

    Everybody who looks asks as soon as anything has changed.
    """

    @wraps(page)
    async def handler(request: web.Request) -> web.Response:
        # What a form leads to says what was done, which is one reader's alone.
        if request.headers.get(FRAGMENT_HEADER, ACTED) == ACTED:
            return await page(request)

        async def make() -> str | None:
            request[FOR_ALL] = True
            return (await page(request)).text

        # Addresses stand in it as this reader has them.
        key = outside_address(request), root_path(request), request.path_qs, request[CALLER].role, request[CALLER].scope
        try:
            text = await request.config_dict[SHARED_FRAGMENTS].get(key, make, request.config_dict[BACKGROUND])
        except web.HTTPSeeOther as elsewhere:
            # An answer of its own for each: one can be sent only once.
            raise web.HTTPSeeOther(elsewhere.location) from None
        return send_shared(request, text or "")

    return handler
