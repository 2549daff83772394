"""Under a prefix: what proxies say is noted, and a path that they show elsewhere is translated, in both directions.

Inside, no address has the prefix: routes, guards and handlers see the paths that the service would have at the root of
a host, whether the proxy has stripped the prefix or passed it on. On the way out it is put before `Location` and the
paths of cookies here. Links in JSON and on the page get it where they are written, from `proxies.root_path`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp import hdrs, web
from yarl import URL

from app.web.proxies import ASKED, Proxies

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from app.settings import Settings

_INSIDE: Final = web.RequestKey("INSIDE", URL)
"""The path and query without the prefix; only there when a proxy has passed it on."""


def serve_behind_proxies(app: web.Application, settings: Settings) -> None:
    """Let the application know what proxies say, and serve it under their prefix.

    Nothing is added where neither `TRUSTED_PROXIES` nor `ROOT_PATH` is set: it would cost time, and find nothing.
    """
    trusted = settings.proxy_networks
    if not trusted and not settings.root_path:
        return
    proxies = Proxies(trusted, settings.root_path)

    @web.middleware
    async def translate(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        asked = request.get(ASKED)
        if asked is None:
            asked = request[ASKED] = proxies.asked(request)
        inside = request.get(_INSIDE)
        if inside is not None:
            request = request.clone(rel_url=inside)
        try:
            response = await handler(request)
        except web.HTTPException as error:
            _lead_outside(asked.root, error)
            raise
        if not response.prepared:
            _lead_outside(asked.root, response)
        return response

    app.middlewares.insert(0, translate)
    app.router.register_resource(_UnderPrefix(app.router, proxies))


class _UnderPrefix(web.AbstractResource):
    """Whatever no other route has taken: it is looked up once more without the prefix, if it has it.

    A resource and not a router: aiohttp lets nobody bring a router of his own any more. A middleware would be too late,
    because the middlewares of the page's sub-application depend on what the router finds.
    """

    canonical: Final = "/"  # The router tries it last, because every path begins so.

    def __init__(self, router: web.UrlDispatcher, proxies: Proxies) -> None:
        super().__init__()
        self._router: Final = router
        self._proxies: Final = proxies

    async def resolve(self, request: web.Request) -> tuple[web.UrlMappingMatchInfo | None, set[str]]:
        """Return what is at the path without the prefix, an error of the page too; None without a prefix."""
        if ASKED in request:
            # It has been looked up once more, and nothing was found.
            return None, set()
        asked = request[ASKED] = self._proxies.asked(request)
        inside = _without(asked.root, request.rel_url)
        if inside is None:
            return None, set()
        request[_INSIDE] = inside
        return await self._router.resolve(request.clone(rel_url=inside)), set()

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[web.AbstractRoute]:
        return iter(())

    def url_for(self, **kwargs: str) -> URL:
        """Raise `KeyError`, as for a parameter that is missing: it has no address of its own."""
        raise KeyError("this resource has no address of its own")

    def add_prefix(self, prefix: str) -> None:
        """Do nothing: it is not mounted in a sub-application."""

    def get_info(self) -> Any:
        """Return nothing to be told about it."""
        return {}

    def raw_match(self, path: str) -> bool:
        """Return that no route has this pattern."""
        return False


def _without(root: str, url: URL) -> URL | None:
    """Return the path and query without the prefix; None if they do not begin with it."""
    path = url.raw_path
    if not root or not path.startswith(root):
        return None
    rest = path[len(root) :] or "/"
    if not rest.startswith("/"):
        return None
    return URL.build(path=rest, query_string=url.raw_query_string, encoded=True)


def _lead_outside(root: str, response: web.StreamResponse) -> None:
    if not root:
        return
    location = response.headers.get(hdrs.LOCATION, "")
    if location.startswith("/") and not location.startswith("//"):
        response.headers[hdrs.LOCATION] = root + location
    for cookie in response.cookies.values():
        cookie["path"] = root + cookie["path"]
