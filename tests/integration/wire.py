"""A server that answers a ComfyUI client with bytes that the test chose, and breaks connections off."""

from __future__ import annotations

import asyncio
import contextlib

from worker.comfyui.node_outputs import OutputFile

PICTURE = OutputFile("9", "a.png")


class Wire:
    """A server that answers each request with the next of `answers`; it closes where one is None or ends broken off."""

    def __init__(self) -> None:
        self.answers: list[bytes | None] = []
        self.requests: list[str] = []
        self.bodies: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        self.connections += 1
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
                lengths = [int(line.split(":")[1]) for line in head if line.lower().startswith("content-length")]
                self.bodies.append(await reader.readexactly(lengths[0] if lengths else 0))
                self.requests.append(head[0].rpartition(" ")[0])
                answer = self.answers.pop(0)
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
                if answer.endswith(BROKEN):
                    return


BROKEN = b"broken off"


def ok(body: bytes, length: int | None = None) -> bytes:
    """Return an answer with this body, and this Content-Length if another one is given."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body) if length is None else length, body)


def chunked(*parts: bytes) -> bytes:
    """Return an answer in chunks."""
    whole = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + whole
