"""Requests of clients: each shows the key that its owner has just now, and is written down with its answer."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp import ClientTimeout, ClientWSTimeout, WSServerHandshakeError

from tests.chaos.keyring import SHOWN_BY_REST, Show

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Sequence

    from aiohttp import ClientResponse, ClientSession, ClientWebSocketResponse

    from tests.chaos.keyring import Holder, Key

ANSWER: Final = ClientTimeout(total=8)
TICKETS: Final = "/api/v1/ws-tickets"
TICKETED: Final = "GET /ws/jobs with a ticket"
_CLOSE: Final = ClientWSTimeout(ws_close=2)


@dataclass(slots=True)
class Sent:
    """One request that showed a key; times are Unix seconds."""

    what: str
    app: int
    key: str
    """The key's name."""
    owner: str
    at: float
    answered_at: float = 0.0
    status: int | None = None
    """None: there was no answer."""
    code: str | None = None
    """The error's code, where it was read."""


class Caller:
    """Sends requests for one owner, to whichever server is meant."""

    def __init__(
        self, session: ClientSession, urls: Sequence[str], holder: Holder, draw: random.Random, sent: list[Sent]
    ) -> None:
        self.session: Final = session
        self.urls: Final = urls
        self.holder: Final = holder
        self._draw = draw
        self._sent = sent

    @asynccontextmanager
    async def request(
        self, method: str, app: int, path: str, *, key: Key | None = None, **options: Any
    ) -> AsyncIterator[ClientResponse]:
        """Send a request, with this key or else the owner's present one; raises what aiohttp raises."""
        key = key or self.holder.key
        headers = key.headers(self._draw.choice(SHOWN_BY_REST)) if key is not None else {}
        sent = self.note(f"{method} {path}", app, key)
        try:
            async with self.session.request(
                method, f"{self.urls[app]}{path}", headers=headers, timeout=ANSWER, **options
            ) as response:
                sent.status, sent.answered_at = response.status, time.time()
                if response.status in (401, 429):
                    sent.code = (await response.json()).get("code")
                yield response
        finally:
            sent.answered_at = sent.answered_at or time.time()

    def note(self, what: str, app: int, key: Key | None) -> Sent:
        """Write down that a request is sent now; one without a key is kept nowhere."""
        sent = Sent(what, app, key.name if key is not None else "", self.holder.owner, time.time())
        if key is not None:
            self._sent.append(sent)
        return sent


@asynccontextmanager
async def open_socket(
    caller: Caller, app: int, job_ids: Sequence[int], draw: random.Random
) -> AsyncIterator[tuple[ClientWebSocketResponse, str]]:
    """Follow these jobs with the owner's present key, shown in any of the ways; yield the socket and the key's name.

    Raises
    ------
    WSServerHandshakeError
        Also when no ticket is given.
    ClientError, OSError, TimeoutError
        It cannot be opened.
    """
    key = caller.holder.key
    path = f"/ws/jobs/{job_ids[0]}" if len(job_ids) == 1 else f"/ws/jobs?job_ids={','.join(map(str, job_ids))}"
    headers, protocols = {}, ()
    show = draw.choice(list(Show)) if key is not None else None
    if key is not None:
        if show is Show.TICKET:
            path = await _ticketed(caller, app, job_ids, key)
        elif show is Show.SUBPROTOCOL:
            protocols = ("genonaut", f"genonaut.key.{key.secret}")
        else:
            headers = key.headers(show)
    sent = caller.note(TICKETED if show is Show.TICKET else "GET /ws/jobs", app, key)
    try:
        async with caller.session.ws_connect(
            f"{caller.urls[app]}{path}", timeout=_CLOSE, headers=headers, protocols=protocols
        ) as ws:
            sent.status, sent.answered_at = 101, time.time()
            yield ws, sent.key
    except WSServerHandshakeError as error:
        sent.status, sent.answered_at = error.status, time.time()
        raise
    finally:
        sent.answered_at = sent.answered_at or time.time()


async def _ticketed(caller: Caller, app: int, job_ids: Sequence[int], key: Key) -> str:
    """Ask for a ticket, and return the address that it opens."""
    async with caller.request("POST", app, TICKETS, key=key, json={"job_ids": list(job_ids)}) as response:
        if response.status != 201:
            raise WSServerHandshakeError(response.request_info, response.history, status=response.status)
        return str((await response.json())["url"])
