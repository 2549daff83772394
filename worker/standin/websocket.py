"""The handler of `/ws`."""

import json
import uuid

from aiohttp import WSMsgType, web

from worker.standin.faults import FaultKind
from worker.standin.server import STANDIN, Standin
from worker.standin.sockets import Connection, features, text_frame


async def open_websocket(request: web.Request) -> web.StreamResponse:
    """Connect a client and tell it how long the queue is, and which node of its own runs."""
    standin = request.app[STANDIN]
    client_id = request.query.get("clientId", "") or uuid.uuid4().hex
    if standin.faults.take(FaultKind.REFUSE_SOCKETS, client_id=client_id):
        return web.Response(status=503)
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    sockets, executor = standin.sockets, standin.executor
    connection = Connection(ws, request.transport, client_id)
    sockets.join(connection)
    try:
        await connection.write(text_frame("status", standin.status() | {"sid": client_id}))
        if executor.client_id == client_id and executor.current_node is not None:
            await connection.write(text_frame("executing", {"node": executor.current_node}))
        first = True
        async for message in ws:
            if message.type is WSMsgType.TEXT and first:
                first = False
                await _take_features(standin, connection, message.data)
    finally:
        sockets.leave(connection)
    return ws


async def _take_features(standin: Standin, connection: Connection, text: str) -> None:
    """Read the client's feature flags from its first message; a message without them is ignored."""
    try:
        message = json.loads(text)
        offered = message["data"] if message["type"] == "feature_flags" else None
    except (ValueError, KeyError, TypeError):
        return
    if isinstance(offered, dict):
        connection.describes_previews = offered.get("supports_preview_metadata") is True
        await connection.write(text_frame("feature_flags", features(standin.version, assets=standin.options.assets)))
