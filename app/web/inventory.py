"""Handlers of `/api/v1/models` and `/api/v1/nodes`: what there is to make jobs of."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from app.keys import INVENTORY
from app.web.bodies import read_query
from app.web.checking import check
from app.web.requests import ModelsQuery, NodesQuery, NoQuery
from app.web.responses import json_answer

routes: Final = web.RouteTableDef()


@routes.get("/api/v1/models")
async def list_models(request: web.Request) -> web.Response:
    """List models, samplers and schedulers over all backends."""
    asked = check(ModelsQuery, read_query(request.query, repeatable=("kind",)), pointer="")
    return json_answer(await request.app[INVENTORY].models(asked.kind))


@routes.get("/api/v1/nodes")
async def list_nodes(request: web.Request) -> web.Response:
    """List node classes over all backends."""
    asked = check(NodesQuery, read_query(request.query), pointer="")
    return json_answer(await request.app[INVENTORY].nodes(asked.search, asked.limit, asked.cursor))


@routes.get("/api/v1/nodes/{node_class}")
async def get_node(request: web.Request) -> web.Response:
    """Show a node class."""
    check(NoQuery, read_query(request.query), pointer="")
    return json_answer(await request.app[INVENTORY].node(request.match_info["node_class"]))
