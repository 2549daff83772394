"""Who may use the page: without keys any user of this machine, with keys those who have signed in."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from app.domain.access import ANYBODY
from app.domain.errors import DatabaseUnavailable, SignInNeeded
from app.settings import is_loopback

if TYPE_CHECKING:
    from collections.abc import Collection

    from app.domain.access import Viewer
    from app.storage.keys import KeyStore

SESSION_COOKIE: Final = "genonaut_session"
OPEN_S: Final = 2.0
"""Maximum seconds from the creation of the first key until the page requires one."""


class Access:
    """Finds out who sent a request. With `read_only` the page changes nothing, whatever the role."""

    def __init__(self, keys: KeyStore, *, read_only: bool) -> None:
        self._keys = keys
        self.read_only: Final = read_only
        self._open_at: float | None = None
        """Monotonic time of the last check that found no key; None before one did, and once a key exists."""

    async def viewer(self, token: str | None, remote: str | None, host: str | None) -> Viewer:
        """Return who sends this session's token from this address, and calls this server by this name.

        Without keys both must be this machine's own: behind a proxy every request comes from there, and its name tells
        what was asked for outside.

        Raises
        ------
        SignInNeeded
        DatabaseUnavailable
            It cannot be known.
        """
        if await self._open():
            if remote is None or not is_loopback(remote) or not (host is None or is_loopback(host)):
                raise SignInNeeded("No key has been made yet, so the page is open on its own machine only.")
            return ANYBODY
        viewer = await self._keys.viewer(token) if token else None
        if viewer is None:
            raise SignInNeeded("Sign in to see this page.")
        return viewer

    async def over(self, tokens: Collection[str | None]) -> set[str | None]:
        """Return those of the tokens that let nobody in any more, None among them once a key was made.

        Raises `DatabaseUnavailable`.
        """
        if await self._open():
            return set()
        return set(tokens) - await self._keys.live([token for token in tokens if token])

    async def _open(self) -> bool:
        now = time.monotonic()
        if self._open_at is None or now - self._open_at > OPEN_S:
            try:
                self._open_at = None if await self._keys.closed() else now
            except DatabaseUnavailable:
                # PostgreSQL is away. A page that was open at the last check stays open, and shows what is in Redis.
                if self._open_at is None:
                    raise
        return self._open_at is not None
