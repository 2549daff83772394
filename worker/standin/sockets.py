"""The open WebSockets by client id, the one sender that serves them in turn, and the frames as they go on the wire."""

import asyncio
import json
import struct
from typing import Any, Final

from aiohttp import web

from worker.standin.faults import FaultKind, Faults
from worker.standin.versions import GROWING_INPUTS, Version

MAX_UPLOAD_BYTES: Final = 100 * 1024 * 1024

_OLD_FEATURES: Final = {"supports_preview_metadata": True, "max_upload_size": MAX_UPLOAD_BYTES}
_NEW_FEATURES: Final = {
    "supports_preview_metadata": True,
    "supports_model_type_tags": True,
    "max_upload_size": MAX_UPLOAD_BYTES,
    "extension": {"manager": {"supports_v4": True}},
    "node_replacements": True,
}

_PREVIEW, _TEXT, _PREVIEW_WITH_METADATA = 1, 3, 4
_IMAGE_KINDS: Final = {"JPEG": 1, "PNG": 2}


def features(version: Version, *, assets: bool) -> dict[str, Any]:
    """Return what `/features` and the answer to a client's `feature_flags` say."""
    return {**_NEW_FEATURES, "assets": assets} if version >= GROWING_INPUTS else dict(_OLD_FEATURES)


def text_frame(kind: str, data: Any) -> str:
    """Return a text frame."""
    return json.dumps({"type": kind, "data": data})


def preview_frame(image: bytes, image_format: str) -> bytes:
    """Return the old form of a preview, which names neither prompt nor node."""
    return struct.pack(">II", _PREVIEW, _IMAGE_KINDS[image_format]) + image


def described_preview_frame(image: bytes, metadata: dict[str, Any]) -> bytes:
    """Return a preview with its metadata in front."""
    described = json.dumps(metadata).encode()
    return struct.pack(">II", _PREVIEW_WITH_METADATA, len(described)) + described + image


def progress_text_frame(node_id: str, text: str) -> bytes:
    """Return a progress text."""
    node = node_id.encode()
    return struct.pack(">II", _TEXT, len(node)) + node + text.encode()


class Connection:
    """One open socket."""

    def __init__(self, ws: web.WebSocketResponse, transport: asyncio.Transport | None, client_id: str) -> None:
        self._ws = ws
        self._transport = transport
        self.client_id = client_id
        self.deaf = False
        self.describes_previews = False
        """Whether the client asked for previews with metadata."""

    async def write(self, message: str | bytes) -> None:
        """Send one frame; to a socket that has gone, nothing."""
        if self.deaf:
            return
        try:
            if isinstance(message, str):
                await self._ws.send_str(message)
            else:
                await self._ws.send_bytes(message)
        except ConnectionError:
            self.deaf = True

    def abort(self) -> None:
        """Cut the TCP connection: the client sees 1006, as when a real server ends."""
        self.deaf = True
        if self._transport is not None:
            self._transport.abort()


class Sockets:
    """The connected clients, and the frames that wait for the sender.

    As in ComfyUI there is one entry for a client id. A second connection replaces the entry of the first, and the end
    of either connection removes the entry, so that the other receives no more frames. One sender serves all clients
    in turn, so a client that does not read delays the frames of all others.
    """

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._entries: dict[object, Connection] = {}
        self._open: set[Connection] = set()
        self._outbox: asyncio.Queue[tuple[str | bytes, object]] = asyncio.Queue()

    @property
    def waiting(self) -> int:
        """How many frames wait for the sender."""
        return self._outbox.qsize()

    def join(self, connection: Connection) -> None:
        """Give `connection` the entry of its client id."""
        if self._faults.take(FaultKind.DEAF_CONNECTIONS, client_id=connection.client_id):
            connection.deaf = True
        self._entries.pop(connection.client_id, None)
        self._entries[connection.client_id] = connection
        self._open.add(connection)

    def leave(self, connection: Connection) -> None:
        """Remove the entry of the client id, whoever holds it now."""
        self._open.discard(connection)
        self._entries.pop(connection.client_id, None)

    def send(self, message: str | bytes, client_id: object = None, kind: str = "") -> None:
        """Queue a frame for one client, or for all if `client_id` is None."""
        occasion = {"frame": kind} if client_id is None else {"frame": kind, "client_id": str(client_id)}
        if kind and self._faults.take(FaultKind.LOSE_FRAMES, **occasion):
            return
        self._outbox.put_nowait((message, client_id))

    def describes_previews(self, client_id: object) -> bool:
        """Tell whether this client takes previews with metadata."""
        connection = self._entries.get(client_id) if client_id is not None else None
        return connection is not None and connection.describes_previews

    def make_deaf(self, client_id: str | None = None) -> None:
        """Let the open sockets of a client, or all, receive nothing any more."""
        for connection in self._open:
            connection.deaf = connection.deaf or client_id in (None, connection.client_id)

    def abort(self, client_id: str | None = None) -> None:
        """Cut the open sockets of a client, or all."""
        for connection in list(self._open):
            if client_id in (None, connection.client_id):
                connection.abort()

    def client_ids(self) -> list[str]:
        """Return the client ids of the open sockets, one each."""
        return sorted(connection.client_id for connection in self._open)

    async def deliver(self) -> None:
        """Send what is queued, one frame after the other, for ever."""
        while True:
            message, client_id = await self._outbox.get()
            if client_id is None:
                receivers = list(self._entries.values())
            else:
                receivers = [self._entries[client_id]] if client_id in self._entries else []
            for connection in receivers:
                await connection.write(message)
            self._outbox.task_done()

    async def delivered(self) -> None:
        """Wait until nothing is queued."""
        await self._outbox.join()
