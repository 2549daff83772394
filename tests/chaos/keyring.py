"""The keys of a run: who has which, and the admin who makes, revokes, restores and replaces them meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from aiohttp import ClientError, ClientTimeout

from app.settings import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import ClientSession

    from tests.chaos.processes import Fleet

USERS: Final = tuple(f"user-{number}" for number in range(6))
LIMITED: Final = "user-of-few"
MOST_WAITING: Final = 3
"""So many jobs of `LIMITED` may wait."""
OWNERS: Final = (*USERS, LIMITED)
ADMIN: Final = "chaos-admin"
OPERATOR: Final = "chaos-operator"
VIEWER: Final = "chaos-viewer"
KEYS: Final = "/api/v1/keys"
_ANSWER: Final = ClientTimeout(total=8)
_AGAIN_S: Final = 0.3
_COMMAND_S: Final = 180.0
"""A command may take so long on a machine that does much else."""


class Show(StrEnum):
    """How a client shows its key."""

    AUTHORIZATION = "Authorization"
    API_KEY = "X-API-Key"
    SUBPROTOCOL = "subprotocol"
    TICKET = "ticket"


SHOWN_BY_REST: Final = (Show.AUTHORIZATION, Show.API_KEY)


@dataclass(slots=True)
class Key:
    """A key, with what only its holder has; `key_id` is None of the first one, which a command printed."""

    name: str
    secret: str
    key_id: int | None = None

    def headers(self, show: Show = Show.AUTHORIZATION) -> dict[str, str]:
        """Return the header of a request that shows it."""
        return {"X-API-Key": self.secret} if show is Show.API_KEY else {"Authorization": f"Bearer {self.secret}"}


@dataclass(slots=True)
class Revocation:
    """A key that was revoked; times are Unix seconds."""

    key: Key
    owner: str
    asked_at: float
    """From here on it may be refused."""
    done_at: float = 0.0
    """When that was confirmed."""
    restoring_at: float | None = None
    """From here on it may be let in again; None: never."""
    restored_at: float | None = None
    """From here on it must be."""

    def may_be_refused(self, since: float, until: float) -> bool:
        """Whether a request that was under way between these two times may have been refused."""
        return until >= self.asked_at and (self.restored_at is None or since <= self.restored_at)


@dataclass
class Holder:
    """An owner of jobs, and the key that its clients have just now; none in a run without keys."""

    owner: str
    key: Key | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever revokes its key, until it has one again."""

    @property
    def limits(self) -> dict[str, int]:
        """The limits of its keys."""
        return {"waiting": MOST_WAITING} if self.owner == LIMITED else {}


class KeyNotChanged(Exception):
    """A command or request about a key was refused."""


class Keyring:
    """Makes the keys before the servers start, and changes them in turn by REST and by command."""

    def __init__(self, fleet: Fleet, session: ClientSession) -> None:
        self._fleet = fleet
        self._session = session
        self._numbers = itertools.count(1)
        self.holders: Final = [Holder(owner) for owner in OWNERS]
        self.operator: Holder = Holder(OPERATOR)
        self.viewer: Holder = Holder(VIEWER)
        self._admin: Key | None = None
        self.revocations: list[Revocation] = []

    def holder(self, number: int) -> Holder:
        """Return the holder of this number, modulo how many there are."""
        return self.holders[number % len(self.holders)]

    async def found(self) -> None:
        """Make the first key by command, while no server runs: from the beginning all of them ask for keys."""
        self._admin = Key(ADMIN, await self._command("keys-add", "--name", ADMIN, "--role", "admin"))

    async def hand_out(self) -> None:
        """Make everybody's key by REST."""
        for holder, role in ((self.operator, "operator"), (self.viewer, "viewer")):
            holder.key = await self._make(holder.owner, holder.owner, role, {})
        for holder in self.holders:
            await self.renew(holder)
        assert self.viewer.key
        self._fleet.headers = self.viewer.key.headers()

    async def renew(self, holder: Holder) -> Key | None:
        """Give a user another key, and return the one that it had."""
        last = holder.key
        holder.key = await self._make(f"{holder.owner}-{next(self._numbers)}", holder.owner, "user", holder.limits)
        return last

    async def revoke(self, key: Key, owner: str, *, by_command: bool) -> Revocation:
        """Revoke a key; asks again until that is confirmed."""
        revocation = Revocation(key, owner, time.time())
        self.revocations.append(revocation)
        if by_command:
            await self._until_done("keys-revoke", "--name", key.name)
        else:
            await self._ask("DELETE", f"{KEYS}/{key.key_id}", (204,))
        revocation.done_at = time.time()
        return revocation

    async def restore(self, revocation: Revocation, *, by_command: bool) -> None:
        """Take a revocation back; asks again until that is confirmed."""
        revocation.restoring_at = time.time()
        if by_command:
            await self._until_done("keys-restore", "--name", revocation.key.name)
        else:
            await self._ask("PATCH", f"{KEYS}/{revocation.key.key_id}", (200,), {"revoked": False})
        revocation.restored_at = time.time()

    async def _make(self, name: str, owner: str, role: str, limits: dict[str, int]) -> Key:
        # When the answer was lost there is such a key already, and nobody has it.
        for number in itertools.count():
            called = name if number == 0 else f"{name}-again-{number}"
            wanted = {"name": called, "owner": owner, "role": role, "limits": limits}
            status, made = await self._ask("POST", KEYS, (201, 409), wanted)
            if status == 201:
                return Key(called, made["key"], made["key_id"])
        raise AssertionError("unreachable")

    async def _ask(
        self, method: str, path: str, wanted: Sequence[int], body: dict[str, Any] | None = None
    ) -> tuple[int, Any]:
        """Ask one server after the other until one answers as wanted; raises `KeyNotChanged`."""
        assert self._admin
        for url in itertools.cycle(self._fleet.api_urls):
            try:
                async with self._session.request(
                    method, f"{url}{path}", json=body, headers=self._admin.headers(), timeout=_ANSWER
                ) as response:
                    if response.status in wanted:
                        return response.status, await response.json() if response.status != 204 else None
                    # As clients do, the admin comes again while its address is held back for others' wrong keys.
                    if response.status not in (429, 500, 502, 503):
                        raise KeyNotChanged(f"{method} {path}: {response.status} {await response.text()}")
            except (ClientError, OSError, TimeoutError, ValueError):
                pass
            await asyncio.sleep(_AGAIN_S)
        raise AssertionError("unreachable")

    async def _until_done(self, *arguments: str) -> None:
        while True:
            try:
                await self._command(*arguments)
            except KeyNotChanged:
                # PostgreSQL is just being restarted.
                await asyncio.sleep(_AGAIN_S)
            else:
                return

    async def _command(self, *arguments: str) -> str:
        """Run a command as an operator of the machine does, and return the first line of what it shows."""
        with (self._fleet.folder / "logs" / "commands.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "app", *arguments),
                cwd=ROOT,
                env=self._fleet.environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
            try:
                async with asyncio.timeout(_COMMAND_S):
                    told, _ = await process.communicate()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        if process.returncode != 0:
            raise KeyNotChanged(f"{' '.join(arguments)}: code {process.returncode}")
        return told.decode().partition("\n")[0].strip()
