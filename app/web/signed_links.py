"""Requests that show a link in place of a key."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from app.domain.errors import WrongSignature
from app.keys import LINKS
from app.services.links import output_path, thumbnail_path
from app.web.bodies import number_of
from app.web.permissions import SIGNED, route_of

LEFT_S: Final = web.RequestKey("LEFT_S", int)
"""For how many seconds the link of the request still lives; absent if it shows none."""
EXPIRES: Final = "expires"
SIGNATURE: Final = "signature"


def shows_link(request: web.Request) -> bool:
    """Whether the request is judged by its link alone, a wrong one too, whatever key or session comes along."""
    return (
        bool(request.query_string)
        and (SIGNATURE in request.query or EXPIRES in request.query)
        and route_of(request) in SIGNED
    )


async def check_link(request: web.Request) -> None:
    """Note how long the link lives; raises `WrongSignature`, `LinkExpired`, `DatabaseUnavailable`."""
    expires, signature = request.query.getall(EXPIRES, []), request.query.getall(SIGNATURE, [])
    if len(expires) != 1 or len(signature) != 1:
        raise WrongSignature("A link has one `expires` and one `signature`.")
    path = thumbnail_path if route_of(request).endswith("/thumbnail") else output_path
    shown = path(number_of(request, "content_id"), number_of(request, "index"))
    request[LEFT_S] = await request.config_dict[LINKS].seconds_left(shown, expires[0], signature[0])
